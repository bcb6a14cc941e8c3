package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNotes compares a region's notes with a slice.
func TestNotes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var model [regionUnits]bool
	r := region{allocated: new([regionUnits / 64]uint64)}
	first := func(from, to int, want bool) int {
		for u := from; u < to; u++ {
			if model[u] == want {
				return u
			}
		}
		return to
	}
	for range 20000 {
		from := rng.IntN(regionUnits)
		to := from + 1 + rng.IntN(min(regionUnits-from, 300))
		switch rng.IntN(4) {
		case 0:
			r.note(from, to)
			for u := from; u < to; u++ {
				model[u] = true
			}
		case 1:
			r.forget(from, to)
			for u := from; u < to; u++ {
				model[u] = false
			}
		case 2:
			if got, want := r.missing(from, to), first(from, to, false); got != want {
				t.Fatalf("missing(%d, %d) = %d, want %d", from, to, got, want)
			}
		case 3:
			if got, want := r.present(from, to), first(from, to, true); got != want {
				t.Fatalf("present(%d, %d) = %d, want %d", from, to, got, want)
			}
		}
	}
}

func TestUnits(t *testing.T) {
	f := &File{d: newDescriptor("f", -1, regionBytes+2*unitBytes+100)}
	for _, c := range []struct {
		off, length      int64
		covering, within string
	}{
		{0, 1, "0 1", "0 0"},
		{0, unitBytes, "0 1", "0 1"},
		{1, unitBytes, "0 2", "1 1"},
		{1, 2 * unitBytes, "0 3", "1 2"},
		{regionBytes - 1, 1, "8191 8192", "8192 8192"},
		{regionBytes, 2*unitBytes + 99, "0 3", "0 2"},
		{regionBytes, 2*unitBytes + 100, "0 3", "0 3"},
		{regionBytes + 2*unitBytes + 1, 99, "2 3", "3 3"},
	} {
		covering := fmt.Sprintln(unitsCovering(c.off, c.length))
		within := fmt.Sprintln(f.unitsWithin(c.off, c.length))
		if covering != c.covering+"\n" || within != c.within+"\n" {
			t.Errorf("%d at %d: covering %swithin %s", c.length, c.off, covering, within)
		}
	}
}

// TestAllocateReserves: what was allocated can be written when nothing else can.
func TestAllocateReserves(t *testing.T) {
	for _, c := range []struct {
		name string
		dir  func() string
	}{
		{"tmpfs", func() string { return mountTest(t, "tmpfs", "size=2m") }},
		{"ext3", func() string { return mountExt3(t, 16<<20) }}, // by writing zeroes
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.dir()
			f := createTestFile(t, dir, 64<<20, Thin)
			if _, err := f.WriteAt([]byte("kept"), 8192); err != nil {
				t.Fatal(err)
			}
			if err := f.Allocate(5000, 256<<10); err != nil {
				t.Fatal(err)
			}
			fillUp(t, dir)
			p := make([]byte, 256<<10)
			if _, err := f.ReadAt(p, 5000); err != nil || string(p[8192-5000:][:4]) != "kept" {
				t.Errorf("content changed, %v", err)
			}
			if _, err := f.WriteAt(p, 5000); err != nil {
				t.Errorf("write where space was allocated: %v", err)
			}
			if err := f.Sync(); err != nil {
				t.Errorf("sync of it: %v", err)
			}
			if err := f.Allocate(5000, 256<<10); err != nil {
				t.Errorf("allocate what is there: %v", err)
			}
			if _, err := f.WriteAt(p, 40<<20); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("write elsewhere: %v", err)
			}
			if err := f.Allocate(40<<20, 1<<20); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("allocate elsewhere: %v", err)
			}
			checkNotes(t, f)
		})
	}
}

// fillUp leaves no room in a file system.
func fillUp(t testing.TB, dir string) {
	t.Helper()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, other)
	for n := 1 << 20; n > 0; {
		if _, err := other.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestAllocateAsksOnce: space that is known to be there costs no system call, and punching makes it unknown.
func TestAllocateAsksOnce(t *testing.T) {
	f := createTestFile(t, t.TempDir(), 64<<20, Thin)
	const off, length = regionBytes - 1<<20, 2 << 20
	if err := f.Allocate(off, length); err != nil {
		t.Fatal(err)
	}
	if taken := takenBytes(t, f); taken < length || taken > length+1<<20 {
		t.Errorf("%d bytes are taken for %d", taken, length)
	}
	// behind its back
	if err := unix.Fallocate(f.d.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length); err != nil {
		t.Skip(err)
	}
	if err := f.Allocate(off, length); err != nil {
		t.Fatal(err)
	}
	if taken := takenBytes(t, f); taken > 1<<20 {
		t.Errorf("it asked the file system again: %d bytes", taken)
	}
	if err := errors.Join(f.ZeroAt(off+100, length-200, true), f.Allocate(off, length)); err != nil {
		t.Fatal(err)
	}
	if taken := takenBytes(t, f); taken < length {
		t.Errorf("it did not ask again: %d bytes", taken)
	}
	wantContent(t, f, make([]byte, 64<<20))
}

// TestAllocateAfterOpening: the notes of a new opening come from the file system.
func TestAllocateAfterOpening(t *testing.T) {
	dir := t.TempDir()
	f := createTestFile(t, dir, 8<<20+10, Thin)
	for _, off := range []int64{0, 3 * unitBytes, 100 * unitBytes, 8 << 20} {
		if _, err := f.WriteAt(make([]byte, min(2*unitBytes, 8<<20+10-off)), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(filepath.Join(dir, "base"), Thin)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, f)
	if err := f.Allocate(unitBytes, 1); err != nil {
		t.Fatal(err)
	}
	var noted []int
	for u := range regionUnits {
		if (*f.regions.Load())[0].missing(u, u+1) != u {
			noted = append(noted, u)
		}
	}
	if got := fmt.Sprint(noted); got != "[0 1 3 4 100 101 2048]" {
		t.Errorf("noted %s", got)
	}
}

func BenchmarkAllocateKnown(b *testing.B) {
	f := createTestFile(b, b.TempDir(), 64<<20, Thin)
	if err := f.Allocate(0, 64<<20); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var off int64
	for b.Loop() {
		if err := f.Allocate(off, 4096); err != nil {
			b.Fatal(err)
		}
		off = (off + 4096) % (64 << 20)
	}
}

func BenchmarkReadNoWait(b *testing.B) {
	f := createTestFile(b, b.TempDir(), 1<<20, Thin)
	p := make([]byte, 4096)
	if _, err := f.WriteAt(p, 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := f.ReadNoWait(p, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	f := createTestFile(b, b.TempDir(), 1<<20, Thin)
	p := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.WriteAt(p, 0); err != nil {
			b.Fatal(err)
		}
	}
}
