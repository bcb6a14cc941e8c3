package nbd

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// sender writes answers to one client. Whoever has some calls send and never waits for the client: what the socket
// does not take at once is left to one goroutine that may wait. Answers that come up meanwhile are queued and leave
// together.
type sender struct {
	socket  stream
	pool    *answerPool
	timeout time.Duration // for a client to take sendProgressBytes, or all
	memory  *quota        // that what waits for the client is taken from
	tally   *tally

	pressedTimeout time.Duration        // the same where others wait for the memory, for pressedTakeBytes
	now            func() time.Duration // the clock by which answers say when they were parsed

	// spawn runs the goroutine that waits; finished is told of every answers that left or was dropped, failed once
	// when the connection can be written to no more. All are set before the first send.
	spawn    func(func())
	finished func(chargeBytes, pooledBytes int64)
	failed   func(error)

	// unsent is how many bytes of data wait for the client. The queue is bounded by the bound on requests in flight.
	unsent atomic.Int64

	mu    sync.Mutex
	queue []*answers
	busy  bool  // somebody writes, and takes the queue when done
	err   error // nothing is written any more

	// Owned by whoever is busy.
	writing  []*answers
	parts    [][]byte
	dropping bool // writing is not sent
}

// send writes a, or queues it behind what is being written, or drops it when the connection has failed. It takes a
// over.
func (s *sender) send(a *answers) {
	s.unsent.Add(int64(a.dataBytes()))
	s.mu.Lock()
	s.queue = append(s.queue, a)
	if s.busy {
		s.mu.Unlock()
		return
	}
	s.busy = true
	s.mu.Unlock()
	if s.drain(false) {
		return
	}
	s.spawn(func() { s.drain(true) })
}

// failure returns why answers are dropped; nil when they are not.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// drain writes until the queue is empty and reports true, or, without wait, until the socket takes no more.
func (s *sender) drain(wait bool) bool {
	for {
		if len(s.writing) == 0 && !s.next() {
			return true
		}
		err := s.write(wait)
		switch {
		case err != nil || len(s.parts) == 0:
			s.settle(err)
		case !wait:
			return false
		}
	}
}

// next takes over what is queued; without anything it ends being busy.
func (s *sender) next() bool {
	s.mu.Lock()
	if len(s.queue) == 0 {
		s.busy = false
		s.mu.Unlock()
		return false
	}
	s.writing, s.queue = s.queue, s.writing[:0]
	s.dropping = s.err != nil
	s.mu.Unlock()
	s.parts = s.parts[:0]
	if s.dropping {
		return true
	}
	for _, a := range s.writing {
		if len(a.small) > 0 {
			s.parts = append(s.parts, a.small)
		}
		for _, b := range a.buffers {
			s.parts = b.appendParts(s.parts)
		}
	}
	return true
}

// write sends parts and leaves in it what the socket did not take.
func (s *sender) write(wait bool) error {
	if len(s.parts) == 0 {
		return nil
	}
	if wait {
		return s.await()
	}
	all := s.parts
	rest, err := s.socket.send(s.parts, false)
	s.parts = all[:copy(all, rest)]
	return err
}

// settle gives up what was written, or all of it after an error.
func (s *sender) settle(err error) {
	if err != nil {
		s.fail(err)
		s.dropping = true
	}
	now := s.now()
	var charge, pooled int64
	for i, a := range s.writing {
		if !s.dropping {
			s.tally.answered(a, now)
		}
		charge += a.chargeBytes
		pooled += a.pooledBytes
		s.unsent.Add(-int64(a.dataBytes()))
		s.pool.put(a)
		s.writing[i] = nil
	}
	s.writing = s.writing[:0]
	clear(s.parts)
	s.parts = s.parts[:0]
	s.finished(charge, pooled)
}

func (s *sender) fail(err error) {
	err = fmt.Errorf("write to the client: %w", err)
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		s.failed(err)
	}
}
