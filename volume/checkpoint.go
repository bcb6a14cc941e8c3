package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"lockstep/block"
	"lockstep/wal"
)

// A checkpoint moves what the log holds to the base image. Its stages, in this order (L9, S12):
//
//	freeze    everything up to the head is frozen; new changes go to a new active index
//	log       the log is made durable up to there (I4), committed, and says so by a mark (L3)
//	mark      the superblock's base_high is raised, durably
//	zero      trimmed ranges first, since they make room; then zeroed ones
//	allocate  space for the data: only here a lack of it is harmless (L5)
//	copy      data, in order of their blocks, neighbours merged
//	sync      the base image
//	map       the change map, synced
//	finish    the superblock moves; the log before it may be reclaimed
type checkpoint struct {
	v      *Volume
	reign  *reign // nil: of a follower, and committed already
	upTo   block.LSN
	size   int64 // of the volume as of upTo, in bytes; what is frozen may touch blocks after it
	most   int64 // largest size of it by then, in bytes
	frozen *dirtyIndex
	bytes  int64 // of the log that it frees
	buf    []byte
	record []byte        // for a record that is copied from
	cut    []byte        // for the last one that was overwritten in part,
	last   wal.Record    // which is this; LSN 0: none
	slow   bool          // the base image zeroes slowly
	zeroes []block.Range // pending after this checkpoint
}

// copyBytes is the longest run that a checkpoint copies at a time.
const copyBytes = 1 << 20

// Checkpoint moves everything that is now in the log to the base image. Where the base image has no room for it,
// the log keeps it, and the error wraps ErrNoSpace. So it does where it is cancelled, or another copy can not be waited
// for.
func (v *Volume) Checkpoint(ctx context.Context) error {
	for target := v.log.Head(); ; {
		risen := v.awaitRise()
		if err := v.awaitCopies(ctx); err != nil {
			return err
		}
		v.checkpointing.Lock()
		moved, err := v.checkpointLocked(ctx)
		v.checkpointing.Unlock()
		if errors.Is(err, ErrUncommitted) {
			err = v.await(ctx, risen)
		} else if err == nil && (!moved || block.LSN(v.checkpoint.Load()) >= target) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// awaitCopies commits what there is before a checkpoint takes its lock, under which little is then left to wait for.
// A follower has nothing to wait for there: see followLimit.
func (v *Volume) awaitCopies(ctx context.Context) error {
	if v.cfg.Committer == nil || v.reign.Load() == nil {
		return nil
	}
	err := v.flush(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrFollower) {
		return v.refuse(fmt.Errorf("checkpoint: %w", err))
	}
	return err
}

// checkpointLocked runs one checkpoint; moved says that the superblock moved. On a follower it returns ErrUncommitted, at
// once, where what is to be moved is not committed.
func (v *Volume) checkpointLocked(ctx context.Context) (moved bool, err error) {
	if err := v.Err(); err != nil {
		return false, err
	}
	c, err := v.nextCheckpoint()
	if c == nil {
		return false, err
	}
	begun := v.tally.checkpointBegins(c.frozen.len())
	defer func() { v.tally.checkpointEnds(ctx, begun, err) }()
	v.running.Store(true)
	defer v.running.Store(false)
	start := v.now()
	if err := c.run(ctx); err != nil {
		v.index.thaw(c.bytes)
		switch {
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return false, err
		case errors.Is(err, ErrFollower):
			return false, err
		case errors.As(err, new(errCommit)):
			return false, v.refuse(fmt.Errorf("checkpoint: %w", err))
		case isNoSpace(err):
			return false, v.refuse(fmt.Errorf("checkpoint: %w: %w", ErrNoSpace, err))
		}
		return false, v.fail(fmt.Errorf("checkpoint: %w", err))
	}
	if v.refused.Swap(nil) != nil {
		v.cfg.Logger.Info().Str("from", "held up").Str("to", "going on").Str("reason", "one was done").Msg("checkpoints")
	}
	v.pacer.drained(c.bytes, v.now().Sub(start))
	if v.resizing.TryLock() { // else that resize does it
		defer v.resizing.Unlock()
		if err := v.cutBaseLocked(); err != nil {
			return true, err
		}
	}
	v.cfg.Logger.Debug().Uint64("lsn", uint64(c.upTo)).Int("ranges", c.frozen.len()).Int64("bytes", c.bytes).
		Dur("took", v.now().Sub(start)).Msg("checkpoint")
	return true, nil
}

// freeze begins a checkpoint of everything up to the head; nil where the base image has it all.
func (v *Volume) freeze() *checkpoint {
	v.mu.Lock() // nothing is between append and publish
	defer v.mu.Unlock()
	head := v.log.Head()
	if head == v.header.current.Checkpoint {
		return nil
	}
	x := &v.index
	x.Lock()
	defer x.Unlock()
	c := &checkpoint{v: v, upTo: head, size: v.Size(), most: v.largest, frozen: x.active, bytes: x.bytes, slow: v.base.slow()}
	c.buf = make([]byte, min(copyBytes, c.most)) // no record is longer than the volume was then
	c.record = make([]byte, wal.RecordHeaderBytes+min(wal.MaxPayloadBytes, c.most))
	c.cut = make([]byte, len(c.record))
	x.active, x.frozen, x.bytes = newDirtyIndex(v.blockBytes), c.frozen, 0
	return c
}

// errNoRoom marks the errors that mean I9 rather than I7.
type errNoRoom struct{ error }

func (e errNoRoom) Unwrap() error { return e.error }

// isNoSpace tells a lack of space where it is harmless from any other failure.
func isNoSpace(err error) bool {
	var e errNoRoom
	return errors.As(err, &e)
}

// noRoom marks err if it is a lack of space.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errNoRoom{err}
	}
	return err
}

func (c *checkpoint) run(ctx context.Context) error {
	v := c.v
	if _, err := v.log.Sync(); err != nil {
		return err
	}
	if c.reign != nil {
		if err := v.commit(ctx, c.reign, c.upTo); err != nil {
			return err
		}
	}
	if err := v.log.Mark(); err != nil && !errors.Is(err, wal.ErrFull) {
		return err
	}
	stages := []func(context.Context) error{c.mark, c.zero, c.allocate, c.copy}
	for _, stage := range stages {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	if err := v.base.sync(); err != nil {
		return err
	}
	if err := c.writeMap(); err != nil {
		return err
	}
	return c.finish()
}

// mark raises base_high before the first change of the base image.
func (c *checkpoint) mark(context.Context) error {
	next := c.v.header.current
	next.BaseHigh = max(next.BaseHigh, c.upTo)
	next.Durable = max(next.Durable, c.v.log.Durable())
	next.Committed = max(next.Committed, c.upTo)
	if err := c.v.header.write(next); err != nil {
		return err
	}
	c.v.baseHigh.Store(uint64(next.BaseHigh))
	return nil
}

// zero carries out trims and zeroings, but for those that are left to the background. What gives space back comes
// before what may need some.
func (c *checkpoint) zero(ctx context.Context) (err error) {
	if err = c.zeroKind(ctx, wal.RecordTrim); err != nil {
		return err
	}
	if c.zeroes, err = c.nextPending(); err != nil {
		return err
	}
	return c.zeroKind(ctx, wal.RecordZero)
}

func (c *checkpoint) zeroKind(ctx context.Context, kind wal.RecordType) error {
	return c.forEach(ctx, func(start uint64, d dirty) error {
		if d.kind != kind {
			return nil
		}
		c.v.tally.moved.Add(1)
		if c.defers(d) {
			return nil
		}
		return noRoom(c.v.base.zero(block.Range{Start: start, Count: d.count}, kind == wal.RecordTrim))
	})
}

// forEach calls fn for all frozen entries in order, until it fails or ctx ends.
func (c *checkpoint) forEach(ctx context.Context, fn func(start uint64, d dirty) error) error {
	var err error
	c.frozen.each(0, func(start uint64, d dirty) bool {
		if err = ctx.Err(); err == nil {
			err = fn(start, d)
		}
		return err == nil
	})
	return err
}

// runs calls fn for each run of data entries that lie side by side and are at most copyBytes together.
func (c *checkpoint) runs(ctx context.Context, fn func(r block.Range, entries []dirty) error) error {
	var run block.Range
	var entries []dirty
	limit := uint64(copyBytes / c.v.blockBytes)
	flush := func() error {
		if len(entries) == 0 {
			return nil
		}
		err := fn(run, entries)
		entries = entries[:0]
		return err
	}
	err := c.forEach(ctx, func(start uint64, d dirty) error {
		if d.kind != wal.RecordWrite {
			return nil
		}
		if len(entries) > 0 && (run.End() != start || run.Count+d.count > limit) {
			if err := flush(); err != nil {
				return err
			}
		}
		if len(entries) == 0 {
			run = block.Range{Start: start}
		}
		run.Count += d.count
		entries = append(entries, d)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// allocate reserves the space that copy writes to.
func (c *checkpoint) allocate(ctx context.Context) error {
	return c.runs(ctx, func(r block.Range, _ []dirty) error { return noRoom(c.v.base.allocate(r)) })
}

// copy writes the data. Each record is checked before: what the base image gets has no checksum after.
func (c *checkpoint) copy(ctx context.Context) error {
	v := c.v
	return c.runs(ctx, func(r block.Range, entries []dirty) error {
		n := 0
		for i := range entries {
			data, err := c.data(&entries[i])
			if err != nil {
				return err
			}
			n += copy(c.buf[n:], data)
		}
		v.tally.moved.Add(int64(len(entries)))
		return v.base.write(c.buf[:n], int64(r.Start)*v.blockBytes)
	})
}

// data returns what the entry's blocks hold, valid until the next call. What is frozen is not reclaimed before finish.
// The parts that are left of a record come one after the other, with others between, so that record is kept.
func (c *checkpoint) data(d *dirty) ([]byte, error) {
	v := c.v
	skip, length := int64(d.skip)*v.blockBytes, int64(d.count)*v.blockBytes
	r := c.last
	if r.LSN != d.lsn {
		s := v.log.Pin(d.position.Segment)
		var err error
		r, err = s.ReadRecord(c.record, d.position.Offset-skip, d.lsn, int(v.blockBytes), int(skip+length))
		s.Unpin()
		if err != nil {
			return nil, err
		}
		if int64(len(r.Payload)) > length {
			c.record, c.cut, c.last = c.cut, c.record, r
		}
	}
	if r.Type != wal.RecordWrite || skip+length > int64(len(r.Payload)) {
		panic(fmt.Sprintf("volume: blocks %d+%d of record %d, which has %d bytes", d.skip, d.count, d.lsn, len(r.Payload)))
	}
	return r.Payload[skip:][:length], nil
}

// writeMap raises the change map's entries and makes them durable.
func (c *checkpoint) writeMap() error {
	v := c.v
	if err := v.fitMap(c.most); err != nil {
		return err
	}
	perChunk := uint64(v.changes.ChunkBytes() / v.blockBytes)
	if c.coversAll() {
		v.changes.RaiseAll(c.upTo)
	} else {
		c.frozen.each(0, func(start uint64, d dirty) bool {
			first, last := start/perChunk, (start+d.count-1)/perChunk
			v.changes.Raise(first, last-first+1, d.lsn)
			return true
		})
	}
	if err := v.changes.Write(v.header.current.MapGeneration + 1); err != nil {
		return err
	}
	return v.changes.Sync()
}

// coversAll tells whether the frozen entries cover the whole volume: then one floor stands for all chunks.
func (c *checkpoint) coversAll() bool {
	next := uint64(0)
	c.frozen.each(0, func(start uint64, d dirty) bool {
		if start != next {
			return false
		}
		next += d.count
		return true
	})
	return next >= uint64(c.size/c.v.blockBytes)
}

// finish moves the superblock and lets go of what the base image has now.
func (c *checkpoint) finish() error {
	v := c.v
	next := v.header.current
	next.Checkpoint = c.upTo
	next.SizeBytes, next.ChunkBytes = c.size, v.changes.ChunkBytes()
	next.MapGeneration++
	next.PendingZero = c.zeroes
	next.Durable = max(next.Durable, v.log.Durable())
	next.Lineage = v.lineageUpTo(c.upTo)
	// A cut matters while recovery could come by the place where the log was cut.
	tail := v.log.Tail()
	next.Cuts = slices.DeleteFunc(slices.Clone(next.Cuts), func(x Cut) bool { return x.LSN+1 < tail })
	if err := v.header.write(next); err != nil {
		return err
	}
	if err := v.changes.TakeName(v.cfg.Meta); err != nil {
		return err
	}
	v.setPending(c.zeroes) // before what stands over it goes
	v.index.Lock()
	v.index.frozen = nil
	v.index.Unlock()
	v.log.Reclaim(c.upTo)
	v.checkpoint.Store(uint64(c.upTo)) // last: who sees it and finds the log full knows that it is
	return nil
}

// makeRoom is for a change that found the log full while the checkpoint stood at seen: it runs a checkpoint, or waits
// for the one that runs, and returns ErrNoSpace, or on a follower ErrUncommitted, where that can not help.
func (v *Volume) makeRoom(seen block.LSN) error {
	if err := v.refusedFor(noSpaceRetry); err != nil {
		return err
	}
	if err := v.awaitCopies(v.life); err != nil {
		return err
	}
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if v.header.current.Checkpoint != seen {
		return nil // the one before us made room
	}
	if err := v.refusedFor(noSpaceRetry); err != nil { // the one before us did not
		return err
	}
	if v.growLog() {
		return nil
	}
	moved, err := v.checkpointLocked(context.Background())
	if err != nil || moved {
		return err
	}
	return ErrNoSpace
}

// growLog tells whether the log has got another segment, for which the file system may have had no room before.
func (v *Volume) growLog() bool {
	before := v.log.Usage().Segments
	if err := v.log.Prepare(); err != nil {
		return false // the log makes do with what it has
	}
	return v.log.Usage().Segments > before
}

const (
	// noSpaceRetry is how long changes fail at once after a checkpoint found no room, so that not each of them tries.
	noSpaceRetry = 100 * time.Millisecond
	// backgroundRetry is how long the background waits before it tries again.
	backgroundRetry = time.Second
)

// refusal is why, and when, a checkpoint left everything in the log.
type refusal struct {
	err error
	at  time.Time
}

// refuse notes that a checkpoint could not do its work, and returns why.
func (v *Volume) refuse(err error) error {
	if v.refused.Swap(&refusal{err: err, at: v.now()}) == nil {
		v.cfg.Logger.Warn().Str("from", "going on").Str("to", "held up").AnErr("reason", err).
			Msg("checkpoints; the log keeps what is in it, and changes are refused once it is full")
	}
	return err
}

// refusedFor returns why the last checkpoint could not do its work, where that was less than d ago.
func (v *Volume) refusedFor(d time.Duration) error {
	if r := v.refused.Load(); r != nil && v.now().Sub(r.at) < d {
		return r.err
	}
	return nil
}
