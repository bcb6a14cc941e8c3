package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

// A frame, little-endian: the same on every lane and in both directions. A header, a body of the type's own layout, and
// on connections that are authenticated by a secret a tag (see auth.go), which the length does not count. The CRC32C
// covers bytes 8 to 96 and the body.
//
//	 0  4  magic "LSRP"
//	 4  4  CRC32C
//	 8  2  version, 1
//	10  2  type
//	12  4  flags, 0
//	16  4  length of the body
//	20  4  reserved, 0
//	24 16  volume UUID
//	40  8  epoch
//	48 16  epoch ID
//	64 16  node ID of the sender
//	80  8  session ID, 0 outside of one
//	88  8  sequence: the frame's number on its connection and in its direction, from 1 on
//	96     body
const (
	frameMagic   = 0x5052534c // "LSRP"
	frameVersion = 1

	frameMagicAt    = 0
	frameCRCAt      = 4
	frameVersionAt  = 8
	frameTypeAt     = 10
	frameFlagsAt    = 12
	frameLengthAt   = 16
	frameReservedAt = 20
	frameVolumeAt   = 24
	frameEpochAt    = 40
	frameEpochIDAt  = 48
	frameSenderAt   = 64
	frameSessionAt  = 80
	frameSequenceAt = 88
	// HeaderBytes is the length of a frame without its body.
	HeaderBytes = 96
)

// What can be wrong with bytes that should be a frame. Every decode error wraps one of them.
var (
	ErrMagic   = errors.New("not a frame of lockstep's replication")
	ErrVersion = errors.New("unknown version of the replication protocol")
	ErrTooLong = errors.New("frame is longer than its type may be")
	ErrTorn    = errors.New("frame is cut short")
	ErrCorrupt = errors.New("frame is corrupt")
)

// Header is what every message carries (I11).
type Header struct {
	Volume   uuid.UUID
	Epoch    block.Epoch // newest that the sender has persisted
	EpochID  uuid.UUID
	Sender   uuid.UUID // node ID
	Session  engine.SessionID
	Sequence uint64 // set by the connection
}

// Message is the body of a frame: a pointer to one of the types in this package that are named for what they say.
type Message interface {
	// Kind returns the type that stands in the frame.
	Kind() Kind
	// size returns the length of the body in bytes.
	size() int
	// put encodes the body to b, which is size bytes of zeroes.
	put(b []byte)
	// take decodes a body whose length is within the kind's limits. What it keeps of b it does not copy. Its errors
	// wrap ErrCorrupt or ErrVersion.
	take(b []byte) error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendFrame appends a frame to dst. A message above its type's limit is a bug of the caller, and panics.
func AppendFrame(dst []byte, h Header, m Message) []byte {
	size := m.size()
	if least, most := m.Kind().limits(); size < least || size > most {
		panic(fmt.Sprintf("replication: a %s message of %d bytes", m.Kind(), size))
	}
	start, end := len(dst), len(dst)+HeaderBytes+size
	if cap(dst) < end {
		dst = append(make([]byte, 0, end), dst...)
	}
	dst = dst[:end]
	b := dst[start:]
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b[frameMagicAt:], frameMagic)
	le.PutUint16(b[frameVersionAt:], frameVersion)
	le.PutUint16(b[frameTypeAt:], uint16(m.Kind()))
	le.PutUint32(b[frameLengthAt:], uint32(size))
	copy(b[frameVolumeAt:], h.Volume[:])
	le.PutUint64(b[frameEpochAt:], uint64(h.Epoch))
	copy(b[frameEpochIDAt:], h.EpochID[:])
	copy(b[frameSenderAt:], h.Sender[:])
	le.PutUint64(b[frameSessionAt:], uint64(h.Session))
	le.PutUint64(b[frameSequenceAt:], h.Sequence)
	m.put(b[HeaderBytes:])
	le.PutUint32(b[frameCRCAt:], crc32.Checksum(b[frameVersionAt:], castagnoli))
	return dst
}

// frameLength returns the length, without a tag, of the frame that the header begins; its CRC is not checked yet. Nothing
// has to be allocated for a frame that is refused here.
func frameLength(b []byte) (int, error) {
	if len(b) < HeaderBytes {
		return 0, fmt.Errorf("%w: %d bytes of a header", ErrTorn, len(b))
	}
	le := binary.LittleEndian
	if m := le.Uint32(b[frameMagicAt:]); m != frameMagic {
		return 0, fmt.Errorf("%w: magic %08x", ErrMagic, m)
	}
	if v := le.Uint16(b[frameVersionAt:]); v != frameVersion {
		return 0, fmt.Errorf("%w: %d, and this program speaks %d", ErrVersion, v, frameVersion)
	}
	kind := Kind(le.Uint16(b[frameTypeAt:]))
	if kind.empty() == nil {
		return 0, fmt.Errorf("%w: type %d", ErrVersion, uint16(kind))
	}
	length := le.Uint32(b[frameLengthAt:])
	least, most := kind.limits()
	if int64(length) > int64(most) {
		return 0, fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLong, kind, length, most)
	}
	if int64(length) < int64(least) {
		return 0, fmt.Errorf("%w: %s of %d bytes, at least %d", ErrCorrupt, kind, length, least)
	}
	return HeaderBytes + int(length), nil
}

// DecodeFrame decodes the frame at the start of b and returns its length. The message points into b. Errors wrap
// ErrMagic, ErrVersion, ErrTooLong, ErrTorn or ErrCorrupt, tried in this order.
func DecodeFrame(b []byte) (Header, Message, int, error) {
	n, err := frameLength(b)
	if err != nil {
		return Header{}, nil, 0, err
	}
	if len(b) < n {
		return Header{}, nil, 0, fmt.Errorf("%w: %d of %d bytes", ErrTorn, len(b), n)
	}
	b = b[:n:n]
	le := binary.LittleEndian
	if crc, want := le.Uint32(b[frameCRCAt:]), crc32.Checksum(b[frameVersionAt:], castagnoli); crc != want {
		return Header{}, nil, 0, fmt.Errorf("%w: CRC %08x, should be %08x", ErrCorrupt, crc, want)
	}
	if le.Uint32(b[frameFlagsAt:]) != 0 || le.Uint32(b[frameReservedAt:]) != 0 {
		return Header{}, nil, 0, fmt.Errorf("%w: unknown flags", ErrVersion)
	}
	h := Header{
		Volume:   uuid.UUID(b[frameVolumeAt:frameEpochAt]),
		Epoch:    block.Epoch(le.Uint64(b[frameEpochAt:])),
		EpochID:  uuid.UUID(b[frameEpochIDAt:frameSenderAt]),
		Sender:   uuid.UUID(b[frameSenderAt:frameSessionAt]),
		Session:  engine.SessionID(le.Uint64(b[frameSessionAt:])),
		Sequence: le.Uint64(b[frameSequenceAt:]),
	}
	m := Kind(le.Uint16(b[frameTypeAt:])).empty()
	if err := m.take(b[HeaderBytes:]); err != nil {
		return Header{}, nil, 0, fmt.Errorf("decode %s: %w", m.Kind(), err)
	}
	return h, m, n, nil
}
