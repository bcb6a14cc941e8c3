package volume

import (
	"context"
	"errors"
	"sync"
	"time"

	"lockstep/block"
	"lockstep/wal"
)

const (
	// tickEvery is the background's clock. A durable mark is written at the second tick after the last flush at the
	// latest (L3: within 1 s).
	tickEvery = 400 * time.Millisecond
	// syncAfter is how long records stay unsynced that no client flushes.
	syncAfter = 5 * time.Second
	// checkpointAfter is how long the base image stays behind the log.
	checkpointAfter = 30 * time.Second
	// checkpointEntries is how many dirty ranges start a checkpoint.
	checkpointEntries = maxDirtyEntries / 2
)

// idleState is what Tick remembers.
type idleState struct {
	durable      block.LSN // at the last tick
	unsynced     time.Time // since when the head is ahead of durable; zero where it is not
	behind       time.Time // since when the base image is behind the log; zero where it is not
	checkpointed block.LSN // at the last tick
}

// fill is the share of the log's budget that is taken.
func (v *Volume) fill() float64 {
	u := v.log.Usage()
	return float64(u.UsedBytes) / float64(u.BudgetBytes)
}

// wantsCheckpoint tells whether enough has gathered for a checkpoint, and whether it is time to try after one that failed.
func (v *Volume) wantsCheckpoint() bool {
	if v.running.Load() {
		return false
	}
	entries, bytes := v.index.load()
	return (entries >= checkpointEntries || bytes >= v.checkpointBytes()) && v.refusedFor(backgroundRetry) == nil
}

// checkpointBytes is how much log makes a checkpoint worth its syncs: a quarter of the budget.
func (v *Volume) checkpointBytes() int64 { return v.log.Usage().BudgetBytes / 4 }

// Run does the background work until ctx ends: it checkpoints, marks, prepares segments and zeroes what is pending. It returns nil; a failure
// of the volume shows in Err, and ends nothing.
func (v *Volume) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { v.runPrepare(ctx) })
	wg.Go(func() { v.runCheckpoints(ctx) })
	wg.Go(func() { v.runZeroes(ctx) })
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			v.Tick(v.now())
		}
	}
	wg.Wait()
	return nil
}

func (v *Volume) runPrepare(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.log.Wanted():
			if err := v.log.Prepare(); err != nil {
				v.cfg.Logger.Warn().Err(err).Msg("no log segment could be made ahead")
			}
		}
	}
}

func (v *Volume) runCheckpoints(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.kick:
			_ = v.Checkpoint(ctx) // it said why it could not, and is tried again
		}
	}
}

// Tick, which one goroutine at a time may call, does what is due at now: the durable mark after the last flush (L3), a sync of what nobody flushed, and a wake
// of the checkpoints where the base image is long behind. It waits for no other copy. Run calls it; errors show in Err.
func (v *Volume) Tick(now time.Time) {
	if v.Err() != nil {
		return
	}
	s := &v.idle
	head, durable := v.log.Head(), v.log.Durable()
	if durable == s.durable {
		if err := v.mark(); err != nil && !errors.Is(err, wal.ErrFull) {
			return
		}
	}
	s.durable = durable
	if due(&s.unsynced, now, head > durable, syncAfter) {
		if err := v.syncLog(); err != nil {
			return
		}
	}
	checkpoint := block.LSN(v.checkpoint.Load())
	if checkpoint != s.checkpointed {
		s.checkpointed, s.behind = checkpoint, time.Time{}
	}
	entries, _ := v.index.load()
	if due(&s.behind, now, entries > 0, checkpointAfter) || v.wantsCheckpoint() {
		v.wake()
	}
	v.wakeZeroes() // what had no room before may have it now
}

// mark has the log say how far it is durable, and committed, where it does not.
func (v *Volume) mark() error {
	if v.log.CommittedMarked() {
		return v.log.Mark()
	}
	_, err := v.log.MarkCommitted()
	return err
}

// due tells whether the condition has held for the duration, and then starts counting anew.
func due(since *time.Time, now time.Time, holds bool, d time.Duration) bool {
	switch {
	case !holds:
		*since = time.Time{}
	case since.IsZero():
		*since = now
	case now.Sub(*since) >= d:
		*since = time.Time{}
		return true
	}
	return false
}
