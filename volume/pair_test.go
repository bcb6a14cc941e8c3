package volume

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"lockstep/test/disk"
	"lockstep/wal"
)

// copyHeader puts the superblocks of one base image into another.
func copyHeader(t *testing.T, from, to *disk.Disk) {
	t.Helper()
	p := make([]byte, DataOffset)
	if _, err := from.Base("base", 0).ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Base("base", 0).WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
}

// TestL12OldBaseBesideNewerLog: the base image was put back to an earlier state, the log was not.
func TestL12OldBaseBesideNewerLog(t *testing.T) {
	for name, since := range map[string]func(t *testing.T, c *disk.Case) *driver{
		"a restart": func(t *testing.T, c *disk.Case) *driver { return mustOpen(t, c) },
		"a restart and writes": func(t *testing.T, c *disk.Case) *driver {
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(9, 9) }, d.flush)
			return d
		},
		"a restart, a checkpoint and a segment": func(t *testing.T, c *disk.Case) *driver {
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(0, 100) }, func() error { return d.write(100, 100) }, d.checkpoint)
			return d
		},
		"a restart and a lap of the log": func(t *testing.T, c *disk.Case) *driver {
			d := mustOpen(t, c)
			for i := range int64(12) {
				d.must(t, func() error { return d.write(i*30, 100) }, d.checkpoint)
			}
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(0, 9) }, d.close)
			old := c.Disk.Clone()
			d = since(t, c)
			d.must(t, d.close)
			copyHeader(t, old, c.Disk)
			ops := c.Disk.Ops()
			if _, err := Open(testConfig(c.Disk)); !errors.Is(err, wal.ErrMismatch) {
				t.Fatalf("open: %v", err)
			}
			if n := c.Disk.Ops(); n != ops {
				t.Fatalf("the open did %d operations", n-ops)
			}
		})
	}
}

// TestL12PartsOfDifferentVolumes: base image, log and map of different volumes, or of different copies of one, do not
// open together.
func TestL12PartsOfDifferentVolumes(t *testing.T) {
	volume := uuid.UUID{1: 2}
	first, second := disk.New(disk.Config{}), disk.New(disk.Config{})
	configs := func(id uuid.UUID) (Config, Config) {
		a, b := testConfig(first.Clone()), testConfig(second.Clone())
		if id == volume {
			a.NewID, b.NewID = uuid.New, uuid.New // else the copies have the same ID, and only the volumes differ
		}
		for cfg, id := range map[*Config]uuid.UUID{&a: volume, &b: id} {
			g := Geometry{ID: id, SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: testBudget}
			if err := create(*cfg, g, testSegmentBytes); err != nil {
				t.Fatal(err)
			}
		}
		return a, b
	}
	for name, id := range map[string]uuid.UUID{"another volume": {1: 3}, "another copy": volume} {
		a, b := configs(id)
		a.Log = b.Log
		if _, err := Open(a); !errors.Is(err, wal.ErrMismatch) {
			t.Errorf("with the log of %s: %v", name, err)
		}
		if _, err := Inspect(a, wal.Visitor{}); !errors.Is(err, wal.ErrMismatch) {
			t.Errorf("inspection with the log of %s: %v", name, err)
		}
		if _, err := Recover(a, 0, true); !errors.Is(err, wal.ErrMismatch) {
			t.Errorf("recovery with the log of %s: %v", name, err)
		}
	}
	a, b := configs(uuid.UUID{1: 3})
	a.Meta = b.Meta
	if _, err := Open(a); !errors.Is(err, ErrForeign) {
		t.Errorf("with the map of another volume: %v", err)
	}
	a, b = configs(volume)
	a.Log = disk.New(disk.Config{}).Dir("log")
	if _, err := Open(a); !errors.Is(err, wal.ErrMismatch) {
		t.Errorf("without a log: %v", err)
	}
	v, err := Open(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
