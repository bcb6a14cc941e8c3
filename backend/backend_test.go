package backend

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTest mounts an empty file system for the length of the test, or skips the test where that is not allowed.
func mountTest(t testing.TB, kind, options string) string {
	t.Helper()
	path := t.TempDir()
	if err := unix.Mount(kind, path, kind, 0, options); err != nil {
		t.Skipf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() { unmount(t, path) })
	return path
}

func unmount(t testing.TB, path string) {
	if err := unix.Unmount(path, 0); err != nil {
		t.Errorf("unmount %s: %v", path, err)
	}
}

// mountExt3 mounts a file system that has holes but can't allocate space.
func mountExt3(t testing.TB, sizeBytes int64) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "ext3")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, sizeBytes); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-t", "ext3", "-m", "0", image)
	device := attachLoop(t, image)
	path := t.TempDir()
	if err := unix.Mount(device, path, "ext3", 0, ""); err != nil {
		t.Skipf("mount ext3: %v", err)
	}
	t.Cleanup(func() { unmount(t, path) })
	return path
}

// attachLoop makes a block device of a file for the length of the test, or skips it where that is not allowed.
func attachLoop(t testing.TB, image string) string {
	t.Helper()
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

// run runs a command of the system, and skips the test where it doesn't exist or work.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Skipf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

func createTestFile(t testing.TB, dir string, size int64, kind Kind) *File {
	t.Helper()
	f, err := CreateFile(filepath.Join(dir, "base"), size, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTest(t, f) })
	return f
}

func closeTest(t testing.TB, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// whole is what every kind but a Device implements all of.
type whole interface {
	Backend
	Zeroer
	NoWaitReader
}

// eachBackend runs a test on every kind there is, and on file systems that can do less than ours.
func eachBackend(t *testing.T, size int64, test func(t *testing.T, b whole)) {
	for _, kind := range []Kind{Thin, Thick} {
		file := func(dir func(t testing.TB) string) func(t *testing.T) {
			return func(t *testing.T) { test(t, createTestFile(t, dir(t), size, kind)) }
		}
		t.Run(kind.String(), file(func(t testing.TB) string { return t.TempDir() }))
		t.Run(kind.String()+" ext3", file(func(t testing.TB) string { return mountExt3(t, 2*size+32<<20) }))
		t.Run(kind.String()+" tmpfs", file(func(t testing.TB) string { return mountTest(t, "tmpfs", "") }))
		t.Run(kind.String()+" ramfs", file(func(t testing.TB) string { return mountTest(t, "ramfs", "") }))
	}
	t.Run("memory", func(t *testing.T) { test(t, NewMemory(size)) })
	t.Run("device", func(t *testing.T) { test(t, openTestDevice(t, t.TempDir(), size)) })
}

const modelBytes = regionBytes + 3<<20 + 3*512 // two regions, the second short and not of whole pages

// span picks a range, often across the border of two regions or at the end.
func span(rng *rand.Rand, size int64) (off, length int64) {
	at := []int64{0, regionBytes, regionBytes, size, rng.Int64N(size)}[rng.IntN(5)]
	off = min(max(at+rng.Int64N(1<<18)-1<<17, 0), size-1)
	length = 1 + rng.Int64N(min(size-off, []int64{100, 20000, 3 << 20}[rng.IntN(3)]))
	switch rng.IntN(3) {
	case 0: // whole pages
		off = off &^ 4095
		length = min((length+4095)&^4095, size-off)
	case 1: // sectors
		off = off &^ 511
		length = min((length+511)&^511, size-off)
	}
	return off, length
}

// noise fills p with bytes that are not zero, and do not repeat at any distance that matters here.
func noise(rng *rand.Rand, p []byte) []byte {
	done := min(len(p), 509)
	for i := range done {
		p[i] = byte(1 + rng.IntN(255))
	}
	for done > 0 && done < len(p) {
		done += copy(p[done:], p[:done])
	}
	return p
}

// TestModel compares random operations with a slice, and what the backend says of its space with what is there.
func TestModel(t *testing.T) {
	eachBackend(t, modelBytes, func(t *testing.T, b whole) {
		rng := rand.New(rand.NewPCG(1, 2))
		model := make([]byte, modelBytes)
		buf := make([]byte, 4<<20)
		for step := range 400 {
			off, length := span(rng, modelBytes)
			p, want := buf[:length], model[off:off+length]
			fail := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("step %d: %s %d at %d: %v", step, what, length, off, err)
				}
			}
			switch op := rng.IntN(8); op {
			case 0, 1:
				copy(want, noise(rng, p))
				n, err := b.WriteAt(p, off)
				if err == nil && n != len(p) {
					err = fmt.Errorf("only %d", n)
				}
				fail("write", err)
			case 2, 3:
				clear(want)
				fail("zero", b.ZeroAt(off, length, op == 2))
			case 4:
				if a, ok := b.(Allocator); ok {
					fail("allocate", a.Allocate(off, length))
				}
			case 5:
				if x, ok := b.(Extents); ok {
					n, hole, err := x.NextExtent(off, length)
					fail("extent", err)
					if n < 1 || n > length || hole && !isZero(want[:n]) {
						t.Fatalf("step %d: extent of %d at %d: %d, hole %v", step, length, off, n, hole)
					}
				}
			case 6:
				switch err := b.ReadNoWait(noise(rng, p), off); {
				case err == nil && !bytes.Equal(p, want):
					t.Fatalf("step %d: ReadNoWait %d at %d differs", step, length, off)
				case err != syscall.EAGAIN:
					fail("ReadNoWait", err)
				}
			case 7:
				n, err := b.ReadAt(noise(rng, p), off)
				fail("read", err)
				if n != len(p) || !bytes.Equal(p, want) {
					t.Fatalf("step %d: read %d at %d: %d bytes, differs %v", step, length, off, n, !bytes.Equal(p, want))
				}
			}
			if step%100 == 0 {
				fail("sync", b.Sync())
			}
			if f, ok := b.(*File); ok && step%10 == 0 {
				checkNotes(t, f)
			}
		}
		wantContent(t, b, model)
	})
}

func isZero(p []byte) bool { return bytes.Equal(p, make([]byte, len(p))) }

func wantContent(t testing.TB, b Backend, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := b.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d (0x%x) is %d, want %d", i, i, got[i], want[i])
		}
	}
}

// checkNotes: no more is noted as allocated than is. That can't be where there is no telling: on ramfs.
func checkNotes(t testing.TB, f *File) {
	t.Helper()
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(f.d.fd, &fsys); err != nil {
		t.Fatal(err)
	}
	if fsys.Type == unix.RAMFS_MAGIC {
		return
	}
	var noted int64
	for i := range *f.regions.Load() {
		if r := (*f.regions.Load())[i]; r.allocated != nil {
			for _, word := range r.allocated {
				noted += int64(bits.OnesCount64(word)) * unitBytes
			}
		}
	}
	if taken := takenBytes(t, f); noted > (taken+unitBytes-1)/unitBytes*unitBytes {
		t.Fatalf("%d bytes are noted as allocated, %d are", noted, taken)
	}
}

func takenBytes(t testing.TB, f *File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(f.d.fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestRange(t *testing.T) {
	const size = 1<<20 + 512
	eachBackend(t, size, func(t *testing.T, b whole) {
		if got, err := b.Size(); got != size || err != nil {
			t.Fatalf("Size = %d, %v", got, err)
		}
		for _, c := range []struct{ off, length int64 }{
			{-1, 1}, {-4096, 8192}, {size, 1}, {size - 1, 2}, {size + 1, 0}, {math.MaxInt64, 1}, {math.MinInt64, 4096}, {0, size + 1},
		} {
			p := make([]byte, c.length)
			_, readErr := b.ReadAt(p, c.off)
			_, writeErr := b.WriteAt(noise(rand.New(rand.NewPCG(1, 1)), p), c.off)
			errs := []error{readErr, writeErr, b.ReadNoWait(p, c.off), b.ZeroAt(c.off, c.length, true), b.ZeroAt(c.off, c.length, false)}
			if a, ok := b.(Allocator); ok {
				errs = append(errs, a.Allocate(c.off, c.length))
			}
			if x, ok := b.(Extents); ok && (c.off < 0 || c.off >= size) {
				_, _, err := x.NextExtent(c.off, c.length)
				errs = append(errs, err)
			}
			named := fmt.Sprintf("%d bytes at %d of %d", c.length, c.off, size)
			for i, err := range errs {
				if !errors.Is(err, ErrRange) || i < 5 && !strings.Contains(err.Error(), named) {
					t.Errorf("call %d, %s: %v", i, named, err)
				}
			}
		}
		if err := b.ZeroAt(0, -1, true); !errors.Is(err, ErrRange) {
			t.Errorf("negative length: %v", err)
		}
		if x, ok := b.(Extents); ok {
			if _, _, err := x.NextExtent(0, 0); !errors.Is(err, ErrRange) {
				t.Errorf("extent of nothing: %v", err)
			}
			if n, hole, err := x.NextExtent(size-1, math.MaxInt64); n != 1 || err != nil {
				t.Errorf("extent of the last byte: %d, %v, %v", n, hole, err)
			}
		}
		if err := errors.Join(b.ZeroAt(size, 0, true), b.ReadNoWait(nil, size)); err != nil {
			t.Errorf("nothing, at the end: %v", err)
		}
		wantContent(t, b, make([]byte, size))
	})
}

// TestConcurrent: everything at once, each goroutine checking a range of its own that shares pages with others'.
func TestConcurrent(t *testing.T) {
	eachBackend(t, modelBytes, func(t *testing.T, b whole) {
		const workers, share = 6, 300_000 // bytes, about the border of two regions
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 0))
				start := regionBytes + int64(worker-workers/2)*share
				model := make([]byte, share)
				if _, err := b.ReadAt(model, start); err != nil {
					t.Error(err)
				}
				got := make([]byte, share)
				for step := range 60 {
					at := rng.IntN(share - 1)
					n := 1 + rng.IntN(share-at)
					var err error
					switch rng.IntN(4) {
					case 0:
						_, err = b.WriteAt(noise(rng, model[at:at+n]), start+int64(at))
					case 1:
						clear(model[at : at+n])
						err = b.ZeroAt(start+int64(at), int64(n), rng.IntN(2) == 0)
					case 2:
						if a, ok := b.(Allocator); ok {
							err = a.Allocate(start+int64(at), int64(n))
						}
					case 3:
						if _, err = b.ReadAt(got, start); err == nil && !bytes.Equal(got, model) {
							err = fmt.Errorf("content differs at step %d", step)
						}
					}
					if err != nil {
						t.Errorf("worker %d: %v", worker, err)
						return
					}
				}
				if _, err := b.ReadAt(got, start); err != nil || !bytes.Equal(got, model) {
					t.Errorf("worker %d: content differs at the end, %v", worker, err)
				}
			})
		}
		wg.Wait()
		if f, ok := b.(*File); ok {
			checkNotes(t, f)
		}
	})
}

func TestTransfer(t *testing.T) {
	var calls []int64
	n, err := transfer(make([]byte, 10), 50, io.ErrShortWrite, func(p []byte, off int64) (int, error) {
		calls = append(calls, off)
		switch len(calls) {
		case 1, 3:
			return 3, nil
		case 2:
			return 0, unix.EINTR
		}
		return 0, nil
	})
	if n != 6 || err != io.ErrShortWrite || fmt.Sprint(calls) != "[50 53 53 56]" {
		t.Errorf("transfer = %d, %v, calls at %v", n, err, calls)
	}
}

// TestCloseUnderWay: Close beside other calls, Fill among them, makes them fail and waits for them.
func TestCloseUnderWay(t *testing.T) {
	for range 10 {
		f := createTestFile(t, t.TempDir(), 8<<20, Thick)
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		loop := func(call func() error) {
			wg.Go(func() {
				for i := 0; ; i++ {
					err := call()
					if i == 0 {
						started <- struct{}{}
					}
					if err != nil {
						if !errors.Is(err, fs.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		loop(func() error { _, err := f.WriteAt([]byte("mine"), 0); return err })
		loop(func() error { return f.Sync() })
		loop(func() error { return f.ZeroAt(0, 2<<20, true) })
		loop(func() error { return f.Fill(t.Context(), nil) })
		for range 4 {
			<-started
		}
		closeTest(t, f)
		wg.Wait()
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read of a closed file: %v", err)
		}
	}
}
