package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lockstep/node"
)

// program is the path of the program under test; TestMain builds it.
var program string

func TestMain(m *testing.M) { os.Exit(testAll(m)) }

func testAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lockstep")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "lockstep")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// run runs a command in a directory and returns what it printed.
func run(t *testing.T, dir string, in io.Reader, name string, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(t.Context(), name, args...)
	c.Env = append(os.Environ(), "LOCKSTEP_CONFIG=/dev/null") // not that of this machine
	c.Dir, c.Stdin, c.Stdout, c.Stderr = dir, in, &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), errors.Join(err, errors.New(errs.String()))
	}
	return out.String(), nil
}

// serve starts a server without more flags than these, and waits until it is ready. end sends it a signal, or two, and
// returns its log.
func serve(t *testing.T, program, dir string, flags ...string) (end func(signals ...os.Signal) string) {
	t.Helper()
	c := exec.Command(program, append([]string{"serve"}, flags...)...)
	c.Env = append(os.Environ(), "LOCKSTEP_CONFIG=/dev/null") // not that of this machine
	c.Dir = dir
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func(signals ...os.Signal) string {
		if ended {
			return ""
		}
		ended = true
		for _, s := range signals {
			if err := c.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Wait(); err != nil {
			t.Errorf("server ended with %v\n%s", err, log.String())
		}
		return log.String()
	}
	t.Cleanup(func() { end(syscall.SIGKILL) })
	// The attach lines are printed when everything is served.
	ready := make([]byte, 1)
	if _, err := io.ReadFull(out, ready); err != nil {
		err = errors.Join(err, c.Wait())
		ended = true
		t.Fatalf("server did not start: %v\n%s", err, log.String())
	}
	go io.Copy(io.Discard, out) // ends with the process
	return end
}

func TestServeWithoutFlags(t *testing.T) {
	dir := t.TempDir()
	// The port is fixed by default; another process may have it.
	end := serve(t, program, dir, "--listen", "127.0.0.1:0")
	want := bytes.Repeat([]byte("lockstep"), 1<<17)
	if _, err := run(t, dir, bytes.NewReader(want), program, "volume", "import", "copy", "-", "--size", "64M", "--pad", "--wal-size", "16M"); err != nil {
		t.Fatal(err)
	}
	uri := "nbd+unix:///copy?socket=" + filepath.Join(dir, "lockstep-data", "lockstep.sock")
	if _, err := exec.LookPath("nbdcopy"); err != nil {
		t.Log("no nbdcopy here: the export is not read with it")
	} else {
		got, err := run(t, dir, nil, "nbdcopy", uri, "-")
		if err != nil || len(got) != 64<<20 || !strings.HasPrefix(got, string(want)) {
			t.Errorf("nbdcopy read %d bytes: %v", len(got), err)
		}
	}
	log := end(syscall.SIGTERM)
	for _, line := range []string{"received signal", "stopping", "checkpoint", "stopped"} {
		if !strings.Contains(log, line) {
			t.Errorf("the log does not say %q:\n%s", line, log)
		}
	}

	serveAgain := serve(t, program, dir, "--listen", "127.0.0.1:0")
	got, err := run(t, dir, nil, program, "volume", "export", "copy", "-")
	if err != nil || !strings.HasPrefix(got, string(want)) {
		t.Errorf("after a restart: %d bytes, %v", len(got), err)
	}
	text, err := run(t, dir, nil, program, "volume", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var list []node.VolumeStatus
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if len(list) != 2 || list[0].Name != "copy" || list[1].Name != "disk0" || list[1].SizeBytes != 1<<30 {
		t.Errorf("volumes: %s", text)
	}
	serveAgain(syscall.SIGINT, syscall.SIGTERM)
}

func TestCommandsOnStoppedDirectory(t *testing.T) {
	dir := t.TempDir()
	lockstep := func(in io.Reader, args ...string) (string, error) { return run(t, dir, in, program, args...) }
	for _, step := range []struct {
		args   string
		in     string
		fails  bool
		prints string
	}{
		{args: "volume list", fails: true, prints: "no lockstep data directory"},
		{args: "volume create db --size 8MiB --wal-size 16MiB --block-size 512", prints: "volume db made: 8MiB, block size 512"},
		{args: "volume create --size 8MiB db", fails: true, prints: "volume exists"},
		{args: "volume create x", fails: true, prints: "--size"},
		{args: "volume create x --size many", fails: true, prints: "--size"},
		{args: "volume create", fails: true, prints: "lockstep volume create wants NAME, but there is none"},
		{args: "volume show db", prints: "block size      512"},
		{args: "volume show ../db", fails: true, prints: "not a volume name"},
		{args: "volume import im - --size 8MiB --wal-size 16MiB", in: "short", fails: true, prints: "ended early"},
		{args: "volume import im - --size 8MiB --wal-size 16MiB --pad", in: "short", prints: "volume im made"},
		{args: "volume export im im.raw", prints: ""},
		{args: "volume export im im.raw", fails: true, prints: "--force"},
		{args: "volume import im2 im.raw --wal-size 16MiB", prints: "volume im2 made: 8MiB"},
		{args: "check", prints: "im2: ok"},
		{args: "inspect db --json", prints: `"block_size": 512`},
		{args: "volume recover db", prints: "Nothing was changed"},
		{args: "volume reopen db", fails: true, prints: "no server runs"},
		{args: "volume delete db", fails: true, prints: "--yes"},
		{args: "volume delete db --yes", prints: ""},
		{args: "volume show db", fails: true, prints: "no such volume"},
		{args: "serf", fails: true, prints: `no command "serf"`},
		{args: "volume creat db", fails: true, prints: `no command "creat"`},
		{args: "", prints: "COMMANDS"},
		{args: "volume", prints: "create"},
		{args: "help serve", prints: "--listen"},
		{args: "status", fails: true, prints: "no server"},
		{args: "serve --listen nonsense", fails: true, prints: "host:port"},
		{args: "config --read-only", prints: "read-only         true                                   --read-only"},
		{args: "config --json --log-level debug", prints: `"value": "debug"`},
		{args: "config --unix /tmp/a --admin /tmp/a", fails: true, prints: "the same path"},
		{args: "config --template", prints: "#listen = ["},
		{args: "serve now", fails: true, prints: "takes no argument"},
	} {
		out, err := lockstep(strings.NewReader(step.in), strings.Fields(step.args)...)
		if (err != nil) != step.fails {
			t.Errorf("%s: %v", step.args, err)
		}
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, step.prints) {
			t.Errorf("%s printed %s; want %q", step.args, out, step.prints)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "im.raw"))
	if err != nil || len(raw) != 8<<20 || !bytes.HasPrefix(raw, []byte("short\x00")) {
		t.Errorf("im.raw has %d bytes: %v", len(raw), err)
	}
}

func TestFlagsFirst(t *testing.T) {
	app := command(os.Stdin, os.Stdout, os.Stderr)
	for in, want := range map[string]string{
		"volume create db --size 1G":          "volume create --size 1G -- db",
		"volume create db --size=1G --force":  "volume create --size=1G --force -- db",
		"volume import db - --size 1G":        "volume import --size 1G -- db -",
		"volume delete --yes db --data-dir d": "volume delete --yes --data-dir d -- db",
		"volume delete db -- --yes":           "volume delete -- db --yes",
		"volume show db --unknown x":          "volume show --unknown -- db x",
		"volume create db --size":             "volume create --size",
		"serve --read-only --listen a:1":      "serve --read-only --listen a:1",
		"volume":                              "volume",
		"unknown --x y":                       "unknown --x y",
		"help serve":                          "help serve",
		"volume help create":                  "volume help create",
		"":                                    "",
	} {
		got := flagsFirst(app, append([]string{"lockstep"}, strings.Fields(in)...))
		if want := append([]string{"lockstep"}, strings.Fields(want)...); !slices.Equal(got, want) {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestSignals(t *testing.T) {
	received := make(chan os.Signal)
	first, second, done := untilSignals(context.Background(), received, func(os.Signal) {})
	if first.Err() != nil || second.Err() != nil {
		t.Fatal("ended before any signal")
	}
	received <- syscall.SIGTERM
	<-first.Done()
	if second.Err() != nil {
		t.Error("one signal counts as two")
	}
	received <- syscall.SIGTERM
	<-second.Done()
	close(received)
	done()
}
