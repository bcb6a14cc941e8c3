package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
)

// Change is one record to append.
type Change struct {
	Type    RecordType
	Range   block.Range
	Payload []byte // of a write: Range.Count blocks, at most MaxPayloadBytes; else as in Record

	LSN      block.LSN // set by Append
	Position Position  // of the payload; set by Append

	received []byte // its header, of a record of another copy
}

// appendScratch is what an append needs and the next one uses again.
type appendScratch struct {
	headers []byte
	vector  [][]byte
	padding [pageBytes]byte // zeroes, never written to
}

// pageBytes is the page cache's unit: a frame's padding runs to its end, so that the kernel has no old page to read.
const pageBytes = 4096

// Append logs the changes in order, assigns their LSNs and positions, and returns once they are with the kernel: they
// survive the end of this process, and a power cut after the next Sync. timeNs is the time to record. ErrFull means
// that nothing was appended: all the changes fit or none are taken. Any other error is ErrFailed, and how many were
// written is not known.
func (l *Log) Append(changes []Change, timeNs int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admitLocked(changes); err != nil {
		return err
	}
	return l.appendLocked(changes, timeNs)
}

// appendLocked writes changes that were admitted.
func (l *Log) appendLocked(changes []Change, timeNs int64) error {
	for len(changes) > 0 {
		n, err := l.appendFrameLocked(changes, timeNs)
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	l.tellLocked()
	return nil
}

func (l *Log) writableLocked() error {
	if err := l.Err(); err != nil {
		return err
	}
	if l.closed {
		return ErrClosed
	}
	if !l.started {
		panic("wal: append before Start")
	}
	return nil
}

// admitLocked makes sure that the changes fit, so that none of them is appended where not all are: it gets the
// segments that they need ready, or returns ErrFull, or ErrPinned where only readers are in the way. Changes with data
// leave a whole segment to those that make room, and these leave the last of it to marks and epoch starts. What they
// leave is a file that is there or being made, or the rest of the segment that is appended to: the file system may have
// no room for another one when it is needed.
func (l *Log) admitLocked(changes []Change) error {
	for {
		if err := l.writableLocked(); err != nil {
			return err
		}
		rotations, reserve, err := l.roomLocked(changes)
		if err != nil {
			return err
		}
		have, wanted := l.atHandLocked(), rotations+reserve
		switch {
		case have >= wanted, l.preparing && have >= rotations && have+1 >= wanted:
			return nil
		case l.preparing && int64(l.files+wanted-have)*l.cfg.SegmentBytes > l.cfg.BudgetBytes:
			l.prepared.Wait() // for the last file; meanwhile others append, and the log may fail or be closed
		default:
			return l.readyLocked(wanted)
		}
	}
}

// roomLocked returns how many segments the changes go on to, and how many more must be there for what they leave.
func (l *Log) roomLocked(changes []Change) (rotations, reserve int, err error) {
	rotations, end := l.layoutLocked(changes)
	segments, bytes := 0, int64(0)
	for i := range changes {
		switch changes[i].Type {
		case RecordWrite:
			segments = 1
		case RecordZero, RecordTrim, RecordResize:
			bytes = l.markReserve()
		}
	}
	freed, freedUnpinned := l.rotationFreesLocked(changes)
	fits := func(segmentsAvailable int) bool {
		left := segmentsAvailable - rotations
		return left >= segments && (left > 0 || segments > 0 || l.cfg.SegmentBytes-end >= bytes)
	}
	if !fits(l.availableLocked() + freedUnpinned) {
		if fits(l.maxFilesLocked() - len(l.chain) + l.checkpointedLocked() + freed) {
			return 0, 0, ErrPinned
		}
		return 0, 0, ErrFull
	}
	if segments > 0 && end > l.cfg.SegmentBytes/4 || l.cfg.SegmentBytes-end < bytes {
		reserve = max(1-freedUnpinned, 0)
	}
	return rotations, reserve, nil
}

// rotationFreesLocked is 1 where the changes leave the current segment at once, and it can be recycled then: all that
// it holds was reclaimed, and all before it; unpinned takes pins into account.
func (l *Log) rotationFreesLocked(changes []Change) (freed, unpinned int) {
	current := l.chain[len(l.chain)-1]
	n, _ := frameFill(changes, min(l.cfg.SegmentBytes-current.end-frameHeaderBytes, maxFrameBytes))
	if n > 0 || current.last > l.reclaim || l.checkpointedLocked() < len(l.chain)-1 {
		return 0, 0
	}
	if current.pins.Load() == 0 && l.reclaimableLocked() == len(l.chain)-1 {
		unpinned = 1
	}
	return 1, unpinned
}

// markReserve is how many bytes trims and zeroes leave for marks and epoch starts at the end of the last segment.
func (l *Log) markReserve() int64 { return min(64<<10, l.cfg.SegmentBytes/2) }

// layoutLocked says how many segments the changes go on to, and where their last frame ends.
func (l *Log) layoutLocked(changes []Change) (rotations int, end int64) {
	end = l.chain[len(l.chain)-1].end
	for len(changes) > 0 {
		n, length := frameFill(changes, min(l.cfg.SegmentBytes-end-frameHeaderBytes, maxFrameBytes))
		if n == 0 {
			if end == segmentDataOffset {
				panic(fmt.Sprintf("wal: a record of %d bytes does not fit a segment", len(changes[0].Payload)))
			}
			rotations++
			end = segmentDataOffset
			continue
		}
		end = alignUp(end+frameHeaderBytes+int64(length), gridBytes)
		changes = changes[n:]
	}
	return rotations, end
}

// appendFrameLocked writes one frame with as many of the changes as it may hold, and returns how many.
func (l *Log) appendFrameLocked(changes []Change, timeNs int64) (int, error) {
	current := l.chain[len(l.chain)-1]
	n, length := frameFill(changes, min(l.cfg.SegmentBytes-current.end-frameHeaderBytes, maxFrameBytes))
	if n == 0 {
		if err := l.rotateLocked(); err != nil {
			return 0, err
		}
		current = l.chain[len(l.chain)-1]
		n, length = frameFill(changes, min(l.cfg.SegmentBytes-current.end-frameHeaderBytes, maxFrameBytes))
	}
	head := l.Head()
	f := frame{
		previous:    l.lastCRC,
		incarnation: l.incarnation,
		segment:     current.sequence,
		first:       head + 1,
		durable:     l.Durable(),
		committed:   block.LSN(l.committed.Load()),
		length:      length,
		records:     n,
	}
	if err := l.writeFrameLocked(current, f, changes[:n], timeNs); err != nil {
		return 0, err
	}
	l.head.Store(uint64(head) + uint64(n))
	current.last = l.Head()
	return n, nil
}

// frameFill returns how many of the changes, and how many bytes of records, fit in limit bytes.
func frameFill(changes []Change, limit int64) (n, length int) {
	for n < len(changes) {
		size := RecordHeaderBytes + len(changes[n].Payload)
		if int64(length+size) > limit {
			break
		}
		length += size
		n++
	}
	return n, length
}

// writeFrameLocked writes the frame at the end of the segment with one call, and moves the end.
func (l *Log) writeFrameLocked(s *segment, f frame, changes []Change, timeNs int64) error {
	sc := &l.scratch
	if need := frameHeaderBytes + len(changes)*RecordHeaderBytes; cap(sc.headers) < need {
		sc.headers = make([]byte, need)
	}
	headers := sc.headers[:frameHeaderBytes+len(changes)*RecordHeaderBytes]
	vector := sc.vector[:0]
	f.encode(headers)
	lastRecord := l.lastRecord
	pending := 0 // start of the header bytes not yet in the vector
	payload := s.end + frameHeaderBytes
	for i := range changes {
		c := &changes[i]
		at := frameHeaderBytes + i*RecordHeaderBytes
		c.LSN = f.first + block.LSN(i)
		payload += RecordHeaderBytes
		c.Position = Position{Segment: s.sequence, Offset: payload}
		lastRecord = l.putHeaderLocked(headers[at:], c, timeNs)
		if len(c.Payload) > 0 {
			vector = append(vector, headers[pending:at+RecordHeaderBytes], c.Payload)
			pending = at + RecordHeaderBytes
			payload += int64(len(c.Payload))
		}
	}
	if pending < len(headers) {
		vector = append(vector, headers[pending:])
	}
	end := s.end + f.size()
	next := alignUp(end, gridBytes)
	if page := min(alignUp(end, pageBytes), l.cfg.SegmentBytes); page > end {
		vector = append(vector, sc.padding[:page-end])
	}
	crc := sealFrame(headers, l.seed)
	l.touchLocked(s)
	err := s.file.WriteVecAt(vector, s.end)
	clear(vector) // do not keep the callers' payloads alive
	sc.vector = vector[:0]
	if err != nil {
		return l.fail(fmt.Errorf("append to log segment %s at %d: %w", s.name, s.end, err))
	}
	l.lastCRC, l.lastRecord = crc, lastRecord
	l.carried.Store(uint64(f.committed))
	s.end = next
	l.counters.appendedBytes.Add(uint64(f.size()))
	l.counters.frames.Add(1)
	l.counters.records.Add(uint64(len(changes)))
	return nil
}

// putHeaderLocked writes the header of a record, and returns the record's CRC. Of one that was received it is as it came.
func (l *Log) putHeaderLocked(b []byte, c *Change, timeNs int64) uint32 {
	if c.received != nil {
		copy(b, c.received)
		return binary.LittleEndian.Uint32(b[recordOffCRC:])
	}
	r := Record{Type: c.Type, LSN: c.LSN, Epoch: l.epoch, Range: c.Range, Time: timeNs, Payload: c.Payload}
	if err := r.checkShape(len(c.Payload), l.cfg.BlockBytes); err != nil {
		panic("wal: append: " + err.Error())
	}
	r.encodeHeader(b)
	return r.CRC
}

// touchLocked notes that the segment has something to sync.
func (l *Log) touchLocked(s *segment) {
	if n := len(l.unsynced); n == 0 || l.unsynced[n-1] != s {
		l.unsynced = append(l.unsynced, s)
	}
}

// StartEpoch begins a new epoch with an epoch-start record and returns the lineage entry. It does not sync. After an
// error the epoch is what it was.
func (l *Log) StartEpoch(epoch block.Epoch, id, primary uuid.UUID, timeNs int64) (block.EpochStart, error) {
	c := []Change{{Type: RecordEpochStart, Payload: epochStartPayload(id, primary)}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admitLocked(c); err != nil {
		return block.EpochStart{}, fmt.Errorf("start epoch %d: %w", epoch, err)
	}
	old := l.epoch
	if epoch <= old {
		return block.EpochStart{}, fmt.Errorf("log: epoch %d does not follow epoch %d", epoch, old)
	}
	l.epoch = epoch
	if err := l.appendLocked(c, timeNs); err != nil {
		l.epoch = old
		return block.EpochStart{}, fmt.Errorf("start epoch %d: %w", epoch, err)
	}
	return block.EpochStart{Epoch: epoch, ID: id, Primary: primary, First: c[0].LSN}, nil
}
