package volume

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"lockstep/block"
	"lockstep/test/disk"
)

// TestS10FollowerCheckpointsOnlyWhatIsCommitted: nothing gets into a follower's base image before it was told, in this epoch,
// that it is committed.
func TestS10FollowerCheckpointsOnlyWhatIsCommitted(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(10, 1)
	x.ship()
	head := x.f.log.Head()
	held := func(why string) {
		t.Helper()
		moved, err := checkpointNow(x.f)
		if f := x.f.Facts(); moved || !errors.Is(err, ErrUncommitted) || f.Checkpoint != 0 || f.BaseHigh != 0 || f.Failed != nil {
			t.Fatalf("%s: moved %v, %v: %+v", why, moved, err, f)
		}
		x.same()
	}
	held("told nothing")
	x.must(x.f.SetCommitted(1, head-1))
	held("not all is committed")
	x.must(x.f.SetCommitted(1, head-5))
	if f := x.f.Facts(); f.Committed != head-1 {
		t.Errorf("committed %d after it was told %d and then less", f.Committed, head-1)
	}
	x.must(x.f.Follow(2, epochID(2)))
	if err := x.f.SetCommitted(1, head); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("told by an older epoch: %v", err)
	}
	held("told in an older epoch")
	x.must(x.f.SetCommitted(2, head+100))
	held("the logs were not joined")
	if f := x.f.Facts(); f.Committed != head-1 {
		t.Errorf("committed %d, which is that of another log perhaps", f.Committed)
	}
	x.must(join(x.p, x.f, 2, head))
	if moved, err := checkpointNow(x.f); err != nil || !moved {
		t.Fatal(moved, err)
	}
	if f := x.f.Facts(); f.Checkpoint != head || f.Durable != head || f.Committed != head {
		t.Errorf("%+v", f)
	}
	x.same()
	x.close()
}

// TestS10ReceivedWhileSealed: a checkpoint that waits to be committed holds nothing up: records, resizes, syncs, reads. What
// came meanwhile is moved by the next one.
func TestS10ReceivedWhileSealed(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(10, 1)
	x.ship()
	sealed := x.f.log.Head()
	if _, err := checkpointNow(x.f); !errors.Is(err, ErrUncommitted) {
		t.Fatal(err)
	}
	x.fill(10, 2)
	x.must(second(x.p.Resize(t.Context(), 2*testSize, false)))
	x.fill(10, 3)
	x.ship()
	x.same()
	x.must(x.f.SetCommitted(1, sealed))
	if moved, err := checkpointNow(x.f); err != nil || !moved || x.f.Facts().Checkpoint != sealed {
		t.Fatal(moved, err, x.f.Facts().Checkpoint, sealed)
	}
	x.same()
	x.fd.Recover(disk.KeepAll())
	x.f = x.open(x.fd, 2)
	x.same()
	x.must(x.f.Follow(1, epochID(1)))
	x.ship()
	x.commitAll()
	x.must(x.f.Checkpoint(t.Context()))
	x.same()
	x.close()
}

// TestS10FullLogIsNoDeadlock: a follower's log is full of what is not committed. Receive says so, and has made all of it
// durable, which is what the primary waits for. When that says it is committed, it goes on where it stopped. The follower's
// log is far smaller than the primary's, over many laps.
func TestS10FullLogIsNoDeadlock(t *testing.T) {
	x := newPair(t, 1<<20, testSegmentBytes)
	for i := range 15 {
		x.fill(20, uint64(i))
	}
	full := 0
	for x.f.log.Head() < x.p.log.Head() {
		before := x.f.log.Head()
		err := ship(x.p, x.f, x.epoch, 1)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrUncommitted) || x.f.Err() != nil {
			t.Fatal(err)
		}
		full++
		f := x.f.Facts()
		if f.Head == before && full > 1 {
			t.Fatal("it did not go on")
		}
		// Once more without news: the try makes all durable.
		if err := ship(x.p, x.f, x.epoch, 1); !errors.Is(err, ErrUncommitted) {
			t.Fatal(err)
		}
		if f = x.f.Facts(); f.BaseHigh > f.Committed {
			t.Fatalf("%+v", f)
		}
		if f.Durable == 0 {
			t.Fatal("what is sealed is not durable")
		}
		x.must(x.f.SetCommitted(x.epoch, f.Durable)) // the least of the in-sync set's
	}
	if full < 3 {
		t.Errorf("the log was full %d times", full)
	}
	x.same()
	x.close()
}

// TestS10SealedCheckpointOfANewPrimary: what a follower had frozen is committed by the new primary's own copies.
func TestS10SealedCheckpointOfANewPrimary(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(10, 1)
	x.ship()
	sealed := x.f.log.Head()
	if _, err := checkpointNow(x.f); !errors.Is(err, ErrUncommitted) {
		t.Fatal(err)
	}
	var asked []block.LSN
	x.f.cfg.Committer = copies(func(_ context.Context, lsn block.LSN) error {
		asked = append(asked, lsn)
		return nil
	})
	x.epoch = 2
	x.lead(x.f)
	x.must(x.f.Checkpoint(t.Context()))
	head := x.f.log.Head()
	if f := x.f.Facts(); f.Checkpoint != head || head != sealed+1 {
		t.Errorf("head %d: %+v", head, f)
	}
	if len(asked) < 2 || asked[1] != sealed {
		t.Errorf("asked the other copies for %d", asked)
	}
	x.close()
}

// TestS10CheckpointsResumeWhenTold: the background's checkpoint waits, and goes on by itself; one that was asked for does too,
// until its caller goes or the volume is closed.
func TestS10CheckpointsResumeWhenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pcfg, _, _ := memoryConfig(1 << 20)
		p := openMemory(t, pcfg, 1<<20, 4096, 256<<10)
		fcfg, _, _ := memoryConfig(1 << 20)
		g := Geometry{SizeBytes: 1 << 20, BlockSize: 4096, LogBudgetBytes: 1 << 20}
		if err := create(fcfg, g, 256<<10); err != nil {
			t.Fatal(err)
		}
		f, err := OpenFollower(fcfg)
		if err != nil {
			t.Fatal(err)
		}
		id := p.Facts().Lineage[0].ID
		mustApply(t, p, filled(0, 8192, 1))
		if err := errors.Join(f.Follow(1, id), ship(p, f, 1, 1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		f.wake()
		short, gone := context.WithCancel(ctx)
		waits := make(chan error)
		go func() { waits <- f.Checkpoint(short) }()
		synctest.Wait()
		gone()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("its caller went: %v", err)
		}
		if f.Facts().BaseHigh != 0 {
			t.Error("it did not wait")
		}
		if err := f.SetCommitted(1, f.log.Head()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := f.Facts(); s.Checkpoint != s.Head {
			t.Errorf("it did not go on: %+v", s)
		}
		mustApply(t, p, filled(0, 8192, 2))
		if err := ship(p, f, 1, 1); err != nil {
			t.Fatal(err)
		}
		go func() { waits <- f.Checkpoint(context.Background()) }()
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// TestS7CommittedIsKept: what a follower was told outlives a power cut once the log was synced after; a primary that has a
// member left out forgets no flush that it acknowledged, whenever the power goes.
func TestS7CommittedIsKept(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.must(x.p.KeepCommitted(true))
	for i := range byte(5) {
		x.write(int64(i), 1, i+1)
		x.must(x.p.Flush())
		acknowledged := x.p.log.Head()
		for _, choice := range []disk.Choice{disk.KeepNone(), disk.KeepAll()} {
			d := x.pd.Clone()
			d.Recover(choice)
			v := x.open(d, 1)
			if f := v.Facts(); f.Committed < acknowledged || f.Committed > f.Head {
				t.Errorf("acknowledged a flush at %d: %+v", acknowledged, f)
			}
			x.must(v.Close())
		}
	}
	x.ship()
	x.must(failure(x.f.Sync()))
	now := x.f.now()
	x.f.Tick(now) // sees what is durable
	x.f.Tick(now) // marks it
	if !x.f.log.Marked() {
		t.Fatal("not marked")
	}
	x.must(x.f.SetCommitted(1, 4))
	x.f.Tick(now)
	x.fd.Recover(disk.KeepNone())
	x.f = x.open(x.fd, 2)
	if f := x.f.Facts(); f.Committed != 4 {
		t.Errorf("committed %d", f.Committed)
	}
	x.close()
}
