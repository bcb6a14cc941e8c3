package volume

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// Errors of Truncate.
var (
	// ErrBaseAhead means that the base image may hold parts of records after the cut: only a rebuild makes the copy whole (S12).
	ErrBaseAhead = errors.New("the base image may hold parts of records after the cut")
	// ErrCommitted means that records would be discarded which this copy knows to be committed: an operator decides (S7).
	ErrCommitted = errors.New("records after the cut were committed")
	// ErrDamaged means that the log is damaged: the copy has to be rebuilt from nothing, or recovered (S14).
	ErrDamaged = errors.New("the log is damaged")
)

// Truncation says where a follower's log is to be cut, and why that may be.
type Truncation struct {
	// Epoch and ID are those of the primary that decided it. Nothing is cut for one of an epoch that is not the newest heard of.
	Epoch block.Epoch
	ID    uuid.UUID
	// To is the newest record that is kept, the fork of the two logs; Fork is the entry of the primary's lineage that it is of.
	// 0 keeps nothing, and needs no entry.
	To   block.LSN
	Fork block.EpochStart
	// Discard allows that what is cut was committed, once an operator has named this copy the loser (S7).
	Discard bool
	// Aside keeps copies of the segments that are cut.
	Aside bool
}

// Truncate cuts the log of a follower, which is not open, after the fork with its primary's, so that it can be opened again
// and receive from To + 1 on (S13). It is checked against what the copy holds now: ErrOldEpoch and ErrEpochTaken, ErrDiverged where
// the log is not of the fork's epoch there, ErrDamaged, ErrBaseAhead, ErrCommitted; a record that the log does not have, or
// that the base image is beyond, is an error too. One write of the superblock then makes everything after the cut void, lineage
// entries included: a crash leaves the old log or the cut one. Loss lists what is lost, also with an error where it is known.
// Where there is nothing after To, nothing is changed.
func Truncate(cfg Config, t Truncation) (*Loss, error) {
	loss, err := truncate(cfg, &t)
	if err != nil {
		return loss, fmt.Errorf("truncate the log to record %d: %w", t.To, err)
	}
	return loss, nil
}

func truncate(cfg Config, t *Truncation) (*Loss, error) {
	header, err := openSuperblockFile(cfg.Base)
	if err != nil {
		return nil, err
	}
	sb := &header.current
	in, err := Inspect(cfg, wal.Visitor{})
	if err != nil {
		return nil, err
	}
	if err := t.check(in); err != nil {
		return nil, err
	}
	loss, err := planRecover(cfg, sb, t.To)
	if err != nil {
		return nil, err
	}
	switch committed := max(sb.Committed, in.Log.Committed); {
	case t.To == in.Log.Head:
		return loss, nil
	case loss.BaseAhead != 0:
		return loss, fmt.Errorf("%w: up to record %d", ErrBaseAhead, loss.BaseAhead)
	case committed > t.To && !t.Discard:
		return loss, fmt.Errorf("%w: up to record %d", ErrCommitted, committed)
	}
	if t.Aside {
		if loss.Aside, err = wal.SetAside(cfg.logConfig(sb), t.To); err != nil {
			return loss, err
		}
	}
	next := cutLog(sb, loss)
	next.Epoch, next.EpochID = t.Epoch, t.ID
	return loss, header.writeBoth(next)
}

// check tests the truncation against the copy's epoch, lineage and state.
func (t *Truncation) check(in *Inspection) error {
	f := in.Facts()
	e, ok := epochOf(f.Lineage, t.To)
	switch {
	case t.ID == uuid.Nil:
		return errors.New("the epoch has no ID")
	case t.Epoch < f.SeenEpoch:
		return fmt.Errorf("%w: %d, the sender's is %d", ErrOldEpoch, f.SeenEpoch, t.Epoch)
	case t.Epoch == f.SeenEpoch && t.ID != f.SeenEpochID:
		return fmt.Errorf("%w: its ID is %s here, not %s", ErrEpochTaken, f.SeenEpochID, t.ID)
	case f.State&Inconsistent != 0:
		return errors.New("the copy is inside a rebuild")
	case f.LogDamaged:
		return fmt.Errorf("%w: %w", ErrDamaged, in.Log.Damage)
	case t.To > 0 && (!ok || e != t.Fork):
		return fmt.Errorf("%w: record %d is of epoch %d, %s, from record %d on here, of epoch %d, %s, from %d on there",
			ErrDiverged, t.To, e.Epoch, e.ID, e.First, t.Fork.Epoch, t.Fork.ID, t.Fork.First)
	}
	return nil
}

// cutLog returns the superblock that makes void what a loss lists, also what is still found there later (L2).
func cutLog(sb *Superblock, loss *Loss) Superblock {
	to := loss.ToLSN
	next := *sb
	cut := Cut{LSN: to, Incarnation: sb.Incarnation}
	next.Cuts = slices.DeleteFunc(slices.Clone(sb.Cuts), cut.subsumes)
	next.Cuts = append(next.Cuts, cut)
	next.Incarnation++
	// What is kept was not necessarily flushed: a cut proves nothing durable.
	next.Durable, next.BaseHigh = min(sb.Durable, to), min(sb.BaseHigh, to)
	next.Committed = min(next.Committed, to)
	for n := len(next.Lineage); n > 0 && next.Lineage[n-1].First > to; n-- {
		next.Lineage = next.Lineage[:n-1]
	}
	return next
}
