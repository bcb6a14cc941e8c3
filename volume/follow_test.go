package volume

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
)

// TestFollowerRefuses: a follower takes nothing from clients, and tells them why; reads only where that was chosen.
func TestFollowerRefuses(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.write(0, 1, 1)
	x.ship()
	f := x.f
	for name, err := range map[string]error{
		"write":   applyOne(f, filled(0, testBlock, 2)),
		"partial": applyOne(f, filled(3, 7, 2)),
		"flush":   f.Flush(),
		"FUA":     applyOne(f, Change{Kind: Trim, FUA: true, Length: testBlock}),
		"resize":  second(f.Resize(t.Context(), 2*testSize, false)),
	} {
		if !errors.Is(err, ErrFollower) || !errors.Is(err, syscall.ESHUTDOWN) {
			t.Errorf("%s: %v", name, err)
		}
	}
	x.same()
	f.cfg.ReadFollower = false
	if err := f.Read(make([]byte, 1), 0); !errors.Is(err, ErrFollower) {
		t.Errorf("read: %v", err)
	}
	if _, err := f.Extents(0, testBlock, 1); !errors.Is(err, ErrFollower) {
		t.Errorf("extents: %v", err)
	}
	x.close()
}

// TestI14Lead: the epoch is durable in both slots, and its start in the log, when Lead returns; only then changes are taken.
func TestI14Lead(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.write(0, 1, 1)
	x.ship()
	x.fd.Recover(disk.KeepAll())
	x.f = x.open(x.fd, 2)
	entry, err := x.f.Lead(7, epochID(7))
	x.must(err)
	if want := (block.EpochStart{Epoch: 7, ID: epochID(7), Primary: uuid.UUID{15: 2}, First: 3}); entry != want {
		t.Fatalf("%+v", entry)
	}
	if err := x.f.Follow(7, epochID(8)); !errors.Is(err, ErrEpochTaken) {
		t.Errorf("followed its own epoch: %v", err)
	}
	if _, err := x.f.Lead(9, epochID(9)); !errors.Is(err, ErrLeading) {
		t.Errorf("led twice: %v", err)
	}
	mustApply(t, x.f, filled(testBlock, testBlock, 2))
	x.fd.Recover(disk.KeepNone())
	for slot := range int64(superblockSlots) {
		d := x.fd.Clone()
		x.must(d.Corrupt("base", slot*superblockSlotBytes+130, 4))
		v := x.open(d, 2)
		if f := v.Facts(); f.SeenEpoch != 7 || f.Head != 3 || f.Lineage[1] != entry {
			t.Errorf("slot %d rotten: %+v", slot, f)
		}
		if _, err := v.Lead(7, epochID(7)); !errors.Is(err, ErrOldEpoch) {
			t.Errorf("led the same epoch again: %v", err)
		}
		x.must(v.Close())
	}
	x.must(x.p.Close())
}

// TestS6Epochs: an epoch that was heard of is never led, or followed as another primary's; nor is one below. What was heard
// of outlives a power cut and the rot of a slot (I11).
func TestS6Epochs(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.must(x.f.Follow(5, epochID(5)))
	check := func(v *Volume) {
		t.Helper()
		for _, c := range []struct {
			epoch, id block.Epoch
			want      error
		}{{4, 4, ErrOldEpoch}, {5, 6, ErrEpochTaken}, {5, 5, nil}} {
			if err := v.Follow(c.epoch, epochID(c.id)); !errors.Is(err, c.want) {
				t.Errorf("follow %d as %d: %v", c.epoch, c.id, err)
			}
		}
		for _, e := range []block.Epoch{4, 5} {
			if _, err := v.Lead(e, epochID(9)); !errors.Is(err, ErrOldEpoch) {
				t.Errorf("lead %d: %v", e, err)
			}
		}
	}
	check(x.f)
	x.fd.Recover(disk.KeepNone())
	for slot := range int64(superblockSlots) {
		d := x.fd.Clone()
		x.must(d.Corrupt("base", slot*superblockSlotBytes+130, 4))
		v := x.open(d, 2)
		if _, err := v.Receive(5, nil); !errors.Is(err, ErrNotFollowed) {
			t.Errorf("received before it was told whom to follow: %v", err)
		}
		check(v)
		x.must(v.Close())
	}
	x.must(x.p.Close())
}

// TestS9LeadAfterJoining: a new primary fences its copy, joins a longer tail as a follower of its own epoch, and then leads.
func TestS9LeadAfterJoining(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(5, 1)
	x.ship()
	x.fill(5, 2)
	x.epoch = 2
	x.must(x.f.Follow(2, epochID(2)))
	if _, err := x.f.Receive(1, records(t, x.p, 1)); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("the old primary was heard: %v", err)
	}
	x.ship()
	if x.f.Facts().Head != x.p.log.Head() {
		t.Fatal("not joined")
	}
	x.lead(x.f)
	if _, err := x.f.Receive(2, nil); !errors.Is(err, ErrNotFollowed) {
		t.Errorf("received while leading: %v", err)
	}
	x.p, x.f = x.f, x.p // the old one follows
	x.must(x.f.Follow(2, epochID(2)))
	x.fill(5, 3)
	x.ship()
	x.same()
	x.close()
}

// TestS8FencedChange: a change that was admitted before the fence is not logged after it, not even where the copy leads again
// by then. What waits for other copies is told so.
func TestS8FencedChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _, _ := memoryConfig(1 << 20)
		cfg.Committer = copies(silent)
		v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
		b := &batch{reign: v.reign.Load()}
		stale := []Change{filled(0, 4096, 'x'), filled(4096+1, 10, 'x')}
		b.add(&stale[0], 4096)
		b.to = 1
		results := make(chan error, 2)
		go func() { results <- v.Flush() }()
		go func() { results <- v.Checkpoint(context.Background()) }()
		synctest.Wait()
		head := v.log.Head()
		if err := v.Follow(9, epochID(9)); err != nil {
			t.Fatal(err)
		}
		if err := <-results; !errors.Is(err, ErrFollower) {
			t.Errorf("what waited got %v", err)
		}
		try := func(want block.LSN) {
			t.Helper()
			again := *b
			v.applyBatch(&again, stale[:1])
			own := &batch{reign: b.reign}
			if err := errors.Join(stale[0].Err, v.applyPartial(own, &stale[1])); !errors.Is(err, ErrFollower) || v.log.Head() != want {
				t.Errorf("head %d, was %d: %v", v.log.Head(), want, err)
			}
			b = &batch{reign: b.reign, to: 1}
			b.add(&stale[0], 4096)
		}
		try(head)
		if _, err := v.Lead(10, epochID(10)); err != nil {
			t.Fatal(err)
		}
		try(head + 1)
		mustApply(t, v, filled(0, 4096, 'y'))
	})
}

// TestS8FenceBesideChanges: whatever is appended is appended before Fence returns.
func TestS8FenceBesideChanges(t *testing.T) {
	cfg, _, _ := memoryConfig(1 << 20)
	v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
	for epoch := block.Epoch(2); epoch < 30; epoch++ {
		first, done := make(chan struct{}), make(chan error)
		go func() {
			if err := applyOne(v, filled(0, 4096, 1)); err != nil {
				t.Error(err)
			}
			close(first)
			for {
				if err := applyOne(v, filled(0, 4096, 1)); err != nil {
					done <- err
					return
				}
			}
		}()
		<-first
		v.Fence()
		head := v.log.Head()
		if err := <-done; !errors.Is(err, ErrFollower) {
			t.Fatal(err)
		}
		if got := v.log.Head(); got != head {
			t.Fatalf("epoch %d: head %d after the fence, then %d", epoch, head, got)
		}
		if _, err := v.Lead(epoch, epochID(epoch)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestS8FencedRead: a read that began before the fence is not answered after it.
func TestS8FencedRead(t *testing.T) {
	cfg, base, _ := memoryConfig(1 << 20)
	v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
	base.onRead = func(int64, int64) { v.Fence() }
	if err := v.Read(make([]byte, 4096), 0); !errors.Is(err, ErrFollower) {
		t.Errorf("read: %v", err)
	}
	base.onRead = nil
}

// TestI14LeadLosesToANewerEpoch: while an epoch is begun, a newer one is heard of. The volume does not lead.
func TestI14LeadLosesToANewerEpoch(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	followed := make(chan error)
	once := true
	x.fd.SetPlan(func(op disk.Op) error {
		if once && op.Kind == disk.OpSync && op.File != "base" { // of the epoch's first record
			once = false
			go func() { followed <- x.f.Follow(3, epochID(3)) }()
			for {
				x.f.mu.Lock()
				seen := x.f.follow.seen
				x.f.mu.Unlock()
				if seen == 3 {
					return nil
				}
			}
		}
		return nil
	})
	_, err := x.f.Lead(2, epochID(2))
	if !errors.Is(err, ErrOldEpoch) {
		t.Errorf("led: %v", err)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
	if err := applyOne(x.f, filled(0, testBlock, 1)); !errors.Is(err, ErrFollower) {
		t.Errorf("a change: %v", err)
	}
	if f := x.f.Facts(); f.SeenEpoch != 3 || f.Leading {
		t.Errorf("%+v", f)
	}
	x.close()
}

// TestS6EpochIsDurableBeforeItsRecord: the power goes when the record of a new epoch is about to be written. The number is used
// up: a record that somebody may have read before is never written again as another one.
func TestS6EpochIsDurableBeforeItsRecord(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.must(x.f.Follow(7, epochID(7)))
	x.fd.SetPlan(func(op disk.Op) error {
		if op.Kind == disk.OpWrite && op.File != "base" {
			return disk.ErrCrashed
		}
		return nil
	})
	if _, err := x.f.Lead(7, epochID(7)); err == nil || !x.fd.Crashed() {
		t.Fatal("the record was not written")
	}
	x.fd.SetPlan(nil)
	x.fd.Recover(disk.KeepNone())
	x.f = x.open(x.fd, 2)
	if _, err := x.f.Lead(7, epochID(7)); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("led the same epoch again: %v", err)
	}
	x.close()
}
