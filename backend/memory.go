package backend

import (
	"fmt"
	"sync"
	"syscall"
)

const (
	memoryPageBytes  = 4096
	memoryTablePages = 512
	memoryTableBytes = memoryTablePages * memoryPageBytes
)

type memoryPage [memoryPageBytes]byte

// memoryTable is what a Memory has of one part of its range.
type memoryTable struct {
	pages [memoryTablePages]*memoryPage // nil: a hole
	used  int                           // how many are not nil; a table without any is dropped
}

// Memory is a Backend in memory, for volumes that need not outlive the process: Sync does nothing. It takes memory for
// what was written, in pages of 4 KiB. All methods may be called concurrently.
type Memory struct {
	mu     sync.RWMutex
	size   int64
	tables []*memoryTable // nil: all holes
}

// MaxMemoryBytes is the most that a Memory can have: its tables alone take memory.
const MaxMemoryBytes = 16 << 40

// NewMemory returns a Memory of size bytes, all zero. It panics if size is negative or above MaxMemoryBytes.
func NewMemory(size int64) *Memory {
	if size < 0 || size > MaxMemoryBytes {
		panic(fmt.Sprintf("backend: memory of %d bytes", size))
	}
	return &Memory{size: size, tables: make([]*memoryTable, (size+memoryTableBytes-1)/memoryTableBytes)}
}

// Size in bytes.
func (m *Memory) Size() (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.size, nil
}

// Sync does nothing: nothing here is ever durable.
func (m *Memory) Sync() error { return nil }

// ReadAt fills p.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := checkRange("read", "memory", off, int64(len(p)), m.size); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := inPage(at, int64(len(p)-done))
		if page := m.page(at); page != nil {
			copy(p[done:done+n], page[at%memoryPageBytes:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p), nil
}

// ReadNoWait is ReadAt: memory never waits for a disk.
func (m *Memory) ReadNoWait(p []byte, off int64) error {
	_, err := m.ReadAt(p, off)
	return err
}

// WriteAt writes all of p.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkRange("write", "memory", off, int64(len(p)), m.size); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := inPage(at, int64(len(p)-done))
		copy(m.makePage(at)[at%memoryPageBytes:], p[done:done+n])
		done += n
	}
	return len(p), nil
}

// ZeroAt implements Zeroer: whole pages are dropped with punch, and made without.
func (m *Memory) ZeroAt(off, length int64, punch bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkRange("zero", "memory", off, length, m.size); err != nil {
		return err
	}
	for end := off + length; off < end; {
		if punch && m.tables[off/memoryTableBytes] == nil {
			off = (off/memoryTableBytes + 1) * memoryTableBytes
			continue
		}
		n := inPage(off, end-off)
		switch page := m.page(off); {
		case !punch:
			clear(m.makePage(off)[off%memoryPageBytes:][:n])
		case page != nil && n == memoryPageBytes:
			m.dropPage(off)
		case page != nil:
			clear(page[off%memoryPageBytes:][:n])
		}
		off += int64(n)
	}
	return nil
}

// Allocate makes the pages of the range.
func (m *Memory) Allocate(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkRange("allocate", "memory", off, length, m.size); err != nil {
		return err
	}
	for end := off + length; off < end; {
		m.makePage(off)
		off += int64(inPage(off, end-off))
	}
	return nil
}

// NextExtent implements Extents, in whole pages. max may reach beyond the end, off may not.
func (m *Memory) NextExtent(off, max int64) (length int64, hole bool, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := checkExtent("memory", off, max, m.size); err != nil {
		return 0, false, err
	}
	hole = m.page(off) == nil
	at, end := off, off+min(max, m.size-off)
	for at < end && (m.page(at) == nil) == hole {
		if m.tables[at/memoryTableBytes] == nil {
			at = (at/memoryTableBytes + 1) * memoryTableBytes
		} else {
			at = (at/memoryPageBytes + 1) * memoryPageBytes
		}
	}
	return min(at, end) - off, hole, nil
}

// Resize implements Resizer.
func (m *Memory) Resize(size int64) error {
	if size <= 0 || size > MaxMemoryBytes {
		return fmt.Errorf("resize memory: size %d: %w", size, syscall.EINVAL)
	}
	if old, _ := m.Size(); size < old {
		// What is cut off must not come back with a later growth.
		if err := m.ZeroAt(size, old-size, true); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tables := make([]*memoryTable, (size+memoryTableBytes-1)/memoryTableBytes)
	copy(tables, m.tables)
	m.size, m.tables = size, tables
	return nil
}

// inPage returns how many of the length bytes at off are in one page.
func inPage(off, length int64) int { return int(min(length, memoryPageBytes-off%memoryPageBytes)) }

// page returns the page of an offset, nil if it is a hole. With makePage and dropPage it is called with mu held.
func (m *Memory) page(off int64) *memoryPage {
	table := m.tables[off/memoryTableBytes]
	if table == nil {
		return nil
	}
	return table.pages[off%memoryTableBytes/memoryPageBytes]
}

func (m *Memory) makePage(off int64) *memoryPage {
	table := m.tables[off/memoryTableBytes]
	if table == nil {
		table = new(memoryTable)
		m.tables[off/memoryTableBytes] = table
	}
	page := &table.pages[off%memoryTableBytes/memoryPageBytes]
	if *page == nil {
		*page = new(memoryPage)
		table.used++
	}
	return *page
}

func (m *Memory) dropPage(off int64) {
	table := m.tables[off/memoryTableBytes]
	table.pages[off%memoryTableBytes/memoryPageBytes] = nil
	table.used--
	if table.used == 0 {
		m.tables[off/memoryTableBytes] = nil
	}
}

var (
	_ Backend      = (*Memory)(nil)
	_ Zeroer       = (*Memory)(nil)
	_ Allocator    = (*Memory)(nil)
	_ Resizer      = (*Memory)(nil)
	_ NoWaitReader = (*Memory)(nil)
	_ Extents      = (*Memory)(nil)
)
