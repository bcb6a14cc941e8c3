package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

// Bodies of the control lane outside of sessions.
//
// Sync request:
//
//	0 8  number of the request, which its ack repeats
//
// Sync ack, with all of engine.SyncAck:
//
//	  0  8  number of the request
//	  8  8  durable LSN
//	 16  8  applied LSN
//	 24  8  received LSN
//	 32  8  log tail
//	 40  8  checkpoint LSN
//	 48  8  base high LSN
//	 56  8  committed LSN
//	 64 16  copy ID
//	 80  8  newest epoch seen
//	 88  8  active session; 0 without flag 8
//	 96  8  rebuild: consistent LSN
//	104  8  rebuild: base LSN
//	112  8  rebuild: source high LSN
//	120  8  rebuild: cursor, in chunks
//	128  4  flags: 1 inconsistent, 2 log damaged, 4 base damaged, 8 the active session is told
//	132  4  number of lineage entries
//	136     lineage, the oldest first, 48 bytes each:
//	  0  8  epoch
//	  8 16  epoch ID
//	 24 16  node ID of its primary
//	 40  8  first LSN
//
// Barrier request, committed:
//
//	0 8  LSN
//
// Barrier ack:
//
//	0 8  LSN of the request
//	8 8  durable LSN
const (
	syncRequestBytes = 8

	syncAckRequestAt    = 0
	syncAckDurableAt    = 8
	syncAckAppliedAt    = 16
	syncAckReceivedAt   = 24
	syncAckTailAt       = 32
	syncAckCheckpointAt = 40
	syncAckBaseHighAt   = 48
	syncAckCommittedAt  = 56
	syncAckCopyAt       = 64
	syncAckSeenAt       = 80
	syncAckSessionAt    = 88
	syncAckConsistentAt = 96
	syncAckBaseAt       = 104
	syncAckSourceHighAt = 112
	syncAckCursorAt     = 120
	syncAckFlagsAt      = 128
	syncAckEntriesAt    = 132
	syncAckBytes        = 136

	syncAckInconsistent = 1
	syncAckLogDamaged   = 2
	syncAckBaseDamaged  = 4
	syncAckInSession    = 8

	lineageEpochAt    = 0
	lineageIDAt       = 8
	lineagePrimaryAt  = 24
	lineageFirstAt    = 40
	lineageEntryBytes = 48
	// MaxLineage is the most entries of a lineage that a sync ack has: the newest.
	MaxLineage = 4096

	barrierLSNAt     = 0
	barrierDurableAt = 8
	barrierBytes     = 8
	barrierAckBytes  = 16
)

// SyncRequest asks a replica for its facts.
type SyncRequest struct{ Number uint64 }

// SyncAck is the answer.
type SyncAck struct {
	Number uint64
	Facts  engine.SyncAck
}

// BarrierRequest asks a replica to make its log durable up to an LSN, once it has that.
type BarrierRequest struct{ LSN block.LSN }

// BarrierAck is the answer.
type BarrierAck struct {
	LSN        block.LSN // of the request
	DurableLSN block.LSN // not below it
}

// Committed tells a replica how far it may checkpoint (S10).
type Committed struct{ LSN block.LSN }

// Kind returns KindSyncRequest.
func (*SyncRequest) Kind() Kind     { return KindSyncRequest }
func (*SyncRequest) size() int      { return syncRequestBytes }
func (m *SyncRequest) put(b []byte) { binary.LittleEndian.PutUint64(b, m.Number) }
func (m *SyncRequest) take(b []byte) error {
	m.Number = binary.LittleEndian.Uint64(b)
	return nil
}

// Kind returns KindSyncAck.
func (*SyncAck) Kind() Kind  { return KindSyncAck }
func (m *SyncAck) size() int { return syncAckBytes + len(m.entries())*lineageEntryBytes }

// entries are those that the message has room for: where the oldest are missing, the fork is found as in a pruned
// lineage (S13).
func (m *SyncAck) entries() []block.EpochStart {
	all := m.Facts.Lineage
	return all[max(0, len(all)-MaxLineage):]
}

func (m *SyncAck) put(b []byte) {
	le, f := binary.LittleEndian, &m.Facts
	le.PutUint64(b[syncAckRequestAt:], m.Number)
	putLSN(b[syncAckDurableAt:], f.DurableLSN)
	putLSN(b[syncAckAppliedAt:], f.AppliedLSN)
	putLSN(b[syncAckReceivedAt:], f.ReceivedLSN)
	putLSN(b[syncAckTailAt:], f.WALTail)
	putLSN(b[syncAckCheckpointAt:], f.CheckpointLSN)
	putLSN(b[syncAckBaseHighAt:], f.BaseHighLSN)
	putLSN(b[syncAckCommittedAt:], f.CommittedLSN)
	copy(b[syncAckCopyAt:], f.CopyID[:])
	le.PutUint64(b[syncAckSeenAt:], uint64(f.SeenEpoch))
	putLSN(b[syncAckConsistentAt:], f.Rebuild.ConsistentLSN)
	putLSN(b[syncAckBaseAt:], f.Rebuild.BaseLSN)
	putLSN(b[syncAckSourceHighAt:], f.Rebuild.SourceHighLSN)
	le.PutUint64(b[syncAckCursorAt:], f.Rebuild.Cursor)
	flags := bit(f.Inconsistent, syncAckInconsistent) | bit(f.LogDamaged, syncAckLogDamaged) |
		bit(f.BaseDamaged, syncAckBaseDamaged) | bit(f.ActiveSession != nil, syncAckInSession)
	le.PutUint32(b[syncAckFlagsAt:], flags)
	if f.ActiveSession != nil {
		le.PutUint64(b[syncAckSessionAt:], uint64(*f.ActiveSession))
	}
	entries := m.entries()
	le.PutUint32(b[syncAckEntriesAt:], uint32(len(entries)))
	for i, e := range entries {
		at := b[syncAckBytes+i*lineageEntryBytes:]
		le.PutUint64(at[lineageEpochAt:], uint64(e.Epoch))
		copy(at[lineageIDAt:], e.ID[:])
		copy(at[lineagePrimaryAt:], e.Primary[:])
		putLSN(at[lineageFirstAt:], e.First)
	}
}

func (m *SyncAck) take(b []byte) error {
	le := binary.LittleEndian
	flags, n := le.Uint32(b[syncAckFlagsAt:]), le.Uint32(b[syncAckEntriesAt:])
	if flags >= 2*syncAckInSession {
		return fmt.Errorf("%w: sync ack with flags %x", ErrVersion, flags)
	}
	if uint64(len(b)) != syncAckBytes+uint64(n)*lineageEntryBytes {
		return fmt.Errorf("%w: %d lineage entries in %d bytes", ErrCorrupt, n, len(b))
	}
	session := engine.SessionID(le.Uint64(b[syncAckSessionAt:]))
	if session != 0 && flags&syncAckInSession == 0 {
		return fmt.Errorf("%w: session %d is told and is not", ErrCorrupt, session)
	}
	m.Number = le.Uint64(b[syncAckRequestAt:])
	m.Facts = engine.SyncAck{
		DurableLSN:    takeLSN(b[syncAckDurableAt:]),
		AppliedLSN:    takeLSN(b[syncAckAppliedAt:]),
		ReceivedLSN:   takeLSN(b[syncAckReceivedAt:]),
		WALTail:       takeLSN(b[syncAckTailAt:]),
		CheckpointLSN: takeLSN(b[syncAckCheckpointAt:]),
		BaseHighLSN:   takeLSN(b[syncAckBaseHighAt:]),
		CommittedLSN:  takeLSN(b[syncAckCommittedAt:]),
		CopyID:        uuid.UUID(b[syncAckCopyAt:syncAckSeenAt]),
		SeenEpoch:     block.Epoch(le.Uint64(b[syncAckSeenAt:])),
		Inconsistent:  flags&syncAckInconsistent != 0,
		LogDamaged:    flags&syncAckLogDamaged != 0,
		BaseDamaged:   flags&syncAckBaseDamaged != 0,
		Rebuild: engine.RebuildMark{
			ConsistentLSN: takeLSN(b[syncAckConsistentAt:]),
			BaseLSN:       takeLSN(b[syncAckBaseAt:]),
			SourceHighLSN: takeLSN(b[syncAckSourceHighAt:]),
			Cursor:        le.Uint64(b[syncAckCursorAt:]),
		},
	}
	if flags&syncAckInSession != 0 {
		m.Facts.ActiveSession = &session
	}
	for at := b[syncAckBytes:]; len(at) > 0; at = at[lineageEntryBytes:] {
		m.Facts.Lineage = append(m.Facts.Lineage, block.EpochStart{
			Epoch:   block.Epoch(le.Uint64(at[lineageEpochAt:])),
			ID:      uuid.UUID(at[lineageIDAt:lineagePrimaryAt]),
			Primary: uuid.UUID(at[lineagePrimaryAt:lineageFirstAt]),
			First:   takeLSN(at[lineageFirstAt:]),
		})
	}
	return nil
}

// Kind returns KindBarrierRequest.
func (*BarrierRequest) Kind() Kind            { return KindBarrierRequest }
func (*BarrierRequest) size() int             { return barrierBytes }
func (m *BarrierRequest) put(b []byte)        { putLSN(b[barrierLSNAt:], m.LSN) }
func (m *BarrierRequest) take(b []byte) error { m.LSN = takeLSN(b[barrierLSNAt:]); return nil }

// Kind returns KindBarrierAck.
func (*BarrierAck) Kind() Kind { return KindBarrierAck }
func (*BarrierAck) size() int  { return barrierAckBytes }
func (m *BarrierAck) put(b []byte) {
	putLSN(b[barrierLSNAt:], m.LSN)
	putLSN(b[barrierDurableAt:], m.DurableLSN)
}
func (m *BarrierAck) take(b []byte) error {
	*m = BarrierAck{LSN: takeLSN(b[barrierLSNAt:]), DurableLSN: takeLSN(b[barrierDurableAt:])}
	if m.DurableLSN < m.LSN {
		return fmt.Errorf("%w: a barrier at %d answered at %d", ErrCorrupt, m.LSN, m.DurableLSN)
	}
	return nil
}

// Kind returns KindCommitted.
func (*Committed) Kind() Kind            { return KindCommitted }
func (*Committed) size() int             { return barrierBytes }
func (m *Committed) put(b []byte)        { putLSN(b[barrierLSNAt:], m.LSN) }
func (m *Committed) take(b []byte) error { m.LSN = takeLSN(b[barrierLSNAt:]); return nil }

// bit returns a flag where it is set.
func bit(set bool, flag uint32) uint32 {
	if set {
		return flag
	}
	return 0
}
