package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"lockstep/block"
)

// A frame's header, little-endian. A new version of it that is not understood by old programs comes with an incompatible
// feature flag in the segment's header. The CRC32C starts from the copy's seed and covers bytes 8 to 64 and then the header
// of each record in the frame; the records' own CRCs cover the payloads. Padding up to the grid is not covered.
//
//	 0  4  magic "LSFR"
//	 4  4  CRC32C
//	 8  4  CRC of the frame before this one
//	12  2  version, 1
//	14  2  flags, 0
//	16  8  incarnation of the log when it was written
//	24  8  sequence of its segment
//	32  8  LSN of its first record, or of the next record where it has none
//	40  8  durable mark: the head when the last fdatasync that returned 0 was issued
//	48  8  committed LSN as known then
//	56  4  length of the records in bytes
//	60  4  number of records; 0 in a mark frame
const (
	frameMagic   = 0x5246534c // "LSFR"
	frameVersion = 1

	frameOffCRC         = 4
	frameOffPrevious    = 8
	frameOffVersion     = 12
	frameOffFlags       = 14
	frameOffIncarnation = 16
	frameOffSegment     = 24
	frameOffFirst       = 32
	frameOffDurable     = 40
	frameOffCommitted   = 48
	frameOffLength      = 56
	frameOffRecords     = 60

	frameHeaderBytes = 64

	// gridBytes is the grid that frames start on: the unit that a disk writes whole or not at all.
	gridBytes = 512
	// maxFrameBytes bounds the records of one frame, so that recovery reads through a window of fixed size.
	maxFrameBytes = 2<<20 + 64<<10
)

// What can be wrong with bytes that should be a frame. Every decode error wraps one of them, or a record's.
var (
	ErrFrameMagic   = errors.New("not a frame")
	ErrFrameVersion = errors.New("unknown frame version")
	ErrFrameTorn    = errors.New("frame is cut short")
	ErrFrameCorrupt = errors.New("frame is corrupt")
	// ErrNewer means that a frame is sound, and in it is something that only a newer program knows. It is never the end
	// of the log.
	ErrNewer = errors.New("written by a newer program")
)

// frame is the decoded header of a frame.
type frame struct {
	crc         uint32
	previous    uint32
	incarnation uint64
	segment     uint64
	first       block.LSN
	durable     block.LSN
	committed   block.LSN
	flags       uint16
	length      int // of the records, without header and padding
	records     int
}

// size is the frame's length with its header, without padding.
func (f *frame) size() int64 { return frameHeaderBytes + int64(f.length) }

// next returns the LSN after the frame's last record.
func (f *frame) next() block.LSN { return f.first + block.LSN(f.records) }

// encode writes the header to b but for the CRC, which seal adds once the record headers are known.
func (f *frame) encode(b []byte) {
	_ = b[frameHeaderBytes-1]
	le := binary.LittleEndian
	le.PutUint32(b, frameMagic)
	le.PutUint32(b[frameOffPrevious:], f.previous)
	le.PutUint16(b[frameOffVersion:], frameVersion)
	le.PutUint16(b[frameOffFlags:], 0)
	le.PutUint64(b[frameOffIncarnation:], f.incarnation)
	le.PutUint64(b[frameOffSegment:], f.segment)
	le.PutUint64(b[frameOffFirst:], uint64(f.first))
	le.PutUint64(b[frameOffDurable:], uint64(f.durable))
	le.PutUint64(b[frameOffCommitted:], uint64(f.committed))
	le.PutUint32(b[frameOffLength:], uint32(f.length))
	le.PutUint32(b[frameOffRecords:], uint32(f.records))
}

// seal computes the CRC over the encoded header and the record headers that follow it in b, stores it and returns it.
func sealFrame(b []byte, seed uint32) uint32 {
	crc := crc32.Update(seed, castagnoli, b[frameOffPrevious:])
	binary.LittleEndian.PutUint32(b[frameOffCRC:], crc)
	return crc
}

// decodeFrameHeader reads a frame's header without checking its CRC.
func decodeFrameHeader(b []byte) (frame, error) {
	if len(b) < frameHeaderBytes {
		return frame{}, fmt.Errorf("%w: %d bytes", ErrFrameTorn, len(b))
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != frameMagic {
		return frame{}, fmt.Errorf("%w: magic %08x", ErrFrameMagic, m)
	}
	if v := le.Uint16(b[frameOffVersion:]); v != frameVersion {
		return frame{}, fmt.Errorf("%w: %d", ErrFrameVersion, v)
	}
	f := frame{
		crc:         le.Uint32(b[frameOffCRC:]),
		previous:    le.Uint32(b[frameOffPrevious:]),
		incarnation: le.Uint64(b[frameOffIncarnation:]),
		segment:     le.Uint64(b[frameOffSegment:]),
		first:       block.LSN(le.Uint64(b[frameOffFirst:])),
		durable:     block.LSN(le.Uint64(b[frameOffDurable:])),
		committed:   block.LSN(le.Uint64(b[frameOffCommitted:])),
		flags:       le.Uint16(b[frameOffFlags:]),
		length:      int(le.Uint32(b[frameOffLength:])),
		records:     int(le.Uint32(b[frameOffRecords:])),
	}
	if f.length > maxFrameBytes || f.records > f.length/RecordHeaderBytes || (f.records == 0) != (f.length == 0) {
		return frame{}, fmt.Errorf("%w: %d records in %d bytes", ErrFrameCorrupt, f.records, f.length)
	}
	if f.first == 0 || f.next() < f.first {
		return frame{}, fmt.Errorf("%w: first LSN %d", ErrFrameCorrupt, f.first)
	}
	return f, nil
}

// decodeFrame reads a whole frame from the start of b, checks it and every record in it, and hands each record with
// the offset of its payload from the frame's start to visit. visit may be nil. Where payloads is false the records are
// left undecoded and their payloads unchecked: that tells whether a frame was written, not whether all of it is there.
// What is sound and unknown is ErrNewer.
func decodeFrame(b []byte, seed uint32, blockBytes int, payloads bool, visit func(Record, int)) (frame, error) {
	f, err := decodeFrameHeader(b)
	if err != nil {
		return frame{}, err
	}
	if int64(len(b)) < f.size() {
		return frame{}, fmt.Errorf("%w: %d of %d bytes", ErrFrameTorn, len(b), f.size())
	}
	b = b[:f.size()]
	if err := checkFrame(b, &f, seed); err != nil {
		return frame{}, err
	}
	if f.flags != 0 {
		return frame{}, fmt.Errorf("%w: %w: flags %#x", ErrNewer, ErrFrameVersion, f.flags)
	}
	if !payloads {
		return f, nil
	}
	off := frameHeaderBytes
	for i := range f.records {
		r, n, err := decodeRecord(b[off:], blockBytes)
		switch {
		case errors.Is(err, ErrRecordVersion):
			return frame{}, fmt.Errorf("%w: record %d: %w", ErrNewer, f.first+block.LSN(i), err)
		case err != nil:
			return frame{}, fmt.Errorf("%w: record %d: %w", ErrFrameCorrupt, i, err)
		case r.LSN != f.first+block.LSN(i):
			return frame{}, fmt.Errorf("%w: record %d: LSN %d", ErrFrameCorrupt, i, r.LSN)
		}
		off += n
	}
	if visit != nil {
		visitRecords(b, f.records, blockBytes, visit)
	}
	return f, nil
}

// checkFrame checks that the records fill the frame, and its CRC.
func checkFrame(b []byte, f *frame, seed uint32) error {
	crc := crc32.Update(seed, castagnoli, b[frameOffPrevious:frameHeaderBytes])
	off := frameHeaderBytes
	for i := range f.records {
		n, err := recordLength(b[off:])
		if err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrFrameCorrupt, i, err)
		}
		if n > len(b)-off {
			return fmt.Errorf("%w: record %d: length %d", ErrFrameCorrupt, i, n)
		}
		crc = crc32.Update(crc, castagnoli, b[off:off+RecordHeaderBytes])
		off += n
	}
	if off != len(b) {
		return fmt.Errorf("%w: %d bytes after the last record", ErrFrameCorrupt, len(b)-off)
	}
	if crc != f.crc {
		return fmt.Errorf("%w: CRC %08x, should be %08x", ErrFrameCorrupt, crc, f.crc)
	}
	return nil
}

// visitRecords hands the records of a frame that was checked to visit.
func visitRecords(b []byte, records, blockBytes int, visit func(Record, int)) {
	off := frameHeaderBytes
	for range records {
		r, n, err := decodeRecordHeader(b[off:], blockBytes)
		if err != nil {
			panic("wal: a checked frame does not decode: " + err.Error())
		}
		r.Payload = b[off+RecordHeaderBytes : off+n : off+n]
		visit(r, off+RecordHeaderBytes)
		off += n
	}
}

// frameSeed is what the CRC of every frame of one copy starts from, so that a log stored inside a volume is never
// taken for part of the log that holds it.
func frameSeed(copyID [16]byte) uint32 { return crc32.Update(0, castagnoli, copyID[:]) }

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
