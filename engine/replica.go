package engine

import (
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
)

// Endpoint is where a replica is reached, as HOST:PORT each.
type Endpoint struct {
	DataAddr, CtrlAddr string
}

// ReplicaAssignment is one replica of a volume, as the configuration has it.
type ReplicaAssignment struct {
	ReplicaID string // of the node; not empty, once in an assignment
	Endpoint  Endpoint
	CopyID    uuid.UUID    // the copy that the configuration means; a different one there is a learner (S2)
	Learning  bool         // not in sync: flushes do not wait for it, and it is not promoted
	Discard   DiscardGrant // an operator named it the loser of a split brain
}

// DiscardGrant lets go of what one copy alone has: an operator has seen both sides, and named this one the loser (S7).
// It holds for what was shown only: another copy, a later epoch or later flushes there are a new question.
type DiscardGrant struct {
	CopyID       uuid.UUID // the losing copy; the zero grant is none
	EpochID      uuid.UUID // ID of the last epoch of its lineage, as it was shown
	CommittedLSN block.LSN // its committed LSN, as it was shown
}

// covers tells whether the grant was given for what the ack says.
func (g DiscardGrant) covers(a SyncAck) bool {
	var last uuid.UUID
	if n := len(a.Lineage); n > 0 {
		last = a.Lineage[n-1].ID
	}
	return g != DiscardGrant{} && g.CopyID == a.CopyID && g.EpochID == last && a.CommittedLSN <= g.CommittedLSN
}

// ReplicaView is what the primary knows of one replica in the present epoch.
type ReplicaView struct {
	ReplicaID string
	Endpoint  Endpoint
	CopyID    uuid.UUID    // as assigned
	Learning  bool         // as assigned
	Discard   DiscardGrant // as assigned

	Session     ReplicaSession
	LastSyncAck SyncAck
	Acked       bool // LastSyncAck is there
	// CaughtUp: nothing known in this epoch says that the replica lacks a record. It is true from the start of an
	// epoch for a replica that is in sync; a decision for anything but keep-up takes it, SessionCompleted gives it back.
	CaughtUp  bool
	Decisions []Decision // the newest last, at most maxDecisions
}

// InSync tells whether the replica counts: the configuration has this copy of it in sync, and it is caught up (I18).
func (r *ReplicaView) InSync() bool {
	return !r.Learning && r.CaughtUp && (!r.Acked || r.LastSyncAck.CopyID == r.CopyID)
}

// knownCopy returns the copy that CaughtUp speaks of.
func (r *ReplicaView) knownCopy() uuid.UUID {
	if r.Acked {
		return r.LastSyncAck.CopyID
	}
	return r.CopyID
}

// assign takes over what a newer configuration of the same epoch says.
func (r *ReplicaView) assign(a ReplicaAssignment) {
	dropped := a.Learning && !r.Learning
	exchanged := !r.Acked && a.CopyID != r.CopyID
	if dropped || exchanged {
		r.CaughtUp = false // what it misses from now on nobody waits for (S22)
	}
	r.Endpoint, r.CopyID, r.Learning, r.Discard = a.Endpoint, a.CopyID, a.Learning, a.Discard
}

// newReplicaView returns the view of a replica that nothing is known of.
func newReplicaView(a ReplicaAssignment, caughtUp bool) *ReplicaView {
	return &ReplicaView{
		ReplicaID: a.ReplicaID, Endpoint: a.Endpoint, CopyID: a.CopyID, Learning: a.Learning, Discard: a.Discard,
		Session: ReplicaSession{State: SessionStateIdle}, CaughtUp: caughtUp,
	}
}

// clone returns a copy that shares nothing with r.
func (r *ReplicaView) clone() *ReplicaView {
	c := *r
	c.LastSyncAck = r.LastSyncAck.clone()
	c.Decisions = slices.Clone(r.Decisions)
	for i := range c.Decisions {
		c.Decisions[i].Facts = c.Decisions[i].Facts.clone()
	}
	return &c
}
