package nbd

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// memory is a Device in memory that can block, fail and count.
type memory struct {
	mu   sync.Mutex
	data []byte
	hole []bool // for each 4 KiB

	coldOffsets []int64 // of the calls of Read, in order

	cold     atomic.Bool // ReadNoWait never has anything
	failWith atomic.Pointer[error]

	applies, changes, flushes, reads, coldReads atomic.Int64

	// Each call of the kind sends itself on entered and waits for release, where these are not nil.
	applyGate, flushGate, readGate *gate
}

// gate stops calls at its door.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1024), open: make(chan struct{})} }

func (g *gate) pass() {
	if g != nil {
		g.entered <- struct{}{}
		<-g.open
	}
}

func newMemory(size int) *memory {
	m := &memory{data: make([]byte, size), hole: make([]bool, (size+4095)/4096)}
	for i := range m.hole {
		m.hole[i] = true
	}
	return m
}

// contents returns a copy of the range.
func (m *memory) contents(offset, length int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data[offset : offset+length])
}

func (m *memory) fail(err error) { m.failWith.Store(&err) }

func (m *memory) failure() error {
	if p := m.failWith.Load(); p != nil {
		return *p
	}
	return nil
}

func (m *memory) Size() int64    { return int64(len(m.data)) }
func (m *memory) BlockSize() int { return 4096 }

func (m *memory) Read(p []byte, offset int64) error {
	m.coldReads.Add(1)
	m.mu.Lock()
	m.coldOffsets = append(m.coldOffsets, offset)
	m.mu.Unlock()
	m.readGate.pass()
	return m.copyOut(p, offset)
}

func (m *memory) ReadNoWait(p []byte, offset int64) (bool, error) {
	if m.cold.Load() {
		return false, nil
	}
	return true, m.copyOut(p, offset)
}

func (m *memory) copyOut(p []byte, offset int64) error {
	m.reads.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(p, m.data[offset:offset+int64(len(p))])
	return m.failure()
}

func (m *memory) Apply(changes []Change) {
	m.applies.Add(1)
	m.changes.Add(int64(len(changes)))
	m.applyGate.pass()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range changes {
		c := &changes[i]
		if c.Err = m.failure(); c.Err != nil {
			continue
		}
		if c.Op == OpWrite {
			copy(m.data[c.Offset:c.Offset+c.Length], c.Data)
		} else {
			clear(m.data[c.Offset : c.Offset+c.Length])
		}
		for b := c.Offset / 4096; b <= (c.Offset+c.Length-1)/4096; b++ {
			whole := b*4096 >= c.Offset && (b+1)*4096 <= c.Offset+c.Length
			m.hole[b] = c.Op != OpWrite && !c.NoHole && (whole || m.hole[b])
		}
	}
}

func (m *memory) Flush() error {
	m.flushes.Add(1)
	m.flushGate.pass()
	return m.failure()
}

func (m *memory) Extents(offset, length int64, limit int) ([]Extent, error) {
	if err := m.failure(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var extents []Extent
	for end := offset + length; offset < end; {
		hole := m.hole[offset/4096]
		n := min((offset/4096+1)*4096, end) - offset
		offset += n
		if last := len(extents) - 1; last >= 0 && extents[last].Hole == hole {
			extents[last].Length += n
			continue
		}
		if len(extents) == limit {
			break
		}
		extents = append(extents, Extent{Length: n, Hole: hole, Zero: hole})
	}
	return extents, nil
}
