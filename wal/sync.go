package wal

import (
	"fmt"
	"time"

	"lockstep/block"
)

// Sync returns once every record appended before the call is on stable storage, and the LSN up to which all are. Calls
// that overlap share one fdatasync: the first to come syncs, and answers the others. After an error the log has failed
// (ErrFailed), and Sync never succeeds again.
func (l *Log) Sync() (block.LSN, error) {
	return l.syncTo(l.Head(), false)
}

// syncTo returns once records up to target are durable. With force it syncs even where they are already.
func (l *Log) syncTo(target block.LSN, force bool) (block.LSN, error) {
	g := &l.group
	g.Lock()
	if !force && l.Durable() < target {
		g.unanswered = append(g.unanswered, target)
	}
	for g.syncing && (force || l.Durable() < target) {
		g.done.Wait()
	}
	if err := l.Err(); err != nil {
		g.Unlock()
		return 0, err
	}
	if !force && l.Durable() >= target {
		g.Unlock()
		return l.Durable(), nil
	}
	g.syncing = true
	g.Unlock()

	durable, err := l.syncFiles()

	g.Lock()
	g.syncing = false
	g.unanswered = l.counters.answered(g.unanswered, durable, err)
	g.done.Broadcast()
	g.Unlock()
	return durable, err
}

// syncFiles makes everything that is appended now durable. One goroutine at a time.
func (l *Log) syncFiles() (block.LSN, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, ErrClosed
	}
	files := append([]*segment(nil), l.unsynced...)
	l.unsynced = l.unsynced[:0]
	head := l.Head()
	l.mu.Unlock()
	for _, s := range files {
		begun := time.Now()
		if err := s.file.Sync(); err != nil {
			return 0, l.fail(fmt.Errorf("sync log segment %s: %w", s.name, err))
		}
		l.counters.sync.Add(time.Since(begun), 1)
	}
	l.durable.Store(uint64(head))
	return head, nil
}

// Marked tells whether the log itself says, durably, how far it is durable. While it does not, a loss of the newest
// records by the disk would be taken for a torn tail.
func (l *Log) Marked() bool { return l.marked.Load() == l.durable.Load() }

// Mark writes a frame without records that carries the durable mark, and syncs it, unless the log is marked already.
// Where not even that fits it returns ErrFull.
func (l *Log) Mark() error {
	durable := l.Durable()
	if l.marked.Load() >= uint64(durable) {
		return l.Err()
	}
	if err := l.appendMark(); err != nil {
		return err
	}
	if _, err := l.syncTo(0, true); err != nil {
		return err
	}
	l.marked.Store(uint64(durable))
	return nil
}

// CommittedMarked tells whether some frame, durable or not, carries the newest committed LSN.
func (l *Log) CommittedMarked() bool { return l.carried.Load() >= l.committed.Load() }

// MarkCommitted writes a frame without records that carries the committed LSN, and the durable mark, and syncs it, whatever is
// marked already. It returns the committed LSN that is durable then, or ErrFull where not even that fits.
func (l *Log) MarkCommitted() (block.LSN, error) {
	committed, durable := l.Committed(), l.durable.Load()
	if err := l.appendMark(); err != nil {
		return 0, err
	}
	if _, err := l.syncTo(0, true); err != nil {
		return 0, err
	}
	if l.marked.Load() < durable {
		l.marked.Store(durable)
	}
	return committed, nil
}

func (l *Log) appendMark() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admitMarkLocked(); err != nil {
		return err
	}
	current := l.chain[len(l.chain)-1]
	f := frame{
		previous:    l.lastCRC,
		incarnation: l.incarnation,
		segment:     current.sequence,
		first:       l.Head() + 1,
		durable:     l.Durable(),
		committed:   block.LSN(l.committed.Load()),
	}
	return l.writeFrameLocked(current, f, nil, 0)
}

// admitMarkLocked makes room for a frame without records, in the next segment if need be.
func (l *Log) admitMarkLocked() error {
	for {
		if err := l.writableLocked(); err != nil {
			return err
		}
		if l.chain[len(l.chain)-1].end+frameHeaderBytes <= l.cfg.SegmentBytes {
			return nil
		}
		if l.availableLocked() == 0 {
			return ErrFull
		}
		if l.preparing && l.atHandLocked() == 0 {
			l.prepared.Wait() // there may be no other file
			continue
		}
		if err := l.readyLocked(1); err != nil {
			return err
		}
		return l.rotateLocked()
	}
}
