package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the path of what is tested; TestMain builds it.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "lockstep")
	build := exec.Command("go", "build", "-o", program, "lockstep")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv("LOCKSTEP_CONFIG", os.DevNull); err != nil { // not that of this machine
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// shortDir makes a directory whose path leaves room for the name of a socket, which t.TempDir need not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// node is a data directory, with a server or without.
type node struct {
	t    *testing.T
	data string // the data directory
	dir  string // that its servers run in; empty: that of the test
	log  lines  // of all servers that ran on it

	process *os.Process // nil while none runs
	ended   chan error  // how the process ended, once it has
}

// lines keeps what a process writes, and tells of one line.
type lines struct {
	mu      sync.Mutex
	text    bytes.Buffer
	serving chan struct{} // closed once the newest server serves; nil from then on
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if l.serving != nil && bytes.Contains(p, []byte(`"message":"serving"`)) {
		close(l.serving)
		l.serving = nil
	}
	return len(p), nil
}

func (l *lines) awaitServing() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serving = make(chan struct{})
	return l.serving
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newNode returns a node in dir, which nothing is in yet. What still runs when the test ends is killed.
func newNode(t *testing.T, dir string) *node {
	n := &node{t: t, data: filepath.Join(dir, "data")}
	t.Cleanup(func() {
		if n.process != nil {
			n.kill()
		}
		if t.Failed() {
			all := strings.Split(n.log.String(), "\n")
			t.Logf("end of the servers' log:\n%s", strings.Join(all[max(0, len(all)-30):], "\n"))
		}
	})
	return n
}

// start starts a server and returns when it serves.
func (n *node) start(flags ...string) {
	n.t.Helper()
	args := append([]string{"serve", "--data-dir", n.data, "--listen", "127.0.0.1:0"}, flags...)
	c := exec.Command(program, args...)
	c.Stderr, c.Dir = &n.log, n.dir
	serving := n.log.awaitServing()
	if err := c.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.process, n.ended = c.Process, make(chan error, 1)
	go func() { n.ended <- c.Wait() }()
	select {
	case <-serving:
	case err := <-n.ended:
		n.process = nil
		n.t.Fatalf("the server ended instead of serving: %v", err)
	case <-time.After(time.Minute):
		n.t.Fatal("the server does not serve")
	}
}

// kill ends the server as a crash would, and returns when it is gone.
func (n *node) kill() {
	n.t.Helper()
	n.signal(syscall.SIGKILL)
	n.reap()
}

// signal sends a signal to the server; it may be called while clients run.
func (n *node) signal(s syscall.Signal) {
	if err := n.process.Signal(s); err != nil {
		n.t.Error(err)
	}
}

// reap waits for the end of the server, and returns how it ended.
func (n *node) reap() error {
	n.process = nil
	return <-n.ended
}

// stop ends the server in order.
func (n *node) stop() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	if err := n.reap(); err != nil {
		n.t.Fatalf("SIGTERM: %v", err)
	}
}

// try runs a command of the program that ends by itself, and returns all that it printed.
func (n *node) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append(os.Environ(), "LOCKSTEP_DATA_DIR="+n.data)
	out, err := c.CombinedOutput()
	return string(out), err
}

// must runs a command of the program that has to succeed.
func (n *node) must(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatalf("lockstep %q: %v\n%s", args, err, out)
	}
	return out
}

// shown is what this package reads of a volume's status.
type shown struct {
	State     string `json:"state"`
	Error     string `json:"error"`
	SizeBytes int64  `json:"size_bytes"`
	Head      uint64 `json:"head_lsn"`
	Durable   uint64 `json:"durable_lsn"`
}

func (n *node) show(volume string) (s shown) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.must("volume", "show", volume, "--json")), &s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *node) socket() string { return filepath.Join(n.data, "lockstep.sock") }

func (n *node) uri(volume string) string { return "nbd+unix:///" + volume + "?socket=" + n.socket() }

// tool runs another program that has to succeed, in a directory of its own, and returns all that it printed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = t.TempDir()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// nbdsh runs a script for libnbd, with Debian's Python whatever other there is.
func nbdsh(t *testing.T, uri, script string) string {
	t.Helper()
	return tool(t, "/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script)
}
