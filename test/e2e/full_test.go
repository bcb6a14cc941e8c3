package e2e

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// mount mounts a file system in memory of so many bytes, and returns its directory.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "fs")
	tool(t, "mkdir", dir)
	tool(t, "mount", "-t", "tmpfs", "-o", "size="+size, "lockstep-e2e", dir)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill writes until there is no room, and returns how many sectors it wrote. Each write is larger than a block and goes to
// new space.
func fill(t *testing.T, c *client, l *ledger, from int) int {
	t.Helper()
	const size = 128 // sectors
	for at := from; at+size <= len(l.sectors); at += size {
		change, r := l.send(at, size, false)
		err := c.one(r)
		if errors.Is(err, syscall.ENOSPC) {
			return at
		}
		if err != nil {
			t.Fatalf("write of sector %d: %v; no room is ENOSPC", at, err)
		}
		l.ack(change)
	}
	t.Fatal("the volume has more room than the file system it is on")
	return 0
}

// I9: no room is ENOSPC; nothing acknowledged is lost, also over a crash; with room again it goes on.
func TestDiskFull(t *testing.T) {
	dir := mount(t, "96m")
	n := newNode(t, dir)
	n.must("volume", "create", "disk", "--size", "256MiB", "--wal-size", "32MiB")
	n.start()
	l := newLedger(0, 256*mib/sectorBytes)
	full := fill(t, n.dial("disk"), l, 0)
	if full < 32*mib/sectorBytes {
		t.Errorf("full after %d sectors: not even the log was used", full)
	}
	verify := func(when string) {
		t.Helper()
		if err := l.verify(n.dial("disk")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	verify("full")
	if err := n.dial("disk").flush(); err != nil {
		t.Errorf("flush on a full disk: %v", err)
	}
	n.kill()
	n.start()
	verify("full, after a kill")

	tool(t, "mount", "-o", "remount,size=160m", dir)
	more := goOn(t, n, l, full)
	verify("with more room")

	more = fill(t, n.dial("disk"), l, more)
	c := n.dial("disk")
	for at := 0; at < more; at += more / 4 { // a trim needs no room, and makes some
		change, r := l.send(at, min(more/4, more-at), true)
		if err := c.one(r); err != nil {
			t.Fatalf("trim on a full disk: %v", err)
		}
		l.ack(change)
	}
	goOn(t, n, l, 0)
	verify("after trims")
	n.stop()
	n.start()
	verify("after trims and a restart")
}

// goOn writes 16 MiB, waiting for the server to notice that there is room, and returns where it ended.
func goOn(t *testing.T, n *node, l *ledger, from int) int {
	t.Helper()
	c := n.dial("disk")
	deadline := time.Now().Add(60 * time.Second)
	at := from
	for end := from + 16*mib/sectorBytes; at < end; {
		change, r := l.send(at, 128, false)
		err := c.one(r)
		switch {
		case err == nil:
			l.ack(change)
			at += 128
		case !errors.Is(err, syscall.ENOSPC):
			t.Fatalf("write of sector %d with room again: %v", at, err)
		case time.Now().After(deadline):
			t.Fatalf("there is room, and writes still get ENOSPC; wrote %d sectors", at-from)
		}
	}
	return at
}

// A small disk with a small volume is no special case: the log fits itself in, and the whole volume can be written, over
// and over.
func TestSmallDisk(t *testing.T) {
	n := newNode(t, mount(t, "200m"))
	n.must("volume", "create", "disk", "--size", "64MiB")
	n.start()
	c := n.dial("disk")
	l := newLedger(0, 64*mib/sectorBytes)
	for range 3 {
		for at := 0; at < len(l.sectors); at += 512 {
			change, r := l.send(at, 512, false)
			if err := c.one(r); err != nil {
				t.Fatal(err)
			}
			l.ack(change)
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.verify(c); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	if err := l.verify(n.dial("disk")); err != nil {
		t.Fatal(err)
	}
}
