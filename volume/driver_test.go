package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
	"lockstep/test/disk"
)

const (
	testSize         = 256 << 10
	testBlock        = 512
	testSegmentBytes = 72 << 10
	testBudget       = 4 * testSegmentBytes
)

// testConfig opens everything from a fake disk, with a clock and IDs that are the same in each run.
func testConfig(d *disk.Disk) Config {
	now, id := time.Unix(1, 0), uint64(0)
	return Config{
		Base: d.Base("base", DataOffset+testSize), Meta: d.Dir("meta"), Log: d.Dir("log"),
		NodeID: uuid.UUID{15: 1},
		Now: func() time.Time {
			now = now.Add(time.Millisecond)
			return now
		},
		NewID: func() uuid.UUID {
			id++
			return uuid.UUID(binary.BigEndian.AppendUint64(make([]byte, 8, 16), id))
		},
		Logger: zerolog.Nop(),
	}
}

func createTest(d *disk.Disk) error { return createSegments(d, testSegmentBytes) }

// createSegments is createTest with a log of four segments of that size.
func createSegments(d *disk.Disk, segmentBytes int64) error {
	return create(testConfig(d), Geometry{SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: 4 * segmentBytes}, segmentBytes)
}

// newCase makes a volume on a new disk, outside of any history.
func newCase(t testing.TB, cfg disk.Config) *disk.Case {
	t.Helper()
	c := &disk.Case{Disk: disk.New(cfg), Model: disk.NewModel(testModel()), Rand: rand.New(rand.NewPCG(1, 2))}
	if err := createTest(c.Disk); err != nil {
		t.Fatal(err)
	}
	return c
}

// mustOpen opens the volume of the case, which must work.
func mustOpen(t testing.TB, c *disk.Case) *driver {
	t.Helper()
	d, err := openTest(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// powerCut ends the process of the case by a power cut, and mustRecover opens it again and checks what is there.
func powerCut(c *disk.Case, choice disk.Choice) {
	c.Disk.SetPlan(nil)
	c.Disk.Recover(choice)
	c.Model.PowerCut()
}

func mustRecover(t testing.TB, c *disk.Case) *driver {
	t.Helper()
	d := mustOpen(t, c)
	if err := c.Model.CheckRecovered(d.v.Read); err != nil {
		t.Fatal(err)
	}
	return d
}

// must runs the steps, each of which must succeed; what the volume refuses counts as failure here.
func (d *driver) must(t testing.TB, steps ...func() error) {
	t.Helper()
	for i, s := range steps {
		if err := errors.Join(s(), d.refused); err != nil {
			t.Fatalf("step %d: %v\n%s", i+1, err, d.Disk.Trace())
		}
	}
}

// driver works on a volume and tells the model what it does.
type driver struct {
	*disk.Case
	v *Volume
	// refused is set once something failed: changes may be refused from then on, and reads still hold.
	refused error
	// touched is the LSN of the last record of this life that touched each chunk; where several touched it, the last.
	touched map[uint64]block.LSN
}

func openTest(c *disk.Case) (*driver, error) {
	d := &driver{Case: c}
	var err error
	if d.v, err = Open(testConfig(c.Disk)); err != nil {
		return nil, errors.Join(err, d.step(nil))
	}
	return d, nil
}

// step takes an error of the volume: nil, no space, or a failure. It returns what ends the history.
func (d *driver) step(err error) error {
	if d.Disk.Crashed() {
		return disk.ErrCrashed
	}
	if err != nil {
		d.refused = err
	}
	return nil
}

// change applies one change.
func (d *driver) change(c disk.Change, trim bool) error {
	id := d.Model.Begin(c)
	vc := Change{Kind: Write, FUA: c.FUA, Offset: c.Offset, Length: c.Length, Data: c.Data}
	if c.Data == nil {
		vc.Kind = Zero
		if trim {
			vc.Kind = Trim
		}
	}
	one := []Change{vc}
	d.v.Apply(one)
	switch err := one[0].Err; {
	case err == nil:
		d.Model.Acked(id)
		d.touch(c.Offset, c.Length)
		return nil
	case errors.Is(err, syscall.ENOSPC):
		d.Model.Rejected(id)
		return d.step(err)
	default:
		d.Model.Failed(id)
		return d.step(err)
	}
}

func (d *driver) write(block, count int64) error {
	return d.change(d.Model.Write(block*testBlock, count*testBlock), false)
}

func (d *driver) writeBytes(off, n int64) error { return d.change(d.Model.Write(off, n), false) }

func (d *driver) writeFUA(block, count int64) error {
	c := d.Model.Write(block*testBlock, count*testBlock)
	c.FUA = true
	return d.change(c, false)
}

func (d *driver) trim(block, count int64) error {
	return d.change(disk.Change{Offset: block * testBlock, Length: count * testBlock}, true)
}

func (d *driver) zero(off, n int64) error {
	return d.change(disk.Change{Offset: off, Length: n}, false)
}

func (d *driver) flush() error {
	f := d.Model.FlushBegun()
	err := d.v.Flush()
	if err == nil {
		d.Model.FlushAcked(f)
	}
	return d.step(err)
}

func (d *driver) checkpoint() error {
	if err := d.v.Checkpoint(context.Background()); err != nil {
		return d.step(err)
	}
	return d.checkMap()
}

func (d *driver) mark() error { return d.step(d.v.log.Mark()) }

// read checks a range against the model.
func (d *driver) read(off, n int64) error {
	p := make([]byte, n)
	if err := d.v.Read(p, off); err != nil {
		return errors.Join(err, d.step(nil))
	}
	return d.Model.CheckRead(off, p)
}

func (d *driver) readAll() error { return d.read(0, testSize) }

func (d *driver) close() error {
	err := d.v.Close()
	if d.refused != nil || errors.Is(err, syscall.EIO) {
		return d.step(nil) // a failed volume says so again when it is closed
	}
	return err
}

// sound is for the end of a history without faults: nothing was refused.
func (d *driver) sound() error {
	if d.refused != nil {
		return fmt.Errorf("%w: without a fault: %w", disk.ErrContradiction, d.refused)
	}
	return nil
}

// each runs the steps until one ends the history.
func each(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// touch notes what the change map has to say after the next checkpoint. There is one goroutine, so the head is the
// change's last record; a change of several records counts as touching nothing but with its first.
func (d *driver) touch(off, length int64) {
	if d.touched == nil {
		d.touched = map[uint64]block.LSN{}
	}
	first, last := off/testBlock, (off+length-1)/testBlock
	lsn := d.v.log.Head()
	if off%testBlock != 0 || (off+length)%testBlock != 0 {
		lsn -= min(2, lsn) // up to three records
	}
	perChunk := d.v.changes.ChunkBytes() / testBlock
	for chunk := first / perChunk; chunk <= last/perChunk; chunk++ {
		d.touched[uint64(chunk)] = max(d.touched[uint64(chunk)], lsn)
	}
}

// checkMap checks the change map, after a checkpoint, against what this life changed.
func (d *driver) checkMap() error {
	for chunk, lsn := range d.touched {
		if at := d.v.changes.At(chunk); at < lsn {
			return fmt.Errorf("%w: chunk %d was changed by record %d, and the map says %d", disk.ErrContradiction, chunk, lsn, at)
		}
	}
	return nil
}
