package volume

import (
	"testing"

	"lockstep/test/disk"
)

// TestL9OpensWithEitherSlotRotten: while it is open, after it was killed and after it was closed, the volume opens with
// any one of its superblock slots gone bad, and has everything.
func TestL9OpensWithEitherSlotRotten(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, d *driver){
		"just opened": func(t *testing.T, d *driver) {},
		"killed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(1, 9) }, d.flush)
		},
		"closed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(1, 9) }, d.close)
		},
		"checkpointed, and closed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(1, 9) }, d.checkpoint, func() error { return d.write(3, 3) }, d.close)
		},
	} {
		for slot := range int64(superblockSlots) {
			c := newCase(t, disk.Config{})
			end(t, mustOpen(t, c))
			powerCut(c, disk.KeepNone())
			if err := c.Disk.Corrupt("base", slot*superblockSlotBytes+130, 4); err != nil {
				t.Fatal(err)
			}
			d, err := openTest(c)
			if err != nil {
				t.Errorf("%s, slot %d rotten: %v", name, slot, err)
				continue
			}
			if err := c.Model.CheckRecovered(d.v.Read); err != nil {
				t.Errorf("%s, slot %d rotten: %v", name, slot, err)
			}
			d.must(t, func() error { return d.write(20, 1) }, d.readAll, d.close)
		}
	}
}

// TestI6EndOfAClosedLogIsMissed: the page that holds the last record and the mark behind it goes bad after a clean
// close; nothing in the log says that there was more.
func TestI6EndOfAClosedLogIsMissed(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.writeFUA(1, 1) })
	last := d.v.log.Head()
	d.must(t, d.close)
	corruptFrom(t, c, last)
	wantDamage(t, c, last)
}

// TestL12OlderLogBesideNewerBase: the log's directory was put back to what it was before the last life of the volume.
func TestL12OlderLogBesideNewerBase(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, d.close)
	old := c.Disk.Clone()
	d = mustOpen(t, c)
	first := d.v.log.Head()
	for i := range int64(5) {
		d.must(t, func() error { return d.writeFUA(i, 1) })
	}
	d.must(t, d.close)
	copyBase(t, c.Disk, old)
	c.Disk = old
	wantDamage(t, c, first)
}

// copyBase puts the base image of one disk on another.
func copyBase(t *testing.T, from, to *disk.Disk) {
	t.Helper()
	p := make([]byte, DataOffset+testSize)
	if _, err := from.Base("base", 0).ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Base("base", 0).WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
}

// TestI6CloseSaysDurableOnce: a close after which nothing is new leaves the superblock alone.
func TestI6CloseSaysDurableOnce(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, d.flush, d.checkpoint)
	sequence := d.v.header.current.Sequence
	d.must(t, d.close)
	if got := d.v.header.current.Sequence; got != sequence {
		t.Fatalf("sequence %d after %d", got, sequence)
	}
}
