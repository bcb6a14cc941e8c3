package volume

import (
	"errors"

	"lockstep/block"
	"lockstep/wal"
)

// Frames of the log carry the newest committed LSN, and so does the superblock: that of a flush that was just acknowledged is
// durable with the next frame that is synced. Where all members are in sync, a power cut in between costs nothing: whoever
// is promoted without force has all that was committed. Where one is left out, it may be promoted by force, and the copy that
// acknowledged the flush without it has to know so when they meet again (S7): that costs each flush a second sync.

// KeepCommitted says whether some member is left out of the in-sync set. When it returns, with on, what is committed is
// durable, and from then on each Flush returns only once the LSN that it committed is.
func (v *Volume) KeepCommitted(on bool) error {
	if v.keep.Store(on); !on {
		return nil
	}
	return v.persistCommitted(v.log.Committed())
}

// persistCommitted makes a committed LSN, or a higher one, durable. One mark serves all who wait.
func (v *Volume) persistCommitted(lsn block.LSN) error {
	v.keeping.Lock()
	defer v.keeping.Unlock()
	if v.kept >= lsn {
		return nil
	}
	committed, err := v.log.MarkCommitted()
	if errors.Is(err, wal.ErrFull) {
		committed, err = v.saveCommitted()
	}
	if err != nil {
		return err
	}
	v.kept = committed
	return nil
}

// saveCommitted is for a log that is full to the brim.
func (v *Volume) saveCommitted() (block.LSN, error) {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if err := v.Err(); err != nil {
		return 0, err
	}
	next := v.header.current
	next.Committed = max(next.Committed, v.log.Committed())
	if err := v.header.write(next); err != nil {
		return 0, v.fail(err)
	}
	return next.Committed, nil
}
