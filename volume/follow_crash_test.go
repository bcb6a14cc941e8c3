package volume

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
)

// progress is what a life of a follower had been told, and had answered, when it ended.
type progress struct {
	durable block.LSN // answered by Sync
	told    block.LSN // that it is committed
	applied block.LSN // sent at most
	seen    block.Epoch
	led     block.EpochStart
}

// followerLife opens a follower, has it receive, sync, checkpoint, receive again, change its primary, and at last lead.
func followerLife(p *Volume, d *disk.Disk, made *progress) error {
	v, err := OpenFollower(followConfig(d, 2))
	if err != nil {
		return err
	}
	head := p.log.Head()
	sendTo := func(upTo block.LSN) error {
		from := v.log.Head() + 1
		if err := join(p, v, 1, from-1); err != nil {
			return err
		}
		r, err := p.log.NewReader(from)
		if err != nil {
			return err
		}
		for last := from - 1; last < upTo; {
			var raw []byte
			if raw, _, last, err = r.Read(nil, 1); err != nil {
				return err
			}
			made.applied = last
			if _, err := v.Receive(1, raw); err != nil {
				return err
			}
		}
		return nil
	}
	sync := func() error {
		lsn, err := v.Sync()
		if err == nil {
			made.durable = max(made.durable, lsn)
		}
		return err
	}
	tell := func(lsn block.LSN) error {
		made.told = max(made.told, lsn)
		return v.SetCommitted(1, lsn)
	}
	checkpoint := func() error {
		_, err := checkpointNow(v)
		if errors.Is(err, ErrUncommitted) {
			return nil
		}
		return err
	}
	follow := func(e block.Epoch) error {
		err := v.Follow(e, epochID(e))
		if err == nil {
			made.seen = e
		}
		return err
	}
	return each(
		func() error { return follow(1) },
		func() error { return sendTo(head / 3) },
		sync,
		checkpoint, // sealed
		func() error { return sendTo(head * 2 / 3) },
		func() error { return tell(head / 2) },
		checkpoint,
		v.log.Mark,
		func() error { return sendTo(head) },
		sync,
		func() error { return tell(head) },
		checkpoint,
		func() error { return follow(2) },
		func() error {
			var err error
			made.led, err = v.Lead(3, epochID(3))
			if err == nil {
				made.seen, made.durable = 3, made.led.First
			}
			return err
		},
		v.Close,
	)
}

// checkFollower checks what a life left of the follower, and has it become the same as its primary again.
func checkFollower(x *pair, d *disk.Disk, made *progress, all [][]byte, raw []byte) error {
	sb, _, err := readSuperblock(followConfig(d, 2).Base)
	if err != nil {
		return err
	}
	committed := max(made.told, made.led.First) // the latter by itself
	if sb.BaseHigh > made.told || sb.Committed > committed {
		return fmt.Errorf("S10: base_high %d, committed %d, and it was told of %d", sb.BaseHigh, sb.Committed, made.told)
	}
	v, err := OpenFollower(followConfig(d, 2))
	if err != nil {
		return err
	}
	f := v.Facts()
	newest := max(made.applied, made.led.First)
	if f.Head < made.durable || f.Head > newest+1 || f.SeenEpoch < made.seen || f.Committed > committed {
		return fmt.Errorf("%+v of %+v", f, made)
	}
	if got := records(x, v, 1); !bytes.HasPrefix(got, raw) && !bytes.HasPrefix(raw, got) {
		return errors.New("the records are not the primary's")
	}
	if got := mustRead(x, v, 0, testSize); !bytes.Equal(got, all[min(int(f.Head), len(all)-1)]) {
		return fmt.Errorf("it is not as of record %d", f.Head)
	}
	if n := len(f.Lineage); n > 1 { // it has led
		return v.Close()
	}
	if err := v.Follow(9, epochID(9)); err != nil {
		return err
	}
	if err := ship(x.p, v, 9, 1); err != nil {
		return err
	}
	made.seen, made.applied = 9, x.p.log.Head() // for the next check
	if got := mustRead(x, v, 0, testSize); !bytes.Equal(got, all[len(all)-1]) {
		return errors.New("it did not become the same as its primary")
	}
	return v.Close()
}

// TestI5FollowerCrashAtEveryOperation: I5, I11, S6, S10, S14: whatever operation of a follower's life a crash falls on, it is a
// prefix of the primary's log that has all that it said is durable; it has forgotten no epoch that it promised to
// heed; its base image has nothing that was not committed; and it goes on from there.
func TestI5FollowerCrashAtEveryOperation(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.must(x.f.Close())
	x.fill(18, 4)
	raw := records(t, x.p, 1)
	all := contents(t, raw, testSize)
	var made *progress
	d := disk.New(disk.Config{})
	x.must(createCopy(d, 2, 256<<10))
	eachCrash(t, d, func(d *disk.Disk) error {
		made = new(progress)
		return followerLife(x.p, d, made)
	}, func(d *disk.Disk) error {
		was := *made
		if err := checkFollower(x, d, &was, all, raw); err != nil {
			return err
		}
		d.Recover(disk.KeepNone())
		return checkFollower(x, d, &was, all, raw)
	})
	x.must(x.p.Close())
}

// TestI7FollowerFaultAtEveryOperation: one operation fails. The follower says so, or goes on; nothing that it said is durable is
// lost, and it can be opened again.
func TestI7FollowerFaultAtEveryOperation(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.must(x.f.Close())
	x.fill(18, 4)
	raw := records(t, x.p, 1)
	all := contents(t, raw, testSize)
	from := disk.New(disk.Config{})
	x.must(createCopy(from, 2, 256<<10))
	broken := errors.New("broken")
	for n := 1; ; n++ {
		d, made := from.Clone(), new(progress)
		d.SetPlan(disk.FailAt(from.Ops()+n, broken))
		err := followerLife(x.p, d, made)
		if err == nil && d.Ops() < from.Ops()+n {
			break
		}
		for _, end := range []func(*disk.Disk){(*disk.Disk).Kill, func(d *disk.Disk) { d.Recover(disk.KeepNone()) }} {
			e := d.Clone()
			e.SetPlan(nil)
			end(e)
			was := *made
			if err := checkFollower(x, e, &was, all, raw); err != nil {
				t.Fatalf("fault at operation %d: %v\n%s", n, err, d.Trace())
			}
		}
	}
	x.must(x.p.Close())
}
