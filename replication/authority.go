package replication

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

// What is wrong with whose word a message is (I11).
var (
	// ErrOldEpoch means that a message is of an epoch that is over.
	ErrOldEpoch = errors.New("message of an epoch that is over")
	// ErrOtherPrimary means that two primaries have the same epoch number: split brain (S7).
	ErrOtherPrimary = errors.New("two primaries have one epoch")
	// ErrNewerEpoch means that the peer knows a newer epoch: this node's is over.
	ErrNewerEpoch = errors.New("a newer epoch has begun")
)

// Authority is whose word counts: the newest epoch that a copy has persisted, with all that identifies it. A node keeps
// the three together, durably.
type Authority struct {
	Epoch   block.Epoch
	EpochID uuid.UUID // nil where only the number is known: whose epoch it is is then learned from the first message
	Primary uuid.UUID // node ID; nil as EpochID
}

// AuthorityOf returns what a primary's message claims.
func AuthorityOf(h Header) Authority {
	return Authority{Epoch: h.Epoch, EpochID: h.EpochID, Primary: h.Sender}
}

// Check decides, on a replica, on a message of one who is a primary by its own account. It returns whether the message's
// authority is news: it is then made durable, and adopted, before anything is done that the message asks for. Errors wrap
// ErrOldEpoch or ErrOtherPrimary.
func (a Authority) Check(h Header) (news bool, err error) {
	switch {
	case h.Epoch == 0 || h.EpochID == uuid.Nil:
		return false, fmt.Errorf("%w: node %s is primary of none", ErrOldEpoch, h.Sender)
	case h.Epoch < a.Epoch:
		return false, fmt.Errorf("%w: node %s is primary of epoch %d, and epoch %d is known here", ErrOldEpoch, h.Sender, h.Epoch, a.Epoch)
	case h.Epoch > a.Epoch, a.EpochID == uuid.Nil:
		return true, nil
	case h.EpochID != a.EpochID || h.Sender != a.Primary:
		return false, fmt.Errorf("%w: epoch %d is %s of node %s, and not %s of node %s",
			ErrOtherPrimary, h.Epoch, a.EpochID, a.Primary, h.EpochID, h.Sender)
	}
	return false, nil
}

// CheckAnswer decides, on the primary, on a message of a replica. ErrNewerEpoch means that this primary has to stop
// serving; ErrOldEpoch that the replica has not adopted this epoch yet.
func (a Authority) CheckAnswer(h Header) error {
	switch {
	case h.Epoch > a.Epoch:
		return fmt.Errorf("%w: node %s knows epoch %d, and this is epoch %d", ErrNewerEpoch, h.Sender, h.Epoch, a.Epoch)
	case h.Epoch < a.Epoch:
		return fmt.Errorf("%w: node %s answers in epoch %d, and this is epoch %d", ErrOldEpoch, h.Sender, h.Epoch, a.Epoch)
	case h.EpochID != a.EpochID:
		return fmt.Errorf("%w: node %s answers to epoch %d as %s, and it is %s", ErrOtherPrimary, h.Sender, h.Epoch, h.EpochID, a.EpochID)
	}
	return nil
}

// Header returns the header of a message in this epoch.
func (a Authority) Header(session engine.SessionID) Header {
	return Header{Epoch: a.Epoch, EpochID: a.EpochID, Session: session}
}
