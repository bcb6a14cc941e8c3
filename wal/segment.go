package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"

	"github.com/google/uuid"

	"lockstep/block"
)

// A segment's header, little-endian, in the first sector of its file. The CRC32C covers the sector with the CRC zero.
// Frames begin at byte 4096. Sequence 0 marks a segment that holds nothing.
//
//	  0  8  magic "LSSEGMNT"
//	  8  4  format version, 1
//	 12  4  CRC32C
//	 16  8  compatible feature flags: unknown ones are ignored
//	 24  8  incompatible feature flags: unknown ones refuse to open
//	 32 16  volume ID
//	 48 16  copy ID
//	 64  8  sequence
//	 72  8  sequence of the segment before it in the chain
//	 80  8  incarnation that began it
//	 88  8  LSN of its first record
//	 96  8  size of the file in bytes
//	104  4  CRC of the last frame of the segment before it
//	108  4  block size in bytes
//	112  4  grid of the frames in bytes
//	116  4  CRC of the record before its first; 0 where that is not known
//	120 392 zero
const (
	segmentMagic   = "LSSEGMNT"
	segmentVersion = 1

	segmentOffVersion     = 8
	segmentOffCRC         = 12
	segmentOffCompat      = 16
	segmentOffIncompat    = 24
	segmentOffVolume      = 32
	segmentOffCopy        = 48
	segmentOffSequence    = 64
	segmentOffPrevious    = 72
	segmentOffIncarnation = 80
	segmentOffFirst       = 88
	segmentOffSize        = 96
	segmentOffPreviousCRC = 104
	segmentOffBlock       = 108
	segmentOffGrid        = 112
	segmentOffRecordCRC   = 116

	segmentHeaderBytes = 512
	segmentDataOffset  = 4096
)

// What can be wrong with a segment's header.
var (
	ErrSegmentMagic   = errors.New("not a log segment")
	ErrSegmentVersion = errors.New("unknown segment version")
	ErrSegmentFeature = errors.New("unknown incompatible segment features")
	ErrSegmentTorn    = errors.New("segment header is cut short")
	ErrSegmentCorrupt = errors.New("segment header is corrupt")
)

// segmentHeader is a decoded header.
type segmentHeader struct {
	compat      uint64
	volume      uuid.UUID
	copy        uuid.UUID
	sequence    uint64
	previous    uint64
	incarnation uint64
	first       block.LSN
	size        int64
	previousCRC uint32
	blockBytes  int
	grid        int

	previousRecord uint32 // CRC
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderBytes)
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint32(b[segmentOffVersion:], segmentVersion)
	le.PutUint64(b[segmentOffCompat:], h.compat)
	copy(b[segmentOffVolume:], h.volume[:])
	copy(b[segmentOffCopy:], h.copy[:])
	le.PutUint64(b[segmentOffSequence:], h.sequence)
	le.PutUint64(b[segmentOffPrevious:], h.previous)
	le.PutUint64(b[segmentOffIncarnation:], h.incarnation)
	le.PutUint64(b[segmentOffFirst:], uint64(h.first))
	le.PutUint64(b[segmentOffSize:], uint64(h.size))
	le.PutUint32(b[segmentOffPreviousCRC:], h.previousCRC)
	le.PutUint32(b[segmentOffBlock:], uint32(h.blockBytes))
	le.PutUint32(b[segmentOffGrid:], uint32(h.grid))
	le.PutUint32(b[segmentOffRecordCRC:], h.previousRecord)
	le.PutUint32(b[segmentOffCRC:], crc32.Checksum(b, castagnoli))
	return b
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	if len(b) < segmentHeaderBytes {
		return segmentHeader{}, fmt.Errorf("%w: %d bytes", ErrSegmentTorn, len(b))
	}
	b = b[:segmentHeaderBytes]
	le := binary.LittleEndian
	if string(b[:8]) != segmentMagic {
		return segmentHeader{}, fmt.Errorf("%w: magic %q", ErrSegmentMagic, b[:8])
	}
	if v := le.Uint32(b[segmentOffVersion:]); v != segmentVersion {
		return segmentHeader{}, fmt.Errorf("%w: %d", ErrSegmentVersion, v)
	}
	crc := crc32.Update(0, castagnoli, b[:segmentOffCRC])
	crc = crc32.Update(crc, castagnoli, make([]byte, 4))
	crc = crc32.Update(crc, castagnoli, b[segmentOffCRC+4:])
	if want := le.Uint32(b[segmentOffCRC:]); crc != want {
		return segmentHeader{}, fmt.Errorf("%w: CRC %08x, should be %08x", ErrSegmentCorrupt, crc, want)
	}
	if f := le.Uint64(b[segmentOffIncompat:]); f != 0 {
		return segmentHeader{}, fmt.Errorf("%w: %#x", ErrSegmentFeature, f)
	}
	h := segmentHeader{
		compat:      le.Uint64(b[segmentOffCompat:]),
		volume:      uuid.UUID(b[segmentOffVolume:segmentOffCopy]),
		copy:        uuid.UUID(b[segmentOffCopy:segmentOffSequence]),
		sequence:    le.Uint64(b[segmentOffSequence:]),
		previous:    le.Uint64(b[segmentOffPrevious:]),
		incarnation: le.Uint64(b[segmentOffIncarnation:]),
		first:       block.LSN(le.Uint64(b[segmentOffFirst:])),
		size:        int64(le.Uint64(b[segmentOffSize:])),
		previousCRC: le.Uint32(b[segmentOffPreviousCRC:]),
		blockBytes:  int(le.Uint32(b[segmentOffBlock:])),
		grid:        int(le.Uint32(b[segmentOffGrid:])),

		previousRecord: le.Uint32(b[segmentOffRecordCRC:]),
	}
	if h.grid != gridBytes || h.size < segmentDataOffset || (h.sequence != 0 && h.first == 0) {
		return segmentHeader{}, fmt.Errorf("%w: grid %d, size %d, first LSN %d", ErrSegmentCorrupt, h.grid, h.size, h.first)
	}
	return h, nil
}

// segment is one open segment file.
type segment struct {
	name string
	file File
	size int64

	// Set when the segment joins the chain, and only read after.
	sequence uint64
	first    block.LSN // of its first record
	header   []byte    // as on disk

	// unverified is set where a restart found the segment behind its checkpoint: its frames were not looked at, last is what
	// the next segment says, and end where the file ends.
	unverified bool

	// Guarded by Log.mu. last is the LSN of its newest record, first - 1 where it has none; end is where its frames end.
	last block.LSN
	end  int64

	// pins counts readers. While it is above 0 the segment is not recycled.
	pins atomic.Int32
}

// Segment is a pinned segment, whose records can be read until Unpin.
type Segment = segment

// ReadAt reads the segment's bytes; positions come from Append or from a scan.
func (s *segment) ReadAt(p []byte, off int64) error {
	if _, err := s.file.ReadAt(p, off); err != nil {
		return fmt.Errorf("read log segment %s at %d: %w", s.name, off, err)
	}
	return nil
}

// ReadRecord reads the record whose payload begins at off, header and all, into buf, which has room for its header and
// the longest payload, and checks its CRC. expect is how long the payload probably is, in bytes. A record that is not
// lsn, or not whole, is a *CorruptError.
func (s *segment) ReadRecord(buf []byte, off int64, lsn block.LSN, blockBytes, expect int) (Record, error) {
	at := off - RecordHeaderBytes
	corrupt := func(err error) error {
		return &CorruptError{Segment: s.name, Offset: at, LSN: lsn, Durable: lsn, Reason: err}
	}
	have := RecordHeaderBytes + expect
	if err := s.ReadAt(buf[:have], at); err != nil {
		return Record{}, err
	}
	n, err := recordLength(buf[:RecordHeaderBytes])
	if err != nil {
		return Record{}, corrupt(err)
	}
	if n > have {
		if err := s.ReadAt(buf[have:n], at+int64(have)); err != nil {
			return Record{}, err
		}
	}
	r, _, err := decodeRecord(buf[:n], blockBytes)
	if err == nil && r.LSN != lsn {
		err = fmt.Errorf("%w: it is record %d", ErrRecordCorrupt, r.LSN)
	}
	if err != nil {
		return Record{}, corrupt(err)
	}
	return r, nil
}

// ReadNoWait is ReadAt where the bytes are in memory, and syscall.EAGAIN where they are not.
func (s *segment) ReadNoWait(p []byte, off int64) error {
	if f, ok := s.file.(NoWaitReader); ok {
		return f.ReadNoWait(p, off)
	}
	return s.ReadAt(p, off)
}

// Unpin allows the segment to be recycled again.
func (s *segment) Unpin() {
	if s.pins.Add(-1) < 0 {
		panic("wal: segment unpinned more often than pinned")
	}
}
