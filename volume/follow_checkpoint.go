package volume

import (
	"context"
	"errors"

	"lockstep/block"
)

// A follower's base image holds nothing that its primary might not have: a checkpoint moves only what is durable here and
// committed, as told by the primary that is followed now (S10). Otherwise what is to be truncated could be in the base image
// already.
//
// The index knows only the newest version of a block, so a checkpoint can not stop in the middle of it: it freezes all that
// there is, and then may have to wait to be told that this is committed. It waits as a *sealed* checkpoint, which holds
// neither a lock nor a goroutine, while records go on to the active part of the index. Whoever comes next, the
// background, or Receive with a full log, tries the sealed one again.
//
// A full log is no deadlock. Receive never waits for the primary: it returns ErrUncommitted, and its caller can answer, and
// hear, in between. Everything in the log is durable here by then, for the try has synced it, so this copy is not what the
// primary's committed LSN waits for. What is sealed is at most the head; a replica in sync that has less than this one waits
// for less, so of several with full logs the one with the lowest head goes on first, and then the next. One that is behind
// is told of more than it has.

// ErrUncommitted means that the log can not be emptied before its primary says that more is committed (S10). Nothing failed.
var ErrUncommitted = errors.New("what the log holds is not known to be committed")

// nextCheckpoint returns the checkpoint to run; nil where there is none, or, with ErrUncommitted, none yet.
func (v *Volume) nextCheckpoint() (*checkpoint, error) {
	c := v.sealed
	if v.sealed = nil; c == nil {
		c = v.freeze()
	}
	if c == nil {
		return nil, nil
	}
	if c.reign = v.reign.Load(); c.reign != nil {
		return c, nil
	}
	limit, err := v.followLimit(c.upTo)
	if err != nil || limit < c.upTo {
		v.sealed = c
		if err == nil {
			err = ErrUncommitted
		}
		return nil, err
	}
	return c, nil
}

// followLimit returns up to where a follower's base image may go, having made records up to want durable.
func (v *Volume) followLimit(want block.LSN) (block.LSN, error) {
	if v.log.Durable() < want {
		if _, err := v.log.Sync(); err != nil {
			return 0, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return min(v.log.Durable(), v.follow.committed()), nil
}

// committed returns up to where the log is known to be the primary's, and committed there.
func (f *following) committed() block.LSN { return min(f.agreed, f.told) }

// SetCommitted tells a follower that records up to lsn are committed, as the primary of the epoch says (S10). What it was told
// before never decreases within the epoch; lsn may be above the head. It is durable with the next frame of the log, which the
// background writes within two of its ticks, and with the next write of the superblock.
func (v *Volume) SetCommitted(epoch block.Epoch, lsn block.LSN) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.followsLocked(epoch); err != nil {
		return err
	}
	v.raiseLocked(v.follow.agreed, lsn)
	return nil
}

// raiseLocked raises what is known of the primary. Only of what the log then has of that primary's is it said, to whoever asks
// this copy later, that it was committed: not of what some other one left here (S7).
func (v *Volume) raiseLocked(agreed, told block.LSN) {
	before := v.follow.committed()
	v.follow.agreed, v.follow.told = max(v.follow.agreed, agreed), max(v.follow.told, told)
	if after := v.follow.committed(); after > before {
		v.log.SetCommitted(after)
		v.riseLocked()
	}
}

// riseLocked wakes those who wait for something of what follows to change.
func (v *Volume) riseLocked() {
	if v.follow.risen != nil {
		close(v.follow.risen)
		v.follow.risen = nil
	}
}

// awaitRise returns what is closed when something of what follows changes after the call.
func (v *Volume) awaitRise() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.follow.risen == nil {
		v.follow.risen = make(chan struct{})
	}
	return v.follow.risen
}

func (v *Volume) await(ctx context.Context, risen <-chan struct{}) error {
	select {
	case <-risen:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-v.life.Done():
		return ErrClosed
	}
}
