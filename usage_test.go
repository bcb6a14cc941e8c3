package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What a stranger does wrong is answered with what is wrong and what to do.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serve := "serve --data-dir " + dir + "/new "
	for _, c := range []struct{ args, want string }{
		{"serve --lsten x", "lockstep serve has no flag --lsten; did you mean --listen?; see lockstep serve --help"},
		{"--data-dir x serve", "--data-dir goes after the command, as in lockstep serve --data-dir"},
		{"--planet x serve", "lockstep has no flag --planet; see lockstep --help"},
		{"vol list", `there is no command "vol"; see lockstep --help`},
		{"volme list", `there is no command "volme"; did you mean volume?; see lockstep --help`},
		{"volume lst", `there is no command "lst"; did you mean list?; see lockstep volume --help`},
		{"volume create x --size", "--size needs a value; see lockstep volume create --help"},
		{"volume create x --block-size y", `invalid value "y" for flag -block-size: parse error; see lockstep volume create --help`},
		{"volume show a b", `lockstep volume show wants NAME, but there is "a b"`},
		{"volume list x", `lockstep volume list takes no argument, but there is "x"`},
		{"volume list", "no lockstep data directory at " + dir + "/lockstep-data; --data-dir says where it is"},
		{"volume list --data-dir .", "other files are there, file for one; give --data-dir a directory that is new or empty"},
		{"serve --listen none --data-dir .", "other files are there, file for one"},
		{"serve --listen none --data-dir file", "not a directory"},
		{"volume create x --size 10XB", `--size: "10XB" is no size; write 10GiB, 512M or a number of bytes`},
		{"volume create x --size -5", `--size: "-5" is no size`},
		{"volume create x --size 0", `--size: "0" is no size`},
		{"volume create x --size=", `--size: "" is no size`},
		{"volume create x --size 5000", "size 5000 is no multiple of the block size 4096; 4096 is, and 8192"},
		{"volume create x --size 8M --backend tape", `backend "tape"; it is file, thick, memory, or the path of a block device`},
		{"volume import x .", "is a directory"},
		{"volume resize x", "resize needs a --size, for example --size 20GiB"},
		{serve + "--listen " + taken.Addr().String(), "is in use by process"},
		{serve + "--listen 127.0.0.1:99999", `--listen: "127.0.0.1:99999": there is no port 99999; it is a number up to 65535`},
		{"config --metrics 127.0.0.1:99999", `--metrics: "127.0.0.1:99999": there is no port 99999`},
		{serve + "--listen 192.0.2.1:1999", "listen on 192.0.2.1:1999: bind: cannot assign requested address; give an address of this " +
			"machine, and a port that is free to this user, with --listen"},
		{serve + "--listen none --metrics 192.0.2.1:1999", "a port that is free to this user, with --metrics"},
		{serve + "--listen none --unix /nonexistent/s", "listen on /nonexistent/s: bind: no such file or directory; give a path in a directory"},
		{serve + "--listen none --unix " + dir + "/file", "it is a file, not a socket, and is left alone"},
	} {
		out, err := run(t, dir, nil, program, strings.Fields(c.args)...)
		if err == nil {
			t.Errorf("%s succeeded:\n%s", c.args, out)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(out, "COMMANDS") {
			t.Errorf("%s: %v\nwant %s\nand printed %s", c.args, err, c.want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "lockstep-data")); err == nil {
		t.Error("a command that could not succeed made a data directory")
	}
}

// Names that no volume has.
func TestVolumeNameHints(t *testing.T) {
	dir := t.TempDir()
	lockstep := func(args string) string {
		out, err := run(t, dir, nil, program, strings.Fields(args)...)
		if err != nil {
			out += err.Error()
		}
		return out
	}
	lockstep("volume create database --size 8M --wal-size 16M")
	lockstep("volume create web --size 8M --wal-size 16M")
	for args, want := range map[string]string{
		"volume show databse":      `no such volume: "databse"; did you mean database?`,
		"volume checkpoint wob":    `no such volume: "wob"; did you mean web?`,
		"volume delete else --yes": `no such volume: "else"; there are: database, web`,
		"inspect wob":              "did you mean web?",
		"check wob":                "did you mean web?",
	} {
		if got := lockstep(args); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	lockstep("volume delete web --yes")
	lockstep("volume delete database --yes")
	if got := lockstep("volume show web"); !strings.Contains(got, "there is none yet") {
		t.Errorf("without volumes: %s", got)
	}
}

// A server's directory is not another user's.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir, err := os.MkdirTemp("", "user") // t.TempDir is nobody else's
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "lockstep")
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(copied, content, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	end := serve(t, program, dir, "--listen", "127.0.0.1:0")
	defer end(syscall.SIGTERM)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"volume", "list"}, "permission denied; it is another user's: be that user, or root"},
		{[]string{"serve", "--listen", "none"}, "permission denied; it is another user's: be that user, or root"},
		{[]string{"serve", "--listen", "none", "--data-dir", "new"}, "make data directory: mkdir " + dir + "/new: permission denied"},
	} {
		cmd := exec.CommandContext(t.Context(), copied, c.args...)
		cmd.Dir = dir
		cmd.Env = []string{"LOCKSTEP_CONFIG=/dev/null"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, %s; want %s", c.args, err, out, c.want)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := run(t, t.TempDir(), nil, program, "version", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var b build
	if err := json.Unmarshal([]byte(out), &b); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.Go, "go1.") || len(b.Formats) < 7 || b.Version == "" {
		t.Errorf("got %+v", b)
	}
	for name, version := range b.Formats {
		if version < 1 {
			t.Errorf("format %s has version %d", name, version)
		}
	}
	for _, args := range []string{"version", "--version"} {
		out, err := run(t, t.TempDir(), nil, program, args)
		if err != nil || !strings.Contains(out, b.Go) || args == "version" && !strings.Contains(out, "superblock 1") {
			t.Errorf("%s: %s, %v", args, out, err)
		}
	}
}

// What shells ask for is answered at every place of the line.
func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{
		"":                     "serve",
		"volume":               "reopen",
		"volume create --wal-": "--wal-size",
		"serve --sh":           "--shutdown-timeout",
		"volume resize x --fo": "--force",
		"volume show db --js":  "--json",
	} {
		out, err := run(t, t.TempDir(), nil, program, append(strings.Fields(args), "--generate-bash-completion")...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%q: %s, %v; want %s", args, out, err, want)
		}
	}
}
