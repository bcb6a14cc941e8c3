package engine

import (
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
)

// SyncAck is what a replica says of its copy. It states facts; what they mean is decided by the primary.
//
// Invariant: durable <= applied <= received; checkpoint <= base_high, and base_high <= applied unless Inconsistent.
// An ack that says otherwise is not acted on.
type SyncAck struct {
	DurableLSN    block.LSN // on stable storage
	AppliedLSN    block.LSN // newest record in its log; 0 for a fresh copy
	ReceivedLSN   block.LSN // newest record in its memory; shown, decides nothing
	WALTail       block.LSN // oldest record its log retains; shown, decides nothing
	CheckpointLSN block.LSN // every record up to it is in its base image
	BaseHighLSN   block.LSN // never below any change in its base image (S12)
	// CommittedLSN is the newest LSN it was told is committed, or acknowledged a flush for as a primary (S7). In a
	// copy that lags it may be above AppliedLSN.
	CommittedLSN block.LSN

	CopyID    uuid.UUID          // made with the copy (S2)
	SeenEpoch block.Epoch        // newest epoch it has persisted (I11)
	Lineage   []block.EpochStart // of its log, oldest first; may lack its oldest entries (S13)

	Inconsistent bool        // inside an unfinished rebuild (I13)
	Rebuild      RebuildMark // where that rebuild stands; zero unless Inconsistent
	LogDamaged   bool        // durable records are missing or bad
	BaseDamaged  bool        // its base image, or change map, cannot be trusted

	// ActiveSession is the session it is in, 0 for none; nil says nothing. One that differs from the primary's has
	// failed (S23).
	ActiveSession *SessionID
}

// RebuildMark is what a replica has kept, durably, of a rebuild that did not end (S15, S17, S19).
type RebuildMark struct {
	ConsistentLSN block.LSN // the copy was consistent, with all records up to here, before the rebuild began
	BaseLSN       block.LSN // the log lane began after it
	SourceHighLSN block.LSN // the source's base_high when it last read for this rebuild
	Cursor        uint64    // chunks below it have been copied
}

func (a SyncAck) damaged() bool { return a.LogDamaged || a.BaseDamaged }

// unfit returns why log records cannot make the copy whole, as a Reason word, or "".
func (a SyncAck) unfit() string {
	switch {
	case a.LogDamaged:
		return ReasonLocalWALCorrupt
	case a.BaseDamaged:
		return ReasonLocalBaseCorrupt
	case a.Inconsistent:
		return ReasonSuperseded // it has begun a rebuild since
	default:
		return ""
	}
}

// extent returns the newest LSN of which anything may be in the copy. A damaged log may have held all that was committed.
func (a SyncAck) extent() block.LSN {
	e := max(a.AppliedLSN, a.BaseHighLSN)
	if a.Inconsistent {
		e = max(e, a.Rebuild.BaseLSN, a.Rebuild.SourceHighLSN)
	}
	if a.damaged() {
		e = max(e, a.CommittedLSN)
	}
	return e
}

// newestEpoch returns the newest epoch that the replica knows of.
func (a SyncAck) newestEpoch() block.Epoch {
	newest := a.SeenEpoch
	for _, e := range a.Lineage {
		newest = max(newest, e.Epoch)
	}
	return newest
}

// contradiction returns what in the ack cannot be true, or "".
func (a SyncAck) contradiction() string {
	switch {
	case a.DurableLSN > a.AppliedLSN:
		return "more is durable than applied"
	case a.BaseHighLSN > a.AppliedLSN && !a.Inconsistent && !a.damaged():
		return "its base image is ahead of its log"
	case !ascends(a.Lineage):
		return "its lineage does not ascend"
	default:
		return ""
	}
}

// clone returns a copy that shares nothing with a.
func (a SyncAck) clone() SyncAck {
	a.Lineage = slices.Clone(a.Lineage)
	if a.ActiveSession != nil {
		active := *a.ActiveSession
		a.ActiveSession = &active
	}
	return a
}
