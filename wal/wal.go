package wal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
)

// Errors of an open log.
var (
	// ErrFull means that the budget has no room for the append until Reclaim frees some.
	ErrFull = errors.New("the log is full")
	// ErrPinned means that there will be room as soon as readers let go of segments that were reclaimed.
	ErrPinned = errors.New("the log is full until readers let go of it")
	// ErrFailed means that a write or sync of the log failed: it takes no appends until it is opened again.
	ErrFailed = fmt.Errorf("the log failed and takes no more changes until it is reopened: %w", syscall.EIO)
	// ErrClosed means that the log was closed.
	ErrClosed = fmt.Errorf("the log is closed: %w", syscall.ESHUTDOWN)
	// ErrMismatch means that the log's segments do not belong to the base image they were opened with.
	ErrMismatch = errors.New("the log does not belong to this base image")
)

// Config is what a log needs to be opened.
type Config struct {
	FS           FS
	VolumeID     uuid.UUID
	CopyID       uuid.UUID
	BlockBytes   int
	SegmentBytes int64 // size of every segment file
	BudgetBytes  int64 // most that all segments may take; at least MinSegments of them
	Logger       zerolog.Logger

	// What the superblock says of the log.
	Incarnation uint64      // of the last open
	Checkpoint  block.LSN   // records after it are replayed
	Durable     block.LSN   // every record up to it was durable once: one that is missing is damage
	Committed   block.LSN   // newest known committed
	Epoch       block.Epoch // of the record at the checkpoint
	Cuts        []Cut
}

// Cut says where the log was cut: records above LSN in frames of Incarnation or an older one are void.
type Cut struct {
	LSN         block.LSN
	Incarnation uint64
}

const (
	// MinSegments is the least number of segments that a log works with: one that is appended to, one that waits to be
	// checkpointed, one made ahead, and one kept back for trims.
	MinSegments = 4
	// MinSegmentBytes holds two frames of the greatest size.
	MinSegmentBytes = 4 << 20
	// MaxSegmentBytes is the largest segment worth having.
	MaxSegmentBytes = 64 << 20
)

// SegmentBytesFor returns the segment size to use for a log of the given budget: a 32nd of it, within the limits.
func SegmentBytesFor(budgetBytes int64) int64 {
	return min(max(budgetBytes/32/MinSegmentBytes*MinSegmentBytes, MinSegmentBytes), MaxSegmentBytes)
}

func (c *Config) validate() error {
	if c.FS == nil {
		return errors.New("log: no directory")
	}
	if c.BlockBytes < 512 || c.BlockBytes&(c.BlockBytes-1) != 0 || c.BlockBytes > MaxPayloadBytes {
		return fmt.Errorf("log: block size %d", c.BlockBytes)
	}
	if c.SegmentBytes < segmentDataOffset+64<<10 || c.SegmentBytes%segmentDataOffset != 0 || c.SegmentBytes > 1<<31 {
		return fmt.Errorf("log: segment size %d", c.SegmentBytes)
	}
	if c.BudgetBytes < MinSegments*c.SegmentBytes {
		return fmt.Errorf("log: a budget of %d bytes is less than %d segments of %d", c.BudgetBytes, MinSegments, c.SegmentBytes)
	}
	return nil
}

// Position is where the payload of a record lies.
type Position struct {
	Segment uint64 // sequence
	Offset  int64  // bytes from the segment's start
}

// Log is the open log of one copy.
type Log struct {
	cfg  Config
	seed uint32

	// mu guards appending: what follows, and the order of everything in the files.
	mu          sync.Mutex
	chain       []*segment // by sequence; the last one is appended to. Invariant: not empty after Start
	spare       *segment   // made ahead, not in the chain yet
	free        []*segment // files that hold nothing wanted
	files       int        // segment files there are, in the chain or not
	created     int        // number of the newest segment file's name
	sequence    uint64     // highest ever seen
	incarnation uint64     // 0 until Start
	epoch       block.Epoch
	lastCRC     uint32     // of the newest frame
	lastRecord  uint32     // CRC of the newest record; 0 where it is not known
	unsynced    []*segment // written since their last sync, in order of the chain
	started     bool       // Start was called
	closed      bool
	noSpace     bool // the file system had no room for another segment
	preparing   bool // Prepare is making a segment, which files counts already
	prepared    *sync.Cond
	reclaim     block.LSN
	retentions  map[*Retention]struct{}
	subscribers map[chan struct{}]struct{}
	scratch     appendScratch

	head      atomic.Uint64 // newest LSN
	durable   atomic.Uint64 // Invariant: durable <= head; only grows
	committed atomic.Uint64
	carried   atomic.Uint64 // committed LSN that the newest frame carries
	marked    atomic.Uint64 // highest durable mark that is itself durable
	failed    atomic.Pointer[error]

	// group is the group commit: one leader syncs for all who wait.
	group struct {
		sync.Mutex
		done    *sync.Cond
		syncing bool
		// unanswered are up to where those who sync or wait want their records durable, for the counters.
		unanswered []block.LSN
	}

	// segments finds a segment of the chain by its sequence.
	segments struct {
		sync.RWMutex
		by map[uint64]*segment
	}

	wanted chan struct{} // capacity 1: Prepare has something to do

	tail []extent // frames above the last mark, which Harden rewrites; nil after

	counters counters
	looking  sync.Mutex
}

// extent is a part of a segment.
type extent struct {
	segment    *segment
	start, end int64 // of one frame, without padding
	last       block.LSN
	crc        uint32 // of the frame
}

// Head returns the newest LSN.
func (l *Log) Head() block.LSN { return block.LSN(l.head.Load()) }

// Durable returns the highest LSN known to be on stable storage.
func (l *Log) Durable() block.LSN { return block.LSN(l.durable.Load()) }

// Wanted receives when there may be something for Prepare to do.
func (l *Log) Wanted() <-chan struct{} { return l.wanted }

// Epoch returns the epoch that records are appended under.
func (l *Log) Epoch() block.Epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Tail returns the oldest LSN still in the log; head + 1 where there is none.
func (l *Log) Tail() block.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain[0].first
}

// Committed returns the newest LSN that is known to be committed.
func (l *Log) Committed() block.LSN { return block.LSN(l.committed.Load()) }

// SetCommitted records the committed LSN, which later frames carry. It never decreases.
func (l *Log) SetCommitted(lsn block.LSN) {
	for {
		old := l.committed.Load()
		if uint64(lsn) <= old || l.committed.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}

// Err returns why the log takes no more appends, or nil.
func (l *Log) Err() error {
	if p := l.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes err the reason why the log takes no more appends, unless there is one already. Clients are told EIO,
// whatever err wraps: ENOSPC from a sync is not the ENOSPC of a change that was refused.
func (l *Log) fail(err error) error {
	err = fmt.Errorf("%w: %v", ErrFailed, err)
	if l.failed.CompareAndSwap(nil, &err) {
		l.cfg.Logger.Error().Str("from", "served").Str("to", "failed").AnErr("reason", err).Msg("volume state")
	}
	return err
}

// Pin keeps the segment with that sequence from being recycled. The caller must know, by holding a lock that the
// reclaimer takes, that the segment is still wanted.
func (l *Log) Pin(sequence uint64) *Segment {
	l.segments.RLock()
	s := l.segments.by[sequence]
	if s != nil {
		s.pins.Add(1)
	}
	l.segments.RUnlock()
	if s == nil {
		panic(fmt.Sprintf("wal: pin of segment %d, which is not in the log", sequence))
	}
	return s
}

// Reclaim allows segments to be recycled whose records are all at or below lsn. It never takes that back.
func (l *Log) Reclaim(lsn block.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reclaim = max(l.reclaim, lsn)
}

// Usage is how much of the budget is taken.
type Usage struct {
	UsedBytes   int64 // by records that were not reclaimed
	BudgetBytes int64 // what can be had: less than configured where the file system is full
	Segments    int   // files
}

// Usage returns how full the log is.
func (l *Log) Usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usageLocked()
}

func (l *Log) usageLocked() Usage {
	usable := l.cfg.SegmentBytes - segmentDataOffset
	room := int64(l.availableLocked())*usable + l.cfg.SegmentBytes - l.chain[len(l.chain)-1].end
	budget := int64(l.maxFilesLocked()) * usable
	return Usage{UsedBytes: max(budget-room, 0), BudgetBytes: budget, Segments: l.files}
}

// maxFilesLocked is how many segment files there may be.
func (l *Log) maxFilesLocked() int {
	if l.noSpace {
		return l.files
	}
	return max(int(l.cfg.BudgetBytes/l.cfg.SegmentBytes), l.files)
}

// availableLocked is how many more segments the chain could go on to without reclaiming anything more.
func (l *Log) availableLocked() int {
	return l.maxFilesLocked() - len(l.chain) + l.reclaimableLocked()
}

// checkpointedLocked is how many of the oldest segments hold nothing that is wanted, but for readers.
func (l *Log) checkpointedLocked() int {
	n := 0
	for n < len(l.chain)-1 && l.chain[n].last <= l.reclaim {
		n++
	}
	return n
}

// reclaimableLocked is how many of the oldest segments hold nothing that is wanted.
func (l *Log) reclaimableLocked() int {
	n := 0
	for n < len(l.chain)-1 && l.chain[n].last <= l.reclaim && l.chain[n].pins.Load() == 0 {
		n++
	}
	return n
}

// Close closes the files. It syncs nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return closeSegments(l.allLocked())
}

func (l *Log) allLocked() []*segment {
	all := append(append([]*segment(nil), l.chain...), l.free...)
	if l.spare != nil {
		all = append(all, l.spare)
	}
	return all
}

func closeSegments(all []*segment) error {
	var errs []error
	for _, s := range all {
		if err := s.file.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close log segment %s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
