package volume

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

// slowBase zeroes as a device does that has to write the zeroes.
type slowBase struct{ *disk.Base }

func (slowBase) ZeroesSlowly() bool { return true }

func slowConfig(d *disk.Disk) Config {
	cfg := testConfig(d)
	cfg.Base = slowBase{d.Base("base", DataOffset+testSize)}
	cfg.pendingFrom, cfg.pendingSlice = 8<<10, 4<<10
	return cfg
}

func openSlow(c *disk.Case) (*driver, error) {
	v, err := Open(slowConfig(c.Disk))
	if err != nil {
		return nil, err
	}
	return &driver{Case: c, v: v}, nil
}

// zeroSome lets the background zero some of what is pending.
func (d *driver) zeroSome() error {
	_, err := d.v.zeroPending(context.Background())
	return d.step(err)
}

// zeroAll lets it zero everything, and checks that the base image then reads as zeroes where the volume does.
func (d *driver) zeroAll() error {
	for more := true; more; {
		var err error
		if more, err = d.v.zeroPending(context.Background()); err != nil {
			return d.step(err)
		}
	}
	if n := len(d.v.header.current.PendingZero); n != 0 || d.v.index.pending.len() != 0 {
		return errors.New("zeroes are pending after all were zeroed")
	}
	return d.readAll()
}

func recoverSlow(c *disk.Case) error {
	d, err := openSlow(c)
	if err != nil {
		return err
	}
	if err := c.Model.CheckRecovered(d.v.Read); err != nil {
		return err
	}
	return each(
		func() error { return d.write(20, 3) },
		d.zeroSome,
		d.readAll,
		d.checkpoint,
		d.zeroAll,
		d.flush,
		d.readAll,
		d.close,
	)
}

// TestL10PendingZeroesOutliveCrashes: large zeroings of a slow base image go into durable metadata, the log is
// reclaimed before they are carried out, data written over them stays, and a crash at any operation loses nothing.
func TestL10PendingZeroesOutliveCrashes(t *testing.T) {
	t.Parallel()
	disk.Exhaustive(t, disk.History{
		Model: testModel(),
		Setup: func(c *disk.Case) error {
			return create(slowConfig(c.Disk), Geometry{SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: testBudget}, testSegmentBytes)
		},
		Run: func(c *disk.Case) error {
			d, err := openSlow(c)
			if err != nil {
				return err
			}
			return each(
				func() error { return d.write(0, 100) },
				d.checkpoint,
				func() error { return d.trim(10, 80) },
				func() error { return d.write(30, 2) },
				d.checkpoint, // defers most of the trim, and writes within it
				d.readAll,
				func() error { return d.write(50, 2) },
				d.zeroSome,
				d.checkpoint,
				d.readAll,
				d.zeroAll,
				d.close,
			)
		},
		Recover: recoverSlow,
	})
}

// TestL10LogIsReclaimedBeforeZeroing: a checkpoint with a large trim moves the superblock without zeroing.
func TestL10LogIsReclaimedBeforeZeroing(t *testing.T) {
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(testModel())}
	if err := create(slowConfig(c.Disk), Geometry{SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: testBudget}, testSegmentBytes); err != nil {
		t.Fatal(err)
	}
	d, err := openSlow(c)
	if err != nil {
		t.Fatal(err)
	}
	zeroed := false
	c.Disk.SetPlan(func(op disk.Op) error {
		zeroed = zeroed || op.Kind == disk.OpZero
		return nil
	})
	if err := each(func() error { return d.write(0, 100) }, func() error { return d.trim(0, 90) }, d.checkpoint, d.readAll); err != nil {
		t.Fatal(err)
	}
	if st := d.v.Stats(); zeroed || st.Checkpoint != st.Head {
		t.Fatalf("zeroed: %v; checkpoint %d of %d", zeroed, st.Checkpoint, st.Head)
	}
	if err := each(d.zeroAll, d.close); err != nil {
		t.Fatal(err)
	}
	if !zeroed {
		t.Fatal("nothing was ever zeroed")
	}
}

// TestL10PendingZeroesWaitForRoom: the base image has no room to write zeroes. They stay pending, across a restart too,
// and are written when there is room; what was zeroed before is off the list.
func TestL10PendingZeroesWaitForRoom(t *testing.T) {
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(testModel())}
	if err := create(slowConfig(c.Disk), Geometry{SizeBytes: testSize, BlockSize: testBlock, LogBudgetBytes: testBudget}, testSegmentBytes); err != nil {
		t.Fatal(err)
	}
	open := func() *driver {
		t.Helper()
		d, err := openSlow(c)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	d.must(t, func() error { return d.write(0, 100) }, d.checkpoint, func() error { return d.trim(0, 90) }, d.checkpoint)
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		zeroed := 0
		c.Disk.SetPlan(func(op disk.Op) error {
			if op.Kind != disk.OpZero {
				return nil
			}
			if zeroed++; zeroed > 1 {
				return errno
			}
			return nil
		})
		before := d.v.header.current.PendingZero[0]
		if more, err := d.v.zeroPending(t.Context()); more || !errors.Is(err, ErrNoSpace) || d.v.Err() != nil {
			t.Fatalf("more: %v, %v; failed: %v", more, err, d.v.Err())
		}
		if left := d.v.header.current.PendingZero; zeroed != 2 || len(left) != 1 || left[0].Start != before.Start+4<<10/testBlock || left[0].End() != before.End() {
			t.Fatalf("after %d calls %+v of %+v is pending", zeroed, left, before)
		}
		c.Disk.SetPlan(nil)
		d.must(t, d.readAll, d.close)
		d = open()
	}
	<-d.v.zero // the open told the background
	d.v.Tick(d.v.now())
	if len(d.v.zero) != 1 {
		t.Fatal("no tick tells the background to try again")
	}
	d.must(t, d.readAll, d.zeroAll, d.close)
}

// TestL10PendingListIsBounded: what the superblock has no place for is zeroed at once, and an image that does not read
// as zeroes does so as a volume.
func TestL10PendingListIsBounded(t *testing.T) {
	c := &disk.Case{Disk: disk.New(disk.Config{}), Model: disk.NewModel(disk.ModelConfig{SizeBytes: 16 << 20, BlockSize: testBlock})}
	cfg := testConfig(c.Disk)
	image := c.Disk.Base("large", DataOffset+16<<20)
	junk := make([]byte, 16<<20)
	for i := range junk {
		junk[i] = 0xa5
	}
	if _, err := image.WriteAt(junk, DataOffset); err != nil {
		t.Fatal(err)
	}
	cfg.Base, cfg.pendingFrom = slowBase{image}, testBlock
	g := Geometry{SizeBytes: 16 << 20, BlockSize: testBlock, LogBudgetBytes: 4 << 20, Unzeroed: true}
	if err := create(cfg, g, 1<<20); err != nil {
		t.Fatal(err)
	}
	v, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{Case: c, v: v}
	if err := d.read(0, 16<<20); err != nil {
		t.Fatalf("before anything was zeroed: %v", err)
	}
	// Writes that leave more than the list can hold between them.
	for b := int64(0); b < 3*maxPendingZero; b += 2 {
		if err := d.write(b, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := each(d.checkpoint, func() error { return d.read(0, 16<<20) }); err != nil {
		t.Fatal(err)
	}
	if n := len(v.header.current.PendingZero); n == 0 || n > maxPendingZero {
		t.Fatalf("%d ranges pending", n)
	}
	for more := true; more; {
		if more, err = v.zeroPending(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := each(func() error { return d.read(0, 16<<20) }, d.close); err != nil {
		t.Fatal(err)
	}
}
