package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal makes a pseudo-terminal: what is written to the first is what a person types at the second.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// A person who is asked for the name of a volume may give it, another one, or leave with Ctrl-C.
func TestDeleteAsks(t *testing.T) {
	dir := t.TempDir()
	if _, err := run(t, dir, nil, program, "volume", "create", "db", "--size", "8M", "--wal-size", "16M"); err != nil {
		t.Fatal(err)
	}
	interrupt := func(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGINT) }
	for _, c := range []struct {
		answer  string
		instead func(*exec.Cmd) error
		want    string // of the error; empty where the volume is deleted
	}{
		{answer: "disk0\n", want: "that is not its name; nothing was deleted"},
		{instead: interrupt, want: "interrupted; nothing was deleted"},
		{answer: "db\n"},
	} {
		said, err := deleteAsked(t, dir, c.answer, c.instead)
		if (err == nil) != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%q: %v, %s; want %q", c.answer, err, said, c.want)
		}
		_, err = os.Stat(filepath.Join(dir, "lockstep-data", "volumes", "db"))
		if deleted := errors.Is(err, os.ErrNotExist); deleted != (c.want == "") {
			t.Errorf("%q: deleted %v", c.answer, deleted)
		}
	}
}

// deleteAsked starts the deletion of db, and answers its question, or does something instead. It returns what the
// program said after the question.
func deleteAsked(t *testing.T, dir, answer string, instead func(*exec.Cmd) error) (string, error) {
	t.Helper()
	person, in := terminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that waits for ever is killed
	defer cancel()
	c := exec.CommandContext(ctx, program, "volume", "delete", "db")
	c.Env = append(os.Environ(), "LOCKSTEP_CONFIG=/dev/null") // not that of this machine
	c.Dir, c.Stdin = dir, in
	errs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(errs)
	_, asked := said.ReadString(':')
	if instead != nil {
		err = instead(c)
	} else {
		_, err = person.WriteString(answer)
	}
	rest, readErr := io.ReadAll(said)
	if err := errors.Join(asked, err, readErr); err != nil {
		t.Error(err)
	}
	return string(rest), c.Wait()
}
