package wal

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lockstep/block"
)

// SegmentState says what a segment file is to the log.
type SegmentState string

// The states of segment files.
const (
	SegmentInLog  SegmentState = "log"    // holds records after the checkpoint, or just before it
	SegmentUnused SegmentState = "unused" // holds nothing that is wanted
	SegmentBad    SegmentState = "bad"    // its header can not be read
)

// SegmentInfo describes one segment file.
type SegmentInfo struct {
	Name        string
	State       SegmentState
	Sequence    uint64
	Incarnation uint64
	First, Last block.LSN // Last is First - 1 where there are no records
	Frames      int
	Records     int
	EndBytes    int64 // where the frames end
	Problem     error // of a bad one
}

// FrameInfo describes one frame of the log.
type FrameInfo struct {
	Segment     string
	Offset      int64
	Bytes       int64 // with header, without padding
	Incarnation uint64
	First       block.LSN
	Records     int // 0 in a durable mark
	Void        int // of the records, cut off
	Durable     block.LSN
	Committed   block.LSN
	CRC         uint32
}

// Inspection is what a log that is not open holds.
type Inspection struct {
	Segments   []SegmentInfo
	Head       block.LSN // newest record that can be read
	Durable    block.LSN // highest durable mark found
	Committed  block.LSN
	TailFrames int   // frames above the last mark
	Damage     error // *CorruptError, or nil
	Epochs     []block.EpochStart
	// Stranded are records behind the damage, oldest first: they were written, and are not part of the log that can be
	// read. Payloads are nil.
	Stranded []Record
}

// Visitor is told what Inspect comes by. Either function may be nil.
type Visitor struct {
	Frame  func(FrameInfo)
	Record func(Record, Position) error
}

// Inspect reads a log that is not open, from the segment that holds the checkpoint on, and changes nothing. Every
// frame and record of it is verified. Damage is reported, not returned; an error means that the log could not be read.
func Inspect(cfg Config, visit Visitor) (*Inspection, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	all, err := findSegments(&cfg)
	if err != nil {
		return nil, err
	}
	in, err := inspect(&cfg, all, visit)
	for _, f := range all {
		err = errors.Join(err, f.file.Close())
	}
	return in, err
}

func inspect(cfg *Config, all []*found, visit Visitor) (*Inspection, error) {
	in := &Inspection{}
	counts := make(map[uint64]*SegmentInfo)
	w := newWalker(cfg)
	w.onFrame = func(s *segment, off int64, f *frame, void int) {
		c := counts[s.sequence]
		if c == nil {
			c = &SegmentInfo{}
			counts[s.sequence] = c
		}
		c.Frames++
		c.Records += f.records - void
		if visit.Frame != nil {
			visit.Frame(FrameInfo{
				Segment: s.name, Offset: off, Bytes: f.size(), Incarnation: f.incarnation, First: f.first,
				Records: f.records, Void: void, Durable: f.durable, Committed: f.committed, CRC: f.crc,
			})
		}
	}
	w.onRecord = func(r Record, p Position) error {
		if r.Type == RecordEpochStart {
			in.Epochs = append(in.Epochs, r.EpochStart())
		}
		if visit.Record != nil {
			return visit.Record(r, p)
		}
		return nil
	}
	chain, why, err := w.walk(all)
	if err != nil {
		return nil, err
	}
	in.Damage = w.checkEnd(all, chain, why)
	var damage *CorruptError
	if in.Damage != nil && !errors.As(in.Damage, &damage) {
		return nil, in.Damage
	}
	in.Head, in.Durable, in.Committed, in.TailFrames = w.next-1, max(w.mark, cfg.Durable), w.committed, len(w.tail)
	if damage != nil {
		in.Durable = damage.Durable
	}
	for _, f := range all {
		in.Segments = append(in.Segments, f.info(slices.Contains(chain, f), counts[f.sequence]))
	}
	in.Stranded, err = w.stranded(all)
	return in, err
}

func (f *found) info(inLog bool, counted *SegmentInfo) SegmentInfo {
	s := SegmentInfo{
		Name: f.name, State: SegmentUnused, Sequence: f.sequence, Incarnation: f.decoded.incarnation,
		First: f.first, Last: f.last, EndBytes: f.end, Problem: f.bad,
	}
	switch {
	case f.bad == errBlank:
		s.Problem = nil
	case f.bad != nil:
		s.State = SegmentBad
	case inLog:
		s.State = SegmentInLog
		if counted != nil {
			s.Frames, s.Records = counted.Frames, counted.Records
		}
	}
	return s
}

// stranded looks in all segments for whole records above the end of the chain that this or an earlier incarnation
// wrote and no cut made void. Stale bytes of recycled space are below the checkpoint, and so not among them.
func (w *walker) stranded(all []*found) ([]Record, error) {
	byLSN := make(map[block.LSN]Record)
	for _, f := range all {
		win := &window{file: f.file, size: f.size, buf: w.buf}
		for off := int64(segmentDataOffset); off+frameHeaderBytes <= f.size; off += gridBytes {
			b, err := win.at(off, frameHeaderBytes)
			if err != nil {
				return nil, fmt.Errorf("look for lost records in log segment %s: %w", f.name, err)
			}
			h, err := decodeFrameHeader(b)
			if err != nil || h.next() <= w.next || h.first > w.cutFor(h.incarnation) || off+h.size() > f.size {
				continue
			}
			if b, err = win.at(off, int(h.size())); err != nil {
				return nil, fmt.Errorf("look for lost records in log segment %s: %w", f.name, err)
			}
			_, _ = decodeFrame(b, w.seed, w.cfg.BlockBytes, true, func(r Record, _ int) {
				if r.LSN >= w.next && r.LSN <= w.cutFor(h.incarnation) {
					r.Payload = nil
					byLSN[r.LSN] = r
				}
			}) // what does not decode is not a record
		}
	}
	records := make([]Record, 0, len(byLSN))
	for _, r := range byLSN {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int { return int(min(max(int64(a.LSN)-int64(b.LSN), -1), 1)) })
	return records, nil
}

// asideSuffix marks copies of segments that SetAside made.
const asideSuffix = ".aside"

// SetAside copies every segment of a log that is not open and holds records above lsn, whether in the chain or behind
// damage, to a file beside it, durably, and returns the copies' names. They are not part of the log.
func SetAside(cfg Config, lsn block.LSN) ([]string, error) {
	all, err := findSegments(&cfg)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range all {
		if err == nil && (f.bad != nil || f.sequence != 0) {
			name := fmt.Sprintf("cut-%d-%s%s", lsn, strings.TrimSuffix(f.name, segmentSuffix), asideSuffix)
			if err = copyFile(cfg.FS, &f.segment, name); err == nil {
				names = append(names, name)
			}
		}
		err = errors.Join(err, f.file.Close())
	}
	if err != nil {
		return nil, err
	}
	return names, cfg.FS.Sync()
}

func copyFile(fs FS, s *segment, name string) error {
	to, err := fs.Create(name)
	if err != nil {
		return fmt.Errorf("keep log segment %s aside: %w", s.name, err)
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < s.size && err == nil; {
		b := buf[:min(int64(len(buf)), s.size-off)]
		if err = s.ReadAt(b, off); err == nil {
			_, err = to.WriteAt(b, off)
		}
		off += int64(len(b))
	}
	if err == nil {
		err = to.Sync()
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("keep log segment %s aside: %w", s.name, err)
	}
	return nil
}
