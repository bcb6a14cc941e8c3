package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

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

func createTest(d *disk.Disk) error {
	return create(testConfig(d), Geometry{SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: testBudget}, testSegmentBytes)
}

// driver works on a volume and tells the model what it does.
type driver struct {
	*disk.Case
	v *Volume
	// refused is set once something failed: changes may be refused from then on, and reads still hold.
	refused error
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

func (d *driver) checkpoint() error { return d.step(d.v.Checkpoint(context.Background())) }

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

// each runs the steps until one ends the history.
func each(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// recoverTest is the Recover of every history: whatever happened, the volume opens, is a prefix, and works.
func recoverTest(c *disk.Case) error {
	d, err := openTest(c)
	if err != nil {
		return err
	}
	if err := c.Model.CheckRecovered(d.v.Read); err != nil {
		return err
	}
	if err := checkMap(d.v); err != nil {
		return fmt.Errorf("%w: %w", disk.ErrContradiction, err)
	}
	return each(
		func() error { return d.write(3, 2) },
		func() error { return d.write(60, 3) },
		d.readAll,
		d.flush,
		d.checkpoint,
		func() error { return d.write(4, 1) },
		d.flush,
		d.readAll,
		d.close,
	)
}

// checkMap checks that no chunk whose content is not zero counts as never changed.
func checkMap(v *Volume) error {
	p := make([]byte, v.changes.ChunkBytes())
	for chunk := range v.changes.Chunks() {
		off := int64(chunk) * v.changes.ChunkBytes()
		p = p[:min(int64(len(p)), v.sizeBytes-off)]
		if err := v.base.read(p, off, true); err != nil {
			return err
		}
		if v.changes.At(chunk) == 0 && v.checkpoint.Load() == v.baseHigh.Load() && !bytes.Equal(p, make([]byte, len(p))) {
			return fmt.Errorf("chunk %d has data and was never changed, says the map", chunk)
		}
	}
	return nil
}

func testModel() disk.ModelConfig {
	// A change within blocks is logged as up to three records, so a crash may keep any prefix of its blocks.
	return disk.ModelConfig{SizeBytes: testSize, BlockSize: testBlock, RecordBytes: testBlock}
}

// TestCrashAtEveryOperation: I1, I2, I4, I5, L1, L2, L4, L9: whatever operation a power cut or a kill falls on, and
// whatever of the unsynced survives, the volume holds all records up to some point at or after the last flush.
func TestCrashAtEveryOperation(t *testing.T) {
	for name, run := range map[string]func(*driver) error{
		"flushes": func(d *driver) error {
			return each(
				func() error { return d.write(0, 1) },
				d.flush,
				func() error { return d.write(1, 2) },
				func() error { return d.writeFUA(0, 1) },
				func() error { return d.write(9, 1) },
				d.mark,
				func() error { return d.write(10, 1) },
			)
		},
		"checkpoints": func(d *driver) error {
			return each(
				func() error { return d.write(0, 3) },
				func() error { return d.writeBytes(300, 900) },
				d.checkpoint,
				func() error { return d.trim(1, 100) },
				func() error { return d.write(5, 1) },
				d.flush,
				d.checkpoint,
				d.readAll,
			)
		},
		"rotation": func(d *driver) error {
			for i := range int64(9) {
				if err := each(
					func() error { return d.write(i*40%400, 40) },
					d.flush,
				); err != nil {
					return err
				}
			}
			return d.readAll()
		},
		"trim all": func(d *driver) error {
			return each(
				func() error { return d.write(0, 4) },
				d.checkpoint,
				func() error { return d.trim(0, testSize/testBlock) },
				func() error { return d.zero(100, 5000) },
				d.checkpoint,
				func() error { return d.write(7, 1) },
			)
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk.Exhaustive(t, disk.History{
				Model: testModel(),
				Setup: func(c *disk.Case) error { return createTest(c.Disk) },
				Run: func(c *disk.Case) error {
					d, err := openTest(c)
					if err != nil {
						return err
					}
					if err := run(d); err != nil {
						return err
					}
					return d.close()
				},
				Recover: recoverTest,
				Depth:   1,
			})
		})
	}
}

// randomRun works at random.
func randomRun(d *driver, steps int) error {
	blocks := int64(testSize / testBlock)
	for range steps {
		n := 1 + d.Rand.Int64N(40)
		at := d.Rand.Int64N(blocks - n)
		var err error
		switch d.Rand.IntN(16) {
		case 0:
			err = d.flush()
		case 1:
			err = d.writeFUA(at, n)
		case 2:
			err = d.trim(at, n*5%(blocks-at)+1)
		case 3:
			err = d.zero(at*testBlock+d.Rand.Int64N(testBlock), n*testBlock)
		case 4, 5:
			err = d.writeBytes(at*testBlock+d.Rand.Int64N(testBlock), n*testBlock-d.Rand.Int64N(testBlock))
		case 6:
			err = d.read(at*testBlock+d.Rand.Int64N(testBlock), n*testBlock)
		case 7:
			if d.Rand.IntN(4) == 0 {
				err = d.checkpoint()
			}
		case 8:
			err = d.mark()
		case 9:
			if d.Rand.IntN(20) == 0 {
				err = d.trim(0, blocks)
			}
		default:
			err = d.write(at, n)
		}
		if err != nil {
			return err
		}
	}
	return d.readAll()
}

// TestRandomCrashes: I1–I6, I8, L1–L11: long lives with several crashes each. LOCKSTEP_SEEDS sets how many.
func TestRandomCrashes(t *testing.T) {
	disk.Random(t, disk.History{
		Model: testModel(),
		Disk:  disk.Config{ColdEvery: 3},
		Setup: func(c *disk.Case) error { return createTest(c.Disk) },
		Run: func(c *disk.Case) error {
			d, err := openTest(c)
			if err != nil {
				return err
			}
			if err := randomRun(d, 60); err != nil {
				return err
			}
			return d.close()
		},
		Recover: func(c *disk.Case) error {
			d, err := openTest(c)
			if err != nil {
				return err
			}
			if err := c.Model.CheckRecovered(d.v.Read); err != nil {
				return err
			}
			if err := randomRun(d, 30); err != nil {
				return err
			}
			return d.close()
		},
		Seeds: 200,
	})
}

// TestFaultAtEveryOperation: I7, I9, L4, L5: one operation fails, the process goes on or ends; what was acknowledged
// is there.
func TestFaultAtEveryOperation(t *testing.T) {
	disk.Faults(t, disk.History{
		Model: testModel(),
		Setup: func(c *disk.Case) error { return createTest(c.Disk) },
		Run: func(c *disk.Case) error {
			d, err := openTest(c)
			if err != nil {
				// Which fault it was does not reach clients, so not the error either.
				return errors.Join(err, syscall.EIO, syscall.ENOSPC)
			}
			if err := randomRun(d, 40); err != nil {
				return err
			}
			return d.close()
		},
		Recover: recoverTest,
	}, syscall.EIO, syscall.ENOSPC)
}
