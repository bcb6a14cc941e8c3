package volume

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/test/disk"
)

// fill writes from block from on, over and over, until there is no space.
func (d *driver) fill(t *testing.T, from, count int64) {
	t.Helper()
	for i := range int64(200) {
		if err := d.write(from+i*count%(testSize/testBlock-from), count); err != nil {
			t.Fatal(err)
		}
		if d.refused != nil {
			if !errors.Is(d.refused, syscall.ENOSPC) || errors.Is(d.refused, syscall.EIO) {
				t.Fatalf("write %d: %v", i, d.refused)
			}
			d.refused = nil
			return
		}
	}
	t.Fatal("the log was never full")
}

// logSegments makes the log have n segment files.
func (d *driver) logSegments(t *testing.T, n int) {
	t.Helper()
	for range 20 {
		if d.v.log.Usage().Segments >= n {
			d.must(t, d.checkpoint)
			return
		}
		d.must(t, func() error { return d.write(0, 100) })
	}
	t.Fatalf("the log has %d segments after 20 writes", d.v.log.Usage().Segments)
}

// TestI9NoSpaceIsNotTheEnd: the file system is full. Writes go on until the log is full and then get ENOSPC; nothing is
// lost, trims are taken and make room, and it goes on by itself when room comes from elsewhere.
func TestI9NoSpaceIsNotTheEnd(t *testing.T) {
	for _, segments := range []int{1, 2, 3, 4} {
		for name, makeRoom := range map[string]func(d *driver) error{
			"trim": func(d *driver) error { return d.trim(0, 304) },
			"zero": func(d *driver) error { // thick zeroes take room: they are no way out, but must be taken too
				d.Disk.SetCapacity(0)
				return d.zero(0, 304*testBlock)
			},
			"elsewhere": func(d *driver) error {
				d.Disk.SetCapacity(0)
				return nil
			},
		} {
			t.Run(fmt.Sprintf("%d segments, %s", segments, name), func(t *testing.T) {
				c := newCase(t, disk.Config{})
				d := mustOpen(t, c)
				d.logSegments(t, segments)
				for b := int64(0); b < 304; b += 76 { // these have their place in the base image
					d.must(t, func() error { return d.write(b, 76) }, d.checkpoint)
				}
				c.Disk.SetCapacity(c.Disk.Used())
				d.fill(t, 304, 8)
				if got := d.v.log.Usage().Segments; got < segments {
					t.Fatalf("refused with %d segments", got)
				}
				d.must(t, d.flush, d.readAll)

				powerCut(c, disk.KeepNone())
				d = mustRecover(t, c)
				d.fill(t, 304, 8)
				d.must(t, func() error { return makeRoom(d) })
				later(d)
				for b := int64(304); b < 368; b += 8 {
					d.must(t, func() error { return d.write(b, 8) })
				}
				d.must(t, d.checkpoint, d.readAll, d.close)
			})
		}
	}
}

// TestI9SmallLogGrowsAgain: there was no room for more than one segment, or two. When there is, the log gets them.
func TestI9SmallLogGrowsAgain(t *testing.T) {
	for extra := range int64(3) {
		c := newCase(t, disk.Config{})
		d := mustOpen(t, c)
		c.Disk.SetCapacity(c.Disk.Used() + extra*testSegmentBytes)
		d.fill(t, 0, 8)
		if n := d.v.log.Usage().Segments; n > 1+int(extra) {
			t.Fatalf("%d segments in the room for %d", n, 1+extra)
		}
		d.must(t, func() error { return d.trim(0, 8) }, d.flush)
		c.Disk.SetCapacity(0)
		later(d)
		for b := int64(0); b < 400; b += 40 {
			d.must(t, func() error { return d.write(b, 40) })
		}
		d.must(t, d.checkpoint, d.readAll, d.close)
	}
}

// A disk that is full for long, and tried again and again, is two lines in the log: one when it is full, one when it is not.
func TestFullDiskIsLoggedOnce(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	var log bytes.Buffer
	d.v.cfg.Logger = zerolog.New(&log)
	c.Disk.SetCapacity(c.Disk.Used())
	d.fill(t, 0, 8)
	for range 5 {
		if err := d.v.Checkpoint(t.Context()); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("checkpoint on a full disk: %v", err)
		}
	}
	held, on := `"from":"going on","to":"held up"`, `"from":"held up","to":"going on"`
	if text := log.String(); strings.Count(text, held) != 1 || strings.Contains(text, on) {
		t.Errorf("while it is full, the log has\n%s", text)
	}
	c.Disk.SetCapacity(0)
	d.must(t, d.checkpoint, func() error { return d.write(0, 8) }, d.checkpoint, d.close)
	if text := log.String(); strings.Count(text, held) != 1 || strings.Count(text, on) != 1 {
		t.Errorf("with room again, the log has\n%s", text)
	}
}

// later lets the time pass during which changes are refused without another try.
func later(d *driver) {
	for range noSpaceRetry.Milliseconds() {
		d.v.now()
	}
}

// TestL5OnlyAllocationIsHarmless: ENOSPC from anything but the allocation before a checkpoint's copy is a failure.
func TestL5OnlyAllocationIsHarmless(t *testing.T) {
	for name, f := range map[string]struct {
		fault
		harmless bool
	}{
		"allocate":   {fault{kind: disk.OpAllocate, file: "base"}, true},
		"write base": {fault{kind: disk.OpWrite, file: "base", data: true}, false},
		"sync base":  {fault{kind: disk.OpSync, file: "base", skip: 1}, false},
		"map":        {fault{kind: disk.OpWrite, file: "meta"}, false},
		"sync log":   {fault{kind: disk.OpSync, file: "log"}, false},
	} {
		for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
			t.Run(name+" "+errno.Error(), func(t *testing.T) {
				c := newCase(t, disk.Config{})
				d := mustOpen(t, c)
				d.must(t, func() error { return d.write(0, 20) })
				fired := false
				plan := f.plan(&fired)
				c.Disk.SetPlan(func(op disk.Op) error {
					if plan(op) != nil {
						return errno
					}
					return nil
				})
				err := d.v.Checkpoint(t.Context())
				if !fired || errors.Is(err, ErrNoSpace) != f.harmless || errors.Is(err, syscall.EIO) == f.harmless {
					t.Fatalf("fired: %v; checkpoint: %v", fired, err)
				}
				if failed := d.v.Err(); (failed == nil) != f.harmless {
					t.Fatalf("failed: %v", failed)
				}
				if f.harmless {
					d.must(t, d.readAll, func() error { return d.write(10, 20) }, d.checkpoint, d.readAll, d.close)
				}
			})
		}
	}
}

// TestL5TrimsMakeRoomForZeroes: on a full disk a zeroing needs space that a trim behind it gives back.
func TestL5TrimsMakeRoomForZeroes(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(256, 128) }, func() error { return d.write(384, 128) }, d.checkpoint)
	c.Disk.SetCapacity(c.Disk.Used())
	d.must(t, func() error { return d.zero(0, 64<<10) }, func() error { return d.trim(256, 256) }, d.checkpoint, d.readAll, d.close)
}

// TestL5TrimBesideAWriteHasItsOwnRoom: a batch that does not fit a full log is not refused as a whole: the trim in it has
// room that the write has not.
func TestL5TrimBesideAWriteHasItsOwnRoom(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	c.Disk.SetCapacity(c.Disk.Used())
	d.fill(t, 304, 8)
	id := c.Model.Begin(disk.Change{Offset: 304 * testBlock, Length: 8 * testBlock})
	both := []Change{
		{Kind: Write, Offset: 0, Length: 8 * testBlock, Data: make([]byte, 8*testBlock)},
		{Kind: Trim, Offset: 304 * testBlock, Length: 8 * testBlock},
	}
	if d.v.Apply(both); !errors.Is(both[0].Err, ErrNoSpace) || both[1].Err != nil {
		t.Fatalf("write: %v; trim: %v", both[0].Err, both[1].Err)
	}
	c.Model.Acked(id)
	d.must(t, d.readAll, d.close)
}

// TestI9FailedCheckpointForgetsNothing: a checkpoint that moved nothing leaves what it would have freed in the account,
// and the background does not try again with each change.
func TestI9FailedCheckpointForgetsNothing(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.logSegments(t, 4)
	for _, bytes := d.v.index.load(); bytes < d.v.checkpointBytes(); _, bytes = d.v.index.load() {
		d.must(t, func() error { return d.write(bytes/testBlock%300, 10) })
	}
	<-d.v.kick // the background is told
	_, before := d.v.index.load()
	c.Disk.SetPlan(failFirst(disk.OpAllocate, "base", syscall.ENOSPC))
	if err := d.v.Checkpoint(t.Context()); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if _, after := d.v.index.load(); after != before {
		t.Fatalf("%d bytes to move, %d before a checkpoint that moved nothing", after, before)
	}
	d.must(t, func() error { return d.write(0, 1) })
	if len(d.v.kick) != 0 {
		t.Fatal("the next change starts another checkpoint at once")
	}
	for range backgroundRetry.Milliseconds() {
		d.v.now()
	}
	d.must(t, func() error { return d.write(0, 1) })
	if len(d.v.kick) != 1 {
		t.Fatal("the background never tries again")
	}
	d.must(t, d.checkpoint, d.readAll, d.close)
}

// TestL5OpenWithTheLogFullOfTrims: trims may fill the log to the brim, also over many restarts. It opens all the same,
// as soon as a checkpoint can make room.
func TestL5OpenWithTheLogFullOfTrims(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 20) })
	c.Disk.SetCapacity(c.Disk.Used())
	d.fill(t, 20, 8)
	for d.refused == nil {
		if err := d.trim(400, 1); err != nil {
			t.Fatal(err)
		}
	}
	d.refused = nil
	d.must(t, d.close)
	c.Disk.SetCapacity(0)
	for i := range 400 {
		d = mustRecover(t, c)
		if st := d.v.Stats(); i > 0 && st.Checkpoint > 0 {
			d.must(t, func() error { return d.write(0, 20) }, d.close)
			return
		}
		d.must(t, d.close)
	}
	t.Fatal("400 restarts did not fill the log")
}

// TestI10LogStaysInItsBudget: at every operation of a long life, with checkpoints and full logs, the files of the log
// together are within the budget.
func TestI10LogStaysInItsBudget(t *testing.T) {
	c := newCase(t, disk.Config{})
	most := int64(0)
	c.Disk.SetPlan(func(op disk.Op) error {
		if strings.HasPrefix(op.File, "log") {
			most = max(most, logBytes(t, c.Disk.Clone()))
		}
		return nil
	})
	for range 3 {
		d := mustOpen(t, c)
		for i := range int64(60) {
			d.must(t, func() error { return d.write(i*37%400, 100) })
			if i%7 == 0 {
				d.must(t, d.v.log.Prepare)
			}
			if i%23 == 0 {
				d.must(t, d.checkpoint)
			}
		}
		d.must(t, d.readAll, d.close)
	}
	if most != testBudget {
		t.Fatalf("the log took up to %d bytes, its budget is %d", most, testBudget)
	}
}

// logBytes adds up the files of the log.
func logBytes(t *testing.T, d *disk.Disk) (sum int64) {
	dir := d.Dir("log")
	names, err := dir.List()
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		f, err := dir.Open(name)
		if err != nil {
			t.Error(err)
			continue
		}
		size, err := f.Size()
		if err = errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
		sum += size
	}
	return sum
}
