package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
)

// Lane is what a connection is for. A connection carries one lane of one volume, from its primary to one replica.
type Lane uint8

// The lanes. Bulk of one never delays another.
const (
	LaneControl Lane = 1 // syncs, sessions, barriers, heartbeats
	LaneLog     Lane = 2 // records, and acks in return
	LaneBase    Lane = 3 // chunks of a rebuild
)

// String returns the lane's name as it stands in logs and errors.
func (l Lane) String() string {
	switch l {
	case LaneControl:
		return "control"
	case LaneLog:
		return "log"
	case LaneBase:
		return "base"
	}
	return fmt.Sprintf("lane %d", uint8(l))
}

func (l Lane) known() bool { return l >= LaneControl && l <= LaneBase }

// Bodies of the handshake. auth.go says what is proved by them.
//
// Hello, from the one that connects:
//
//	 0 32  nonce
//	32 16  node ID of the one it means to reach
//	48  1  lane
//	49  7  reserved, 0
//
// Challenge, the answer:
//
//	 0 32  nonce
//	32 32  proof of the one that was reached, zeroes where there is no secret
//
// Proof, the answer to this:
//
//	0 32  proof of the one that connects, zeroes where there is no secret
//
// Welcome, which ends the handshake, is empty.
//
// Refusal, the last frame of a connection, of either side and at any time. Its header has the newest epoch that the
// sender knows:
//
//	 0 16  node ID of that epoch's primary, 0 where it is not known
//	16  2  length of the reason
//	18  2  length of the detail
//	20     reason, then detail
const (
	nonceBytes = 32
	proofBytes = 32

	helloNonceAt    = 0
	helloPeerAt     = 32
	helloLaneAt     = 48
	helloReservedAt = 49
	helloBytes      = 56

	challengeNonceAt = 0
	challengeProofAt = 32
	challengeBytes   = 64

	refusalPrimaryAt      = 0
	refusalReasonLengthAt = 16
	refusalDetailLengthAt = 18
	refusalBytes          = 20
	// maxReasonBytes is the longest reason, and the longest detail.
	maxReasonBytes = 256
)

// Hello begins a connection.
type Hello struct {
	Nonce [nonceBytes]byte
	Peer  uuid.UUID // node ID of the one that is meant
	Lane  Lane
}

// Challenge answers a Hello.
type Challenge struct {
	Nonce [nonceBytes]byte
	Proof [proofBytes]byte
}

// Proof answers a Challenge.
type Proof struct{ Proof [proofBytes]byte }

// Welcome tells that the connection may be used.
type Welcome struct{}

// Refusal tells why a connection is closed: by whoever closes it, before it does.
type Refusal struct {
	Reason  string    // a stable word: one of the engine's, or one of the Refused words
	Detail  string    // for people
	Primary uuid.UUID // node ID of the primary of the header's epoch, or nil
}

// Heartbeat tells that the sender lives. An answer is one with Answer.
type Heartbeat struct {
	Number uint64 // of the question, which the answer repeats
	Answer bool
}

// Heartbeat:
//
//	0 8  number
//	8 1  1 in an answer, else 0
//	9 7  reserved, 0
const (
	heartbeatNumberAt   = 0
	heartbeatAnswerAt   = 8
	heartbeatReservedAt = 9
	heartbeatBytes      = 16
)

// Kind returns KindHello.
func (*Hello) Kind() Kind { return KindHello }
func (*Hello) size() int  { return helloBytes }
func (m *Hello) put(b []byte) {
	copy(b[helloNonceAt:], m.Nonce[:])
	copy(b[helloPeerAt:], m.Peer[:])
	b[helloLaneAt] = byte(m.Lane)
}
func (m *Hello) take(b []byte) error {
	*m = Hello{Nonce: [nonceBytes]byte(b[helloNonceAt:]), Peer: uuid.UUID(b[helloPeerAt:helloLaneAt]), Lane: Lane(b[helloLaneAt])}
	if !m.Lane.known() {
		return fmt.Errorf("%w: %s", ErrVersion, m.Lane)
	}
	return wantZero(b[helloReservedAt:])
}

// Kind returns KindChallenge.
func (*Challenge) Kind() Kind { return KindChallenge }
func (*Challenge) size() int  { return challengeBytes }
func (m *Challenge) put(b []byte) {
	copy(b[challengeNonceAt:], m.Nonce[:])
	copy(b[challengeProofAt:], m.Proof[:])
}
func (m *Challenge) take(b []byte) error {
	*m = Challenge{Nonce: [nonceBytes]byte(b[challengeNonceAt:]), Proof: [proofBytes]byte(b[challengeProofAt:])}
	return nil
}

// Kind returns KindProof.
func (*Proof) Kind() Kind            { return KindProof }
func (*Proof) size() int             { return proofBytes }
func (m *Proof) put(b []byte)        { copy(b, m.Proof[:]) }
func (m *Proof) take(b []byte) error { m.Proof = [proofBytes]byte(b); return nil }

// Kind returns KindWelcome.
func (*Welcome) Kind() Kind        { return KindWelcome }
func (*Welcome) size() int         { return 0 }
func (*Welcome) put([]byte)        {}
func (*Welcome) take([]byte) error { return nil }

// Kind returns KindRefusal.
func (*Refusal) Kind() Kind  { return KindRefusal }
func (m *Refusal) size() int { return refusalBytes + len(clip(m.Reason)) + len(clip(m.Detail)) }
func (m *Refusal) put(b []byte) {
	reason, detail := clip(m.Reason), clip(m.Detail)
	copy(b[refusalPrimaryAt:], m.Primary[:])
	binary.LittleEndian.PutUint16(b[refusalReasonLengthAt:], uint16(len(reason)))
	binary.LittleEndian.PutUint16(b[refusalDetailLengthAt:], uint16(len(detail)))
	copy(b[refusalBytes:], reason)
	copy(b[refusalBytes+len(reason):], detail)
}
func (m *Refusal) take(b []byte) error {
	reason := int(binary.LittleEndian.Uint16(b[refusalReasonLengthAt:]))
	detail := int(binary.LittleEndian.Uint16(b[refusalDetailLengthAt:]))
	text := b[refusalBytes:]
	if reason > maxReasonBytes || detail > maxReasonBytes || reason+detail != len(text) {
		return fmt.Errorf("%w: texts of %d and %d bytes in %d", ErrCorrupt, reason, detail, len(text))
	}
	*m = Refusal{
		Reason: string(text[:reason]), Detail: string(text[reason:]),
		Primary: uuid.UUID(b[refusalPrimaryAt:refusalReasonLengthAt]),
	}
	return nil
}

// Kind returns KindHeartbeat.
func (*Heartbeat) Kind() Kind { return KindHeartbeat }
func (*Heartbeat) size() int  { return heartbeatBytes }
func (m *Heartbeat) put(b []byte) {
	binary.LittleEndian.PutUint64(b[heartbeatNumberAt:], m.Number)
	putBool(b[heartbeatAnswerAt:], m.Answer)
}
func (m *Heartbeat) take(b []byte) (err error) {
	m.Number = binary.LittleEndian.Uint64(b[heartbeatNumberAt:])
	if m.Answer, err = takeBool(b[heartbeatAnswerAt]); err != nil {
		return err
	}
	return wantZero(b[heartbeatReservedAt:])
}

// clip cuts a text for people to what a message may have of it.
func clip(s string) string { return s[:min(len(s), maxReasonBytes)] }

func putBool(b []byte, v bool) {
	if v {
		b[0] = 1
	}
}

func takeBool(b byte) (bool, error) {
	if b > 1 {
		return false, fmt.Errorf("%w: %d where only 0 and 1 are known", ErrVersion, b)
	}
	return b == 1, nil
}

// wantZero refuses what stands where this version has nothing.
func wantZero(b []byte) error {
	for _, c := range b {
		if c != 0 {
			return fmt.Errorf("%w: a field that is not known", ErrVersion)
		}
	}
	return nil
}

func putLSN(b []byte, lsn block.LSN) { binary.LittleEndian.PutUint64(b, uint64(lsn)) }
func takeLSN(b []byte) block.LSN     { return block.LSN(binary.LittleEndian.Uint64(b)) }
