package nbd

import "sync"

// readPool carries out what has to wait for a disk, on a bounded number of goroutines, taking connections in turn.
// Its queue is bounded by the bound that each connection has on its requests in flight.
type readPool struct {
	limit      int
	jobs       sync.Pool // of *job
	goroutines sync.WaitGroup

	mu      sync.Mutex
	turns   []*transmission // connections that have jobs waiting, each once, next first
	running int             // Invariant: running == limit when jobs wait
}

// job is one request that waits for the read pool.
type job struct {
	request request
	next    *job
}

// jobList is one connection's queue.
type jobList struct{ first, last *job }

// submit queues r, which is a read or a block status request of t. It never waits.
func (p *readPool) submit(t *transmission, r request) {
	j, ok := p.jobs.Get().(*job)
	if !ok {
		j = new(job)
	}
	*j = job{request: r}
	t.goroutines.Add(1) // the leader that calls this is counted, so the count is not zero
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.jobs.first == nil {
		t.jobs.first = j
		p.turns = append(p.turns, t)
	} else {
		t.jobs.last.next = j
	}
	t.jobs.last = j
	if p.running < p.limit {
		p.running++
		p.goroutines.Go(p.work)
	}
}

// work carries out jobs until none waits.
func (p *readPool) work() {
	for {
		t, r, ok := p.next()
		if !ok {
			return
		}
		if r.kind == cmdBlockStatus {
			t.describe(r)
		} else {
			t.readSlow(r)
		}
		t.goroutines.Done()
	}
}

// next takes the first job of the connection whose turn it is, and puts the connection last if it has more.
func (p *readPool) next() (*transmission, request, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.turns) == 0 {
		p.running--
		return nil, request{}, false
	}
	t := p.turns[0]
	copy(p.turns, p.turns[1:])
	p.turns[len(p.turns)-1] = nil
	p.turns = p.turns[:len(p.turns)-1]
	j := t.jobs.first
	if t.jobs.first = j.next; t.jobs.first != nil {
		p.turns = append(p.turns, t)
	}
	r := j.request
	p.jobs.Put(j)
	return t, r, true
}
