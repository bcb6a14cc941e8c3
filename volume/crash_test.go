package volume

import (
	"errors"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

// recoverTest is the Recover of every history: whatever happened, the volume opens, is a prefix, and works.
func recoverTest(c *disk.Case) error {
	if err := checkStopped(c.Disk); err != nil {
		return err
	}
	d, err := openTest(c)
	if err != nil {
		return err
	}
	if err := c.Model.CheckRecovered(d.v.Read); err != nil {
		return err
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
		d.sound,
		d.close,
	)
}

func testModel() disk.ModelConfig {
	// A change within blocks is logged as up to three records, so a crash may keep any prefix of its blocks.
	return disk.ModelConfig{SizeBytes: testSize, BlockSize: testBlock, RecordBytes: testBlock}
}

// history is one that opens the volume that createTest made, runs, and closes it.
func history(run func(*driver) error) disk.History {
	return disk.History{
		Model: testModel(),
		Setup: func(c *disk.Case) error { return createTest(c.Disk) },
		Run: func(c *disk.Case) error {
			d, err := openTest(c)
			if err != nil {
				return err
			}
			return each(func() error { return run(d) }, d.sound, d.close)
		},
		Recover: recoverTest,
	}
}

// TestI5CrashAtEveryOperation: I1, I2, I4, I5, L1, L2, L4, L9: whatever operation a power cut or a kill falls on, and
// whatever of the unsynced survives, the volume holds all records up to some point at or after the last flush.
func TestI5CrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*driver) error{
		"I1 flushes": func(d *driver) error {
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
		"L9 checkpoints": func(d *driver) error {
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
		"L2 rotation": func(d *driver) error {
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
		"I8 trim all": func(d *driver) error {
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
			t.Parallel()
			disk.Exhaustive(t, history(run))
		})
	}
}

// TestI4CrashAtEveryOperationOfAWholeLog: I4, S12, L9: the log is never recycled here, so the base image and the change
// map can be checked against all that was ever logged, at every crash, in checkStopped.
func TestI4CrashAtEveryOperationOfAWholeLog(t *testing.T) {
	t.Parallel()
	h := history(func(d *driver) error {
		return each(
			func() error { return d.write(0, 4) },
			func() error { return d.write(200, 2) },
			d.flush,
			func() error { return d.write(2, 3) },
			d.checkpoint, // has to sync the log first
			func() error { return d.trim(1, 20) },
			func() error { return d.writeBytes(130<<10+77, 1000) },
			d.checkpoint,
		)
	})
	h.Setup = func(c *disk.Case) error { return createSegments(c.Disk, 256<<10) }
	disk.Exhaustive(t, h)
}

// TestI5CrashInRecovery: L2, L4, L12: every crash is followed by a crash at every operation of the recovery from it.
func TestI5CrashInRecovery(t *testing.T) {
	t.Parallel()
	const small = 8 << 10 // there are many lives
	reopen := func(c *disk.Case, more ...func(*driver) error) error {
		d, err := openTest(c)
		if err != nil {
			return err
		}
		if err := c.Model.CheckRecovered(d.v.Read); err != nil {
			return err
		}
		for _, f := range more {
			if err := f(d); err != nil {
				return err
			}
		}
		return d.close()
	}
	disk.Exhaustive(t, disk.History{
		Model: disk.ModelConfig{SizeBytes: small, BlockSize: testBlock, RecordBytes: testBlock},
		Setup: func(c *disk.Case) error { // a process that was killed
			g := Geometry{SizeBytes: small, BlockSize: testBlock, LogBudgetBytes: testBudget}
			if err := create(testConfig(c.Disk), g, testSegmentBytes); err != nil {
				return err
			}
			d, err := openTest(c)
			if err != nil {
				return err
			}
			return each(func() error { return d.write(0, 1) }, d.flush, func() error { return d.write(1, 9) })
		},
		Run:     func(c *disk.Case) error { return reopen(c) },
		Recover: func(c *disk.Case) error { return reopen(c, func(d *driver) error { return d.write(0, 1) }) },
		Depth:   2,
	})
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

// TestI5RandomCrashes: I1–I6, I8, L1–L11: long lives with several crashes each. LOCKSTEP_SEEDS sets how many.
func TestI5RandomCrashes(t *testing.T) {
	t.Parallel()
	h := history(func(d *driver) error { return randomRun(d, 60) })
	h.Disk = disk.Config{ColdEvery: 3}
	h.Seeds = 60
	h.Recover = func(c *disk.Case) error {
		if err := checkStopped(c.Disk); err != nil {
			return err
		}
		d, err := openTest(c)
		if err != nil {
			return err
		}
		if err := c.Model.CheckRecovered(d.v.Read); err != nil {
			return err
		}
		return each(func() error { return randomRun(d, 30) }, d.sound, d.close)
	}
	disk.Random(t, h)
}

// TestI7FaultAtEveryOperation: I7, I9, L4, L5: one operation fails, the process goes on or ends; what was acknowledged
// is there.
func TestI7FaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	h := history(nil)
	h.Run = func(c *disk.Case) error {
		d, err := openTest(c)
		if err != nil {
			// Which fault it was does not reach clients, so not the error either.
			return errors.Join(err, syscall.EIO, syscall.ENOSPC)
		}
		if err := randomRun(d, 12); err != nil {
			return err
		}
		return d.close()
	}
	disk.Faults(t, h, syscall.EIO, syscall.ENOSPC)
}
