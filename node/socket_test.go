package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listenUnix(t.Context(), path, "--unix")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := listenUnix(t.Context(), path, "--unix"); !errors.Is(err, ErrInUse) {
		t.Errorf("a socket that answers was taken: %v", err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first listener lost its socket: %v", err)
	} else {
		conn.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestOtherFilesAreNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), path, "--unix"); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is now %q, %v", text, err)
	}
}

func TestSocketPathLength(t *testing.T) {
	longest := "/" + strings.Repeat("x", maxSocketPathBytes-1)
	if err := checkSocketPath(longest, "--unix"); err != nil {
		t.Errorf("%d bytes: %v", len(longest), err)
	}
	err := checkSocketPath(longest+"x", "--unix")
	if !errors.Is(err, ErrSocketPath) || !strings.Contains(err.Error(), "--unix") {
		t.Errorf("%d bytes: %v", len(longest)+1, err)
	}
	// What is refused is what the kernel refuses.
	dir := t.TempDir()
	fits := filepath.Join(dir, strings.Repeat("x", maxSocketPathBytes-len(dir)-1))
	l, err := net.Listen("unix", fits)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(fits), err)
	}
	l.Close()
	if l, err := net.Listen("unix", fits+"x"); err == nil {
		l.Close()
		t.Errorf("the kernel takes %d bytes", len(fits)+1)
	}
}

func TestTakenPortNamesTheHolder(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		held, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("no %s here: %v", address, err)
			continue
		}
		defer held.Close()
		_, err = listenTCP(t.Context(), held.Addr().String(), "--listen")
		want := fmt.Sprintf("in use by process %d (%q", os.Getpid(), os.Args[0])
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want[:len(want)-1]) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPortOwner(t *testing.T) {
	proc := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(proc, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A connection of the same port comes before the listener, whose inode is 77.
	write("net/tcp", `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2A39 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 66 1 0 100 0 0 10 0
   1: 00000000:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0
`)
	write("12/cmdline", "other\x00")
	write("34/cmdline", "nbd-server\x00-C\x00/etc/x\x00")
	for link, target := range map[string]string{"12/fd/3": "socket:[66]", "34/fd/0": "/dev/null", "34/fd/9": "socket:[77]"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, link)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(proc, link)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := portOwner(proc, "127.0.0.1:10809")
	if want := (process{PID: 34, Command: "nbd-server -C /etc/x"}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := portOwner(proc, "127.0.0.1:10810"); err == nil {
		t.Errorf("a free port is held by %+v", got)
	}
}
