package backend

import "testing"

// pages counts what a Memory has taken.
func pages(m *Memory) (n int) {
	for _, table := range m.tables {
		if table != nil {
			n += table.used
		}
	}
	return n
}

// TestMemorySparse: memory is taken for what is written, given back by a punch, and told of as extents.
func TestMemorySparse(t *testing.T) {
	const size = 1 << 40
	m := NewMemory(size)
	if _, err := m.WriteAt(make([]byte, 3*memoryPageBytes), 1<<39-1); err != nil {
		t.Fatal(err)
	}
	if n := pages(m); n != 4 {
		t.Errorf("%d pages for three pages' bytes across four", n)
	}
	n, hole, err := m.NextExtent(0, size)
	if n != 1<<39-memoryPageBytes || !hole || err != nil {
		t.Errorf("first extent %d, hole %v, %v", n, hole, err)
	}
	at := n
	if n, hole, err := m.NextExtent(at, size); n != 4*memoryPageBytes || hole || err != nil {
		t.Errorf("second extent %d, hole %v, %v", n, hole, err)
	}
	if err := m.ZeroAt(at+1, 4*memoryPageBytes-1, true); err != nil || pages(m) != 1 {
		t.Errorf("%d pages after a punch of all but a byte, %v", pages(m), err)
	}
	if err := m.ZeroAt(0, size, true); err != nil || pages(m) != 0 || m.tables[at/memoryTableBytes] != nil {
		t.Errorf("%d pages after a punch of everything, %v", pages(m), err)
	}
	if err := m.ZeroAt(at, memoryPageBytes+1, false); err != nil || pages(m) != 2 {
		t.Errorf("%d pages after zeroing that keeps space, %v", pages(m), err)
	}
	if err := m.Allocate(at+5*memoryPageBytes-1, 2); err != nil || pages(m) != 4 {
		t.Errorf("%d pages after allocating two, %v", pages(m), err)
	}
}
