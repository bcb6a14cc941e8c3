package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/wal"
)

// Where a base image can only zero a large range by writing all of it, a checkpoint does not wait for that: the range
// goes into the superblock's list of pending zeroes, reads find it there, and the background zeroes it in slices (L10).

const (
	// pendingFrom is the shortest range that is worth the list.
	pendingFrom = 8 << 20
	// pendingSlice is zeroed at a time, pendingHold is how long slices go on before they are synced and taken off the
	// list: checkpoints wait that long at most.
	pendingSlice = 16 << 20
	pendingHold  = 200 * time.Millisecond
)

// slow tells whether zeroing a large range takes long.
func (b *base) slow() bool {
	if s, ok := b.backend.(backend.SlowZeroer); ok {
		return s.ZeroesSlowly()
	}
	_, ok := b.backend.(backend.Zeroer)
	return !ok
}

// remove takes the blocks out of the index.
func (x *dirtyIndex) remove(r block.Range) {
	x.put(r.Start, dirty{count: r.Count, kind: wal.RecordTrim})
	x.tree.Delete(r.Start)
	x.count(wal.RecordTrim, -r.Count)
}

// ranges lists what the index covers, neighbours joined.
func (x *dirtyIndex) ranges() []block.Range {
	var all []block.Range
	x.each(0, func(start uint64, d dirty) bool {
		if n := len(all); n > 0 && all[n-1].End() == start {
			all[n-1].Count += d.count
		} else {
			all = append(all, block.Range{Start: start, Count: d.count})
		}
		return true
	})
	return all
}

func newPending(ranges []block.Range, blockBytes int64) *dirtyIndex {
	x := newDirtyIndex(blockBytes)
	for _, r := range ranges {
		x.put(r.Start, dirty{count: r.Count, kind: wal.RecordTrim})
	}
	return x
}

// defers tells whether the zeroing of an entry is left to the background.
func (c *checkpoint) defers(d dirty) bool {
	from := cmp.Or(c.v.cfg.pendingFrom, pendingFrom)
	return d.kind != wal.RecordWrite && c.slow && int64(d.count)*c.v.blockBytes >= from
}

// nextPending is what the list of pending zeroes will be after the checkpoint: with what it defers, without what it
// writes or zeroes itself. Where the superblock has no place for all, the shortest ranges are zeroed now.
func (c *checkpoint) nextPending() ([]block.Range, error) {
	v := c.v
	next := newPending(v.header.current.PendingZero, v.blockBytes)
	if next.len() == 0 && !c.slow {
		return nil, nil
	}
	c.frozen.each(0, func(start uint64, d dirty) bool {
		if c.defers(d) {
			next.put(start, d)
		} else if next.len() > 0 {
			next.remove(block.Range{Start: start, Count: d.count})
		}
		return true
	})
	// What is beyond the end is zeroed should the volume grow over it again.
	next.remove(block.Range{Start: uint64(c.size / v.blockBytes), Count: math.MaxUint64 - uint64(c.size/v.blockBytes)})
	ranges := next.ranges()
	if len(ranges) <= maxPendingZero {
		return ranges, nil
	}
	slices.SortFunc(ranges, func(a, b block.Range) int { return cmp.Compare(b.Count, a.Count) })
	for _, r := range ranges[maxPendingZero:] {
		if err := v.base.zero(r, true); err != nil {
			return nil, noRoom(err)
		}
	}
	ranges = ranges[:maxPendingZero]
	slices.SortFunc(ranges, func(a, b block.Range) int { return cmp.Compare(a.Start, b.Start) })
	return ranges, nil
}

// zeroPending zeroes some of what is pending, durably, and takes it off the list; more says that there is more. Where the
// base image has no room for the zeroes they stay pending, and the error wraps ErrNoSpace.
func (v *Volume) zeroPending(ctx context.Context) (more bool, err error) {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if err := v.Err(); err != nil {
		return false, err
	}
	left := slices.Clone(v.header.current.PendingZero)
	slice := uint64(cmp.Or(v.cfg.pendingSlice, pendingSlice) / v.blockBytes)
	if len(left) == 0 {
		return false, nil
	}
	var full error
	for end := v.now().Add(pendingHold); len(left) > 0 && ctx.Err() == nil; {
		r := block.Range{Start: left[0].Start, Count: min(left[0].Count, slice)}
		if err := noRoom(v.base.zero(r, true)); isNoSpace(err) {
			full = fmt.Errorf("%w: %w", ErrNoSpace, err)
			break
		} else if err != nil {
			return false, v.fail(err)
		}
		left[0].Start, left[0].Count = r.End(), left[0].Count-r.Count
		if left[0].Count == 0 {
			left = left[1:]
		}
		if !v.now().Before(end) {
			break
		}
	}
	if err := v.base.sync(); err != nil {
		return false, v.fail(err)
	}
	next := v.header.current
	next.PendingZero = left
	if err := v.header.write(next); err != nil {
		return false, v.fail(err)
	}
	v.setPending(left)
	return full == nil && len(left) > 0, full
}

func (v *Volume) setPending(ranges []block.Range) {
	v.index.Lock()
	v.index.pending = newPending(ranges, v.blockBytes)
	v.index.Unlock()
	v.wakeZeroes()
}

// wakeZeroes tells the background of zeroes that are pending.
func (v *Volume) wakeZeroes() {
	v.index.RLock()
	defer v.index.RUnlock()
	if v.index.pending.len() == 0 {
		return
	}
	select {
	case v.zero <- struct{}{}:
	default: // the background knows already
	}
}

func (v *Volume) runZeroes(ctx context.Context) {
	full := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.zero:
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			more, err = v.zeroPending(ctx) // a failure shows in Err
			if err != nil && !full && errors.Is(err, ErrNoSpace) {
				v.cfg.Logger.Warn().Err(err).Msg("the base image has no room for zeroes; they stay pending")
			}
			full = err != nil
		}
	}
}
