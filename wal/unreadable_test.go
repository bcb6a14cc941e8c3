package wal_test

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestL6UnreadableSector: a sector of the log that the disk can not read is an error at open, and damage that has a way
// out: what is before it can be kept, what is behind it is listed, and what can be read is kept aside.
func TestL6UnreadableSector(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 4 {
		m.append(2)
		m.sync()
	}
	m.mark()
	m.close()
	if err := m.disk.FailReads("log/"+firstName, m.sent[3].position.Offset, testBlock, syscall.EIO); err != nil {
		t.Fatal(err)
	}
	if _, err := wal.Open(logConfig(m.disk, m.super), nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("open: %v", err)
	}
	in, err := wal.Inspect(logConfig(m.disk, m.super), wal.Visitor{})
	var damage *wal.CorruptError
	if err != nil || !errors.As(in.Damage, &damage) || damage.LSN != 3 || in.Head != 2 {
		t.Fatalf("inspect: %+v, %v", in, err)
	}
	if !slices.ContainsFunc(in.Stranded, func(r wal.Record) bool { return r.LSN == 4 }) {
		t.Errorf("record 4 is not among the lost ones: %+v", in.Stranded)
	}
	if names, err := wal.SetAside(logConfig(m.disk, m.super), 2); err != nil || len(names) != 1 {
		t.Fatalf("set aside %v, %v", names, err)
	}
	m.cut(2)
	if l, err := wal.Open(logConfig(m.disk, m.super), nil); err == nil || l != nil {
		t.Log("the sector can be written again in a real disk; the fake one keeps failing")
	}
}

// TestL6UnreadableSpaceBehindTheEnd: a sector that holds nothing of the log does not keep it from being opened.
func TestL6UnreadableSpaceBehindTheEnd(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(2)
	m.sync()
	m.close()
	if err := m.disk.FailReads("log/"+firstName, testSegment-4096, testBlock, syscall.EIO); err != nil {
		t.Fatal(err)
	}
	m.open()
	m.wantHead(1)
}

// TestL6SetAsideAgain: a cut that ran out of space is repeated once there is room, and copies only what holds records
// above the cut.
func TestL6SetAsideAgain(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 3 {
		m.append(60, 60)
		m.sync()
	}
	m.mark()
	m.close()
	cfg := logConfig(m.disk, m.super)
	m.disk.SetCapacity(m.disk.Used() + testSegment/2)
	if _, err := wal.SetAside(cfg, 2); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("set aside without room: %v", err)
	}
	m.disk.SetCapacity(0)
	names, err := wal.SetAside(cfg, 2)
	if err != nil || len(names) < 2 {
		t.Fatalf("set aside with room: %v, %v", names, err)
	}
	again, err := wal.SetAside(cfg, 2)
	if err != nil || !slices.Equal(names, again) {
		t.Fatalf("set aside again: %v, %v", again, err)
	}
	if few, err := wal.SetAside(cfg, 6); err != nil || len(few) != 0 {
		t.Fatalf("nothing is above record 6, and kept aside is %v, %v", few, err)
	}
	all, err := m.disk.Dir("log").List()
	if err != nil || slices.ContainsFunc(all, func(n string) bool { return len(n) > 4 && n[len(n)-4:] == ".tmp" }) {
		t.Fatalf("left behind: %v, %v", all, err)
	}
}

// forgetful is a directory whose page cache drops what it has of one range after a number of reads: later ones see
// what the disk has.
type forgetful struct {
	wal.FS
	reads, after int
	off          int64
	old          []byte
}

type forgetfulFile struct {
	wal.File
	dir *forgetful
}

func (d *forgetful) Open(name string) (wal.File, error) {
	f, err := d.FS.Open(name)
	return forgetfulFile{f, d}, err
}

func (f forgetfulFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	d := f.dir
	if off <= d.off && d.off < off+int64(n) {
		if d.reads++; d.reads > d.after {
			copy(p[d.off-off:n], d.old)
		}
	}
	return n, err
}

// TestL4HardenChecksWhatItRewrites: the page cache may drop, between reading and rewriting, what a failed sync left in
// it; what the disk has instead is not written back and called durable.
func TestL4HardenChecksWhatItRewrites(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(2)
	m.sync()
	m.append(2)
	last := m.sent[m.log.Head()]
	m.kill()
	super, err := readSuper(m.disk)
	if err != nil {
		t.Fatal(err)
	}
	for after := range 3 {
		cfg := logConfig(m.disk, super)
		cfg.FS = &forgetful{FS: cfg.FS, after: after, off: last.position.Offset, old: make([]byte, testBlock)}
		l, err := wal.Open(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = l.Harden()
		var damage *wal.CorruptError
		whole := after == 2 // it was rewritten from the cache before that dropped it
		if whole != (err == nil) && !(l.Head() == block.LSN(1) && err == nil) {
			t.Errorf("dropped after %d reads: head %d, harden: %v", after, l.Head(), err)
		}
		if err != nil && !errors.As(err, &damage) {
			t.Errorf("dropped after %d reads: %v", after, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
