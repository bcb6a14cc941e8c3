package volume

import (
	"slices"
	"strings"
	"testing"

	"lockstep/test/disk"
)

// stageOf names what an operation of a checkpoint does.
func stageOf(op disk.Op) string {
	switch {
	case strings.HasPrefix(op.File, "log"):
		return "log " + op.Kind.String()
	case strings.HasPrefix(op.File, "meta"):
		return "map " + op.Kind.String()
	case op.Kind == disk.OpWrite && op.Offset == 0:
		return "slot 0"
	case op.Kind == disk.OpWrite && op.Offset < DataOffset:
		return "slot 1"
	}
	return "base " + op.Kind.String()
}

// TestL9OrderAtACheckpoint: the log is durable before base_high moves, base_high before the base image changes, the
// base image is durable before the map is written, the map before the superblock; the slots alternate; and the log is
// written to again only after.
func TestL9OrderAtACheckpoint(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	var stages []string
	c.Disk.SetPlan(func(op disk.Op) error {
		if s := stageOf(op); len(stages) == 0 || stages[len(stages)-1] != s {
			stages = append(stages, s)
		}
		return nil
	})
	slots := []string{"slot 0", "slot 1"}
	for i := range int64(4) {
		d.must(t, func() error { return d.write(10*i, 5) }, func() error { return d.write(100*i, 5) }, func() error { return d.trim(200, 30) })
		stages = nil
		next := d.v.header.slot ^ 1
		d.must(t, d.checkpoint)
		for len(stages) > 1 && strings.HasPrefix(stages[1], "log") { // syncs, and a durable mark
			stages = stages[1:]
		}
		want := []string{
			"log sync", slots[next], "base sync",
			"base zero", "base allocate", "base write", "base sync",
			"map write", "map sync",
			slots[1-next], "base sync",
		}
		if !slices.Equal(stages, want) {
			t.Fatalf("checkpoint %d:\n%v, want\n%v", i, stages, want)
		}
	}
	d.must(t, d.close)
}

// TestL9TornSuperblock: whichever slot the last write tore, the other one opens the volume; with neither it is damage.
func TestL9TornSuperblock(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 9) }, d.checkpoint, func() error { return d.write(5, 9) }, d.flush)
	slot := int64(d.v.header.slot)
	c.Disk.SetPlan(nil)
	cut := &disk.Case{Disk: c.Disk.Clone(), Model: c.Model.Clone()}
	powerCut(cut, disk.KeepNone())
	if err := cut.Disk.Corrupt("base", (1-slot)*superblockSlotBytes+100, 8); err != nil {
		t.Fatal(err)
	}
	again := mustRecover(t, cut)
	again.must(t, again.checkpoint, again.readAll, again.close)
	powerCut(cut, disk.KeepNone())
	for slot := range int64(superblockSlots) {
		if err := cut.Disk.Corrupt("base", slot*superblockSlotBytes+100, 8); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(testConfig(cut.Disk)); err == nil {
		t.Fatal("opened without a superblock")
	}
	d.must(t, d.close)
}

// TestL9TrimOfEverythingRaisesTheFloor: in one record or in many, with data in between.
func TestL9TrimOfEverythingRaisesTheFloor(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	blocks := int64(testSize / testBlock)
	for _, pieces := range []int64{1, 4} {
		for i := range pieces {
			d.must(t, func() error { return d.trim(i*blocks/pieces, blocks/pieces) })
		}
		if pieces > 1 {
			d.must(t, func() error { return d.write(77, 3) })
		}
		d.must(t, d.checkpoint)
		m := d.v.changes
		if m.floor+4 < d.v.log.Head() || m.At(0) < m.floor {
			t.Fatalf("%d records: floor %d, head %d", pieces, m.floor, d.v.log.Head())
		}
		for i, p := range m.pages {
			if p != nil {
				t.Fatalf("%d records: page %d has entries", pieces, i)
			}
		}
	}
	d.must(t, d.readAll, d.close)
}
