package wal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"lockstep/block"
)

// found is a segment file as Open finds it.
type found struct {
	segment
	decoded segmentHeader
	bad     error // why the header can not be used, or nil
}

// errBlank is what is "bad" with a segment that was made ahead, and not begun.
var errBlank = errors.New("segment was never begun")

// Create makes the first segment of a new log, durably. The directory must hold no segment.
func Create(cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	names, err := cfg.FS.List()
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	if i := slices.IndexFunc(names, isSegmentName); i >= 0 {
		return fmt.Errorf("create log: the directory holds the segment %s of another log", names[i])
	}
	s, err := createSegment(cfg.FS, segmentName(1), cfg.SegmentBytes, true)
	if err != nil {
		return err
	}
	l := &Log{cfg: cfg}
	if err := l.beginSegment(s, l.headerLocked(1, 1)); err != nil {
		return errors.Join(err, s.file.Close())
	}
	if err := s.file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("create log: sync segment %s: %w", s.name, err), s.file.Close())
	}
	return s.file.Close()
}

func isSegmentName(name string) bool { return strings.HasSuffix(name, segmentSuffix) }

// Open finds the log's end and hands every record after cfg.Checkpoint to replay, in order, with the position of its
// payload; the payload itself is valid only during the call. It writes nothing. A torn tail is where the log ends; a
// record that was durable and can not be read is a *CorruptError; segments of another volume, of another copy, or newer
// than the base image are ErrMismatch. Then call Harden and Start, or only Close.
func Open(cfg Config, replay func(Record, Position) error) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	all, err := findSegments(&cfg)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, seed: frameSeed(cfg.CopyID), epoch: cfg.Epoch, files: len(all), wanted: make(chan struct{}, 1)}
	l.group.done = sync.NewCond(&l.group.Mutex)
	l.prepared = sync.NewCond(&l.mu)
	l.segments.by = make(map[uint64]*segment)
	l.retentions, l.subscribers = make(map[*Retention]struct{}), make(map[chan struct{}]struct{})
	if err := l.recover(all, replay); err != nil {
		for _, f := range all {
			err = errors.Join(err, f.file.Close())
		}
		return nil, err
	}
	return l, nil
}

// findSegments opens all segment files and reads their headers.
func findSegments(cfg *Config) (all []*found, err error) {
	names, err := cfg.FS.List()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer func() {
		if err != nil {
			for _, f := range all {
				_ = f.file.Close()
			}
			all = nil
		}
	}()
	for _, name := range names {
		if !isSegmentName(name) {
			continue
		}
		file, err := cfg.FS.Open(name)
		if err != nil {
			return all, fmt.Errorf("open log segment %s: %w", name, err)
		}
		f := &found{segment: segment{name: name, file: file}}
		all = append(all, f)
		if err := f.readHeader(cfg); err != nil {
			return all, fmt.Errorf("open log segment %s: %w", name, err)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("open log: %w: the directory has no segments", ErrMismatch)
	}
	slices.SortFunc(all, func(a, b *found) int {
		return int(min(max(int64(a.decoded.sequence)-int64(b.decoded.sequence), -1), 1))
	})
	for i := 1; i < len(all); i++ {
		if a, b := all[i-1], all[i]; a.decoded.sequence == b.decoded.sequence && a.decoded.sequence != 0 {
			return all, fmt.Errorf("open log: %w: segments %s and %s have the same sequence %d", ErrMismatch, a.name, b.name, a.decoded.sequence)
		}
	}
	return all, nil
}

// readHeader reads the segment's header. A torn or corrupt one is kept in bad: what it means depends on what it held.
func (f *found) readHeader(cfg *Config) error {
	size, err := f.file.Size()
	if err != nil {
		return err
	}
	f.size = min(size, cfg.SegmentBytes)
	b := make([]byte, segmentHeaderBytes)
	if n, err := f.file.ReadAt(b, 0); n < len(b) {
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		b = b[:n]
	}
	h, err := decodeSegmentHeader(b)
	switch {
	case !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }):
		f.bad = errBlank
		return nil
	case errors.Is(err, ErrSegmentVersion), errors.Is(err, ErrSegmentFeature):
		return err
	case err != nil:
		f.bad = err
		return nil
	case h.volume != cfg.VolumeID:
		return fmt.Errorf("%w: it is of volume %s, the base image of volume %s", ErrMismatch, h.volume, cfg.VolumeID)
	case h.copy != cfg.CopyID:
		return fmt.Errorf("%w: it is of copy %s, the base image of copy %s", ErrMismatch, h.copy, cfg.CopyID)
	case h.incarnation > cfg.Incarnation:
		return newerThanBase(h.incarnation, cfg.Incarnation)
	case h.blockBytes != cfg.BlockBytes || h.size != cfg.SegmentBytes:
		return fmt.Errorf("%w: blocks of %d bytes in %d, the base image says %d in %d",
			ErrMismatch, h.blockBytes, h.size, cfg.BlockBytes, cfg.SegmentBytes)
	case size < h.size:
		f.bad = fmt.Errorf("%w: the file has %d of %d bytes", ErrSegmentTorn, size, h.size)
		return nil
	}
	f.decoded, f.header = h, b
	f.sequence, f.first = h.sequence, h.first
	return nil
}

// newerThanBase is the error for what a later incarnation of the log wrote than the base image knows of.
func newerThanBase(incarnation, known uint64) error {
	return fmt.Errorf("%w: it was written by incarnation %d, the base image knows only of %d: is this an older copy of the base image?",
		ErrMismatch, incarnation, known)
}

// recover finds the chain among the segments and follows it.
func (l *Log) recover(all []*found, replay func(Record, Position) error) error {
	w := newWalker(&l.cfg)
	w.onRecord = func(r Record, p Position) error {
		l.epoch = max(l.epoch, r.Epoch)
		if r.LSN <= l.cfg.Checkpoint || replay == nil {
			return nil
		}
		return replay(r, p)
	}
	chain, why, err := w.walk(all)
	if err != nil {
		return err
	}
	if err := w.checkEnd(all, chain, why); err != nil {
		return err
	}
	if w.next <= l.cfg.Checkpoint {
		// Segments behind the checkpoint were being recycled, and nothing after it became durable.
		chain, w.next, w.lastCRC, w.lastRecord, w.tail = nil, l.cfg.Checkpoint+1, 0, 0, nil
	}
	for _, s := range slices.Concat(retained(all, chain), chain) {
		l.chain = append(l.chain, &s.segment)
		l.segments.by[s.sequence] = &s.segment
	}
	l.lastCRC, l.lastRecord, l.tail = w.lastCRC, w.lastRecord, w.tail
	l.head.Store(uint64(w.next - 1))
	l.durable.Store(uint64(min(max(w.mark, l.cfg.Durable), w.next-1)))
	l.committed.Store(uint64(max(w.committed, min(l.cfg.Committed, w.next-1))))
	l.carried.Store(uint64(w.committed))
	l.reclaim = l.cfg.Checkpoint
	l.keepRest(all)
	return nil
}

// walk follows the chain from the newest segment that begins at or below the checkpoint, and returns its segments and
// why it ends. Without such a segment the chain is empty, and the record after the checkpoint is expected next.
func (w *walker) walk(all []*found) (chain []*found, why, fatal error) {
	w.next = w.cfg.Checkpoint + 1
	why = fmt.Errorf("%w: no segment begins at or below record %d", ErrSegmentMagic, w.next)
	start := findStart(all, w.cfg.Checkpoint)
	if start == nil {
		return nil, why, nil
	}
	w.next, w.lastCRC, w.lastRecord = start.first, start.decoded.previousCRC, start.decoded.previousRecord
	for s := start; s != nil; s = successor(all, s, w) {
		w.incarnation = max(w.incarnation, s.decoded.incarnation)
		chain = append(chain, s)
		if why, fatal = w.segment(&s.segment); fatal != nil {
			return chain, why, fatal
		}
	}
	return chain, why, nil
}

// findStart returns the segment that holds the record after the checkpoint: the newest that begins at or below it.
func findStart(all []*found, checkpoint block.LSN) *found {
	for _, f := range slices.Backward(all) {
		if f.bad == nil && f.sequence != 0 && f.first <= checkpoint+1 {
			return f
		}
	}
	return nil
}

// successor returns the segment that continues the chain after s, or nil.
func successor(all []*found, s *found, w *walker) *found {
	for _, f := range all {
		h := &f.decoded
		if f.bad == nil && h.sequence > s.sequence && h.previous == s.sequence && h.previousCRC == w.lastCRC &&
			h.first == w.next && h.incarnation >= w.incarnation {
			return f
		}
	}
	return nil
}

// checkEnd tells whether the log may end where the chain does: nothing that was durable, and that the base image has
// not, may lie behind.
func (w *walker) checkEnd(all, chain []*found, why error) error {
	durable := max(w.cfg.Durable, w.mark)
	place := &CorruptError{Segment: "none", Offset: segmentDataOffset}
	last := uint64(0)
	if n := len(chain); n > 0 {
		place.Segment, place.Offset, last = chain[n-1].name, chain[n-1].end, chain[n-1].sequence
	}
	for _, f := range all {
		off := int64(segmentDataOffset)
		switch {
		case f.bad == nil && f.sequence < last:
			continue
		case f.bad == nil && f.sequence == last && last > 0:
			off = f.end
		}
		mark, err := w.highestMark(&f.segment, off)
		if err != nil {
			return err
		}
		durable = max(durable, mark)
	}
	if durable < max(w.next, w.cfg.Checkpoint+1) {
		return nil
	}
	place.LSN, place.Durable, place.Reason = w.next, durable, why
	for _, f := range all {
		if f.bad != nil && f.bad != errBlank {
			place.Reason = errors.Join(place.Reason, fmt.Errorf("segment %s: %w", f.name, f.bad))
		}
	}
	return place
}

// retained returns the segments before the chain that are still what their successors say, oldest first: records that the
// base image has, and other copies may want. Nothing but their headers is looked at here.
func retained(all, chain []*found) []*found {
	var before []*found
	for len(chain) > 0 {
		next := chain[0]
		if len(before) > 0 {
			next = before[0]
		}
		i := slices.IndexFunc(all, func(f *found) bool {
			h := &f.decoded
			return f.bad == nil && h.sequence > 0 && h.sequence == next.decoded.previous && h.first <= next.first &&
				h.incarnation <= next.decoded.incarnation
		})
		if i < 0 {
			break
		}
		f := all[i]
		f.unverified, f.last, f.end = true, next.first-1, f.size
		before = append([]*found{f}, before...)
	}
	return before
}

// keepRest sorts out the files that are not in the chain.
func (l *Log) keepRest(all []*found) {
	for _, f := range all {
		l.sequence = max(l.sequence, f.sequence)
		var number int
		if _, err := fmt.Sscanf(f.name, "%d", &number); err == nil {
			l.created = max(l.created, number)
		}
		if l.segments.by[f.sequence] != &f.segment {
			l.free = append(l.free, &f.segment)
		}
	}
}

// Harden makes everything that Open found durable, and with it the directory. What lies above the last durable mark is
// written again first: after a sync that failed the page cache holds as clean what the disk does not have, and a later
// sync would succeed without writing it (rule L4). It is read again for that, and is damage if it is not what Open found:
// then it had been dropped from the page cache since.
func (l *Log) Harden() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := make([]byte, min(maxFrameBytes+frameHeaderBytes, l.cfg.SegmentBytes))
	var previous *segment
	for _, x := range l.tail {
		if x.segment != previous {
			if err := x.segment.writeHeader(); err != nil {
				return l.fail(err)
			}
			previous = x.segment
		}
		if err := l.rewrite(x, buf[:x.end-x.start]); err != nil {
			return err
		}
	}
	if n := len(l.chain); n > 0 && previous != l.chain[n-1] {
		if err := l.chain[n-1].writeHeader(); err != nil {
			return l.fail(err)
		}
	}
	l.tail = nil
	for _, s := range l.chain {
		if err := s.file.Sync(); err != nil {
			return l.fail(fmt.Errorf("sync log segment %s: %w", s.name, err))
		}
	}
	if err := l.cfg.FS.Sync(); err != nil {
		return l.fail(fmt.Errorf("sync the log's directory: %w", err))
	}
	l.durable.Store(l.head.Load())
	return nil
}

// rewrite writes a frame again in its place. b has its length.
func (l *Log) rewrite(x extent, b []byte) error {
	if err := x.segment.ReadAt(b, x.start); err != nil {
		return l.fail(err)
	}
	f, err := decodeFrame(b, l.seed, l.cfg.BlockBytes, true, nil)
	if err == nil && f.crc != x.crc {
		err = errStale
	}
	if err != nil {
		return &CorruptError{Segment: x.segment.name, Offset: x.start, LSN: x.last, Durable: l.Durable(),
			Reason: fmt.Errorf("a frame that was just read is not there any more: %w", err)}
	}
	if _, err := x.segment.file.WriteAt(b, x.start); err != nil {
		return l.fail(fmt.Errorf("rewrite log segment %s at %d: %w", x.segment.name, x.start, err))
	}
	return nil
}

// Start opens a hardened log for appends under the new incarnation. Before, the caller has made durable, in the
// superblock, the incarnation and that the log is durable up to its head. Segments that a crash or a cut left behind
// the end are emptied, durably, so that they are never taken for the log again (rule L2).
func (l *Log) Start(incarnation uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if incarnation <= l.cfg.Incarnation || l.Durable() != l.Head() || l.tail != nil {
		panic("wal: Start of a log that is not hardened, or under an old incarnation")
	}
	last := uint64(0)
	if n := len(l.chain); n > 0 {
		last = l.chain[n-1].sequence
	}
	for _, s := range l.free {
		if s.header != nil && s.sequence < last {
			continue
		}
		if err := l.emptySegment(s); err != nil {
			return l.fail(err)
		}
	}
	if err := l.removeTemporary(); err != nil {
		return l.fail(err)
	}
	l.incarnation, l.started = incarnation, true
	if len(l.chain) == 0 {
		if err := l.restartLocked(); err != nil {
			return l.fail(err)
		}
	}
	l.marked.Store(l.durable.Load())
	l.wantSegment()
	return nil
}

// restartLocked begins the chain anew, durably, where nothing of it was left behind the checkpoint.
func (l *Log) restartLocked() error {
	s := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.sequence++
	err := l.beginSegment(s, l.headerLocked(l.sequence, l.Head()+1))
	l.joinLocked(s)
	if err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync log segment %s: %w", s.name, err)
	}
	return nil
}

// emptySegment gives the segment a header that says it holds nothing.
func (l *Log) emptySegment(s *segment) error {
	if err := s.file.Allocate(0, l.cfg.SegmentBytes); err != nil {
		return fmt.Errorf("allocate log segment %s: %w", s.name, err)
	}
	s.size = l.cfg.SegmentBytes
	h := l.headerLocked(0, 0)
	s.header, s.sequence = h.encode(), 0
	if err := s.writeHeader(); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync log segment %s: %w", s.name, err)
	}
	return nil
}

// removeTemporary removes what the creation of a segment left when it was cut short.
func (l *Log) removeTemporary() error {
	names, err := l.cfg.FS.List()
	if err != nil {
		return fmt.Errorf("list the log's directory: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, temporarySuffix) {
			if err := l.cfg.FS.Remove(name); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return nil
}
