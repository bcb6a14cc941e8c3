package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"

	"lockstep/block"
)

// A record, little-endian. The CRC32C covers bytes 8 to 64 and the payload; the primary computes it once and everyone
// after checks it.
//
//	 0  4  magic "LSRC"
//	 4  4  CRC32C
//	 8  8  LSN
//	16  8  epoch
//	24  8  first block
//	32  8  block count
//	40  8  time on the primary, Unix nanoseconds
//	48  4  payload length
//	52  1  type
//	53  1  version, 1
//	54  2  flags, 0
//	56  8  reserved, 0
const (
	recordMagic   = 0x4352534c // "LSRC"
	recordVersion = 1

	recordOffCRC     = 4
	recordOffLSN     = 8
	recordOffEpoch   = 16
	recordOffBlock   = 24
	recordOffCount   = 32
	recordOffTime    = 40
	recordOffLength  = 48
	recordOffType    = 52
	recordOffVersion = 53
	recordOffFlags   = 54
	recordOffSpare   = 56

	// RecordHeaderBytes is the length of a record without its payload.
	RecordHeaderBytes = 64
	// MaxPayloadBytes is the longest payload of a record; longer writes are split.
	MaxPayloadBytes = 1 << 20
	// epochStartBytes is the payload of an epoch-start record: epoch ID, primary's node ID. A longer one, up to
	// maxFactBytes, says more than this program knows, and nothing that it has to know.
	epochStartBytes = 32
	// resizeBytes is the payload of a resize record: the new size in blocks. It may be longer in the same way.
	resizeBytes = 8
	// maxFactBytes is the longest payload of a record that carries facts rather than data.
	maxFactBytes = 4096
)

// RecordType says what a record does.
type RecordType uint8

// The types of records.
const (
	RecordWrite      RecordType = 1 // the payload replaces the blocks
	RecordZero       RecordType = 2 // the blocks read as zeroes and stay allocated
	RecordTrim       RecordType = 3 // the blocks read as zeroes and need not stay allocated
	RecordEpochStart RecordType = 4 // no blocks; a new epoch begins with this record
	RecordResize     RecordType = 5 // the volume's end moves over the blocks, up or down; they read as zeroes from then on
)

// String returns the type's name as it stands in listings.
func (t RecordType) String() string {
	switch t {
	case RecordWrite:
		return "write"
	case RecordZero:
		return "zero"
	case RecordTrim:
		return "trim"
	case RecordEpochStart:
		return "epoch"
	case RecordResize:
		return "resize"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// What can be wrong with bytes that should be a record. Every decode error wraps one of them.
var (
	ErrRecordMagic   = errors.New("not a record")
	ErrRecordVersion = errors.New("unknown record version")
	ErrRecordTorn    = errors.New("record is cut short")
	ErrRecordCorrupt = errors.New("record is corrupt")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is one change in the log.
type Record struct {
	Type    RecordType
	LSN     block.LSN
	Epoch   block.Epoch
	Range   block.Range
	Time    int64  // Unix nanoseconds on the primary
	Payload []byte // of a write: Range.Count blocks; of an epoch start: its IDs; of a resize: the size; else empty
	CRC     uint32 // as in the header; set by decoding and encoding
}

// encodeHeader writes the record's header, CRC included, to b, which has RecordHeaderBytes.
func (r *Record) encodeHeader(b []byte) {
	_ = b[RecordHeaderBytes-1]
	le := binary.LittleEndian
	le.PutUint32(b, recordMagic)
	le.PutUint64(b[recordOffLSN:], uint64(r.LSN))
	le.PutUint64(b[recordOffEpoch:], uint64(r.Epoch))
	le.PutUint64(b[recordOffBlock:], r.Range.Start)
	le.PutUint64(b[recordOffCount:], r.Range.Count)
	le.PutUint64(b[recordOffTime:], uint64(r.Time))
	le.PutUint32(b[recordOffLength:], uint32(len(r.Payload)))
	b[recordOffType] = byte(r.Type)
	b[recordOffVersion] = recordVersion
	le.PutUint16(b[recordOffFlags:], 0)
	le.PutUint64(b[recordOffSpare:], 0)
	r.CRC = crc32.Update(0, castagnoli, b[recordOffLSN:RecordHeaderBytes])
	r.CRC = crc32.Update(r.CRC, castagnoli, r.Payload)
	le.PutUint32(b[recordOffCRC:], r.CRC)
}

// decodeRecord reads one record of a log with the given block size from the start of b and checks its CRC. It returns
// the record's length with its payload. The payload is part of b.
//
// The CRC is looked at before what it covers: a record that is sound and of an unknown version, type or flags was written
// by a newer program (ErrRecordVersion), and must not be taken for the torn end of the log.
func decodeRecord(b []byte, blockBytes int) (Record, int, error) {
	n, err := recordLength(b)
	if err != nil {
		return Record{}, 0, err
	}
	if len(b) < n {
		return Record{}, 0, fmt.Errorf("%w: %d of %d bytes", ErrRecordTorn, len(b), n)
	}
	crc := crc32.Update(0, castagnoli, b[recordOffLSN:n])
	if want := binary.LittleEndian.Uint32(b[recordOffCRC:]); crc != want {
		return Record{}, 0, fmt.Errorf("%w: CRC %08x, should be %08x", ErrRecordCorrupt, crc, want)
	}
	r, _, err := decodeRecordHeader(b, blockBytes)
	if err != nil {
		return Record{}, 0, err
	}
	r.Payload = b[RecordHeaderBytes:n:n]
	if r.Type == RecordResize {
		if _, err := r.Resize(); err != nil {
			return Record{}, 0, err
		}
	}
	return r, n, nil
}

// recordLength returns the length of the record at the start of b with its payload. It is at the same place in every
// version.
func recordLength(b []byte) (int, error) {
	if len(b) < RecordHeaderBytes {
		return 0, fmt.Errorf("%w: %d bytes", ErrRecordTorn, len(b))
	}
	if m := binary.LittleEndian.Uint32(b); m != recordMagic {
		return 0, fmt.Errorf("%w: magic %08x", ErrRecordMagic, m)
	}
	length := binary.LittleEndian.Uint32(b[recordOffLength:])
	if length > MaxPayloadBytes {
		return 0, fmt.Errorf("%w: payload of %d bytes", ErrRecordCorrupt, length)
	}
	return RecordHeaderBytes + int(length), nil
}

// decodeRecordHeader reads a record without its payload, whose CRC it therefore can not check, and returns the
// record's whole length.
func decodeRecordHeader(b []byte, blockBytes int) (Record, int, error) {
	if len(b) < RecordHeaderBytes {
		return Record{}, 0, fmt.Errorf("%w: %d bytes", ErrRecordTorn, len(b))
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != recordMagic {
		return Record{}, 0, fmt.Errorf("%w: magic %08x", ErrRecordMagic, m)
	}
	if v := b[recordOffVersion]; v != recordVersion {
		return Record{}, 0, fmt.Errorf("%w: %d", ErrRecordVersion, v)
	}
	r := Record{
		Type:  RecordType(b[recordOffType]),
		LSN:   block.LSN(le.Uint64(b[recordOffLSN:])),
		Epoch: block.Epoch(le.Uint64(b[recordOffEpoch:])),
		Range: block.Range{Start: le.Uint64(b[recordOffBlock:]), Count: le.Uint64(b[recordOffCount:])},
		Time:  int64(le.Uint64(b[recordOffTime:])),
		CRC:   le.Uint32(b[recordOffCRC:]),
	}
	length := int(le.Uint32(b[recordOffLength:]))
	if err := r.checkShape(length, blockBytes); err != nil {
		return Record{}, 0, err
	}
	if le.Uint16(b[recordOffFlags:]) != 0 || le.Uint64(b[recordOffSpare:]) != 0 {
		return Record{}, 0, fmt.Errorf("%w: unknown flags", ErrRecordVersion)
	}
	return r, RecordHeaderBytes + length, nil
}

// checkShape tests what must hold between a record's type, its range and the length of its payload.
func (r *Record) checkShape(length, blockBytes int) error {
	if r.LSN == 0 {
		return fmt.Errorf("%w: LSN 0", ErrRecordCorrupt)
	}
	if r.Range.End() < r.Range.Start {
		return fmt.Errorf("%w: range %d+%d overflows", ErrRecordCorrupt, r.Range.Start, r.Range.Count)
	}
	want := 0
	switch r.Type {
	case RecordWrite:
		if r.Range.Count > uint64(MaxPayloadBytes/blockBytes) {
			return fmt.Errorf("%w: write of %d blocks", ErrRecordCorrupt, r.Range.Count)
		}
		want = int(r.Range.Count) * blockBytes
	case RecordZero, RecordTrim:
	case RecordEpochStart:
		if r.Range.Count != 0 {
			return fmt.Errorf("%w: epoch start with %d blocks", ErrRecordCorrupt, r.Range.Count)
		}
		want = min(max(length, epochStartBytes), maxFactBytes)
	case RecordResize:
		want = min(max(length, resizeBytes), maxFactBytes)
	default:
		return fmt.Errorf("%w: type %d", ErrRecordVersion, r.Type)
	}
	if length != want {
		return fmt.Errorf("%w: %s of %d blocks with a payload of %d bytes", ErrRecordCorrupt, r.Type, r.Range.Count, length)
	}
	if r.Type != RecordEpochStart && r.Range.Count == 0 {
		return fmt.Errorf("%w: %s of no blocks", ErrRecordCorrupt, r.Type)
	}
	return nil
}

// EpochStart returns the lineage entry that an epoch-start record makes.
func (r *Record) EpochStart() block.EpochStart {
	return block.EpochStart{
		Epoch:   r.Epoch,
		ID:      uuid.UUID(r.Payload[:16]),
		Primary: uuid.UUID(r.Payload[16:32]),
		First:   r.LSN,
	}
}

// Resize returns the size in blocks that a resize record gives the volume. It is an end of the record's range: the upper
// one where the volume grows, the lower one where it shrinks. Any other is an error that wraps ErrRecordCorrupt.
func (r *Record) Resize() (blocks uint64, err error) {
	blocks = binary.LittleEndian.Uint64(r.Payload)
	if blocks != r.Range.Start && blocks != r.Range.End() || blocks == 0 {
		return 0, fmt.Errorf("%w: a resize to %d blocks that touches blocks %d+%d", ErrRecordCorrupt, blocks, r.Range.Start, r.Range.Count)
	}
	return blocks, nil
}

// ResizeChange is the change that takes a volume from one size to another, which differ, both in blocks.
func ResizeChange(from, to uint64) Change {
	low, high := min(from, to), max(from, to)
	return Change{
		Type: RecordResize, Range: block.Range{Start: low, Count: high - low},
		Payload: binary.LittleEndian.AppendUint64(nil, to),
	}
}

func epochStartPayload(id, primary uuid.UUID) []byte {
	return append(append(make([]byte, 0, epochStartBytes), id[:]...), primary[:]...)
}
