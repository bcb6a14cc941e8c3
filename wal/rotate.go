package wal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"lockstep/block"
)

const (
	segmentSuffix   = ".seg"
	temporarySuffix = ".tmp"
)

// readyLocked makes sure that n segments can be had by acquireLocked without an error. What is retained is taken last. It
// does not give up mu.
func (l *Log) readyLocked(n int) error {
	for l.atHandLocked() < n {
		kept := l.reclaimableLocked() - l.unretainedLocked()
		if enough := l.atHandLocked()+kept >= n; enough && l.files >= l.maxFilesLocked() {
			return nil
		}
		s, err := l.createSegmentLocked(false)
		if isNoSpace(err) {
			if l.atHandLocked()+kept >= n {
				return nil
			}
			return ErrFull
		}
		if err != nil {
			return l.fail(err)
		}
		l.free = append(l.free, s)
	}
	return nil
}

// atHandLocked is how many segments acquireLocked can take that nobody wants.
func (l *Log) atHandLocked() int {
	n := len(l.free) + l.unretainedLocked()
	if l.spare != nil {
		n++
	}
	return n
}

// acquireLocked takes a segment for the chain: the one made ahead, one that holds nothing, or the oldest of the chain.
func (l *Log) acquireLocked() (*segment, error) {
	if s := l.spare; s != nil {
		l.spare = nil
		return s, nil
	}
	if n := len(l.free); n > 0 {
		s := l.free[n-1]
		l.free = l.free[:n-1]
		return s, nil
	}
	if l.reclaimableLocked() == 0 {
		return nil, ErrFull
	}
	s := l.chain[0]
	l.loseLocked(s)
	l.chain = slices.Delete(l.chain, 0, 1)
	l.unsynced = slices.DeleteFunc(l.unsynced, func(u *segment) bool { return u == s })
	l.segments.Lock()
	delete(l.segments.by, s.sequence)
	l.segments.Unlock()
	// A new identity, so that a reader of the old one can not reach the new content by an old pointer.
	return &segment{name: s.name, file: s.file, size: s.size}, nil
}

// rotateLocked goes on to a new segment. Its header becomes durable with the first sync after.
func (l *Log) rotateLocked() error {
	s, err := l.acquireLocked()
	if err != nil {
		return err
	}
	old := l.chain[len(l.chain)-1]
	l.sequence++
	h := l.headerLocked(l.sequence, l.Head()+1)
	h.previous, h.previousCRC = old.sequence, l.lastCRC
	if err := l.beginSegment(s, h); err != nil {
		l.free = append(l.free, s) // to be closed
		return l.fail(err)
	}
	l.joinLocked(s)
	l.wantSegment()
	return nil
}

func (l *Log) wantSegment() {
	select {
	case l.wanted <- struct{}{}:
	default: // it is known already
	}
}

func (l *Log) headerLocked(sequence uint64, first block.LSN) segmentHeader {
	return segmentHeader{
		volume: l.cfg.VolumeID, copy: l.cfg.CopyID,
		sequence: sequence, incarnation: l.incarnation, first: first,
		size: l.cfg.SegmentBytes, blockBytes: l.cfg.BlockBytes, grid: gridBytes, previousRecord: l.lastRecord,
	}
}

// beginSegment writes the header and makes the segment empty.
func (l *Log) beginSegment(s *segment, h segmentHeader) error {
	s.header = h.encode()
	s.sequence, s.first, s.last, s.end = h.sequence, h.first, h.first-1, segmentDataOffset
	return s.writeHeader()
}

// writeHeader writes the header, with zeroes up to where the frames begin.
func (s *segment) writeHeader() error {
	page := make([]byte, segmentDataOffset)
	copy(page, s.header)
	if _, err := s.file.WriteAt(page, 0); err != nil {
		return fmt.Errorf("write header of log segment %s: %w", s.name, err)
	}
	return nil
}

func (l *Log) joinLocked(s *segment) {
	l.chain = append(l.chain, s)
	l.touchLocked(s)
	l.segments.Lock()
	l.segments.by[s.sequence] = s
	l.segments.Unlock()
}

// Prepare makes a segment ahead, so that an append does not have to, unless one is at hand and there was room for more.
// It is for the background: appends go on while it works. Where the file system has no room the log makes do with what
// it has, and Prepare returns an error that wraps syscall.ENOSPC or EDQUOT; the next call tries again.
func (l *Log) Prepare() error {
	l.mu.Lock()
	limit := int(l.cfg.BudgetBytes / l.cfg.SegmentBytes)
	if !l.started || l.closed || l.Err() != nil || l.preparing || l.files >= limit || l.atHandLocked() > 0 && !l.noSpace {
		l.mu.Unlock()
		return nil
	}
	l.created++
	l.files++
	l.preparing = true
	name := segmentName(l.created)
	l.mu.Unlock()
	s, err := createSegment(l.cfg.FS, name, l.cfg.SegmentBytes, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.preparing = false
	l.prepared.Broadcast()
	l.noSpace = isNoSpace(err)
	if err != nil {
		l.files--
		return err
	}
	if l.closed {
		return s.file.Close()
	}
	if l.spare != nil {
		l.free = append(l.free, s)
		return nil
	}
	l.spare = s
	return nil
}

func (l *Log) createSegmentLocked(fill bool) (*segment, error) {
	l.created++
	s, err := createSegment(l.cfg.FS, segmentName(l.created), l.cfg.SegmentBytes, fill)
	l.noSpace = isNoSpace(err)
	if err == nil {
		l.files++
	}
	return s, err
}

func segmentName(n int) string { return fmt.Sprintf("%08d%s", n, segmentSuffix) }

// createSegment makes a segment file under a temporary name, durable before it gets its own. With fill its space is
// written, not only allocated, for then a sync of what is appended has no metadata to write.
func createSegment(fs FS, name string, size int64, fill bool) (_ *segment, err error) {
	temporary := strings.TrimSuffix(name, segmentSuffix) + temporarySuffix
	f, err := fs.Create(temporary)
	if err != nil {
		return nil, fmt.Errorf("create log segment %s: %w", name, err)
	}
	present := temporary
	defer func() {
		if err != nil {
			err = fmt.Errorf("create log segment %s: %w", name, err)
			_ = f.Close()
			_ = fs.Remove(present)
		}
	}()
	if err := f.Allocate(0, size); err != nil {
		return nil, err
	}
	if fill {
		zeroes := make([]byte, min(1<<20, size))
		for off := int64(0); off < size; off += int64(len(zeroes)) {
			if _, err := f.WriteAt(zeroes[:min(int64(len(zeroes)), size-off)], off); err != nil {
				return nil, err
			}
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := fs.Rename(temporary, name); err != nil {
		return nil, err
	}
	present = name
	if err := fs.Sync(); err != nil {
		return nil, err
	}
	return &segment{name: name, file: f, size: size}, nil
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
