package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// I6 and L6: damage in the durable part of a log is named, not cut off; the other volumes are served; recover mends it,
// and what it keeps is whole.
func TestDamagedLog(t *testing.T) {
	n := newNode(t, shortDir(t))
	const writes, hit = 10, 6
	for _, name := range []string{"bad", "good"} {
		n.must("volume", "create", name, "--size", "64MiB")
	}
	n.start()
	for _, name := range []string{"bad", "good"} {
		c := n.dial(name)
		for i := range int64(writes) {
			if err := c.write(block(uint64(i)+1, i), i*4096); err != nil {
				t.Fatal(err)
			}
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.kill()
	segment, at := find(t, filepath.Join(n.data, "volumes", "bad", "wal"), block(hit+1, hit))
	flip(t, segment, at+100)

	n.start()
	wantBlocks(t, n, "good", writes)
	if s := n.show("bad"); s.State != "failed" || !strings.Contains(s.Error, filepath.Base(segment)) {
		t.Errorf("the damaged volume: %+v; want it failed, with %s in its error", s, filepath.Base(segment))
	}
	out, err := n.try("check")
	if err == nil {
		t.Error("check finds nothing")
	}
	wantText(t, out, "good: open", "bad: damaged", filepath.Base(segment))

	var plan struct {
		Applied  bool   `json:"applied"`
		ToLSN    uint64 `json:"to_lsn"`
		Readable uint64 `json:"readable_lsn"`
		Durable  uint64 `json:"durable_lsn"`
	}
	if err := json.Unmarshal([]byte(n.must("volume", "recover", "bad", "--json")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Applied || plan.ToLSN != plan.Readable || plan.Durable < plan.Readable+1 {
		t.Errorf("the plan to recover: %+v", plan)
	}
	if s := n.show("bad"); s.State != "failed" {
		t.Errorf("a dry run made the volume %s", s.State)
	}
	n.must("volume", "recover", "bad", "--to-lsn", strconv.FormatUint(plan.ToLSN, 10), "--apply")
	wantBlocks(t, n, "bad", hit)
	wantBlocks(t, n, "good", writes)
	if err := n.dial("bad").write(block(1, 20), 20*4096); err != nil {
		t.Errorf("a write after recovery: %v", err)
	}
	n.stop()
	wantText(t, n.must("check"), "bad: ok", "good: ok")
	n.start()
	wantBlocks(t, n, "bad", hit)
}

// block is one block of 4 KiB with a stamp.
func block(number uint64, index int64) []byte {
	p := make([]byte, 4096)
	stamp(p, number, index*8)
	return p
}

// wantBlocks checks that the first blocks of a volume have their stamps, and those after them are zero.
func wantBlocks(t *testing.T, n *node, volume string, written int) {
	t.Helper()
	c := n.dial(volume)
	for i := range int64(16) {
		want, got := make([]byte, 4096), make([]byte, 4096)
		if i < int64(written) {
			want = block(uint64(i)+1, i)
		}
		if err := c.read(got, i*4096); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s, block %d: it begins with %x, want %x", volume, i, got[:16], want[:16])
		}
	}
}

// find returns the file of a directory that holds the bytes, and where.
func find(t *testing.T, dir string, p []byte) (path string, at int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(b, p); i >= 0 {
			return path, int64(i)
		}
	}
	t.Fatalf("no file in %s holds the block", dir)
	return "", 0
}

// flip inverts a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, at); err != nil {
		t.Fatal(err)
	}
	p[0] = ^p[0]
	if _, err := f.WriteAt(p, at); err != nil {
		t.Fatal(err)
	}
}
