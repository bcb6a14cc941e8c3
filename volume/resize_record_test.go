package volume

import (
	"errors"
	"testing"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestAppendRefusesAResizeThatDoesNotFollow: a resize record that does not start from the size is not logged.
func TestAppendRefusesAResizeThatDoesNotFollow(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	err := d.v.append(d.v.reign.Load(), []wal.Change{wal.ResizeChange(64, 32)}, nil) // as sent to a copy that has 128 blocks
	if err == nil {
		t.Errorf("taken; the volume has %d blocks", d.v.sizeBlocks())
	}
	d.must(t, d.flush)
	c.Disk.Kill()
	if _, err := openTest(c); err != nil {
		t.Error(err)
	}
}

// TestAppendRefusesAResizeThatContradictsItself: neither is one whose size is no end of its range.
func TestAppendRefusesAResizeThatContradictsItself(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	x := wal.ResizeChange(128, 64)
	x.Payload[0] = 77
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("panic with the record in the log: %v", p)
		}
	}()
	_ = d.v.append(d.v.reign.Load(), []wal.Change{x}, nil)
}

type cutExtents struct {
	*backend.Memory
	hook func()
}

func (b *cutExtents) NextExtent(off, max int64) (int64, bool, error) {
	if h := b.hook; h != nil {
		b.hook = nil
		h()
	}
	return b.Memory.NextExtent(off, max)
}

// TestExtentsBesideShrink: who looks at what is being cut off is told that it is outside of the volume.
func TestExtentsBesideShrink(t *testing.T) {
	base := &cutExtents{Memory: backend.NewMemory(DataOffset + 1<<20)}
	v := openMemory(t, Config{Base: base, Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir()}, 1<<20, 512, testSegmentBytes)
	base.hook = func() {
		if err := second(v.Resize(t.Context(), 1<<19, true)); err != nil {
			t.Error(err)
		}
	}
	if _, err := v.Extents(1<<20-512, 512, 1); err != nil && !errors.Is(err, ErrRange) {
		t.Error(err)
	}
}

// TestL6RecoverOverResizes: a cut of the log at every place, after a crash at every operation of a shrink and a growth.
func TestL6RecoverOverResizes(t *testing.T) {
	for n := 1; ; n++ {
		c := newSmallCase(t)
		d := mustOpen(t, c)
		d.must(t, func() error { return d.write(0, 128) }, d.checkpoint, func() error { return d.write(90, 20) })
		start, crashed := c.Disk.Ops(), false
		c.Disk.SetPlan(func(op disk.Op) error {
			if op.Number >= start+n {
				crashed = true
				return disk.ErrCrashed
			}
			return nil
		})
		err := d.resize(70)
		if err == nil {
			err = d.write(60, 10)
		}
		if err == nil {
			err = d.resize(500)
		}
		if err == nil {
			_ = d.writeFUA(490, 10) // the crash comes where it comes
		}
		if !crashed {
			t.Logf("%d operations", n)
			return
		}
		powerCut(c, disk.KeepAll())
		sizes := map[block.LSN]uint64{}
		in, err := Inspect(testConfig(c.Disk), wal.Visitor{Record: func(r wal.Record, _ wal.Position) error {
			if r.Type == wal.RecordResize {
				b, err := r.Resize()
				if err != nil {
					return err
				}
				sizes[r.LSN] = b
			}
			return nil
		}})
		if err != nil {
			t.Fatal(n, err)
		}
		for to := in.Superblock.Checkpoint; to <= in.Log.Head; to++ {
			x := c.Disk.Clone()
			loss, err := Recover(testConfig(x), to, true)
			if err != nil {
				t.Fatal(n, to, err)
			}
			v, err := Open(testConfig(x))
			if err != nil {
				t.Errorf("crash at %d, cut at %d: %v", n, to, err)
				continue
			}
			want := uint64(in.Superblock.SizeBytes / testBlock)
			for l := in.Superblock.Checkpoint + 1; l <= to; l++ {
				if b, ok := sizes[l]; ok {
					want = b
				}
			}
			if v.sizeBlocks() != want {
				t.Errorf("crash at %d, cut at %d: %d blocks, want %d", n, to, v.sizeBlocks(), want)
			}
			if loss.BaseAhead != 0 {
				for i := range v.changes.Chunks() {
					if v.changes.At(i) < to {
						t.Errorf("crash at %d, cut at %d: chunk %d at %d", n, to, i, v.changes.At(i))
					}
				}
			}
			if err := second(v.Resize(t.Context(), testSize, true)); err != nil {
				t.Error(err)
			}
			end := mustRead(t, v, int64(want)*testBlock, testSize-int64(want)*testBlock)
			for _, b := range end {
				if b != 0 {
					t.Errorf("crash at %d, cut at %d: what was behind the end is back", n, to)
					break
				}
			}
			if err := errors.Join(v.Checkpoint(t.Context()), v.Close()); err != nil {
				t.Error(err)
			}
			y, err := Open(testConfig(x))
			if err != nil {
				t.Error(err)
				continue
			}
			if got := mustRead(t, y, int64(want)*testBlock, testSize-int64(want)*testBlock); string(got) != string(end) {
				t.Error("changed", n, to)
			}
			_ = y.Close()
		}
	}
}
