package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Whoever reads a server's output may go away, a pager or a tee; the volumes stay.
func TestOutputNobodyReads(t *testing.T) {
	n := newNode(t, shortDir(t))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "serve", "--data-dir", n.data, "--listen", "127.0.0.1:0")
	c.Stdout, c.Stderr = w, w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	n.process, n.ended = c.Process, make(chan error, 1)
	go func() { n.ended <- c.Wait() }()
	w.Close()
	for lines := bufio.NewScanner(r); !strings.Contains(lines.Text(), "qemu-img"); { // the last it says before clients come
		if !lines.Scan() {
			t.Fatal("the server does not say how to attach")
		}
	}
	r.Close()
	for range 3 { // each is a line in the log
		if err := n.dial("disk0").write(block(1, 0), 0); err != nil {
			t.Fatal(err)
		}
	}
	n.stop()
}
