package wal

import (
	"errors"
	"fmt"

	"lockstep/block"
)

// ErrNotRetained means that the log no longer has the records that are asked for.
var ErrNotRetained = errors.New("the log does not have these records any more")

// Retention keeps records in the log that the base image has already, for a reader that will want them: as long as the
// budget has room, and no longer. It never takes room from an append, and so never holds one up (I10).
type Retention struct {
	log  *Log
	from block.LSN // guarded by Log.mu
	lost bool      // guarded by Log.mu
}

// Retain keeps every record from lsn on. ErrNotRetained means that the log does not have all of them now.
func (l *Log) Retain(lsn block.LSN) (*Retention, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.chain[0].first; lsn < first {
		return nil, fmt.Errorf("retain from record %d: %w: it begins with %d", lsn, ErrNotRetained, first)
	}
	r := &Retention{log: l, from: lsn}
	l.retentions[r] = struct{}{}
	return r, nil
}

// Advance gives up the records below lsn. It never goes back.
func (r *Retention) Advance(lsn block.LSN) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.from = max(r.from, lsn)
}

// Lost tells whether an append had to take room that was retained: some of the records are gone.
func (r *Retention) Lost() bool {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return r.lost
}

// Release ends the retention. It may be called twice.
func (r *Retention) Release() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	delete(r.log.retentions, r)
}

// unretainedLocked is how many of the oldest segments hold nothing that is wanted or retained.
func (l *Log) unretainedLocked() int {
	from := ^block.LSN(0)
	for r := range l.retentions {
		from = min(from, r.from)
	}
	n, most := 0, l.reclaimableLocked()
	for n < most && l.chain[n].last < from {
		n++
	}
	return n
}

// loseLocked ends the retentions that want something of the segment.
func (l *Log) loseLocked(s *segment) {
	for r := range l.retentions {
		if r.from <= s.last {
			r.lost = true
			delete(l.retentions, r)
		}
	}
}

// Subscribe has a channel of capacity 1 told of appends: whoever reads the log waits on it at its end. cancel ends that.
func (l *Log) Subscribe() (appended <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subscribers[ch] = struct{}{}
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subscribers, ch)
	}
}

func (l *Log) tellLocked() {
	for ch := range l.subscribers {
		select {
		case ch <- struct{}{}:
		default: // it was told already
		}
	}
}
