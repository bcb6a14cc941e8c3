package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"lockstep/block"
)

// SegmentState says what a segment file is to the log.
type SegmentState string

// The states of segment files.
const (
	SegmentInLog    SegmentState = "log"      // holds records after the checkpoint, or just before it
	SegmentRetained SegmentState = "retained" // holds records that only other copies may want; not verified
	SegmentUnused   SegmentState = "unused"   // holds nothing that is wanted
	SegmentBad      SegmentState = "bad"      // its header can not be read
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

	newest map[string]block.LSN // newest record in each segment that has any, stranded ones included
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
	in := &Inspection{newest: make(map[string]block.LSN)}
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
		in.newest[s.name] = f.next() - 1 - block.LSN(void)
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
	if err != nil && (len(chain) == 0 || errors.Is(err, ErrMismatch) || errors.Is(err, ErrNewer)) {
		return nil, err
	}
	in.Damage = w.checkEnd(all, chain, errors.Join(why, err))
	var damage *CorruptError
	if in.Damage != nil && !errors.As(in.Damage, &damage) {
		return nil, in.Damage
	}
	if err != nil && damage == nil { // what can not be read is damage, though nothing tells whether it was durable
		last := chain[len(chain)-1]
		damage = &CorruptError{Segment: last.name, Offset: last.end, LSN: w.next, Durable: max(w.mark, cfg.Durable), Reason: err}
		in.Damage = damage
	}
	in.Head, in.Durable, in.Committed, in.TailFrames = w.next-1, max(w.mark, cfg.Durable), w.committed, len(w.tail)
	if damage != nil {
		in.Durable = damage.Durable
	}
	kept := retained(all, chain)
	for _, f := range all {
		info := f.info(slices.Contains(chain, f), counts[f.sequence])
		if slices.Contains(kept, f) {
			info.State = SegmentRetained
		}
		in.Segments = append(in.Segments, info)
	}
	in.Stranded = w.stranded(all, in.newest)
	return in, nil
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
// wrote and no cut made void, and notes the newest of each segment. Stale bytes of recycled space are below the
// checkpoint, and so not among them. What can not be read is passed over.
func (w *walker) stranded(all []*found, newest map[string]block.LSN) []Record {
	byLSN := make(map[block.LSN]Record)
	for _, f := range all {
		win := &window{file: f.file, size: f.size, buf: w.buf}
		for off := int64(segmentDataOffset); off+frameHeaderBytes <= f.size; off += gridBytes {
			b, err := win.at(off, frameHeaderBytes)
			if err != nil {
				continue
			}
			h, err := decodeFrameHeader(b)
			if err != nil || h.next() <= w.next || h.first > w.cutFor(h.incarnation) || off+h.size() > f.size {
				continue
			}
			if b, err = win.at(off, int(h.size())); err != nil {
				continue
			}
			_, _ = decodeFrame(b, w.seed, w.cfg.BlockBytes, true, func(r Record, _ int) {
				if r.LSN >= w.next && r.LSN <= w.cutFor(h.incarnation) {
					r.Payload = nil
					byLSN[r.LSN] = r
					newest[f.name] = max(newest[f.name], r.LSN)
				}
			}) // what does not decode is not a record
		}
	}
	records := make([]Record, 0, len(byLSN))
	for _, r := range byLSN {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.LSN, b.LSN) })
	return records
}

// asideSuffix marks copies of segments that SetAside made.
const asideSuffix = ".aside"

// SetAside copies every segment of a log that is not open and holds records above lsn, whether in the chain or behind
// damage, or from the damage on, or whose header can not be read, to a file beside it, durably, and returns the copies' names. They are not
// part of the log. What can not be read is zero in the copy. A copy of the same cut that is there already is replaced.
func SetAside(cfg Config, lsn block.LSN) ([]string, error) {
	in, err := Inspect(cfg, Visitor{})
	if err != nil {
		return nil, err
	}
	damaged := ^uint64(0) // from there on, what can not be read now may be read by better means
	var damage *CorruptError
	if errors.As(in.Damage, &damage) {
		for _, s := range in.Segments {
			if s.Name == damage.Segment {
				damaged = s.Sequence
			}
		}
	}
	var names []string
	for _, s := range in.Segments {
		if s.State != SegmentBad && in.newest[s.Name] <= lsn && s.Sequence < damaged {
			continue
		}
		name := fmt.Sprintf("cut-%d-%s%s", lsn, strings.TrimSuffix(s.Name, segmentSuffix), asideSuffix)
		if err := copyAside(cfg.FS, s.Name, name); err != nil {
			return names, fmt.Errorf("keep log segment %s aside: %w", s.Name, err)
		}
		names = append(names, name)
	}
	return names, cfg.FS.Sync()
}

// copyAside copies a file, durably, under a temporary name at first.
func copyAside(dir FS, from, to string) (err error) {
	temporary := to + temporarySuffix
	if err := dir.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	src, err := dir.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := dir.Create(temporary)
	if err != nil {
		return err
	}
	err = copyReadable(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	return dir.Rename(temporary, to)
}

// copyReadable copies what can be read, page by page where not all can.
func copyReadable(dst, src File) error {
	size, err := src.Size()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		b := buf[:min(int64(len(buf)), size-off)]
		if n, err := src.ReadAt(b, off); n < len(b) && err != nil {
			b = b[:min(pageBytes, len(b))]
			if n, err := src.ReadAt(b, off); n < len(b) && err != nil {
				clear(b[n:])
			}
		}
		if _, err := dst.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}
