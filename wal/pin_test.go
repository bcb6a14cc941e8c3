package wal_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestPositionReadsBack: the position that Append gives reads back exactly the payload, of each record of each frame,
// at once, after it is synced, and as replay names it after a crash.
func TestPositionReadsBack(t *testing.T) {
	m := newMachine(t, disk.Config{ColdEvery: 2})
	for i := range 28 {
		m.append(1+i%7, 0, 1+i%20, 1)
		m.wantReadable()
		if i%5 == 0 {
			m.sync()
		}
	}
	m.kill()
	m.open()
	written := 0
	for lsn, e := range m.found {
		if e.kind != wal.RecordWrite {
			continue
		}
		written++
		if e.position != m.sent[lsn].position {
			t.Errorf("record %d: replayed at %+v, appended at %+v", lsn, e.position, m.sent[lsn].position)
		}
		if err := readAt(m.log, e); err != nil {
			t.Errorf("record %d: %v", lsn, err)
		}
	}
	if written != 84 {
		t.Errorf("%d writes found, want 84", written)
	}
}

// TestL8PinnedSegmentIsNotRecycled: L8: what a reader holds keeps its bytes however far the log goes on; the log counts
// it as taken, and has its space again when it is let go.
func TestL8PinnedSegmentIsNotRecycled(t *testing.T) {
	m := newMachine(t, disk.Config{})
	e := m.sent[m.append(20)]
	m.sync()
	s := m.log.Pin(e.position.Segment)
	s2 := m.log.Pin(e.position.Segment)
	for {
		err := m.try(m.writes(60))
		if errors.Is(err, wal.ErrPinned) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m.sync()
		m.checkpoint(m.log.Head())
		if m.log.Head() > 1000 {
			t.Fatal("the log never fills up behind a pinned segment")
		}
	}
	check := func() {
		t.Helper()
		got := make([]byte, len(e.payload))
		if err := s.ReadAt(got, e.position.Offset); err != nil || string(got) != string(e.payload) {
			t.Fatalf("a pinned segment reads otherwise: %v", err)
		}
	}
	check()
	if m.log.Tail() != 1 {
		t.Errorf("the tail is %d though record 1 is pinned", m.log.Tail())
	}
	s2.Unpin()
	if err := m.try(m.writes(60)); !errors.Is(err, wal.ErrPinned) {
		t.Errorf("append though one of two readers is left: %v", err)
	}
	check()
	s.Unpin()
	before := m.log.Head()
	for range 30 {
		m.append(60)
		m.sync()
		m.checkpoint(m.log.Head())
	}
	if m.log.Head() != before+30 || m.log.Tail() == 1 {
		t.Errorf("head %d, tail %d", m.log.Head(), m.log.Tail())
	}
}

// shelf is what the index of a volume is to its log: where the newest records are. Looking one up and pinning it are one
// step, under the lock that reclaiming takes.
type shelf struct {
	mu      sync.RWMutex
	entries map[block.LSN]entry
	lowest  block.LSN
}

func (s *shelf) put(lsn block.LSN, e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[lsn] = e
}

// pin picks a record at random and pins its segment; nil where there is none.
func (s *shelf) pin(l *wal.Log, rng *rand.Rand) (*wal.Segment, entry) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.entries) == 0 {
		return nil, entry{}
	}
	e, ok := s.entries[s.lowest+block.LSN(rng.IntN(len(s.entries)))]
	if !ok {
		return nil, entry{}
	}
	return l.Pin(e.position.Segment), e
}

// drop forgets everything up to lsn.
func (s *shelf) drop(lsn block.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.lowest <= lsn; s.lowest++ {
		delete(s.entries, s.lowest)
	}
}

// signal wakes whoever waits on c, which has room for one; more signals before it wakes are one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// TestL8ConcurrentUse: L8, I7, I10: many goroutines append, sync, mark, prepare, read and reclaim at once; readers
// always see the bytes that were appended, durable never passes what was appended before, and the budget holds.
func TestL8ConcurrentUse(t *testing.T) {
	cfg := wal.Config{
		FS: wal.NewMemoryDir(), VolumeID: uuid.UUID{1}, CopyID: uuid.UUID{2}, BlockBytes: testBlock,
		SegmentBytes: testSegment, BudgetBytes: testBudget,
	}
	if err := wal.Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Harden(), l.Start(1)); err != nil {
		t.Fatal(err)
	}
	const appenders, each = 4, 150
	index := &shelf{entries: map[block.LSN]entry{}, lowest: 1}
	var appending, others sync.WaitGroup
	var done atomic.Bool
	freed := make(chan struct{}, 1)
	step, room := make(chan struct{}, 1), make(chan struct{}, 1) // something was appended
	order := make(chan struct{}, 1)                              // as a volume: one append at a time, so that its index goes in LSN order

	for a := range appenders {
		appending.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(a), 1))
			for i := range each {
				p := make([]byte, (1+rng.IntN(20))*testBlock)
				for j := range p {
					p[j] = byte(a*31 + i*7 + j)
				}
				c := []wal.Change{
					{Type: wal.RecordTrim, Range: block.Range{Start: 1, Count: 1}},
					{Type: wal.RecordWrite, Range: block.Range{Count: uint64(len(p) / testBlock)}, Payload: p},
				}
				order <- struct{}{}
				err := l.Append(c, 1)
				signal(step)
				signal(room)
				for errors.Is(err, wal.ErrFull) || errors.Is(err, wal.ErrPinned) {
					signal(room)
					<-freed
					err = l.Append(c, 1)
				}
				if err == nil {
					index.put(c[0].LSN, entry{position: c[0].Position})
					index.put(c[1].LSN, entry{payload: p, position: c[1].Position})
				}
				<-order
				if err != nil {
					t.Error(err)
					return
				}
				if rng.IntN(3) == 0 {
					if durable, err := l.Sync(); err != nil || durable < c[1].LSN || durable > l.Head() {
						t.Errorf("sync after record %d: up to %d of %d, %v", c[1].LSN, durable, l.Head(), err)
					}
				}
			}
		})
	}
	for r := range 3 {
		others.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 2))
			for !done.Load() {
				s, e := index.pin(l, rng)
				if s == nil {
					runtime.Gosched()
					continue
				}
				got := make([]byte, len(e.payload))
				if err := s.ReadAt(got, e.position.Offset); err != nil || string(got) != string(e.payload) {
					t.Errorf("at %+v stands something else, %v", e.position, err)
				}
				s.Unpin()
			}
		})
	}
	others.Go(func() { // the checkpoint
		for range room {
			lsn, err := l.Sync()
			if err != nil {
				t.Error(err)
			}
			index.drop(lsn)
			l.Reclaim(lsn)
			signal(freed)
		}
	})
	others.Go(func() { // the background
		for range step {
			if err := errors.Join(l.Prepare(), l.Mark()); err != nil && !errors.Is(err, wal.ErrFull) {
				t.Error(err)
			}
			l.SetCommitted(l.Durable())
			if u := l.Usage(); int64(u.Segments)*testSegment > testBudget || u.UsedBytes < 0 {
				t.Errorf("usage %+v", u)
			}
		}
	})
	appending.Wait()
	done.Store(true)
	close(step)
	close(room)
	others.Wait()
	if got := l.Head(); got != appenders*each*2 {
		t.Errorf("head is %d after %d records", got, appenders*each*2)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	cfg.Incarnation, cfg.Checkpoint = 1, l.Durable()
	if l, err = wal.Open(cfg, nil); err != nil || l.Head() != appenders*each*2 {
		t.Errorf("reopened: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
