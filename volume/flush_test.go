package volume

import (
	"testing"
	"time"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestI1DurableAcrossPowerCut: what was flushed, or has FUA, is there after a power cut that keeps nothing unsynced.
func TestI1DurableAcrossPowerCut(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, d *driver){
		"flush": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(3, 7) }, func() error { return d.trim(5, 1) }, d.flush)
		},
		"FUA": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(3, 7) }, func() error { return d.writeFUA(5, 1) })
		},
		"FUA of a part of a block": func(t *testing.T, d *driver) {
			c := d.Model.Write(1000, 3000)
			c.FUA = true
			d.must(t, func() error { return d.change(c, false) })
		},
		"FUA of a trim": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(0, 9) },
				func() error { return d.change(disk.Change{Offset: 512, Length: 512, FUA: true}, true) })
		},
		"flush over several segments": func(t *testing.T, d *driver) {
			for i := range int64(2) {
				d.must(t, func() error { return d.write(i*100, 100) })
			}
			d.must(t, d.flush)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			run(t, mustOpen(t, c))
			powerCut(c, disk.KeepNone())
			d := mustRecover(t, c)
			d.must(t, d.close)
		})
	}
}

// TestI1FUAInABatchAnswersForItself: of a batch in which one change has FUA, all that came before it is durable too.
func TestI1FUAInABatchAnswersForItself(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	batch := make([]Change, 3)
	var ids []disk.ChangeID
	for i := range batch {
		w := c.Model.Write(int64(i)*4096, 4096)
		w.FUA = i == 1
		ids = append(ids, c.Model.Begin(w))
		batch[i] = Change{Kind: Write, Offset: w.Offset, Length: w.Length, Data: w.Data, FUA: w.FUA}
	}
	d.v.Apply(batch)
	for i := range batch {
		if batch[i].Err != nil {
			t.Fatal(batch[i].Err)
		}
		c.Model.Acked(ids[i])
	}
	powerCut(c, disk.KeepNone())
	d = mustRecover(t, c)
	d.must(t, d.close)
}

// TestI2KillLosesNothingAcknowledged: what Apply returned survives kill -9 without a flush, and, once the volume was
// opened again, a power cut.
func TestI2KillLosesNothingAcknowledged(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t,
		func() error { return d.write(1, 60) },
		func() error { return d.writeBytes(12345, 6789) },
		func() error { return d.trim(20, 3) },
		func() error { return d.write(200, 100) }, // goes on to another segment
	)
	c.Disk.Kill()
	d = mustRecover(t, c)
	powerCut(c, disk.KeepNone())
	d = mustRecover(t, c)
	d.must(t, d.close)
}

// markOnDisk returns the highest durable mark that frames of the log carry after a power cut here.
func markOnDisk(t *testing.T, c *disk.Case) block.LSN {
	t.Helper()
	d := c.Disk.Clone()
	d.Recover(disk.KeepNone())
	var mark block.LSN
	if _, err := Inspect(testConfig(d), wal.Visitor{Frame: func(f wal.FrameInfo) { mark = max(mark, f.Durable) }}); err != nil {
		t.Fatal(err)
	}
	return mark
}

// TestL3MarkFollowsTheLastFlush: within two ticks of the last flush the log itself says, durably, how far it is
// durable; from then on a record that goes bad is damage, though it is the log's last.
func TestL3MarkFollowsTheLastFlush(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	now := time.Unix(100, 0)
	tick := func() error {
		now = now.Add(tickEvery)
		d.v.Tick(now)
		return d.v.Err()
	}
	d.must(t, tick, tick, tick, func() error { return d.write(7, 1) }, d.flush)
	flushed := d.v.log.Head()
	if mark := markOnDisk(t, c); mark >= flushed {
		t.Fatalf("mark %d is on disk before any tick, so this proves nothing", mark)
	}
	d.must(t, tick, tick)
	if mark := markOnDisk(t, c); mark < flushed {
		t.Fatalf("the log says it is durable up to %d, two ticks after a flush of %d", mark, flushed)
	}
	ops := c.Disk.Ops()
	d.must(t, tick, tick, tick)
	if now := c.Disk.Ops(); now != ops {
		t.Fatalf("an idle volume did %d operations in three ticks", now-ops)
	}
	c.Disk.Kill()
	corruptRecord(t, c, flushed)
	wantDamage(t, c, flushed)
}

// TestL3UnflushedRecordsAreSynced: what no client flushes is durable, and marked, some seconds after.
func TestL3UnflushedRecordsAreSynced(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	now := time.Unix(100, 0)
	ticks := func(long time.Duration) {
		for end := now.Add(long); now.Before(end); now = now.Add(tickEvery) {
			d.v.Tick(now)
		}
	}
	ticks(4 * tickEvery) // what opening left is marked
	d.must(t, func() error { return d.write(7, 1) })
	head := d.v.log.Head()
	ticks(syncAfter / 2)
	if mark := markOnDisk(t, c); mark >= head {
		t.Fatalf("mark %d is on disk at once, so this proves nothing", mark)
	}
	ticks(syncAfter/2 + 4*tickEvery)
	if mark := markOnDisk(t, c); mark < head {
		t.Fatalf("the log says it is durable up to %d of %d", mark, head)
	}
	d.must(t, d.close)
}
