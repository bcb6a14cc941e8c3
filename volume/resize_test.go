package volume

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// To the model, a volume that changes its size is one of the largest size, of which what is after the end reads as zeroes:
// a resize zeroes what is between the ends.

// smallSize is what volumes that are resized begin with.
const smallSize = testSize / 4

func createSmall(c *disk.Case) error {
	c.Disk.Base("base", DataOffset+smallSize)
	g := Geometry{SizeBytes: smallSize, BlockSize: testBlock, LogBudgetBytes: testBudget}
	return create(testConfig(c.Disk), g, testSegmentBytes)
}

func newSmallCase(t testing.TB) *disk.Case {
	t.Helper()
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(testModel())}
	if err := createSmall(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// padded reads beyond the end too.
func (d *driver) padded(p []byte, off int64) error {
	clear(p)
	if off >= d.v.Size() {
		return nil
	}
	return d.v.Read(p[:min(d.v.Size()-off, int64(len(p)))], off)
}

func (d *driver) checkPadded() error {
	p := make([]byte, testSize)
	if err := d.padded(p, 0); err != nil {
		return errors.Join(err, d.step(nil))
	}
	return d.Model.CheckRead(0, p)
}

// resize moves the end, and checks that it is there.
func (d *driver) resize(blocks int64) error {
	from, to := d.v.Size(), blocks*testBlock
	if from == to {
		return nil
	}
	id := d.Model.Begin(disk.Change{Offset: min(from, to), Length: max(from, to) - min(from, to), FUA: true})
	switch _, err := d.v.Resize(context.Background(), to, true); {
	case err == nil:
		d.Model.Acked(id)
		if d.v.Size() != to {
			return fmt.Errorf("%w: resized to %d bytes, and it has %d", disk.ErrContradiction, to, d.v.Size())
		}
		for chunk := range d.touched {
			if chunk >= d.v.changes.Chunks() {
				delete(d.touched, chunk)
			}
		}
		return nil
	case errors.Is(err, syscall.ENOSPC):
		d.Model.Rejected(id)
		return d.step(err)
	default:
		d.Model.Failed(id)
		return d.step(err)
	}
}

// resizes is a history of a small volume; what it flushed in its last blocks tells whether a lost end comes back.
func resizes(run func(*driver) error) disk.History {
	h := history(run)
	h.Setup = createSmall
	h.Recover = func(c *disk.Case) error {
		if err := checkStopped(c.Disk); err != nil {
			return err
		}
		d, err := openTest(c)
		if err != nil {
			return err
		}
		if err := c.Model.CheckRecovered(d.padded); err != nil {
			return err
		}
		size := d.v.Size() / testBlock
		return each(
			func() error { return d.write(size-min(size, 2), min(size, 2)) },
			func() error { return d.resize(size%500 + 12) }, // larger or smaller
			d.checkPadded,
			d.sound,
			d.close,
		)
	}
	return h
}

// TestI5ResizeCrashAtEveryOperation: I1, I5, I8, L9: a resize is there whole or not at all, in its place among the changes
// around it, and nothing of a volume that was larger comes back with it.
func TestI5ResizeCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*driver) error{
		"grow": func(d *driver) error {
			return each(
				func() error { return d.write(126, 2) },
				func() error { return d.resize(300) },
				func() error { return d.writeFUA(298, 2) },
				d.checkPadded,
			)
		},
		"shrink and grow": func(d *driver) error {
			return each(
				func() error { return d.write(0, 128) },
				d.checkpoint,
				func() error { return d.write(99, 20) },
				func() error { return d.resize(101) },
				func() error { return d.writeFUA(99, 2) },
				func() error { return d.resize(512) },
				func() error { return d.writeFUA(510, 2) },
				d.checkPadded,
			)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk.Exhaustive(t, resizes(run))
		})
	}
}

// TestI5RandomResizes: long lives with several crashes, in which the size is changed among everything else.
func TestI5RandomResizes(t *testing.T) {
	t.Parallel()
	run := func(d *driver, steps int) error {
		for range steps {
			size := d.v.Size() / testBlock
			n := 1 + d.Rand.Int64N(min(size, 40))
			at := d.Rand.Int64N(size - n + 1)
			var err error
			switch d.Rand.IntN(12) {
			case 0:
				err = d.flush()
			case 1:
				err = d.resize(1 + d.Rand.Int64N(testSize/testBlock))
			case 2:
				err = d.trim(at, n)
			case 3:
				err = d.checkpoint()
			case 4:
				err = d.writeFUA(size-n, n)
			default:
				err = d.write(at, n)
			}
			if err != nil {
				return err
			}
		}
		return d.checkPadded()
	}
	h := resizes(func(d *driver) error { return run(d, 40) })
	h.Disk = disk.Config{ColdEvery: 3}
	h.Seeds = 20
	h.Recover = func(c *disk.Case) error {
		d, err := openTest(c)
		if err != nil {
			return err
		}
		if err := c.Model.CheckRecovered(d.padded); err != nil {
			return err
		}
		return each(func() error { return run(d, 20) }, d.sound, d.close)
	}
	disk.Random(t, h)
}

// TestI9ResizeFaultAtEveryOperation: I7, I9: one operation of a resize fails; what was acknowledged is there.
func TestI9ResizeFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	h := resizes(nil)
	h.Recover = func(c *disk.Case) error {
		d, err := openTest(c)
		if err != nil {
			return err
		}
		return each(func() error { return c.Model.CheckRecovered(d.padded) }, d.sound, d.close)
	}
	h.Run = func(c *disk.Case) error {
		d, err := openTest(c)
		if err != nil {
			return errors.Join(err, syscall.EIO, syscall.ENOSPC)
		}
		return each(
			func() error { return d.write(0, 128) },
			func() error { return d.resize(300) },
			func() error { return d.write(min(298, d.v.Size()/testBlock-2), 2) },
			func() error { return d.resize(64) },
			d.checkPadded,
			d.close,
		)
	}
	disk.Faults(t, h, syscall.EIO, syscall.ENOSPC)
}

// TestResizeSurvivesReopening: the size is what it was made, out of the log and out of the superblock, and the base image
// is cut to it.
func TestResizeSurvivesReopening(t *testing.T) {
	c := newSmallCase(t)
	for i, blocks := range []int64{300, 7, 512, 1, 129} {
		d := mustOpen(t, c)
		d.must(t, func() error { return d.resize(blocks) }, func() error { return d.write(0, 1) })
		if i%2 == 0 {
			d.must(t, d.close)
		} else {
			c.Disk.Kill()
		}
		d = mustOpen(t, c)
		if got := d.v.Size(); got != blocks*testBlock {
			t.Fatalf("%d bytes, want %d", got, blocks*testBlock)
		}
		if got, _ := testConfig(c.Disk).Base.Size(); got != DataOffset+blocks*testBlock {
			t.Errorf("a base image of %d bytes for a volume of %d", got, blocks*testBlock)
		}
		d.must(t, d.checkPadded, d.close)
	}
}

// TestResizeKeepsTheChangeMap: what is known of a chunk outlives a resize that changes their number or their size, across a
// restart; nothing counts as changed that was not, but for what a larger chunk joins.
func TestResizeKeepsTheChangeMap(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.resize(300) })
	before := d.v.changes.At(0)
	d.must(t, func() error { return d.write(200, 1) }, d.checkpoint)
	lsn := d.v.log.Head()
	d.must(t, func() error { return d.resize(512) }, d.close)
	d = mustOpen(t, c)
	if got := []block.LSN{d.v.changes.At(0), d.v.changes.At(1), d.v.changes.At(3)}; d.v.changes.Chunks() != 4 ||
		got[0] != before || got[1] != lsn || got[2] <= lsn {
		t.Errorf("%d chunks, of which 0, 1 and 3 were changed at %v; want %d, %d and later", d.v.changes.Chunks(), got, before, lsn)
	}
	d.must(t, d.close)

	old, wide := newChangeMap(d.v.id, minChunkBytes, 700), newChangeMap(d.v.id, 4*minChunkBytes, 200)
	old.RaiseAll(3)
	old.Raise(6, 1, 9)
	old.Raise(7, 1, 8)
	old.Raise(699, 1, 7)
	wide.takeFrom(old, 5)
	for chunk, want := range map[uint64]block.LSN{0: 3, 1: 9, 2: 3, 174: 7, 199: 3} {
		if got := wide.At(chunk); got != want {
			t.Errorf("chunk %d of the wider map was changed at %d, want %d", chunk, got, want)
		}
	}
}

// TestI5CheckpointOfAnOlderSize: a checkpoint says the size as of its last record, not that of a resize behind it.
func TestI5CheckpointOfAnOlderSize(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 128) })
	point := d.v.freeze()
	resized := d.Model.Begin(disk.Change{Offset: 64 * testBlock, Length: 64 * testBlock})
	if err := d.v.logAll(d.v.reign.Load(), []wal.Change{wal.ResizeChange(128, 64)}, 0, nil); err != nil {
		t.Fatal(err)
	}
	d.Model.Acked(resized)
	if err := point.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := d.v.header.current.SizeBytes; got != smallSize {
		t.Errorf("the superblock says %d bytes as of record %d", got, point.upTo)
	}
	in, err := Inspect(testConfig(c.Disk), wal.Visitor{})
	if err != nil || in.SizeBytes != 64*testBlock || in.Superblock.SizeBytes != smallSize {
		t.Errorf("inspection: %d bytes, %v", in.SizeBytes, err)
	}
	c.Disk.Kill()
	if err := c.Model.CheckRecovered(mustOpen(t, c).padded); err != nil {
		t.Error(err)
	}
}

// TestL9MapOfAnotherSize: a crash between the superblock and the new map's name leaves a map that is found, also by an
// inspection; one that the superblock does not name is not.
func TestL9MapOfAnotherSize(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.resize(256) }, func() error { return d.write(0, 1) }, d.checkpoint)
	untouched := d.v.changes.At(1)
	d.Disk.SetPlan(func(op disk.Op) error {
		if op.Kind == disk.OpRename && op.NewName == "meta/map" {
			return disk.ErrCrashed
		}
		return nil
	})
	if err := d.resize(512); !errors.Is(err, disk.ErrCrashed) {
		t.Fatal(err)
	}
	powerCut(c, disk.KeepNone())
	in, err := Inspect(testConfig(c.Disk), wal.Visitor{})
	if err != nil || len(in.MapProblems) > 0 || in.MapChunks != 4 {
		t.Fatalf("inspection: %d chunks, %v, %v", in.MapChunks, in.MapProblems, err)
	}
	d = mustOpen(t, c)
	if err := c.Model.CheckRecovered(d.padded); err != nil {
		t.Error(err)
	}
	if got := d.v.changes.At(1); got != untouched {
		t.Errorf("chunk 1 was changed at %d, was %d before", got, untouched)
	}
	d.must(t, d.checkpoint, d.close)
}

// TestL10ResizeOfASlowBase: what is to be zeroed after the end is not any more; where the volume grows over it again, it is.
func TestL10ResizeOfASlowBase(t *testing.T) {
	c := newSmallCase(t)
	d, err := openSlow(c)
	if err != nil {
		t.Fatal(err)
	}
	d.must(t,
		func() error { return d.write(0, 128) }, d.checkpoint,
		func() error { return d.trim(20, 100) }, d.checkpoint,
		func() error { return d.resize(64) }, d.checkPadded,
	)
	if got := d.v.header.current.PendingZero; len(got) != 1 || got[0] != (block.Range{Start: 20, Count: 44}) {
		t.Errorf("pending after a cut at block 64: %v", got)
	}
	d.must(t, func() error { return d.resize(512) }, d.checkPadded)
	if got := d.v.header.current.PendingZero; len(got) != 1 || got[0] != (block.Range{Start: 20, Count: 492}) {
		t.Errorf("pending after growing again: %v", got)
	}
	for more := true; more; {
		if more, err = d.v.zeroPending(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	d.must(t, d.checkPadded, d.close)
}

// TestL7ResizeExcludesWhatItCutsOff: a change that was admitted before the volume shrank is refused after, whole blocks and
// parts of one.
func TestL7ResizeExcludesWhatItCutsOff(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	end := []wal.Change{{Type: wal.RecordTrim, Range: block.Range{Start: 127, Count: 1}}}
	d.must(t, func() error { return d.resize(127) })
	if err := d.v.append(d.v.reign.Load(), end, nil); !errors.Is(err, ErrRange) {
		t.Errorf("append after the end: %v", err)
	}
	b := &batch{reign: d.v.reign.Load()}
	if err := d.v.applyPartial(b, &Change{Kind: Zero, Offset: 126*testBlock + 1, Length: testBlock}); !errors.Is(err, ErrRange) {
		t.Errorf("partial change over the end: %v", err)
	}
	d.must(t, d.checkPadded, d.close)
}

// TestResizeRefused: sizes that can not be, and a base image that can not grow, change nothing.
func TestResizeRefused(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	head := d.v.log.Head()
	for _, size := range []int64{0, -512, 100, 513, 1<<63 - 512} {
		if _, err := d.v.Resize(context.Background(), size, true); !errors.Is(err, ErrSize) {
			t.Errorf("to %d bytes: %v", size, err)
		}
	}
	d.v.cfg.Base = struct{ backend.Backend }{d.v.cfg.Base}
	if _, err := d.v.Resize(context.Background(), testSize, true); !errors.Is(err, ErrSize) {
		t.Errorf("a base image that can not grow: %v", err)
	}
	if d.v.log.Head() != head || d.v.Size() != smallSize {
		t.Errorf("head %d and size %d, were %d and %d", d.v.log.Head(), d.v.Size(), head, smallSize)
	}
	d.must(t, d.close)
}

// TestReplayRefusesAResizeThatDoesNotFit: the size that a resize starts from is the one that the log has come to.
func TestReplayRefusesAResizeThatDoesNotFit(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	bad := wal.ResizeChange(64, 32)
	if err := d.v.log.Append([]wal.Change{bad}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.v.log.Sync(); err != nil {
		t.Fatal(err)
	}
	c.Disk.Kill()
	if _, err := openTest(c); !errors.Is(err, ErrRange) {
		t.Fatalf("open: %v", err)
	}
}

// TestDataAfter: what a cut would lose is data, not zeroes and holes.
func TestDataAfter(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 100) }, func() error { return d.trim(90, 5) })
	for from, want := range map[int64]int64{0: 95, 80: 15, 95: 5, 100: 0} {
		if got, err := d.v.DataAfter(from * testBlock); err != nil || got != want*testBlock {
			t.Errorf("after block %d: %d bytes, %v; want %d blocks", from, got, err, want)
		}
	}
	d.must(t, d.close)
}
