package main

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/nbd/attach"
)

func TestAttachArguments(t *testing.T) {
	for line, want := range map[string]string{
		"attach":                                "not 0 arguments",
		"attach a b c":                          "not 3 arguments",
		"attach db /dev/sda":                    "no NBD device",
		"attach db --timeout 0s":                "--timeout 0s",
		"attach db --dead-timeout 10ms":         "--dead-timeout 10ms",
		"attach db --connect nonsense":          "host:port",
		"attach db --unix /s --connect a:10809": "one is enough",
		"attach db --listen a:1":                "no flag --listen",
		"detach":                                "not 0",
		"detach /dev/nbd0 /dev/nbd1":            "not 2",
		"detach /dev/loop0":                     "no NBD device",
	} {
		app := command(os.Stdin, os.Stdout, os.Stderr)
		err := app.Run(flagsFirst(app, append([]string{"lockstep"}, strings.Fields(line)...)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", line, err, want)
		}
	}
}

// The device is printed once; the service manager hears that it is there, and of all that follows.
func TestAttachReports(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var told []string
	report := (&console{out: w}).reporter(zerolog.Nop(), func(s string) error {
		told = append(told, s)
		return errors.New("a manager that has gone is no reason to end")
	})
	report(attach.Status{Device: "/dev/nbd0", State: attach.StateAttached})
	report(attach.Status{Device: "/dev/nbd0", State: attach.StateReconnecting, Reason: "nobody there"})
	w.Close()
	want := []string{"READY=1\nSTATUS=/dev/nbd0: attached", "STATUS=/dev/nbd0: reconnecting: nobody there"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	line, _ := bufio.NewReader(r).ReadString(0)
	if line != "/dev/nbd0\n" {
		t.Errorf("printed %q", line)
	}
}
