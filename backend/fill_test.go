package backend

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wantFilled checks that the file has no space left that nothing was written to, or that only looks so while it is in
// the page cache.
func wantFilled(t testing.TB, f *File) {
	t.Helper()
	if err := errors.Join(f.Sync(), unix.Fadvise(f.d.fd, 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
	if n, hole, err := f.NextExtent(0, f.d.size.Load()); n != f.d.size.Load() || hole || err != nil {
		t.Errorf("the first extent is %d bytes, hole %v, %v", n, hole, err)
	}
}

func TestFill(t *testing.T) {
	const size = 36<<20 + 1000
	f := createTestFile(t, t.TempDir(), size, Thick)
	want := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, off := range []int64{0, 5000, 3 << 20, regionBytes - 50, size - 1} {
		p := noise(rng, want[off:min(off+100, size)])
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	var last int64
	err := f.Fill(t.Context(), func(done, total int64) {
		if done <= last || total != size {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || last != size {
		t.Fatalf("Fill: %v at %d", err, last)
	}
	wantFilled(t, f)
	wantContent(t, f, want)
}

// TestFillResumes: an interrupted Fill goes on where it was, also after the file was closed.
func TestFillResumes(t *testing.T) {
	const size = 16 << 20
	dir := t.TempDir()
	f := createTestFile(t, dir, size, Thick)
	ctx, cancel := context.WithCancel(t.Context())
	err := f.Fill(ctx, func(done, _ int64) {
		if done >= 5<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	if n, hole, err := f.NextExtent(0, size); n != 5<<20 || hole || err != nil {
		t.Errorf("after the interruption %d bytes, hole %v, %v", n, hole, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err = OpenFile(filepath.Join(dir, "base"), Thick)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, f)
	var steps []int64
	if err := f.Fill(t.Context(), func(done, _ int64) { steps = append(steps, done) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 || steps[0] != 5<<20 {
		t.Errorf("steps %d", steps)
	}
	wantFilled(t, f)
	wantContent(t, f, make([]byte, size))
}

// TestFillEndsWithClose: once the file is closed its lock is gone, and Fill writes no more.
func TestFillEndsWithClose(t *testing.T) {
	const size = 8 << 20
	dir := t.TempDir()
	f := createTestFile(t, dir, size, Thick)
	err := f.Fill(t.Context(), func(done, _ int64) { closeTest(t, f) })
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Fill of a file that was closed: %v", err)
	}
	f, err = OpenFile(filepath.Join(dir, "base"), Thick)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, f)
	if n, hole, err := f.NextExtent(0, size); n != fillSliceBytes || hole || err != nil {
		t.Errorf("%d bytes were written, hole %v, %v", n, hole, err)
	}
}

// TestZeroKeepsWritten: zeroing a little of a filled thick file leaves it filled.
func TestZeroKeepsWritten(t *testing.T) {
	const size = 8 << 20
	f := createTestFile(t, t.TempDir(), size, Thick)
	if err := f.Fill(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.ZeroAt(0, 4096, true), f.ZeroAt(1<<20, writtenZeroBytes, false)); err != nil {
		t.Fatal(err)
	}
	wantFilled(t, f)
}

// TestFillBesideWriters: whatever is written while Fill runs stays.
func TestFillBesideWriters(t *testing.T) {
	const size, workers = 40 << 20, 4
	f := createTestFile(t, t.TempDir(), size, Thick)
	model := make([]byte, size)
	var wg sync.WaitGroup
	position := make(chan int64, 1) // the newest; where Fill works next
	wg.Go(func() {
		defer close(position)
		if err := f.Fill(t.Context(), func(done, _ int64) {
			select {
			case <-position:
			default:
			}
			position <- done
		}); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	taken := map[int64]bool{} // by page, each written once
	for worker := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 0))
			for at := range position {
				for range 40 {
					page := (at + rng.Int64N(2<<20)) / unitBytes
					mu.Lock()
					again := taken[page]
					taken[page] = true
					mu.Unlock()
					if again || (page+1)*unitBytes > size {
						continue
					}
					p := noise(rng, model[page*unitBytes:(page+1)*unitBytes])
					if _, err := f.WriteAt(p, page*unitBytes); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if len(taken) < 100 {
		t.Errorf("only %d pages were written", len(taken))
	}
	wantContent(t, f, model)
	wantFilled(t, f)
}

// TestFillHoleReads: should a file system call data a hole, they stay.
func TestFillHoleReads(t *testing.T) {
	f := createTestFile(t, t.TempDir(), 1<<20, Thick)
	if _, err := f.WriteAt([]byte("not a hole"), 8000); err != nil {
		t.Fatal(err)
	}
	if err := fillHole(f.d, 4096, make([]byte, 8192)); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	copy(want[8000:], "not a hole")
	wantContent(t, f, want)
}

func TestFillThin(t *testing.T) {
	f := createTestFile(t, t.TempDir(), 1<<20, Thin)
	if err := f.Fill(t.Context(), nil); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}
