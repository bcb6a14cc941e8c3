package volume

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// placeOf returns where in the log a record's payload, or what follows its header, lies: the file's name on the disk
// and the offset.
func placeOf(t testing.TB, d *disk.Disk, lsn block.LSN) (file string, off int64) {
	t.Helper()
	var at wal.Position
	found := false
	in, err := Inspect(testConfig(d), wal.Visitor{Record: func(r wal.Record, p wal.Position) error {
		if r.LSN == lsn {
			at, found = p, true
		}
		return nil
	}})
	if err != nil || !found {
		t.Fatalf("record %d is not in the log: %v", lsn, err)
	}
	for _, s := range in.Log.Segments {
		if s.Sequence == at.Segment {
			return "log/" + s.Name, at.Offset
		}
	}
	t.Fatalf("record %d is in segment %d, which there is not", lsn, at.Segment)
	return "", 0
}

// corruptRecord spoils the record's header.
func corruptRecord(t testing.TB, c *disk.Case, lsn block.LSN) {
	t.Helper()
	file, off := placeOf(t, c.Disk, lsn)
	if err := c.Disk.Corrupt(file, off-wal.RecordHeaderBytes, 8); err != nil {
		t.Fatal(err)
	}
}

// corruptFrom spoils everything from the record on, so that nothing in the log says that there ever was more.
func corruptFrom(t testing.TB, c *disk.Case, lsn block.LSN) {
	t.Helper()
	file, off := placeOf(t, c.Disk, lsn)
	for ; off < testSegmentBytes; off += 64 {
		if err := c.Disk.Corrupt(file, off-wal.RecordHeaderBytes, 8); err != nil {
			t.Fatal(err)
		}
	}
}

// wantDamage checks that the volume does not open because the record is missing, that the error names the place, and
// that nothing was changed.
func wantDamage(t testing.TB, c *disk.Case, lsn block.LSN) {
	t.Helper()
	ops := c.Disk.Ops()
	v, err := Open(testConfig(c.Disk))
	if err == nil {
		err = fmt.Errorf("opened with head %d", v.log.Head())
	}
	var damage *wal.CorruptError
	if !errors.As(err, &damage) || damage.LSN != lsn || !strings.Contains(err.Error(), damage.Segment) {
		t.Fatalf("open: %v; record %d is missing", err, lsn)
	}
	if n := c.Disk.Ops(); n != ops {
		t.Fatalf("open of a damaged volume did %d operations", n-ops)
	}
	if open := c.Disk.OpenHandles(); len(open) > 0 {
		t.Fatalf("left open: %v", open)
	}
}

// TestI6TornTailIsNoDamage: an unflushed record that a power cut spoiled ends the log, in silence.
func TestI6TornTailIsNoDamage(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, d.flush, func() error { return d.write(2, 1) })
	torn := d.v.log.Head()
	d.must(t, func() error { return d.write(3, 1) })
	powerCut(c, disk.KeepAll())
	corruptRecord(t, c, torn)
	d = mustRecover(t, c)
	d.must(t, func() error { return d.write(4, 1) }, d.close)
}

// TestI6DamageIsNamed: a bad record at or below a durable mark is an error that names the place, whichever of the
// places that hold marks says so.
func TestI6DamageIsNamed(t *testing.T) {
	for name, mark := range map[string]func(t *testing.T, c *disk.Case, d *driver, bad block.LSN){
		"a later record": func(t *testing.T, c *disk.Case, d *driver, bad block.LSN) {
			d.must(t, func() error { return d.write(3, 1) })
			c.Disk.Kill()
			corruptRecord(t, c, bad)
		},
		"a mark frame": func(t *testing.T, c *disk.Case, d *driver, bad block.LSN) {
			d.must(t, d.mark)
			powerCut(c, disk.KeepNone())
			corruptRecord(t, c, bad)
		},
		"the mark of Close": func(t *testing.T, c *disk.Case, d *driver, bad block.LSN) {
			d.must(t, d.close)
			powerCut(c, disk.KeepNone())
			corruptRecord(t, c, bad)
		},
		"the superblock of the next open": func(t *testing.T, c *disk.Case, d *driver, bad block.LSN) {
			c.Disk.Kill()
			mustOpen(t, c)
			powerCut(c, disk.KeepNone())
			corruptFrom(t, c, bad)
		},
		"base_high": func(t *testing.T, c *disk.Case, d *driver, bad block.LSN) {
			// The checkpoint fails after its mark, so nothing in the log says it.
			c.Disk.SetPlan(failFirst(disk.OpAllocate, "base", syscall.ENOSPC))
			if err := d.v.Checkpoint(t.Context()); !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
			powerCut(c, disk.KeepNone())
			corruptFrom(t, c, bad)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			d := mustOpen(t, c)
			d.must(t, func() error { return d.write(1, 1) }, func() error { return d.write(2, 1) })
			bad := d.v.log.Head()
			d.must(t, d.flush)
			mark(t, c, d, bad)
			wantDamage(t, c, bad)
		})
	}
}

// TestI6LostSegmentIsDamage: a segment in the middle is gone; what was in it was durable.
func TestI6LostSegmentIsDamage(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	for i := range int64(3) {
		d.must(t, func() error { return d.write(100*i, 100) }, d.flush)
	}
	d.must(t, d.close)
	in, err := inspectTest(c.Disk)
	if err != nil {
		t.Fatal(err)
	}
	var chain []wal.SegmentInfo // by sequence
	for _, s := range in.Log.Segments {
		if s.State == wal.SegmentInLog {
			chain = append(chain, s)
		}
	}
	if len(chain) < 3 {
		t.Fatalf("the log has %d segments", len(chain))
	}
	if err := c.Disk.Dir("log").Remove(chain[1].Name); err != nil {
		t.Fatal(err)
	}
	wantDamage(t, c, chain[1].First)
}

// failFirst fails the first operation of that kind on files whose name begins with prefix.
func failFirst(kind disk.OpKind, prefix string, err error) disk.Plan {
	done := false
	return func(op disk.Op) error {
		if done || op.Kind != kind || !strings.HasPrefix(op.File, prefix) {
			return nil
		}
		done = true
		return err
	}
}

// TestL6RecoverFromDamage: a dry run says what is lost and changes nothing; Recover keeps the cut log aside; the volume
// then opens in a new epoch, as of the cut, and nothing above it comes back over several crashes.
func TestL6RecoverFromDamage(t *testing.T) {
	for name, below := range map[string]block.LSN{"at the damage": 1, "below the damage": 3} {
		t.Run(name, func(t *testing.T) { recoverFromDamage(t, below) })
	}
}

// recoverFromDamage writes eight blocks, spoils the record of the fifth, and cuts the log so far below.
func recoverFromDamage(t *testing.T, below block.LSN) {
	c := newCase(t, disk.Config{Seed: 7})
	d := mustOpen(t, c)
	var bad block.LSN
	for i := range int64(8) {
		one := []Change{{Kind: Write, Offset: i * testBlock, Length: testBlock, Data: stamped(1000+i, i)}}
		if d.v.Apply(one); one[0].Err != nil {
			t.Fatal(one[0].Err)
		}
		if i == 4 {
			bad = d.v.log.Head()
		}
	}
	head, epoch := d.v.log.Head(), d.v.Stats().Epoch
	d.must(t, d.close)
	corruptRecord(t, c, bad)
	wantDamage(t, c, bad)

	ops := c.Disk.Ops()
	loss, err := PlanRecover(testConfig(c.Disk), bad-below)
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Disk.Ops(); n != ops {
		t.Fatalf("the plan did %d operations", n-ops)
	}
	checkLoss(t, loss, bad-below, bad, head)
	if _, err := PlanRecover(testConfig(c.Disk), bad); err == nil {
		t.Fatal("a cut above what can be read was planned")
	}
	before := segmentContents(t, c.Disk)
	loss, err = Recover(testConfig(c.Disk), bad-below, false)
	if err != nil {
		t.Fatal(err)
	}
	checkAside(t, c.Disk, loss.Aside, before)
	powerCut(c, disk.KeepNone()) // the cut is durable

	for round := range int64(6) {
		d = mustOpen(t, c)
		if st := d.v.Stats(); st.Epoch <= epoch {
			t.Fatalf("epoch %d after %d", st.Epoch, epoch)
		} else {
			epoch = st.Epoch
		}
		for i := range int64(8) {
			p := make([]byte, testBlock)
			if err := d.v.Read(p, i*testBlock); err != nil {
				t.Fatal(err)
			}
			if !isAllowed(p, i, 5-int64(below), round) {
				t.Fatalf("round %d: block %d holds % x", round, i, p[:16])
			}
		}
		// A record of the same length where the first lost one was, so that what follows it on disk fits on.
		one := []Change{{Kind: Write, Offset: 4 * testBlock, Length: testBlock, Data: stamped(2000+round, 4)}}
		if d.v.Apply(one); one[0].Err != nil {
			t.Fatal(one[0].Err)
		}
		powerCut(c, []disk.Choice{disk.KeepAll(), disk.KeepNone(), disk.KeepSectors()}[round%3])
	}
}

// isAllowed tells whether block i may hold p in that round: one of the first kept blocks what it held, the others zeroes
// or, the fifth, what one of the rounds before wrote.
func isAllowed(p []byte, i, kept, round int64) bool {
	if i < kept {
		return bytes.Equal(p, stamped(1000+i, i))
	}
	for r := range round {
		if i == 4 && bytes.Equal(p, stamped(2000+r, i)) {
			return true
		}
	}
	return isZero(p)
}

// stamped is a block with the mark of a change in it.
func stamped(id, b int64) []byte {
	p := make([]byte, testBlock)
	disk.Stamp(p, b*testBlock, disk.ChangeID(id))
	return p
}

// checkLoss checks the plan to cut the log after record to, where one record is bad.
func checkLoss(t *testing.T, loss *Loss, to, bad, head block.LSN) {
	t.Helper()
	if loss.ToLSN != to || loss.Readable != bad-1 || loss.Durable < head || loss.Unreadable != 1 || loss.BaseAhead != 0 {
		t.Fatalf("loss: %+v; record %d of %d is bad", loss, bad, head)
	}
	next := to
	for _, r := range loss.Records {
		if next++; next == bad {
			next++
		}
		if want := (block.Range{Start: uint64(next + 4 - bad), Count: 1}); r.LSN != next || r.Range != want {
			t.Fatalf("lost record %+v, expected %d of %v", r, next, want)
		}
	}
	if next != head {
		t.Fatalf("the plan names lost records up to %d of %d", next, head)
	}
}

// segmentContents returns what each segment file holds.
func segmentContents(t *testing.T, d *disk.Disk) map[string][]byte {
	t.Helper()
	dir := d.Dir("log")
	names, err := dir.List()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, name := range names {
		f, err := dir.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, testSegmentBytes)
		if _, err := f.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		all[name] = p
	}
	return all
}

func checkAside(t *testing.T, d *disk.Disk, aside []string, before map[string][]byte) {
	t.Helper()
	after := segmentContents(t, d)
	if len(aside) == 0 {
		t.Fatal("nothing was kept aside")
	}
	for _, name := range aside {
		same := false
		for _, content := range before {
			same = same || bytes.Equal(content, after[name])
		}
		if !same {
			t.Fatalf("%s is no copy of a segment", name)
		}
	}
}

// TestL6BaseAheadNeedsForce: a checkpoint was cut off after it wrote to the base image, so a cut below is a mixture.
func TestL6BaseAheadNeedsForce(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(1, 1) }, func() error { return d.write(2, 1) })
	bad := d.v.log.Head()
	c.Disk.SetPlan(failFirst(disk.OpWrite, "meta", disk.ErrCrashed))
	if err := d.v.Checkpoint(t.Context()); err == nil {
		t.Fatal("the checkpoint ended")
	}
	powerCut(c, disk.KeepNone())
	corruptFrom(t, c, bad)
	wantDamage(t, c, bad)
	ops := c.Disk.Ops()
	loss, err := Recover(testConfig(c.Disk), bad-1, false)
	if !errors.Is(err, ErrNeedsForce) || loss == nil || loss.BaseAhead < bad {
		t.Fatalf("recover: %v, %+v", err, loss)
	}
	if n := c.Disk.Ops(); n != ops {
		t.Fatalf("recover without force did %d operations", n-ops)
	}
	if _, err := Recover(testConfig(c.Disk), bad-1, true); err != nil {
		t.Fatal(err)
	}
	d = mustOpen(t, c)
	for chunk := range d.v.changes.Chunks() { // the base image may have changed where no record says so any more
		if at := d.v.changes.At(chunk); at < bad-1 {
			t.Errorf("chunk %d was changed at %d, says the map, though the cut was at %d", chunk, at, bad-1)
		}
	}
	d.must(t, func() error { return d.v.Checkpoint(t.Context()) }, d.close)
	d = mustOpen(t, c)
	d.must(t, d.close)
}
