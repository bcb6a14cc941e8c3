package nbd

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

const (
	// Buffers come in classes that double, from 64 KiB to 32 MiB, each with room for a header more.
	smallestBufferBytes = 64 << 10
	bufferSlackBytes    = 4 << 10
	bufferClasses       = 10

	// trimInterval is how long a buffer that nobody needs stays mapped, at least; twice that at most.
	trimInterval = 5 * time.Second
)

// buffer is a piece of memory outside the Go heap.
type buffer struct {
	mem    []byte
	filled int   // bytes of mem in use, kept by its owner
	gaps   []gap // in them, in order; they are not sent
	class  int
	quota  *quota

	// refs counts its users: 1 when taken, and back in the pool at 0.
	refs atomic.Int32
}

func (b *buffer) hold() { b.refs.Add(1) }

// release gives up one use. The caller must not touch the memory afterwards.
func (b *buffer) release() {
	switch refs := b.refs.Add(-1); {
	case refs < 0:
		panic("nbd: buffer released twice")
	case refs == 0:
		b.quota.put(b)
	}
}

// bufferClass is the smallest class that holds n bytes; n is at most maxPayloadBytes + bufferSlackBytes.
func bufferClass(n int) int {
	n -= bufferSlackBytes
	if n <= smallestBufferBytes {
		return 0
	}
	return bits.Len(uint(n-1)) - bits.Len(uint(smallestBufferBytes-1))
}

func classBytes(class int) int { return smallestBufferBytes<<class + bufferSlackBytes }

// pool keeps buffers that are not in use, newest on top, and unmaps those that stay unused.
type pool struct {
	mapMemory   func(n int) ([]byte, error)
	unmapMemory func([]byte)
	poison      bool // overwrite what is given back, so that a late user shows

	mu    sync.Mutex
	free  [bufferClasses][]*buffer
	low   [bufferClasses]int // fewest free ones since the last trim: so many were not needed
	trims *time.Timer        // nil until something is free; runs while something is
	lent  int                // buffers in use
	quiet bool               // Invariant: when true, nothing is free and trims is not running
	done  bool               // what is given back is unmapped at once
}

func newPool() *pool {
	return &pool{
		quiet: true,
		mapMemory: func(n int) ([]byte, error) {
			return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		},
		unmapMemory: func(b []byte) {
			if err := unix.Munmap(b); err != nil {
				panic("nbd: unmap a buffer: " + err.Error())
			}
		},
	}
}

func (p *pool) get(class int) (*buffer, error) {
	p.mu.Lock()
	p.lent++
	if n := len(p.free[class]); n > 0 {
		b := p.free[class][n-1]
		p.free[class] = p.free[class][:n-1]
		p.low[class] = min(p.low[class], n-1)
		p.mu.Unlock()
		return b, nil
	}
	p.mu.Unlock()
	mem, err := p.mapMemory(classBytes(class))
	if err != nil {
		p.mu.Lock()
		p.lent--
		p.mu.Unlock()
		return nil, fmt.Errorf("map a buffer of %d bytes: %w", classBytes(class), err)
	}
	return &buffer{mem: mem, class: class}, nil
}

func (p *pool) put(b *buffer) {
	if p.poison {
		b.mem[0] = 0xdb
		for n := 1; n < len(b.mem); n *= 2 {
			copy(b.mem[n:], b.mem[:n])
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
	if p.done {
		p.unmapMemory(b.mem)
		return
	}
	p.free[b.class] = append(p.free[b.class], b)
	if !p.quiet {
		return
	}
	p.quiet = false
	if p.trims == nil {
		p.trims = time.AfterFunc(trimInterval, p.trim)
		return
	}
	p.trims.Reset(trimInterval)
}

// trim unmaps what was not needed since it last ran, and runs again as long as something is left.
func (p *pool) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := 0
	for class := range p.free {
		unneeded := p.low[class]
		for _, b := range p.free[class][:unneeded] { // the bottom: used least recently
			p.unmapMemory(b.mem)
		}
		kept := copy(p.free[class], p.free[class][unneeded:])
		clear(p.free[class][kept:])
		p.free[class] = p.free[class][:kept]
		p.low[class] = kept
		left += kept
	}
	if left == 0 || p.done {
		p.quiet = true
		return
	}
	p.trims.Reset(trimInterval)
}

// close unmaps everything free, now and from now on.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	if p.trims != nil {
		p.trims.Stop()
	}
	for class := range p.free {
		for _, b := range p.free[class] {
			p.unmapMemory(b.mem)
		}
		p.free[class], p.low[class] = nil, 0
	}
}

// quota is a share of the server's memory budget. Waiters are served in order.
type quota struct {
	pool       *pool
	limitBytes int64
	sem        *semaphore.Weighted
	usedBytes  atomic.Int64 // what sem has given out
	waiting    atomic.Int32 // calls of get that sem keeps waiting
}

func newQuota(p *pool, limitBytes int64) *quota {
	return &quota{pool: p, limitBytes: limitBytes, sem: semaphore.NewWeighted(limitBytes)}
}

// weight is what a class counts for: one buffer larger than the whole quota is admitted alone.
func (q *quota) weight(class int) int64 { return min(int64(classBytes(class)), q.limitBytes) }

// try takes a buffer of at least n bytes, or returns nil where there is no room now.
func (q *quota) try(n int) *buffer {
	class := bufferClass(n)
	if !q.sem.TryAcquire(q.weight(class)) {
		return nil
	}
	b, err := q.take(class)
	if err != nil {
		return nil // whoever needs it asks get, and hears why
	}
	return b
}

// get takes a buffer of at least n bytes and waits for room until ctx ends.
func (q *quota) get(ctx context.Context, n int) (*buffer, error) {
	class := bufferClass(n)
	if !q.sem.TryAcquire(q.weight(class)) {
		q.waiting.Add(1)
		err := q.sem.Acquire(ctx, q.weight(class))
		q.waiting.Add(-1)
		if err != nil {
			return nil, fmt.Errorf("wait for %d bytes of buffer: %w", n, err)
		}
	}
	return q.take(class)
}

func (q *quota) take(class int) (*buffer, error) {
	b, err := q.pool.get(class)
	if err != nil {
		q.sem.Release(q.weight(class))
		return nil, err
	}
	q.usedBytes.Add(q.weight(class))
	b.quota, b.filled, b.gaps = q, 0, b.gaps[:0]
	b.refs.Store(1)
	return b, nil
}

func (q *quota) put(b *buffer) {
	weight := q.weight(b.class)
	q.pool.put(b)
	q.usedBytes.Add(-weight)
	q.sem.Release(weight)
}
