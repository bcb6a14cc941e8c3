package volume

import (
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// mustCut recovers a volume to an LSN and returns its superblock then.
func mustCut(t *testing.T, d *disk.Disk, to block.LSN) Superblock {
	t.Helper()
	if _, err := Recover(testConfig(d), to, false); err != nil {
		t.Fatal(err)
	}
	sb, _, err := readSuperblock(testConfig(d).Base)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// TestI6RecoverClaimsNothingDurable: a record that was never flushed is kept by a cut, and then lost with the power. That
// is no damage: only what was proven durable counts.
func TestI6RecoverClaimsNothingDurable(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, d.checkpoint, func() error { return d.write(2, 1) })
	head := d.v.log.Head()
	c.Disk.Kill()
	if sb := mustCut(t, c.Disk, head); sb.Durable >= head || sb.BaseHigh > sb.Durable {
		t.Fatalf("durable %d, base_high %d after a cut to %d, of which nothing above %d was flushed", sb.Durable, sb.BaseHigh, head, head-1)
	}
	powerCut(c, disk.KeepNone())
	d = mustRecover(t, c)
	d.must(t, d.close)
}

// TestL9CutIsInBothSlots: the cut, and what the next open does on top of it, outlive the rot of either slot.
func TestL9CutIsInBothSlots(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, func() error { return d.write(2, 1) })
	head := d.v.log.Head()
	d.must(t, d.close)
	mustCut(t, c.Disk, head-1)
	for slot := range int64(superblockSlots) {
		rotten := &disk.Case{Disk: c.Disk.Clone(), Model: c.Model.Clone()}
		if err := rotten.Disk.Corrupt("base", slot*superblockSlotBytes+130, 4); err != nil {
			t.Fatal(err)
		}
		again := mustOpen(t, rotten)
		if got := again.v.log.Head(); got != head { // the kept ones and an epoch start
			t.Errorf("slot %d rotten: the head is %d after a cut to %d", slot, got, head-1)
		}
		again.must(t, again.close)
	}
}

// TestL6CutsReplaceWhatTheySubsume: a cut at or below earlier ones makes them redundant, so that a volume can be cut any
// number of times; one above them does not.
func TestL6CutsReplaceWhatTheySubsume(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	for i := range int64(4) {
		d.must(t, func() error { return d.write(i, 1) })
	}
	head := d.v.log.Head()
	d.must(t, d.close)
	for i, to := range []block.LSN{head - 1, head - 1, head - 2} {
		sb := mustCut(t, c.Disk, to)
		if len(sb.Cuts) != 1 || sb.Cuts[0].LSN != to || sb.Cuts[0].Incarnation != sb.Incarnation-1 {
			t.Fatalf("cut %d, to %d: %+v in incarnation %d", i, to, sb.Cuts, sb.Incarnation)
		}
	}
	d = mustOpen(t, c)
	head = d.v.log.Head()
	c.Disk.Kill()
	if sb := mustCut(t, c.Disk, head); len(sb.Cuts) != 2 {
		t.Fatalf("a cut above the one before it left %+v", sb.Cuts)
	}
	in, err := Inspect(testConfig(c.Disk), wal.Visitor{})
	if err != nil || in.Log.Damage != nil || in.Log.Head != head {
		t.Fatalf("head %d, want %d; %v", in.Log.Head, head, err)
	}
}
