package volume

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// newDiverged makes a pair whose primary dies with records that its follower, the primary of epoch 2 now, does not have. It
// is not open; cut is what makes it a follower of that one.
func newDiverged(t testing.TB) (x *pair, cut Truncation) {
	x = newPair(t, 256<<10, 256<<10)
	x.fill(5, 1)
	x.ship()
	x.must(x.p.Flush())
	fork := x.f.log.Head()
	x.fill(6, 2)
	x.must(x.p.log.Mark())
	x.pd.Kill()
	x.epoch = 2
	x.lead(x.f)
	x.p, x.f, x.pd, x.fd = x.f, nil, x.fd, x.pd
	x.fill(4, 3)
	cut = Truncation{Epoch: 2, ID: epochID(2), To: fork, Fork: x.p.Facts().Lineage[0]}
	return x, cut
}

// rejoin opens the copy that was cut, and has it follow.
func (x *pair) rejoin(d *disk.Disk) error {
	v, err := OpenFollower(followConfig(d, 1))
	if err != nil {
		return err
	}
	x.f = v
	if err := v.Follow(2, epochID(2)); err != nil {
		return err
	}
	if err := ship(x.p, v, 2, 1); err != nil {
		return err
	}
	_, err = v.Sync()
	return err
}

// TestS13Truncate: what is after the fork is listed, kept aside where asked, and gone for good; the log goes on at the fork.
func TestS13Truncate(t *testing.T) {
	x, cut := newDiverged(t)
	cut.Aside = true
	before, err := Inspect(followConfig(x.fd, 1), wal.Visitor{})
	x.must(err)
	loss, err := Truncate(followConfig(x.fd, 1), cut)
	x.must(err)
	if n := len(loss.Records); n != int(before.Log.Head-cut.To) || loss.Records[0].LSN != cut.To+1 || len(loss.Aside) == 0 {
		t.Errorf("%d records lost, head %d, fork %d, aside %v", n, before.Log.Head, cut.To, loss.Aside)
	}
	again, err := Truncate(followConfig(x.fd, 1), cut)
	if err != nil || len(again.Records) != 0 {
		t.Errorf("once more: %+v, %v", again, err)
	}
	in, err := Inspect(followConfig(x.fd, 1), wal.Visitor{})
	x.must(err)
	if f := in.Facts(); f.Head != cut.To || f.SeenEpoch != 2 || f.SeenEpochID != epochID(2) || f.Tail != 1 || len(f.Lineage) != 1 {
		t.Errorf("%+v", f)
	}
	x.must(x.rejoin(x.fd))
	x.same()
	x.fd.Recover(disk.KeepNone())
	x.f = x.open(x.fd, 1)
	x.same()
	x.close()
}

// TestS13TruncateDropsLineage: epochs that begin after the fork are forgotten with their records; what was checkpointed of the
// lineage, and the epoch that was heard of, are not.
func TestS13TruncateDropsLineage(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(3, 1)
	x.ship()
	fork := x.f.log.Head()
	for e := block.Epoch(2); e < 5; e++ {
		x.p.Fence()
		x.epoch = e
		x.lead(x.p)
		x.fill(3, uint64(e))
	}
	x.must(x.p.Close())
	x.epoch = 9
	x.lead(x.f)
	cut := Truncation{Epoch: 9, ID: epochID(9), To: fork, Fork: x.f.Facts().Lineage[0], Discard: true}
	_, err := Truncate(followConfig(x.pd, 1), cut)
	x.must(err)
	x.p, x.f = x.f, x.open(x.pd, 1)
	f := x.f.Facts()
	if len(f.Lineage) != 1 || f.Head != fork || f.SeenEpoch != 9 {
		t.Errorf("%+v", f)
	}
	x.must(x.f.Follow(9, epochID(9)))
	x.ship()
	x.same()
	x.close()
}

// TestS13TruncateIsCheckedAgain: against what the copy holds now, whatever the primary was told before. What is refused
// changes nothing.
func TestS13TruncateIsCheckedAgain(t *testing.T) {
	x, good := newDiverged(t)
	slots := func(d *disk.Disk) []byte {
		b := make([]byte, 2*superblockSlotBytes)
		if _, err := d.Base("base", DataOffset+testSize).ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	refused := func(name string, d *disk.Disk, cut Truncation, want error) {
		t.Helper()
		before := slots(d)
		if _, err := Truncate(followConfig(d, 1), cut); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, slots(d)) {
			t.Errorf("%s: the superblock changed", name)
		}
	}
	with := func(change func(*Truncation)) Truncation {
		cut := good
		change(&cut)
		return cut
	}
	refused("no ID", x.fd, with(func(c *Truncation) { c.ID = uuid.Nil }), nil)
	refused("an older epoch", x.fd, with(func(c *Truncation) { c.Epoch = 0 }), ErrOldEpoch)
	refused("another epoch of that number", x.fd, with(func(c *Truncation) { c.Epoch = 1 }), ErrEpochTaken)
	refused("another fork", x.fd, with(func(c *Truncation) { c.Fork.ID[0]++ }), ErrDiverged)
	refused("a fork at another place", x.fd, with(func(c *Truncation) { c.Fork.First++ }), ErrDiverged)
	refused("after the head", x.fd, with(func(c *Truncation) { c.To += 100 }), nil)

	after := func(life func(v *Volume)) *disk.Disk {
		d := x.fd.Clone()
		v := x.open(d, 1)
		life(v)
		d.Kill()
		return d
	}
	newer := after(func(v *Volume) { x.must(v.Follow(3, epochID(3))) })
	refused("a newer epoch is known by now", newer, good, ErrOldEpoch)
	committed := after(func(v *Volume) {
		v.log.SetCommitted(good.To + 1)
		x.must(failure(v.log.MarkCommitted()))
	})
	refused("S7 it was committed", committed, good, ErrCommitted)
	x.must(failure(Truncate(followConfig(committed, 1), with(func(c *Truncation) { c.Discard = true }))))
	ahead := after(func(v *Volume) {
		next := v.header.current
		next.BaseHigh = good.To + 1
		x.must(v.header.write(next))
	})
	refused("S12 the base image is ahead", ahead, with(func(c *Truncation) { c.Discard = true }), ErrBaseAhead)
	checkpointed := after(func(v *Volume) {
		x.must(failure(v.Lead(3, epochID(3))), v.Checkpoint(t.Context()))
	})
	refused("the checkpoint is ahead", checkpointed, with(func(c *Truncation) { c.Epoch, c.ID, c.Discard = 4, epochID(4), true }), nil)
	damaged := x.fd.Clone()
	x.must(damaged.Corrupt("log/00000001.seg", 8192, 64))
	refused("the log is damaged", damaged, good, ErrDamaged)

	x.must(failure(Truncate(followConfig(x.fd, 1), good)), x.rejoin(x.fd))
	x.same()
	x.close()
}

// eachCrash runs life on copies of the disk, with a crash at each of its operations, and then check after each way in which
// the process may have ended.
func eachCrash(t *testing.T, from *disk.Disk, life func(*disk.Disk) error, check func(*disk.Disk) error) {
	t.Helper()
	endings := map[string]func(*disk.Disk){"kill": (*disk.Disk).Kill}
	for _, choice := range []disk.Choice{disk.KeepNone(), disk.KeepSectors(), disk.KeepAll(), disk.KeepLater(), disk.KeepWrites()} {
		endings[choice.String()] = func(d *disk.Disk) { d.Recover(choice) }
	}
	start, lives := from.Ops(), 0
	for n := 1; ; n++ {
		d := from.Clone()
		d.SetPlan(disk.CrashAt(start + n))
		if err := life(d); err != nil && !d.Crashed() {
			t.Fatalf("crash at operation %d: %v\n%s", n, err, d.Trace())
		}
		for name, end := range endings {
			e := d.Clone()
			e.SetPlan(nil)
			end(e)
			if err := check(e); err != nil {
				t.Fatalf("crash at operation %d, %s: %v\n%s", n, name, err, d.Trace())
			}
			lives++
		}
		if !d.Crashed() {
			t.Logf("%d lives", lives)
			return
		}
	}
}

// TestS13CrashInTruncate: whatever operation of a truncation, the open after it, and the first records received, a crash falls on: there is the old
// log or the cut one, and the copy becomes the same as its primary, for good.
func TestS13CrashInTruncate(t *testing.T) {
	for _, aside := range []bool{false, true} {
		t.Run(fmt.Sprintf("aside %v", aside), func(t *testing.T) {
			x, cut := newDiverged(t)
			cut.Aside = aside
			old, err := Inspect(followConfig(x.fd, 1), wal.Visitor{})
			x.must(err)
			ours := records(t, x.p, cut.To+1)
			var theirs []byte // what is after the fork, as Inspect shows it
			payloads := func(d *disk.Disk) ([]byte, error) {
				var b []byte
				_, err := Inspect(followConfig(d, 1), wal.Visitor{Record: func(r wal.Record, _ wal.Position) error {
					if r.LSN > cut.To {
						b = append(b, r.Payload...)
					}
					return nil
				}})
				return b, err
			}
			theirs, err = payloads(x.fd)
			x.must(err)
			changes, err := wal.DecodeRecords(ours, testBlock)
			x.must(err)
			var news []byte
			for i := range changes {
				news = append(news, changes[i].Payload...)
			}
			life := func(d *disk.Disk) error {
				if _, err := Truncate(followConfig(d, 1), cut); err != nil {
					return err
				}
				return x.rejoin(d)
			}
			eachCrash(t, x.fd, life, func(d *disk.Disk) error {
				in, err := Inspect(followConfig(d, 1), wal.Visitor{})
				if err != nil {
					return err
				}
				got, err := payloads(d)
				if err != nil {
					return err
				}
				isOld := in.Log.Head == old.Log.Head && len(in.Superblock.Cuts) == 0
				if !(isOld && bytes.Equal(got, theirs)) && !bytes.HasPrefix(news, got) {
					return fmt.Errorf("neither the old log nor the cut one: head %d, was %d", in.Log.Head, old.Log.Head)
				}
				if isOld {
					if _, err := Truncate(followConfig(d, 1), cut); err != nil {
						return err
					}
				}
				if err := x.rejoin(d); err != nil {
					return err
				}
				x.same()
				d.Recover(disk.KeepNone())
				if x.f, err = OpenFollower(followConfig(d, 1)); err != nil {
					return err
				}
				x.same()
				return x.f.Close()
			})
		})
	}
}

// TestS13TruncateLosesNoRecordBelow: records below the fork that were only in the page cache may be lost with the power after a
// cut, as before it; never those that were durable.
func TestS13TruncateLosesNoRecordBelow(t *testing.T) {
	x, cut := newDiverged(t)
	x.must(failure(Truncate(followConfig(x.fd, 1), cut)))
	x.fd.Recover(disk.KeepNone())
	x.f = x.open(x.fd, 1)
	if head := x.f.log.Head(); head != cut.To {
		t.Errorf("head %d after a cut to %d, all of which was durable", head, cut.To)
	}
	if !slices.Equal(records(t, x.f, 1), records(t, x.p, 1)[:len(records(t, x.f, 1))]) {
		t.Error("not the primary's records")
	}
	x.close()
}
