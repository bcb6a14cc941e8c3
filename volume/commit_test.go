package volume

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/block"
)

// copies is a Committer that does what a test says.
type copies func(ctx context.Context, lsn block.LSN) error

func (c copies) Commit(ctx context.Context, lsn block.LSN) error { return c(ctx, lsn) }

// silent never answers.
func silent(ctx context.Context, _ block.LSN) error {
	<-ctx.Done()
	return ctx.Err()
}

// openCommitted opens a volume in memory whose other copies are c.
func openCommitted(t *testing.T, c copies) *Volume {
	cfg, _, _ := memoryConfig(1 << 20)
	cfg.Committer = c
	return openMemory(t, cfg, 1<<20, 4096, 256<<10)
}

// TestI1FlushCommitsItsOwnTarget: a flush waits for one that syncs already, and meanwhile there are more changes, which
// its own sync then covers. They are not what it waits for other copies with.
func TestI1FlushCommitsItsOwnTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan block.LSN, 2)
		cfg, _, log := memoryConfig(1 << 20)
		cfg.Committer = copies(func(_ context.Context, lsn block.LSN) error {
			asked <- lsn
			return nil
		})
		v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
		release := make(chan bool)
		log.onSync = func(string) { <-release }
		flush := func() {
			if err := v.Flush(); err != nil {
				t.Error(err)
			}
		}
		mustApply(t, v, filled(0, 4096, 'a'))
		first := v.log.Head()
		go flush()
		synctest.Wait() // it syncs
		mustApply(t, v, filled(0, 4096, 'b'))
		go flush()
		synctest.Wait() // it waits for the other
		mustApply(t, v, filled(0, 4096, 'c'))
		close(release)
		a, b := <-asked, <-asked
		if a, b = min(a, b), max(a, b); a != first || b != first+1 || v.log.Durable() != first+2 {
			t.Fatalf("flushes of %d and %d asked for %d and %d; durable %d", first, first+1, a, b, v.log.Durable())
		}
	})
}

// TestS10CommitErrorIsNoFailure: another copy does not confirm. Flush and checkpoint say so, everything stays in the log,
// and both succeed when it does again.
func TestS10CommitErrorIsNoFailure(t *testing.T) {
	gone := errors.New("a replica is gone")
	var answer error
	v := openCommitted(t, func(context.Context, block.LSN) error { return answer })
	mustApply(t, v, filled(0, 4096, 'a'))
	// In the wait before the checkpoint, and in the one within.
	for _, checkpoint := range []func(context.Context) error{v.Checkpoint, func(ctx context.Context) error {
		v.checkpointing.Lock()
		defer v.checkpointing.Unlock()
		_, err := v.checkpointLocked(ctx)
		return err
	}} {
		answer = gone
		if err := v.Flush(); !errors.Is(err, gone) {
			t.Fatalf("flush: %v", err)
		}
		if err := checkpoint(t.Context()); !errors.Is(err, gone) {
			t.Fatalf("checkpoint: %v", err)
		}
		if err := v.Err(); err != nil || v.index.frozen != nil || v.Stats().Checkpoint != 0 {
			t.Fatalf("failed: %v; frozen: %v; checkpoint %d", err, v.index.frozen != nil, v.Stats().Checkpoint)
		}
		mustApply(t, v, filled(4096, 4096, 'b'))
		if p := mustRead(t, v, 0, 8192); p[0] != 'a' || p[4096] != 'b' {
			t.Fatalf("read %q", []byte{p[0], p[4096]})
		}
	}
	answer = nil
	if err := errors.Join(v.Flush(), v.Checkpoint(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// TestL3MarkWaitsForNoOtherCopy: no other copy answers; what nobody flushed is durable, and marked, all the same.
func TestL3MarkWaitsForNoOtherCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openCommitted(t, silent)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go v.Run(ctx)
		time.Sleep(4 * tickEvery) // what the open left is marked
		mustApply(t, v, filled(0, 4096, 'a'))
		head := v.log.Head()
		time.Sleep(syncAfter + 4*tickEvery)
		if !v.log.Marked() || v.log.Durable() != head {
			t.Errorf("durable %d of %d, marked: %v", v.log.Durable(), head, v.log.Marked())
		}
	})
}

// TestS10CloseDoesNotWaitForOtherCopies: flushes and checkpoints wait for a copy that never answers. Close ends them, and
// leaves the log durable and marked. While they wait, changes go on.
func TestS10CloseDoesNotWaitForOtherCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openCommitted(t, silent)
		mustApply(t, v, filled(0, 4096, 'a'))
		results := make(chan error, 3)
		go func() { results <- v.Flush() }()
		go func() { results <- v.Checkpoint(context.Background()) }()
		go func() { results <- applyOne(v, Change{Kind: Trim, Length: 4096, FUA: true}) }()
		synctest.Wait() // all wait
		if len(results) != 0 {
			t.Fatalf("one did not wait: %v", <-results)
		}
		if !v.checkpointing.TryLock() {
			t.Fatal("a checkpoint waits for other copies with its lock held")
		}
		v.checkpointing.Unlock()
		mustApply(t, v, filled(8192, 4096, 'b'))
		head := v.log.Head()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		for range cap(results) {
			if err := <-results; !errors.Is(err, ErrClosed) {
				t.Errorf("what waited returned %v", err)
			}
		}
		if !v.log.Marked() || v.log.Durable() != head || v.header.current.Durable != head {
			t.Errorf("durable %d, the superblock says %d of %d, marked: %v", v.log.Durable(), v.header.current.Durable, head, v.log.Marked())
		}
	})
}

// TestS10CancelledCheckpointWaitsNoLonger: its caller goes while another copy is silent.
func TestS10CancelledCheckpointWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openCommitted(t, silent)
		mustApply(t, v, filled(0, 4096, 'a'))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := v.Checkpoint(ctx); !errors.Is(err, context.DeadlineExceeded) || v.Err() != nil {
			t.Fatalf("checkpoint: %v; failed: %v", err, v.Err())
		}
	})
}
