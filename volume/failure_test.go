package volume

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

// fault is one operation that fails: the first of that kind on that file, from byte from on, once skip of them went
// well.
type fault struct {
	kind disk.OpKind
	file string
	data bool // of the base: behind the header, or else within it
	skip int
}

func (f fault) plan(fired *bool) disk.Plan {
	skip := f.skip
	return func(op disk.Op) error {
		if *fired || op.Kind != f.kind || !strings.HasPrefix(op.File, f.file) ||
			op.Kind == disk.OpWrite && f.file == "base" && (op.Offset >= DataOffset) != f.data {
			return nil
		}
		if skip--; skip >= 0 {
			return nil
		}
		*fired = true
		return syscall.EIO
	}
}

// TestI7FailureEndsChanges: after a write or sync of log, base image, map or superblock failed once, changes and flushes
// fail with EIO for ever, reads go on, and the next open recovers, also from a power cut: all that was acknowledged
// where the process was killed, all that was flushed where the power was cut (L4).
func TestI7FailureEndsChanges(t *testing.T) {
	for name, f := range map[string]fault{
		"log write":               {kind: disk.OpWrite, file: "log"},
		"log sync":                {kind: disk.OpSync, file: "log"},
		"superblock write":        {kind: disk.OpWrite, file: "base"},
		"superblock sync":         {kind: disk.OpSync, file: "base"},
		"base write":              {kind: disk.OpWrite, file: "base", data: true},
		"base zero":               {kind: disk.OpZero, file: "base"},
		"base sync":               {kind: disk.OpSync, file: "base", skip: 1},
		"map write":               {kind: disk.OpWrite, file: "meta"},
		"map sync":                {kind: disk.OpSync, file: "meta"},
		"superblock write at end": {kind: disk.OpWrite, file: "base", skip: 1},
		"superblock sync at end":  {kind: disk.OpSync, file: "base", skip: 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(0, 20) }, func() error { return d.trim(3, 4) }, d.flush)
			fired := false
			c.Disk.SetPlan(f.plan(&fired))
			if err := each(func() error { return d.writeBytes(5000, 700) }, d.checkpoint); err != nil {
				t.Fatal(err)
			}
			if !fired || d.refused == nil {
				t.Fatalf("fired: %v, refused: %v", fired, d.refused)
			}
			checkFailed(t, d)
			for _, choice := range []disk.Choice{disk.KeepNone(), disk.KeepAll(), disk.KeepLater(), disk.KeepSectors()} {
				cut := &disk.Case{Disk: c.Disk.Clone(), Model: c.Model.Clone()}
				powerCut(cut, choice)
				again := mustRecover(t, cut)
				again.must(t, func() error { return again.write(9, 9) }, again.flush, again.checkpoint, again.readAll, again.close)
			}
			c.Disk.Kill()
			d = mustRecover(t, c)
			powerCut(c, disk.KeepNone()) // what it has recovered is durable
			d = mustRecover(t, c)
			d.must(t, func() error { return d.write(9, 9) }, d.flush, d.checkpoint, d.readAll, d.close)
		})
	}
}

// checkFailed checks a volume that has failed.
func checkFailed(t *testing.T, d *driver) {
	t.Helper()
	if err := d.v.Err(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Err: %v", err)
	}
	ops := d.Disk.Ops()
	for range 3 {
		if err := d.v.Flush(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("flush: %v", err)
		}
		for _, kind := range []Kind{Write, Zero, Trim} {
			one := []Change{{Kind: kind, Offset: 100, Length: 1000, Data: make([]byte, 1000)}}
			if d.v.Apply(one); !errors.Is(one[0].Err, syscall.EIO) || errors.Is(one[0].Err, syscall.ENOSPC) {
				t.Fatalf("change of kind %d: %v", kind, one[0].Err)
			}
		}
		if err := d.v.Checkpoint(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Fatalf("checkpoint: %v", err)
		}
	}
	if n := d.Disk.Ops(); n != ops {
		t.Fatalf("a failed volume did %d operations", n-ops)
	}
	if err := d.readAll(); err != nil {
		t.Fatalf("read: %v", err)
	}
	if err := d.v.Close(); err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatalf("close: %v", err)
	}
	if open := d.Disk.OpenHandles(); len(open) > 0 {
		t.Fatalf("left open: %v", open)
	}
}

// TestL4PageCacheProvesNothing: a sync of the log fails, and the kernel calls the lost pages clean. The volume is opened
// again on the same page cache, and says that the record is there; so it is after a power cut.
func TestL4PageCacheProvesNothing(t *testing.T) {
	for name, unsynced := range map[string]func(d *driver) error{
		"in one segment": func(d *driver) error { return d.write(5, 3) },
		"over two": func(d *driver) error {
			return each(func() error { return d.write(0, 110) }, func() error { return d.write(110, 60) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(1, 1) }, d.flush, func() error { return unsynced(d) })
			c.Disk.SetPlan(failFirst(disk.OpSync, "log", syscall.EIO))
			if err := d.flush(); err != nil || d.refused == nil {
				t.Fatalf("flush: %v, %v", err, d.refused)
			}
			c.Disk.Kill()
			d = mustRecover(t, c)
			powerCut(c, disk.KeepNone())
			d = mustRecover(t, c)
			d.must(t, d.readAll, d.close)
		})
	}
}

// TestL4RecoveryOfTheBaseProvesItself: the same for the base image, the map and the superblock, in a checkpoint.
func TestL4RecoveryOfTheBaseProvesItself(t *testing.T) {
	for _, f := range []fault{
		{kind: disk.OpSync, file: "base"}, {kind: disk.OpSync, file: "base", skip: 1},
		{kind: disk.OpSync, file: "base", skip: 2}, {kind: disk.OpSync, file: "meta"},
	} {
		c := newCase(t, disk.Config{})
		d := mustOpen(t, c)
		d.must(t, func() error { return d.write(0, 20) }, d.checkpoint, func() error { return d.write(10, 20) })
		fired := false
		c.Disk.SetPlan(f.plan(&fired))
		if err := d.checkpoint(); err != nil || !fired {
			t.Fatalf("%+v: fired: %v, %v", f, fired, err)
		}
		c.Disk.Kill()
		d = mustRecover(t, c)
		d.must(t, d.checkpoint)
		powerCut(c, disk.KeepNone())
		if err := checkStopped(c.Disk); err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		d = mustRecover(t, c)
		d.must(t, d.readAll, d.close)
	}
}
