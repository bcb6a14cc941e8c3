package wal

import (
	"fmt"
	"sort"

	"lockstep/block"
)

// Reader reads the records of an open log in order, byte for byte as they are in it: what is sent to other copies. It
// checks what it reads as recovery does. It is for one goroutine; appends and other readers go on beside it. Between calls
// it holds nothing of the log: a Retention does that.
type Reader struct {
	log *Log
	w   *walker // next is the first record that was not read yet

	sequence uint64 // of the segment that it is in
	end      int64  // where the next frame begins there

	from   block.LSN // records below are passed over
	before uint32    // CRC of the record before from
	// The records from from on that came with the frame of the one before it.
	pending      []byte
	pendingCount int
}

// NewReader returns a reader that begins with record lsn, which may be the one after the head. ErrNotRetained means that
// the log does not have it any more.
func (l *Log) NewReader(lsn block.LSN) (*Reader, error) {
	r := &Reader{log: l, w: newWalker(&l.cfg), from: lsn}
	if err := r.begin(lsn); err != nil {
		return nil, fmt.Errorf("read log from record %d: %w", lsn, err)
	}
	for r.w.next < lsn {
		if _, err := r.readSome(nil, 0); err != nil {
			return nil, fmt.Errorf("read log from record %d: %w", lsn, err)
		}
	}
	return r, nil
}

// begin puts the reader at the start of the segment that holds a record.
func (r *Reader) begin(lsn block.LSN) error {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if head := l.Head(); lsn > head+1 {
		return fmt.Errorf("the log ends with record %d", head)
	}
	s := l.holderLocked(lsn)
	if s == nil {
		return fmt.Errorf("%w: it begins with record %d", ErrNotRetained, l.chain[0].first)
	}
	cfg := l.cfg
	cfg.Incarnation = l.incarnation // the walker knows only what there was when the log was opened
	r.w.cfg = &cfg
	h := r.enter(s)
	r.w.next, r.w.lastRecord, r.before = s.first, h.previousRecord, h.previousRecord
	return nil
}

// enter goes to the start of a segment.
func (r *Reader) enter(s *segment) segmentHeader {
	h, err := decodeSegmentHeader(s.header)
	if err != nil {
		panic("wal: the header of an open segment does not decode: " + err.Error())
	}
	r.sequence, r.end = s.sequence, segmentDataOffset
	r.w.lastCRC, r.w.incarnation = h.previousCRC, max(r.w.incarnation, h.incarnation)
	return h
}

// holderLocked returns the segment of the chain that holds a record, or will; nil where it is gone.
func (l *Log) holderLocked(lsn block.LSN) *segment {
	i := sort.Search(len(l.chain), func(i int) bool { return l.chain[i].first > lsn })
	if i == 0 {
		return nil
	}
	return l.chain[i-1]
}

// Before returns the CRC of the record before the first that the reader returns, which names it among all that could have
// its LSN (S6). It is 0 where there is none, or where the log does not know it.
func (r *Reader) Before() uint32 { return r.before }

// Read appends records to dst until that has atLeast bytes or the log ends, a frame's at a time, at most 2 MiB more. It
// returns dst and the LSNs of the first and of the last record in it; last is first - 1 where there are none. They lie one
// after the other, as DecodeRecords takes them. ErrNotRetained means that the log let go of them, a *CorruptError that they
// can not be read; what was read before is returned with the error.
func (r *Reader) Read(dst []byte, atLeast int) (_ []byte, first, last block.LSN, err error) {
	first = max(r.w.next, r.from) - block.LSN(r.pendingCount)
	dst = append(dst, r.pending...)
	r.pending, r.pendingCount = nil, 0
	for len(dst) < atLeast && r.w.next <= r.log.Head() && err == nil {
		dst, err = r.readSome(dst, atLeast)
	}
	if err != nil {
		err = fmt.Errorf("read log: record %d: %w", r.w.next, err)
	}
	return dst, first, max(r.w.next, r.from) - 1, err
}

// readSome reads at least one frame.
func (r *Reader) readSome(dst []byte, atLeast int) ([]byte, error) {
	s, end, last, err := r.pin()
	if err != nil {
		return dst, err
	}
	defer s.Unpin()
	dst, err = r.readSegment(s, end, last, dst, atLeast)
	if err != nil && s.unverified {
		return dst, fmt.Errorf("%w: %w", ErrNotRetained, err)
	}
	if err != nil && isChainEnd(err) {
		err = &CorruptError{Segment: s.name, Offset: r.end, LSN: r.w.next, Durable: r.log.Durable(), Reason: err}
	}
	return dst, err
}

// pin returns the segment that holds the next record, pinned, how far it is written, and its newest record.
func (r *Reader) pin() (s *segment, end int64, last block.LSN, err error) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if s = l.holderLocked(r.w.next); s == nil {
		return nil, 0, 0, ErrNotRetained
	}
	if s.sequence != r.sequence {
		if s.first != r.w.next {
			return nil, 0, 0, fmt.Errorf("%w: segment %s begins with %d", errStale, s.name, s.first)
		}
		r.enter(s)
	}
	s.pins.Add(1)
	return s, s.end, s.last, nil
}

// readSegment appends the records of the frames from the reader's place to byte end, where record last ends.
func (r *Reader) readSegment(s *segment, end int64, last block.LSN, dst []byte, atLeast int) ([]byte, error) {
	win := &window{file: s.file, size: end, buf: r.w.buf} // anew each time: there is more now
	at := &segment{name: s.name, file: s.file, sequence: s.sequence, end: r.end}
	for r.w.next <= last {
		f, records, err := r.w.frame(win, at)
		if err != nil {
			return dst, err
		}
		b, err := win.at(at.end, int(f.size()))
		if err != nil {
			return dst, err
		}
		dst = r.take(dst, b, records, r.w.cutFor(f.incarnation))
		if err := r.w.accept(at, f, records); err != nil {
			return dst, err
		}
		r.w.tail = r.w.tail[:0] // which is recovery's
		r.end = at.end
		if len(dst) >= atLeast {
			break
		}
	}
	return dst, nil
}

// take appends those of a frame's records that are wanted and not void.
func (r *Reader) take(dst, frame []byte, records []walked, cut block.LSN) []byte {
	for _, rec := range records {
		raw := frame[rec.payload-RecordHeaderBytes:][:RecordHeaderBytes+len(rec.Payload)]
		switch {
		case rec.LSN > cut:
			return dst
		case rec.LSN >= r.from && r.w.next < r.from:
			r.pending, r.pendingCount = append(r.pending, raw...), r.pendingCount+1
		case rec.LSN >= r.from:
			dst = append(dst, raw...)
		case rec.LSN == r.from-1:
			r.before = rec.CRC
		}
	}
	return dst
}
