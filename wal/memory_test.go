package wal

import (
	"errors"
	"math"
	"syscall"
	"testing"
)

// TestMemoryHoles: a file takes memory for what was written, not for its size.
func TestMemoryHoles(t *testing.T) {
	d := NewMemoryDir()
	f := createTestFile(t, d, "f")
	if err := f.Allocate(0, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 3*memoryPageBytes), 1<<39-1); err != nil {
		t.Fatal(err)
	}
	if n := len(d.files["f"].pages); n != 4 {
		t.Errorf("%d pages for three pages' bytes across four", n)
	}
	if size, err := f.Size(); size != 1<<40 || err != nil {
		t.Errorf("Size = %d, %v", size, err)
	}
	if err := f.Allocate(math.MaxInt64, 10); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Allocate beyond what an offset can be: %v", err)
	}
}

// TestMemoryShared: two openings of a file are one file.
func TestMemoryShared(t *testing.T) {
	d := NewMemoryDir()
	f := createTestFile(t, d, "f")
	g, err := d.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteAt([]byte("both"), 0); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, "both")
}
