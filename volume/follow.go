package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// A volume that is replicated leads, or it follows. It opens as a follower (OpenFollower), becomes the primary's copy with
// Lead, and a follower again with Follow or Fence:
//
//	          Lead                          Apply, Flush, Resize
//	follows ───────▶ leads                  are the leading one's
//	        ◀───────
//	      Follow, Fence                     Join, Receive, Sync, SetCommitted
//	                                        are the following one's
//
// One mutex orders all of these with the appends that they permit (S8): a change is logged only under the reign that it was
// admitted in, and a record only while the epoch of its sender is the one that is followed.

// Errors of the roles.
var (
	// ErrOldEpoch means that a newer epoch is known than the one that was named (I11).
	ErrOldEpoch = errors.New("a newer epoch is known")
	// ErrEpochTaken means that the epoch is another primary's, or its own (S6).
	ErrEpochTaken = errors.New("the epoch is another primary's")
	// ErrNotFollowed means that records came, or news of them, from an epoch that Follow was not called with.
	ErrNotFollowed = errors.New("this copy does not follow that epoch")
	// ErrLeading means that the volume leads already.
	ErrLeading = errors.New("this copy leads already")
)

// reign is one time of leading.
type reign struct {
	ctx context.Context // ends with it, and when Close begins
	end context.CancelFunc
}

// following is what a volume knows of primaries, its own epochs included.
type following struct {
	seen   block.Epoch // newest one heard of: nothing is taken from an older one
	seenID uuid.UUID   // of it, where it is not this copy's own; nil: not known
	// followed is the epoch whose records are taken; 0 is none. Invariant: it is seen, and durable in the superblock.
	followed block.Epoch
	// agreed is up to where the log is known to be that primary's, told is up to where that primary said that records are
	// committed. Both begin anew with each epoch: another primary may never have had what this one committed (S10).
	agreed, told block.LSN
	risen        chan struct{} // closed when agreed, told or the role changes; nil while nobody waits
}

// OpenFollower recovers a volume as Open does, but begins no epoch: it takes no changes until Lead, and no records until
// Follow. Errors are those of Open.
func OpenFollower(cfg Config) (*Volume, error) {
	return open(cfg, func(v *Volume) error {
		if err := v.harden(v.follow.seen); err != nil {
			return err
		}
		if err := v.header.write(v.header.current); err != nil { // now both slots have the incarnation
			return err
		}
		return v.cutBaseLocked()
	})
}

// Lead begins an epoch with an epoch-start record (I14) and returns its lineage entry; when it returns the record is durable,
// and changes are taken. The epoch must be above all that this copy has heard of, or be the one that it follows, under
// the same ID, and have no record yet: so a new primary may fence its copy and join a longer tail before (S9). Otherwise
// the error is ErrOldEpoch, and nothing has changed. After any other the volume follows nobody, and the epoch is used up.
func (v *Volume) Lead(epoch block.Epoch, id uuid.UUID) (block.EpochStart, error) {
	v.receiving.Lock()
	defer v.receiving.Unlock()
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	entry, err := v.lead(epoch, id)
	if err != nil {
		return block.EpochStart{}, fmt.Errorf("lead epoch %d: %w", epoch, err)
	}
	v.cfg.Logger.Info().Str("from", "follower").Str("to", "primary").Uint64("epoch", uint64(epoch)).Msg("role")
	return entry, nil
}

func (v *Volume) lead(epoch block.Epoch, id uuid.UUID) (block.EpochStart, error) {
	if err := v.claim(epoch, id); err != nil {
		return block.EpochStart{}, err
	}
	next := v.header.current
	next.Epoch, next.EpochID = epoch, uuid.Nil
	if err := v.header.write(next); err != nil {
		return block.EpochStart{}, v.fail(err)
	}
	entry, err := v.startEpoch(epoch, id, func() error {
		_, err := v.checkpointLocked(v.life)
		return err
	})
	if err != nil {
		if errors.Is(err, wal.ErrFull) || errors.Is(err, ErrUncommitted) || errors.Is(err, ErrNoSpace) {
			return block.EpochStart{}, err
		}
		return block.EpochStart{}, v.fail(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.follow.seen != epoch { // Follow came meanwhile
		return block.EpochStart{}, fmt.Errorf("%w: %d", ErrOldEpoch, v.follow.seen)
	}
	v.beginReignLocked()
	return entry, nil
}

// claim makes an epoch this copy's own. No record of its former primary is taken from then on.
func (v *Volume) claim(epoch block.Epoch, id uuid.UUID) error {
	if err := v.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f := &v.follow
	own := epoch == f.seen && id == f.seenID && v.log.Epoch() < epoch
	switch {
	case id == uuid.Nil:
		return errors.New("the epoch has no ID")
	case v.reign.Load() != nil:
		return ErrLeading
	case epoch <= f.seen && !own:
		return fmt.Errorf("%w: %d", ErrOldEpoch, f.seen)
	}
	*f = following{seen: epoch, risen: f.risen}
	return nil
}

// beginReignLocked has changes admitted.
func (v *Volume) beginReignLocked() {
	r := new(reign)
	r.ctx, r.end = context.WithCancel(v.life)
	v.reign.Store(r)
	v.riseLocked()
}

// Follow makes the volume a follower of an epoch's primary; id is the epoch's random ID. When it returns no change that was
// admitted before can be logged any more, what waited for other copies has got ErrFollower, reads are refused unless
// Config.ReadFollower, and the epoch is durable in the superblock (I11): an older one is refused from then on, ErrOldEpoch,
// by this call too, and so is the same one under another ID, ErrEpochTaken. It may be called again for the same epoch, as
// when a connection is made anew, and does nothing then. Where it can not make the epoch durable the volume is fenced
// all the same.
func (v *Volume) Follow(epoch block.Epoch, id uuid.UUID) error {
	if err := v.heed(epoch, id); err != nil {
		return fmt.Errorf("follow epoch %d: %w", epoch, err)
	}
	v.checkpointing.Lock() // a checkpoint that runs was committed before, and ends
	defer v.checkpointing.Unlock()
	if err := v.persistEpoch(epoch, id); err != nil {
		return fmt.Errorf("follow epoch %d: %w", epoch, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := &v.follow; f.seen != epoch || f.seenID != id { // another call came meanwhile
		return fmt.Errorf("follow epoch %d: %w: %d", epoch, ErrOldEpoch, f.seen)
	}
	v.follow.followed = epoch
	return nil
}

// heed checks that the epoch may be followed, and fences whatever was before.
func (v *Volume) heed(epoch block.Epoch, id uuid.UUID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := &v.follow
	switch {
	case id == uuid.Nil:
		return errors.New("the epoch has no ID")
	case epoch < f.seen:
		return fmt.Errorf("%w: %d", ErrOldEpoch, f.seen)
	case epoch == f.seen && (v.reign.Load() != nil || id != v.idOfSeenLocked()):
		return fmt.Errorf("%w: its ID is %s here, not %s", ErrEpochTaken, v.idOfSeenLocked(), id)
	case epoch == f.seen && f.seenID == id:
		return nil
	}
	v.fenceLocked()
	*f = following{seen: epoch, seenID: id, risen: f.risen}
	return nil
}

// idOfSeenLocked returns the ID of the newest epoch that was heard of; nil where it is not known.
func (v *Volume) idOfSeenLocked() uuid.UUID {
	if n := len(v.lineage); n > 0 && v.lineage[n-1].Epoch == v.follow.seen {
		return v.lineage[n-1].ID
	}
	return v.follow.seenID
}

func (v *Volume) persistEpoch(epoch block.Epoch, id uuid.UUID) error {
	if err := v.Err(); err != nil {
		return err
	}
	next := v.header.current
	switch {
	case next.Epoch > epoch:
		return fmt.Errorf("%w: %d", ErrOldEpoch, next.Epoch)
	case next.Epoch == epoch && next.EpochID == id:
		return nil
	}
	next.Epoch, next.EpochID = epoch, id
	next.Durable, next.Committed = max(next.Durable, v.log.Durable()), max(next.Committed, v.log.Committed())
	if err := v.header.writeBoth(next); err != nil { // a promise that outlives the rot of either slot
		return v.fail(err)
	}
	return nil
}

// Fence ends the volume's reign, or what it follows, at once: without waiting for a disk. It is for a primary whose lease
// ran out, and for a replica that is to hear nothing more for now. Follow ends that, and so does Lead, of a newer epoch.
func (v *Volume) Fence() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fenceLocked()
	v.follow.followed = 0
}

func (v *Volume) fenceLocked() {
	r := v.reign.Load()
	v.reign.Store(nil)
	v.riseLocked()
	if r != nil {
		r.end()
		v.cfg.Logger.Info().Str("from", "primary").Str("to", "follower").Msg("role")
	}
}

// followsLocked returns an error where the epoch is not the one that is followed.
func (v *Volume) followsLocked(epoch block.Epoch) error {
	switch f := &v.follow; {
	case epoch < f.seen:
		return fmt.Errorf("%w: %d, the sender's is %d", ErrOldEpoch, f.seen, epoch)
	case epoch != f.followed:
		return fmt.Errorf("%w: %d", ErrNotFollowed, epoch)
	}
	return nil
}
