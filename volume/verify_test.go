package volume

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/block"
	"lockstep/test/disk"
)

// newDriver has a new volume, open, on a new disk.
func newDriver(t *testing.T) *driver {
	t.Helper()
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(testModel())}
	if err := createTest(c.Disk); err != nil {
		t.Fatal(err)
	}
	d, err := openTest(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCheckpointChecksRecords: what rots in the log does not become data of the base image, whether its record is whole
// or was overwritten in part: the volume fails and says where, and the log keeps everything.
func TestCheckpointChecksRecords(t *testing.T) {
	for name, over := range map[string]int64{"whole": 100, "cut at the front": 9, "cut at the end": 15, "cut in the middle": 12} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t)
			if err := each(
				func() error { return d.write(10, 6) },
				func() error { return d.write(over, 2) },
				d.flush,
			); err != nil {
				t.Fatal(err)
			}
			l := &lookup{log: d.v.log}
			d.v.index.find(l, block.Range{Start: 11, Count: 4})
			at := l.parts[0]
			if at.segment == nil || at.Start != 11 {
				t.Fatalf("block 11 is not in the log: %+v", at)
			}
			if err := d.Disk.Corrupt("log/"+segmentOf(t, d, at), at.offset+3, 1); err != nil {
				t.Fatal(err)
			}
			l.release()
			if err := d.v.Checkpoint(context.Background()); !errors.Is(err, ErrFailed) {
				t.Fatalf("checkpoint of a rotten record: %v", err)
			}
			p := make([]byte, testBlock)
			if err := d.v.base.read(p, 11*testBlock, true); err != nil || p[3] != 0 {
				t.Fatalf("rot reached the base image: %x, %v", p[:8], err)
			}
		})
	}
}

// segmentOf returns the file name of the only segment there is.
func segmentOf(t *testing.T, d *driver, at part) string {
	t.Helper()
	names, err := d.Disk.Dir("log").List()
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v, %v", names, err)
	}
	return names[0]
}

// TestCheckpointOfOverwrittenRecords: the parts that are left of large records, with others between, reach the base image.
func TestCheckpointOfOverwrittenRecords(t *testing.T) {
	d := newDriver(t)
	steps := []func() error{func() error { return d.write(0, 100) }, func() error { return d.write(90, 60) }}
	for b := int64(1); b < 150; b += 7 {
		steps = append(steps, func() error { return d.write(b, 2) })
	}
	if err := each(append(steps, d.checkpoint, d.readAll)...); err != nil {
		t.Fatal(err)
	}
	if d.v.Stats().DirtyEntries != 0 {
		t.Fatal("the index still has entries, so the base image was not read")
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// TestI9PinIsNotLackOfSpace: a change that only a reader keeps from the log waits for the reader, whichever segment it
// holds; it is not told that there is no space.
func TestI9PinIsNotLackOfSpace(t *testing.T) {
	for _, sequence := range []uint64{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			d := newDriver(t)
			i := int64(0)
			for d.v.log.Usage().Segments < 3 {
				if err := d.write(i*8%400, 8); err != nil || d.refused != nil {
					t.Fatal(err, d.refused)
				}
				i++
			}
			pin := d.v.log.Pin(sequence)
			time.AfterFunc(time.Minute, pin.Unpin) // in the bubble's time
			if err := d.checkpoint(); err != nil || d.refused != nil {
				t.Fatal(err, d.refused)
			}
			for range 400 {
				if err := d.write(i*8%400, 8); err != nil || d.refused != nil {
					t.Fatal(err, d.refused)
				}
				i++
			}
			if err := each(d.readAll, d.close); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestI9LogOfTwoSegments: a log that the file system leaves two segments, beside a base image that has all its space,
// goes on for ever: what is checkpointed is recycled, the segment that was appended to as well.
func TestI9LogOfTwoSegments(t *testing.T) {
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(testModel())}
	if err := createTest(c.Disk); err != nil {
		t.Fatal(err)
	}
	if err := c.Disk.Base("base", 0).Allocate(0, DataOffset+testSize); err != nil {
		t.Fatal(err)
	}
	d, err := openTest(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.v.log.Prepare(); err != nil {
		t.Fatal(err)
	}
	c.Disk.SetCapacity(c.Disk.Used())
	for i := range int64(1000) {
		if err := d.write(i*4%400, 4); err != nil || d.refused != nil {
			t.Fatalf("write %d: %v, %v; %+v", i, err, d.refused, d.v.log.Usage())
		}
	}
	if n := d.v.log.Usage().Segments; n != 2 {
		t.Fatalf("%d segments", n)
	}
	if err := each(d.readAll, d.close); err != nil {
		t.Fatal(err)
	}
}
