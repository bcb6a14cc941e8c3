package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

// Bodies of the control lane in sessions, whose ID is in the header.
//
// Start catch-up:
//
//	 0  8  first LSN of the log that will be sent
//	 8  8  target LSN
//	16  8  fork LSN
//	24  4  flags: 1 truncate to the fork first
//	28 28  link to the record before the first
//
// Start rebuild:
//
//	 0  8  target LSN
//	 8  8  fork LSN: truncate to it first
//	16  8  since LSN: what changed after it is copied
//	24  8  base LSN: the log lane begins after it
//	32  8  resume: base LSN of the rebuild that is resumed
//	40  8  resume: cursor, in chunks
//	48  4  flags: 1 resume, 2 the replica's own change map is not trusted
//	52  4  bytes of a chunk
//	56 28  link to the record at the base LSN
//	84  4  reserved, 0
//
// Link:
//
//	 0  8  LSN
//	 8 16  epoch ID
//	24  4  CRC32C of the record, 0 where it is not known
//
// Session progress:
//
//	 0  8  durable LSN
//	 8  8  target LSN
//	16  8  chunks that are done
//	24  8  chunks that there are to do
//	32  1  base lane: 0 nothing new, 1 open, 2 ended
//	33  7  reserved, 0
//
// Session completed:
//
//	0 8  durable LSN
//
// Session failed, cancel session:
//
//	0 2  length of the reason
//	2    reason
const (
	linkLSNAt     = 0
	linkEpochIDAt = 8
	linkCRCAt     = 24
	linkBytes     = 28

	catchUpFirstAt   = 0
	catchUpTargetAt  = 8
	catchUpForkAt    = 16
	catchUpFlagsAt   = 24
	catchUpLinkAt    = 28
	catchUpBytes     = 56
	catchUpTruncates = 1

	rebuildTargetAt     = 0
	rebuildForkAt       = 8
	rebuildSinceAt      = 16
	rebuildBaseAt       = 24
	rebuildResumeBaseAt = 32
	rebuildCursorAt     = 40
	rebuildFlagsAt      = 48
	rebuildChunkAt      = 52
	rebuildLinkAt       = 56
	rebuildReservedAt   = 84
	rebuildBytes        = 88
	rebuildResumes      = 1
	rebuildDistrusts    = 2

	progressDurableAt  = 0
	progressTargetAt   = 8
	progressDoneAt     = 16
	progressTotalAt    = 24
	progressLaneAt     = 32
	progressReservedAt = 33
	progressBytes      = 40
	progressLaneOpen   = 1
	progressLaneEnded  = 2

	completedBytes = 8

	reasonLengthAt = 0
	reasonBytes    = 2
)

// Link names one record among all that could have its LSN (S6): a log that has it has the same records up to it.
type Link struct {
	LSN     block.LSN // 0: there is no record, and the rest is zero
	EpochID uuid.UUID // of the epoch that the record is of; nil where it is not known
	CRC     uint32    // of the record; 0 where it is not known
}

func (l Link) put(b []byte) {
	putLSN(b[linkLSNAt:], l.LSN)
	copy(b[linkEpochIDAt:], l.EpochID[:])
	binary.LittleEndian.PutUint32(b[linkCRCAt:], l.CRC)
}

func takeLink(b []byte) Link {
	return Link{
		LSN: takeLSN(b[linkLSNAt:]), EpochID: uuid.UUID(b[linkEpochIDAt:linkCRCAt]),
		CRC: binary.LittleEndian.Uint32(b[linkCRCAt:]),
	}
}

// StartCatchUp begins a catch-up: the log lane follows.
type StartCatchUp struct {
	FirstLSN  block.LSN // of the records that will be sent; TargetLSN + 1 where there are none
	TargetLSN block.LSN // complete once durable on the replica
	Truncate  bool      // the replica first truncates to ForkLSN (S13)
	ForkLSN   block.LSN
	Before    Link // to the record before FirstLSN (S6)
}

// StartRebuild begins a rebuild: the base lane and the log lane follow.
type StartRebuild struct {
	TargetLSN       block.LSN // at least; the end of the base lane has the final one
	ForkLSN         block.LSN // the replica truncates to it first (S15)
	SinceLSN        block.LSN // what changed after it on either side is copied
	BaseLSN         block.LSN // the log lane begins after it
	Before          Link      // to the record at BaseLSN (S6)
	ChunkBytes      uint32
	Resume          bool      // chunks below Cursor are copied only where they changed after ResumeLSN
	ResumeLSN       block.LSN // base LSN of the rebuild that is resumed
	Cursor          uint64    // in chunks
	OwnMapUntrusted bool      // S14
}

// SessionProgress tells how far a replica is in its session.
type SessionProgress struct {
	DurableLSN  block.LSN
	TargetLSN   block.LSN
	ChunksDone  uint64
	ChunksTotal uint64
	BaseLane    engine.BaseLane
}

// SessionCompleted tells that a replica has all of its session.
type SessionCompleted struct{ DurableLSN block.LSN }

// SessionFailed tells that a replica gave its session up.
type SessionFailed struct{ Reason string }

// CancelSession ends a session.
type CancelSession struct{ Reason string }

// Kind returns KindStartCatchUp.
func (*StartCatchUp) Kind() Kind { return KindStartCatchUp }
func (*StartCatchUp) size() int  { return catchUpBytes }
func (m *StartCatchUp) put(b []byte) {
	putLSN(b[catchUpFirstAt:], m.FirstLSN)
	putLSN(b[catchUpTargetAt:], m.TargetLSN)
	putLSN(b[catchUpForkAt:], m.ForkLSN)
	binary.LittleEndian.PutUint32(b[catchUpFlagsAt:], bit(m.Truncate, catchUpTruncates))
	m.Before.put(b[catchUpLinkAt:])
}
func (m *StartCatchUp) take(b []byte) error {
	flags := binary.LittleEndian.Uint32(b[catchUpFlagsAt:])
	*m = StartCatchUp{
		FirstLSN: takeLSN(b[catchUpFirstAt:]), TargetLSN: takeLSN(b[catchUpTargetAt:]), ForkLSN: takeLSN(b[catchUpForkAt:]),
		Truncate: flags&catchUpTruncates != 0, Before: takeLink(b[catchUpLinkAt:]),
	}
	if flags > catchUpTruncates {
		return fmt.Errorf("%w: flags %x", ErrVersion, flags)
	}
	return wantFirst(m.FirstLSN, m.Before)
}

// wantFirst tests that a link is to the record before the first.
func wantFirst(first block.LSN, before Link) error {
	if first == 0 || before.LSN != first-1 || first == 1 && before != (Link{}) {
		return fmt.Errorf("%w: a log from record %d on, linked to record %d", ErrCorrupt, first, before.LSN)
	}
	return nil
}

// Kind returns KindStartRebuild.
func (*StartRebuild) Kind() Kind { return KindStartRebuild }
func (*StartRebuild) size() int  { return rebuildBytes }
func (m *StartRebuild) put(b []byte) {
	le := binary.LittleEndian
	putLSN(b[rebuildTargetAt:], m.TargetLSN)
	putLSN(b[rebuildForkAt:], m.ForkLSN)
	putLSN(b[rebuildSinceAt:], m.SinceLSN)
	putLSN(b[rebuildBaseAt:], m.BaseLSN)
	putLSN(b[rebuildResumeBaseAt:], m.ResumeLSN)
	le.PutUint64(b[rebuildCursorAt:], m.Cursor)
	le.PutUint32(b[rebuildFlagsAt:], bit(m.Resume, rebuildResumes)|bit(m.OwnMapUntrusted, rebuildDistrusts))
	le.PutUint32(b[rebuildChunkAt:], m.ChunkBytes)
	m.Before.put(b[rebuildLinkAt:])
}
func (m *StartRebuild) take(b []byte) error {
	le := binary.LittleEndian
	flags := le.Uint32(b[rebuildFlagsAt:])
	*m = StartRebuild{
		TargetLSN: takeLSN(b[rebuildTargetAt:]), ForkLSN: takeLSN(b[rebuildForkAt:]), SinceLSN: takeLSN(b[rebuildSinceAt:]),
		BaseLSN: takeLSN(b[rebuildBaseAt:]), Before: takeLink(b[rebuildLinkAt:]), ChunkBytes: le.Uint32(b[rebuildChunkAt:]),
		Resume: flags&rebuildResumes != 0, ResumeLSN: takeLSN(b[rebuildResumeBaseAt:]), Cursor: le.Uint64(b[rebuildCursorAt:]),
		OwnMapUntrusted: flags&rebuildDistrusts != 0,
	}
	if flags > rebuildResumes|rebuildDistrusts {
		return fmt.Errorf("%w: flags %x", ErrVersion, flags)
	}
	if err := wantFirst(m.BaseLSN+1, m.Before); err != nil {
		return err
	}
	return wantZero(b[rebuildReservedAt:])
}

// Kind returns KindSessionProgress.
func (*SessionProgress) Kind() Kind { return KindSessionProgress }
func (*SessionProgress) size() int  { return progressBytes }
func (m *SessionProgress) put(b []byte) {
	putLSN(b[progressDurableAt:], m.DurableLSN)
	putLSN(b[progressTargetAt:], m.TargetLSN)
	binary.LittleEndian.PutUint64(b[progressDoneAt:], m.ChunksDone)
	binary.LittleEndian.PutUint64(b[progressTotalAt:], m.ChunksTotal)
	switch m.BaseLane {
	case engine.BaseLaneOpen:
		b[progressLaneAt] = progressLaneOpen
	case engine.BaseLaneEnded:
		b[progressLaneAt] = progressLaneEnded
	}
}
func (m *SessionProgress) take(b []byte) error {
	*m = SessionProgress{
		DurableLSN: takeLSN(b[progressDurableAt:]), TargetLSN: takeLSN(b[progressTargetAt:]),
		ChunksDone:  binary.LittleEndian.Uint64(b[progressDoneAt:]),
		ChunksTotal: binary.LittleEndian.Uint64(b[progressTotalAt:]),
	}
	switch lane := b[progressLaneAt]; lane {
	case 0:
	case progressLaneOpen:
		m.BaseLane = engine.BaseLaneOpen
	case progressLaneEnded:
		m.BaseLane = engine.BaseLaneEnded
	default:
		return fmt.Errorf("%w: state %d of a base lane", ErrVersion, lane)
	}
	return wantZero(b[progressReservedAt:])
}

// Kind returns KindSessionCompleted.
func (*SessionCompleted) Kind() Kind            { return KindSessionCompleted }
func (*SessionCompleted) size() int             { return completedBytes }
func (m *SessionCompleted) put(b []byte)        { putLSN(b, m.DurableLSN) }
func (m *SessionCompleted) take(b []byte) error { m.DurableLSN = takeLSN(b); return nil }

// Kind returns KindSessionFailed.
func (*SessionFailed) Kind() Kind                  { return KindSessionFailed }
func (m *SessionFailed) size() int                 { return reasonBytes + len(clip(m.Reason)) }
func (m *SessionFailed) put(b []byte)              { putReason(b, m.Reason) }
func (m *SessionFailed) take(b []byte) (err error) { m.Reason, err = takeReason(b); return err }

// Kind returns KindCancelSession.
func (*CancelSession) Kind() Kind                  { return KindCancelSession }
func (m *CancelSession) size() int                 { return reasonBytes + len(clip(m.Reason)) }
func (m *CancelSession) put(b []byte)              { putReason(b, m.Reason) }
func (m *CancelSession) take(b []byte) (err error) { m.Reason, err = takeReason(b); return err }

func putReason(b []byte, reason string) {
	reason = clip(reason)
	binary.LittleEndian.PutUint16(b[reasonLengthAt:], uint16(len(reason)))
	copy(b[reasonBytes:], reason)
}

func takeReason(b []byte) (string, error) {
	n := int(binary.LittleEndian.Uint16(b[reasonLengthAt:]))
	if n != len(b)-reasonBytes {
		return "", fmt.Errorf("%w: a reason of %d bytes in %d", ErrCorrupt, n, len(b))
	}
	return string(b[reasonBytes:]), nil
}
