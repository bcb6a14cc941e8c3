package nbd

import (
	"sync"
	"time"
)

// readPool carries out what has to wait for a disk, on a bounded number of goroutines, taking connections in turn.
// Its queue is bounded by the bound that each connection has on its requests in flight.
//
// A connection whose client does not take its answers is passed over once they come to its share, or a few clients
// that stall would get hold of all the memory for replies.
type readPool struct {
	limit      int
	shareBytes int64 // of one connection; a larger request is carried out alone
	jobs       sync.Pool
	goroutines sync.WaitGroup

	mu      sync.Mutex
	turns   []*transmission // connections that have jobs and may start one, each once, next first
	running int             // Invariant: running >= limit where turns is not empty
}

// job is one request that waits for the read pool.
type job struct {
	request request
	parsed  time.Duration
	next    *job
}

// jobList is what the read pool keeps for one connection.
type jobList struct {
	first, last  *job
	listed       bool  // in turns
	startedBytes int64 // charges of jobs that were started and are not answered
}

// submit queues r, which is a read or a block status request of t, parsed then. It never waits.
func (p *readPool) submit(t *transmission, r request, parsed time.Duration) {
	j, ok := p.jobs.Get().(*job)
	if !ok {
		j = new(job)
	}
	*j = job{request: r, parsed: parsed}
	t.goroutines.Add(1) // the leader that calls this is counted, so the count is not zero
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.jobs.first == nil {
		t.jobs.first = j
	} else {
		t.jobs.last.next = j
	}
	t.jobs.last = j
	p.listLocked(t)
}

// finished tells that jobs of t, which counted for so much, are answered.
func (p *readPool) finished(t *transmission, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.jobs.startedBytes -= bytes
	p.listLocked(t)
}

// listLocked gives t a turn if it has a job that fits its share.
func (p *readPool) listLocked(t *transmission) {
	l := &t.jobs
	if l.listed || l.first == nil {
		return
	}
	if l.startedBytes > 0 && l.startedBytes+l.first.request.chargeBytes() > p.shareBytes {
		return
	}
	if p.passOver(t) {
		return
	}
	l.listed = true
	p.turns = append(p.turns, t)
	p.startLocked()
}

// passOver reports whether t has to wait for its client, or for its own requests while memory is tight. Each answers
// that leaves lists it again: passedOver is set before unsent is looked at, and read after that fell.
func (p *readPool) passOver(t *transmission) bool {
	t.passedOver.Store(true)
	if t.isBehind() || t.jobs.startedBytes > 0 && t.server.replies.tight() {
		return true
	}
	t.passedOver.Store(false)
	return false
}

// startLocked starts a worker where there is work for one.
func (p *readPool) startLocked() {
	if len(p.turns) > 0 && p.running < p.limit {
		p.running++
		p.goroutines.Go(p.work)
	}
}

// stepAside lets another worker take the place of the caller, which is one and has to wait for memory.
func (p *readPool) stepAside() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	p.startLocked()
}

// stepBack ends stepAside. For the time of one job there may be more workers than the limit.
func (p *readPool) stepBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running++
}

// work carries out jobs until none may be started. Where reads of the same connection have come in behind one that it
// waited for, their answers leave with that one's.
func (p *readPool) work() {
	t, r, parsed, ok := p.next()
	for ok {
		if r.kind == cmdBlockStatus {
			t.describe(r, parsed)
			t.goroutines.Done()
			t, r, parsed, ok = p.next()
			continue
		}
		client, done := t, 1
		a := t.readSlow(r, parsed)
		for t, r, parsed, ok = p.next(); ok && t == client && t.readAlong(a, r, done); t, r, parsed, ok = p.next() {
			done++
		}
		client.sender.send(a)
		client.goroutines.Add(-done)
	}
}

// next takes the first job of the connection whose turn it is, and puts the connection last if it has more.
func (p *readPool) next() (t *transmission, r request, parsed time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.turns) == 0 || p.running > p.limit {
		p.running--
		return nil, request{}, 0, false
	}
	t = p.turns[0]
	copy(p.turns, p.turns[1:])
	p.turns[len(p.turns)-1] = nil
	p.turns = p.turns[:len(p.turns)-1]
	j := t.jobs.first
	r, parsed = j.request, j.parsed
	t.jobs.first, t.jobs.listed = j.next, false
	t.jobs.startedBytes += r.chargeBytes()
	p.listLocked(t)
	p.jobs.Put(j)
	return t, r, parsed, true
}
