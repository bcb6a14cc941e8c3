package volume

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"lockstep/block"
	"lockstep/histogram"
	"lockstep/wal"
)

// tally is what an open volume counts, since Open.
type tally struct {
	openTook time.Duration // set by Open, as is replayed
	replayed uint64        // records

	checkpoints [checkpointOutcomes]atomic.Uint64
	took        histogram.Latency // of checkpoints that did their work
	begunNs     atomic.Int64      // of the checkpoint that runs, since the epoch of Unix
	toMove      atomic.Int64      // ranges that it has to move, and
	moved       atomic.Int64      // how many of them it has; both may be of the one before

	full waits // of changes, for room in the log or the index
}

// waits counts how often something was waited for, and how long.
type waits struct{ count, ns atomic.Uint64 }

func (w *waits) add(d time.Duration) {
	w.count.Add(1)
	w.ns.Add(uint64(max(d, 0)))
}

func (w *waits) stats() Waits {
	return Waits{Count: w.count.Load(), Total: time.Duration(w.ns.Load())}
}

// Waits says how often something was waited for, and how long together.
type Waits struct {
	Count uint64
	Total time.Duration
}

// How a checkpoint can end, in the order of their counters.
const (
	outcomeDone = iota
	outcomeNoSpace
	outcomeCancelled
	outcomeUncommitted
	outcomeFailed

	checkpointOutcomes
)

// CheckpointOutcomes are the names of how a checkpoint can end: it did its work; the base image has no room; it was
// called off; another copy could not be waited for; the volume failed.
func CheckpointOutcomes() []string {
	return []string{"done", "no_space", "cancelled", "uncommitted", "failed"}
}

// outcome tells how a checkpoint under ctx ended with err.
func outcome(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return outcomeDone
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return outcomeCancelled
	case errors.As(err, new(errCommit)):
		return outcomeUncommitted
	case errors.Is(err, ErrNoSpace):
		return outcomeNoSpace
	}
	return outcomeFailed
}

// checkpointBegins notes that a checkpoint of so many ranges begins.
func (t *tally) checkpointBegins(ranges int) (begun time.Time) {
	begun = time.Now()
	t.begunNs.Store(begun.UnixNano())
	t.moved.Store(0)
	t.toMove.Store(int64(ranges))
	return begun
}

// checkpointEnds counts a checkpoint that began then.
func (t *tally) checkpointEnds(ctx context.Context, begun time.Time, err error) {
	o := outcome(ctx, err)
	t.checkpoints[o].Add(1)
	if o == outcomeDone {
		t.took.Add(time.Since(begun), 1)
	}
}

// Stats is how a volume stands, and what it has done since it was opened.
type Stats struct {
	Head, Durable, Checkpoint, BaseHigh, Tail block.LSN
	Epoch                                     block.Epoch
	Log                                       wal.Usage
	LogStats                                  wal.Stats
	DirtyEntries                              int    // ranges that the base image does not have yet
	DirtyBlocks                               uint64 // blocks in them; twice where changed before and during a checkpoint
	DirtyBytes                                int64  // of the blocks that hold data, which a checkpoint has to copy
	PendingZeroBytes                          int64  // that the background has to zero in the base image
	Checkpointing                             bool
	Failed                                    error // non-nil: takes no more changes until reopened

	OpenTook time.Duration // to recover, replay the log and make durable what was found
	Replayed uint64        // records that were found beyond the base image

	Checkpoints        []uint64           // that ended, in the order of CheckpointOutcomes
	CheckpointTook     histogram.Snapshot // seconds, of those that did their work
	CheckpointRuns     time.Duration      // how long the one that runs has been running; 0 where none does
	CheckpointProgress float64            // share of its ranges that the one that runs has moved, 0 to 1

	BaseWrittenBytes uint64             // data written to the base image by checkpoints, zeroes where it has no way to zero included
	BaseZeroedBytes  uint64             // that the base image was told to zero
	BaseSync         histogram.Snapshot // seconds; those of its superblock are not in it
	Delays           Waits              // by which changes were slowed down since the log fills
	FullWaits        Waits              // of changes that found no room
}

// Stats returns how the volume stands. It waits for no disk; see wal.Log.Stats.
func (v *Volume) Stats() Stats {
	checkpoint := v.checkpoint.Load() // before the others, so that it is beyond none of them
	log := v.log.Stats()
	s := Stats{
		Head:             log.Head,
		Durable:          log.Durable,
		Checkpoint:       block.LSN(checkpoint),
		BaseHigh:         block.LSN(v.baseHigh.Load()),
		Tail:             log.Tail,
		Epoch:            log.Epoch,
		Log:              log.Usage,
		LogStats:         log,
		Failed:           v.Err(),
		OpenTook:         v.tally.openTook,
		Replayed:         v.tally.replayed,
		CheckpointTook:   v.tally.took.Snapshot(),
		BaseWrittenBytes: v.base.written.Load(),
		BaseZeroedBytes:  v.base.zeroed.Load(),
		BaseSync:         v.base.syncs.Snapshot(),
		Delays:           v.pacer.delays.stats(),
		FullWaits:        v.tally.full.stats(),
	}
	v.describeIndex(&s)
	for i := range v.tally.checkpoints {
		s.Checkpoints = append(s.Checkpoints, v.tally.checkpoints[i].Load())
	}
	if s.Checkpointing = v.running.Load(); s.Checkpointing {
		s.CheckpointRuns = max(time.Since(time.Unix(0, v.tally.begunNs.Load())), 0)
		s.CheckpointProgress = min(float64(v.tally.moved.Load())/float64(max(v.tally.toMove.Load(), 1)), 1)
	}
	return s
}

func (v *Volume) describeIndex(s *Stats) {
	x := &v.index
	x.RLock()
	defer x.RUnlock()
	for _, layer := range []*dirtyIndex{x.active, x.frozen} {
		if layer != nil {
			s.DirtyEntries += layer.len()
			s.DirtyBlocks += layer.blocks
			s.DirtyBytes += int64(layer.dataBlocks) * v.blockBytes
		}
	}
	s.PendingZeroBytes = int64(x.pending.blocks) * v.blockBytes
}
