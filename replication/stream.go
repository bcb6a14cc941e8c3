package replication

import (
	"encoding/binary"
	"fmt"

	"lockstep/block"
)

// Bodies of the log lane. A stream is what one connection carries of the log, under a number that the primary never gives
// again in its epoch.
//
// Start stream, its first frame:
//
//	 0  8  number of the stream
//	 8  8  first LSN
//	16  8  target LSN of the session; 0 in keep-up
//	24 28  link to the record before the first
//	52  4  reserved, 0
//
// Records:
//
//	 0  8  number of the stream
//	 8  8  first LSN
//	16  8  last LSN
//	24     records, byte for byte as in the log
//
// Ack, in return:
//
//	 0  8  number of the stream
//	 8  8  received LSN
//	16  8  applied LSN
//	24  8  durable LSN
const (
	startNumberAt   = 0
	startFirstAt    = 8
	startTargetAt   = 16
	startLinkAt     = 24
	startReservedAt = 52
	startBytes      = 56

	recordsNumberAt = 0
	recordsFirstAt  = 8
	recordsLastAt   = 16
	recordsBytes    = 24
	// MaxRecordsBytes is the most log that one message carries: a little more than what a reader of the log returns at a
	// time.
	MaxRecordsBytes = 4 << 20

	ackNumberAt   = 0
	ackReceivedAt = 8
	ackAppliedAt  = 16
	ackDurableAt  = 24
	ackBytes      = 32
)

// StartStream begins to send the log.
type StartStream struct {
	Stream    uint64
	FirstLSN  block.LSN
	TargetLSN block.LSN // of the session; 0 in keep-up
	Before    Link      // to the record before FirstLSN (S6)
}

// Records is a part of the log.
type Records struct {
	Stream   uint64
	FirstLSN block.LSN
	LastLSN  block.LSN
	Raw      []byte
}

// Ack tells how far a replica has what it was sent. Each position is contiguous, and none is above what this stream has
// shown to be the primary's own record.
type Ack struct {
	Stream      uint64
	ReceivedLSN block.LSN
	AppliedLSN  block.LSN
	DurableLSN  block.LSN
}

// Kind returns KindStartStream.
func (*StartStream) Kind() Kind { return KindStartStream }
func (*StartStream) size() int  { return startBytes }
func (m *StartStream) put(b []byte) {
	binary.LittleEndian.PutUint64(b[startNumberAt:], m.Stream)
	putLSN(b[startFirstAt:], m.FirstLSN)
	putLSN(b[startTargetAt:], m.TargetLSN)
	m.Before.put(b[startLinkAt:])
}
func (m *StartStream) take(b []byte) error {
	*m = StartStream{
		Stream: binary.LittleEndian.Uint64(b[startNumberAt:]), FirstLSN: takeLSN(b[startFirstAt:]),
		TargetLSN: takeLSN(b[startTargetAt:]), Before: takeLink(b[startLinkAt:]),
	}
	if err := wantFirst(m.FirstLSN, m.Before); err != nil {
		return err
	}
	return wantZero(b[startReservedAt:])
}

// Kind returns KindRecords.
func (*Records) Kind() Kind  { return KindRecords }
func (m *Records) size() int { return recordsBytes + len(m.Raw) }
func (m *Records) put(b []byte) {
	binary.LittleEndian.PutUint64(b[recordsNumberAt:], m.Stream)
	putLSN(b[recordsFirstAt:], m.FirstLSN)
	putLSN(b[recordsLastAt:], m.LastLSN)
	copy(b[recordsBytes:], m.Raw)
}
func (m *Records) take(b []byte) error {
	*m = Records{
		Stream: binary.LittleEndian.Uint64(b[recordsNumberAt:]), FirstLSN: takeLSN(b[recordsFirstAt:]),
		LastLSN: takeLSN(b[recordsLastAt:]), Raw: b[recordsBytes:],
	}
	if m.FirstLSN == 0 || m.LastLSN < m.FirstLSN {
		return fmt.Errorf("%w: records %d to %d", ErrCorrupt, m.FirstLSN, m.LastLSN)
	}
	return nil
}

// Kind returns KindAck.
func (*Ack) Kind() Kind { return KindAck }
func (*Ack) size() int  { return ackBytes }
func (m *Ack) put(b []byte) {
	binary.LittleEndian.PutUint64(b[ackNumberAt:], m.Stream)
	putLSN(b[ackReceivedAt:], m.ReceivedLSN)
	putLSN(b[ackAppliedAt:], m.AppliedLSN)
	putLSN(b[ackDurableAt:], m.DurableLSN)
}
func (m *Ack) take(b []byte) error {
	*m = Ack{
		Stream: binary.LittleEndian.Uint64(b[ackNumberAt:]), ReceivedLSN: takeLSN(b[ackReceivedAt:]),
		AppliedLSN: takeLSN(b[ackAppliedAt:]), DurableLSN: takeLSN(b[ackDurableAt:]),
	}
	if m.DurableLSN > m.AppliedLSN || m.AppliedLSN > m.ReceivedLSN {
		return fmt.Errorf("%w: received %d, applied %d, durable %d", ErrCorrupt, m.ReceivedLSN, m.AppliedLSN, m.DurableLSN)
	}
	return nil
}
