package wal

import (
	"slices"
	"sync/atomic"
	"time"

	"lockstep/block"
	"lockstep/histogram"
)

// counters are what an open log counts, since Open.
type counters struct {
	appendedBytes, frames, records atomic.Uint64
	sync                           histogram.Latency
	group                          histogram.Size

	last stood // at the last call of Stats that could look; guarded by Log.looking
}

// stood is what Stats can only see with Log.mu.
type stood struct {
	usage Usage
	tail  block.LSN
	epoch block.Epoch
}

// Stats is what a log has done since it was opened, and how it stands.
type Stats struct {
	Head, Durable, Tail block.LSN
	Epoch               block.Epoch
	Usage               Usage

	AppendedBytes uint64 // frames with their headers, without the padding between them
	Frames        uint64 // marks and epoch starts included
	Records       uint64
	Sync          histogram.Snapshot // of each fdatasync of a segment, in seconds; those of Open and Harden are not in it
	Group         histogram.Snapshot // calls of Sync that one sync of the log answered; 0 where it was a mark's alone
}

const (
	// lookTries and lookPause bound how long Stats waits for an append to end.
	lookTries = 100
	lookPause = 50 * time.Microsecond
)

// Stats returns how the log stands. It does not wait for a disk: while an append is stuck in one, what only an append
// changes (Usage, Tail and Epoch) is what it was when Stats last looked.
func (l *Log) Stats() Stats {
	durable := l.Durable() // before the head, so that it is not beyond it
	s := Stats{
		Head: l.Head(), Durable: durable,
		AppendedBytes: l.counters.appendedBytes.Load(), Frames: l.counters.frames.Load(), Records: l.counters.records.Load(),
		Sync: l.counters.sync.Snapshot(), Group: l.counters.group.Snapshot(),
	}
	at := l.look()
	s.Usage, s.Tail, s.Epoch = at.usage, at.tail, at.epoch
	return s
}

func (l *Log) look() stood {
	l.looking.Lock()
	defer l.looking.Unlock()
	last := &l.counters.last
	for range lookTries {
		if l.mu.TryLock() {
			*last = stood{l.usageLocked(), l.chain[0].first, l.epoch}
			l.mu.Unlock()
			break
		}
		time.Sleep(lookPause)
	}
	return *last
}

// answered counts a sync of the log that made records durable up to durable, with the calls that it answers, and returns
// the others. One that failed answers all, and is not counted. The lock of group is held.
func (c *counters) answered(targets []block.LSN, durable block.LSN, err error) (left []block.LSN) {
	if err != nil {
		return targets[:0]
	}
	left = slices.DeleteFunc(targets, func(target block.LSN) bool { return target <= durable })
	c.group.Add(uint64(len(targets) - len(left)))
	return left
}
