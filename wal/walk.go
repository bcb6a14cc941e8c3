package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"lockstep/block"
)

// errStale is why a frame that reads well is not part of the chain.
var errStale = errors.New("frame is not part of the log")

// CorruptError says where the log is damaged: records that were durable can not be read. It is never mistaken for the
// torn tail that a crash leaves.
type CorruptError struct {
	Segment string    // file name
	Offset  int64     // of the bad frame
	LSN     block.LSN // of the first record that is missing
	Durable block.LSN // up to here all records were durable once
	Reason  error     // what is wrong at Offset
}

// Error names the place and what is missing there.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("the log is damaged in segment %s at byte %d: record %d is missing there, but records up to %d were durable: %v",
		e.Segment, e.Offset, e.LSN, e.Durable, e.Reason)
}

// Unwrap returns what is wrong at the place.
func (e *CorruptError) Unwrap() error { return e.Reason }

// window reads a file through a buffer that moves forward.
type window struct {
	file  File
	size  int64
	buf   []byte
	start int64 // of buf in the file
	have  int   // bytes of buf that are read
}

const windowBytes = 4 << 20 // above the longest frame

// at returns n bytes of the file at off, or io.ErrUnexpectedEOF where the file ends before.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off+int64(n) > w.size {
		return nil, fmt.Errorf("%w: the segment ends before", io.ErrUnexpectedEOF)
	}
	if off < w.start || off+int64(n) > w.start+int64(w.have) {
		want := int(min(int64(len(w.buf)), w.size-off))
		got, err := w.file.ReadAt(w.buf[:want], off)
		if got < n {
			w.have = 0
			return nil, fmt.Errorf("read at %d: %w", off, err)
		}
		w.start, w.have = off, got
	}
	return w.buf[off-w.start:][:n:n], nil
}

// walker follows the chain of frames.
type walker struct {
	cfg  *Config
	seed uint32
	buf  []byte

	next        block.LSN // expected
	lastCRC     uint32
	lastRecord  uint32 // CRC of the newest record; 0 where it is not known
	incarnation uint64
	mark        block.LSN // highest durable mark seen in the chain
	committed   block.LSN
	tail        []extent // frames above mark
	records     []walked // of the frame at hand

	// onFrame and onRecord, where set, are told of each frame of the chain and each record that is not void.
	onFrame  func(s *segment, off int64, f *frame, void int)
	onRecord func(Record, Position) error
}

func newWalker(cfg *Config) *walker {
	return &walker{cfg: cfg, seed: frameSeed(cfg.CopyID), buf: make([]byte, min(windowBytes, cfg.SegmentBytes))}
}

// cutFor returns the highest LSN that frames of the incarnation may still contribute.
func (w *walker) cutFor(incarnation uint64) block.LSN {
	lsn := ^block.LSN(0) - 1
	for _, c := range w.cfg.Cuts {
		if incarnation <= c.Incarnation {
			lsn = min(lsn, c.LSN)
		}
	}
	return lsn
}

// segment follows the chain through one segment. It sets the segment's end and last LSN, and returns why the chain
// ends there; fatal is an error of another kind, after which nothing is known.
func (w *walker) segment(s *segment) (why, fatal error) {
	win := &window{file: s.file, size: s.size, buf: w.buf}
	s.end, s.last = segmentDataOffset, s.first-1
	for {
		f, records, err := w.frame(win, s)
		if err != nil {
			if isChainEnd(err) {
				return err, nil
			}
			return err, fmt.Errorf("log segment %s at %d: %w", s.name, s.end, err)
		}
		if fatal := w.accept(s, f, records); fatal != nil {
			return nil, fatal
		}
	}
}

// isChainEnd tells an error that says "no frame of the log here" from one of the disk or of the caller's.
func isChainEnd(err error) bool {
	if errors.Is(err, ErrNewer) {
		return false
	}
	for _, e := range []error{errStale, ErrFrameMagic, ErrFrameVersion, ErrFrameTorn, ErrFrameCorrupt, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// walked is a record with the offset of its payload from the frame's start.
type walked struct {
	Record
	payload int
}

// frame reads the frame at the segment's end and checks that it continues the chain.
func (w *walker) frame(win *window, s *segment) (*frame, []walked, error) {
	b, err := win.at(s.end, frameHeaderBytes)
	if err != nil {
		return nil, nil, err
	}
	f, err := decodeFrameHeader(b)
	if err != nil {
		return nil, nil, err
	}
	if f.segment != s.sequence || f.previous != w.lastCRC || f.first != w.next || f.incarnation < w.incarnation {
		return nil, nil, fmt.Errorf("%w: segment %d, incarnation %d, first LSN %d after %08x, where segment %d, incarnation %d or later, LSN %d after %08x would follow",
			errStale, f.segment, f.incarnation, f.first, f.previous, s.sequence, w.incarnation, w.next, w.lastCRC)
	}
	if cut := w.cutFor(f.incarnation); f.first > cut && (f.records > 0 || f.first > cut+1) {
		return nil, nil, fmt.Errorf("%w: cut at LSN %d", errStale, cut)
	}
	if b, err = win.at(s.end, int(f.size())); err != nil {
		return nil, nil, err
	}
	w.records = w.records[:0]
	f, err = decodeFrame(b, w.seed, w.cfg.BlockBytes, true, func(r Record, payload int) {
		w.records = append(w.records, walked{r, payload})
	})
	if err != nil {
		return nil, nil, err
	}
	if f.incarnation > w.cfg.Incarnation {
		return nil, nil, newerThanBase(f.incarnation, w.cfg.Incarnation)
	}
	return &f, w.records, nil
}

// accept takes the frame into the chain.
func (w *walker) accept(s *segment, f *frame, records []walked) error {
	cut := w.cutFor(f.incarnation)
	void := 0
	for i := range records {
		r := &records[i]
		if r.LSN > cut {
			void = len(records) - i
			break
		}
		w.lastRecord = r.CRC
		if w.onRecord != nil {
			if err := w.onRecord(r.Record, Position{Segment: s.sequence, Offset: s.end + int64(r.payload)}); err != nil {
				return fmt.Errorf("replay record %d: %w", r.LSN, err)
			}
		}
	}
	if w.onFrame != nil {
		w.onFrame(s, s.end, f, void)
	}
	w.next = f.next() - block.LSN(void)
	w.lastCRC, w.incarnation = f.crc, f.incarnation
	w.mark = max(w.mark, min(f.durable, cut))
	w.committed = max(w.committed, min(f.committed, cut))
	// A frame without records is proved to be on disk only by a mark that covers a record after it.
	end, last := alignUp(s.end+f.size(), gridBytes), w.next-1
	if f.records == 0 {
		last = w.next
	}
	w.tail = append(w.tail, extent{segment: s, start: s.end, end: s.end + f.size(), last: last, crc: f.crc})
	proved := 0
	for proved < len(w.tail) && w.tail[proved].last <= w.mark {
		proved++
	}
	w.tail = w.tail[proved:]
	s.end, s.last = end, w.next-1
	return nil
}

// highestMark looks in one segment from off on, at every place of the grid, for frames of the last incarnation, and
// returns the highest durable mark in them. Frames count whole or not, in the chain or not: each was written by this
// log after everything up to its mark was durable. What can not be read is passed over: one frame that can is enough.
func (w *walker) highestMark(s *segment, off int64) (block.LSN, error) {
	win := &window{file: s.file, size: s.size, buf: w.buf}
	var highest block.LSN
	var unreadable error
	defer func() {
		if unreadable != nil {
			w.cfg.Logger.Warn().Err(unreadable).Str("segment", s.name).Msg("a part of the log behind its end can not be read")
		}
	}()
	for ; off+frameHeaderBytes <= s.size; off += gridBytes {
		b, err := win.at(off, frameHeaderBytes)
		if err != nil {
			unreadable = cmp.Or(unreadable, err)
			continue
		}
		f, err := decodeFrameHeader(b)
		if err != nil || f.incarnation < w.cfg.Incarnation || f.durable <= highest || off+f.size() > s.size {
			continue
		}
		if b, err = win.at(off, int(f.size())); err != nil {
			unreadable = cmp.Or(unreadable, err)
			continue
		}
		if _, err := decodeFrame(b, w.seed, w.cfg.BlockBytes, false, nil); errors.Is(err, ErrNewer) {
			return 0, fmt.Errorf("log segment %s at %d: %w", s.name, off, err)
		} else if err != nil {
			continue
		}
		if f.incarnation > w.cfg.Incarnation {
			return 0, fmt.Errorf("log segment %s at %d: %w", s.name, off, newerThanBase(f.incarnation, w.cfg.Incarnation))
		}
		highest = f.durable
	}
	return highest, nil
}
