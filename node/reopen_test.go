package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// spoil makes every file below dir that this process has open one that can be neither written nor synced. It stays so
// until it is closed.
func spoil(t *testing.T, dir string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	spoilt := 0
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, dir+"/") {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		spoilt++
	}
	if spoilt == 0 {
		t.Fatalf("nothing below %s is open", dir)
	}
}

// I7: a volume that failed takes no more changes until it is reopened, and recovered by that.
func TestReopenFailedVolume(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	if _, err := m.Reopen(t.Context(), "first"); !errors.Is(err, ErrRequest) {
		t.Fatalf("a sound volume: %v", err)
	}
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatalf("refusing to reopen did harm: %v", err)
	}
	want := pattern(1<<20, 1)
	c.write(t, 8192, want)
	spoil(t, filepath.Join(s.dir, volumesName, "first", "wal"))
	if code := c.command(t, cmdWrite, 0, make([]byte, 4096), 4096); code != uint32(unix.EIO) {
		t.Fatalf("a write that the log cannot take: error %d", code)
	}
	if got := names(t, m); got != "first failed" {
		t.Fatalf("volumes: %s", got)
	}

	v, err := m.Reopen(t.Context(), "first")
	if err != nil || v.State != StateServed || v.Error != "" || v.Clients != 0 {
		t.Fatalf("reopened: %+v, %v", v, err)
	}
	if _, err := c.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client was not disconnected: %v", err)
	}
	if c, err = attach(t, s.endpoints.Unix, "first"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.read(t, 8192, len(want)), want) {
		t.Error("what was flushed before the failure is not there")
	}
	c.write(t, 0, want)
	c.close()
	s.end(t)
	m, _ = manage(t, s.dir)
	if got := content(t, m, "first"); !bytes.Equal(got[:len(want)], want) {
		t.Error("what was flushed after the reopening is not there")
	}
}

func TestReopenVolumeThatCouldNotBeOpened(t *testing.T) {
	dir := emptyServerDir(t)
	image := filepath.Join(dir, volumesName, "first", imageName)
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir, nil)
	m, _ := manage(t, dir)
	if _, err := m.Reopen(t.Context(), "first"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without its image: %v", err)
	}
	if got := names(t, m); got != "first failed" {
		t.Fatalf("volumes: %s", got)
	}
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	if v, err := m.Reopen(t.Context(), "first"); err != nil || v.State != StateServed {
		t.Fatalf("with its image: %+v, %v", v, err)
	}
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 0, pattern(4096, 1))
	c.close()
}

func TestReopenRefusals(t *testing.T) {
	both(t, func(t *testing.T, m Manager, _ string) {
		if _, err := m.Reopen(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("no volume: %v", err)
		}
		create(t, m, CreateRequest{Name: "sound"})
		if _, err := m.Reopen(t.Context(), "sound"); !errors.Is(err, ErrRequest) {
			t.Errorf("a volume that did not fail: %v", err)
		}
	})
	h, _ := openHost(t, emptyServerDir(t))
	create(t, h, CreateRequest{Name: "mem", Backend: KindMemory})
	if err := h.find("mem").volume.Close(); err != nil { // from then on it takes no changes
		t.Fatal(err)
	}
	if _, err := h.Reopen(t.Context(), "mem"); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("a volume in memory: %v", err)
	}
	h.stop()
	if _, err := h.Reopen(t.Context(), "first"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("on a stopping server: %v", err)
	}
}

// Who still has the disk that was replaced is told of it, and uses neither.
func TestStatusOfReplacedDisk(t *testing.T) {
	h, _ := openHost(t, emptyServerDir(t))
	h.disconnect = func(context.Context, string) error { return nil }
	old := h.find("first")
	if err := old.volume.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := h.Reopen(t.Context(), "first"); err != nil || v.State != StateServed {
		t.Fatalf("reopened: %+v, %v", v, err)
	}
	if v := h.status(old); v.State == StateServed || v.Head != 0 {
		t.Errorf("the replaced disk is shown as %+v", v)
	}
	if v := h.status(h.find("first")); v.State != StateServed || v.Head == 0 {
		t.Errorf("the new disk is shown as %+v", v)
	}
}

// A server that is told to stop while a volume is between closed and open leaves it closed, and stops.
func TestStopWhileReopening(t *testing.T) {
	h, done := openHost(t, emptyServerDir(t))
	h.disconnect = func(context.Context, string) error {
		h.stop()
		return nil
	}
	if err := h.find("first").volume.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Reopen(t.Context(), "first"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if s := h.status(h.find("first")); s.State != StateFailed {
		t.Errorf("it is %s", s.State)
	}
	done(t.Context())
}
