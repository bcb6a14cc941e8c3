package backend

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// resizable are the backends whose size can be changed at will.
func resizable(t *testing.T, size int64) map[string]interface {
	Backend
	Resizer
	Extents
	Allocator
} {
	t.Helper()
	return map[string]interface {
		Backend
		Resizer
		Extents
		Allocator
	}{
		"thin":   createTestFile(t, t.TempDir(), size, Thin),
		"thick":  createTestFile(t, t.TempDir(), size, Thick),
		"memory": NewMemory(size),
	}
}

// TestResize: what is added reads as zeroes and can be used, what is cut off can not, and does not come back.
func TestResize(t *testing.T) {
	const small, large = regionBytes - 1000, 3*regionBytes + 512
	for name, b := range resizable(t, small) {
		write := func(off, n int64) {
			t.Helper()
			if _, err := b.WriteAt(bytes.Repeat([]byte{7}, int(n)), off); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		write(small-2000, 2000)
		for range 2 {
			if err := b.Resize(large); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if size, _ := b.Size(); size != large {
				t.Errorf("%s: %d bytes after growing to %d", name, size, large)
			}
			got := make([]byte, large-small)
			if _, err := b.ReadAt(got, small); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
				t.Errorf("%s: what was added is not all zero, %v", name, err)
			}
			if err := b.Allocate(small, large-small); err != nil {
				t.Errorf("%s: allocate: %v", name, err)
			}
			write(small, large-small)
			if err := b.Resize(small); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := b.WriteAt(got[:2], small-1); !errors.Is(err, ErrRange) {
				t.Errorf("%s: write over the new end: %v", name, err)
			}
		}
		got := make([]byte, 2000)
		if _, err := b.ReadAt(got, small-2000); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{7}, 2000)) {
			t.Errorf("%s: what was not cut off has changed, %v", name, err)
		}
		if err := b.Resize(0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: to nothing: %v", name, err)
		}
		if err := b.Sync(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestResizeThickTakesSpace: a thick file has the space of its new size, or its old size where there is not enough.
func TestResizeThickTakesSpace(t *testing.T) {
	dir := mountExt3(t, 32<<20)
	f := createTestFile(t, dir, 4<<20+100, Thick)
	if err := f.Resize(8 << 20); err != nil {
		t.Fatal(err)
	}
	if taken := takenBytes(t, f); taken < 8<<20 {
		t.Errorf("%d bytes are taken of %d", taken, 8<<20)
	}
	before := takenBytes(t, f)
	if err := f.Resize(100 << 20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than there is: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "base"))
	if size, _ := f.Size(); err != nil || size != 8<<20 || info.Size() != 8<<20 || takenBytes(t, f) > before+1<<20 {
		t.Errorf("after that: size %d, file of %d bytes with %d taken, was %d", size, info.Size(), takenBytes(t, f), before)
	}
}

// TestResizeBesideFill: a Fill that runs leaves what is cut off alone, and ends.
func TestResizeBesideFill(t *testing.T) {
	dir := t.TempDir()
	f := createTestFile(t, dir, 2*regionBytes, Thick)
	begun := make(chan struct{})
	var once sync.Once
	filled := make(chan error, 1)
	go func() {
		filled <- f.Fill(context.Background(), func(done, _ int64) { once.Do(func() { close(begun) }) })
	}()
	<-begun
	if err := f.Resize(5 << 20); err != nil {
		t.Fatal(err)
	}
	if err := <-filled; err != nil {
		t.Errorf("fill: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "base")); err != nil || info.Size() != 5<<20 {
		t.Errorf("a file of %d bytes, %v", info.Size(), err)
	}
	if err := f.Resize(9 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Fill(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if n, hole, err := f.NextExtent(0, 9<<20); n != 9<<20 || hole || err != nil {
		t.Errorf("after a fill: %d bytes are alike, hole %v, %v", n, hole, err)
	}
}

// TestResizeAfterACrash: what a growth took before it was cut short is no reason to refuse the next one.
func TestResizeAfterACrash(t *testing.T) {
	dir := mountExt4(t, 64<<20)
	f := createTestFile(t, dir, 4<<20, Thick)
	if err := errors.Join(f.take(4<<20, 40<<20), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFile(filepath.Join(dir, "base"), Thick)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, again)
	if err := again.Resize(40 << 20); err != nil {
		t.Error(err)
	}
}

// mountExt4 makes a file system that can take space without writing it.
func mountExt4(t testing.TB, sizeBytes int64) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "ext4")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, sizeBytes)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-m", "0", image)
	path := t.TempDir()
	if err := unix.Mount(attachLoop(t, image), path, "ext4", 0, ""); err != nil {
		t.Skipf("mount ext4: %v", err)
	}
	t.Cleanup(func() { unmount(t, path) })
	return path
}

// TestResizeOfASmallFile: a file that was smaller than a slice of zeroes has whole ones written to it.
func TestResizeOfASmallFile(t *testing.T) {
	f := createTestFile(t, mountExt3(t, 32<<20), 4096, Thin)
	if err := errors.Join(f.Resize(8<<20), f.Allocate(0, 8<<20)); err != nil {
		t.Fatal(err)
	}
	checkNotes(t, f)
}

// TestResizeBesideClose: a resize that comes too late touches no descriptor that is somebody else's by then.
func TestResizeBesideClose(t *testing.T) {
	for range 50 {
		f := createTestFile(t, t.TempDir(), 1<<20, Thick)
		var both sync.WaitGroup
		both.Go(func() {
			if err := f.Resize(2 << 20); err != nil && !errors.Is(err, fs.ErrClosed) {
				t.Error(err)
			}
		})
		both.Go(func() { closeTest(t, f) })
		both.Wait()
	}
}

// TestResizeForgetsWhatIsGone: what is cut off does not count as allocated when it is added again.
func TestResizeForgetsWhatIsGone(t *testing.T) {
	f := createTestFile(t, t.TempDir(), 3*regionBytes+100, Thin)
	for _, size := range []int64{regionBytes + 4096, 3*regionBytes + 100, 2*regionBytes + 50, 3 * regionBytes} {
		now, _ := f.Size()
		if err := errors.Join(f.Allocate(0, now), f.Resize(size)); err != nil {
			t.Fatal(err)
		}
		checkNotes(t, f)
	}
}

// TestResizeOfMemoryIsBounded: a size beyond all memory is refused, not tried.
func TestResizeOfMemoryIsBounded(t *testing.T) {
	m := NewMemory(1 << 20)
	if err := m.Resize(1 << 60); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}

// TestResizeOfADevice: a device's size is what it is, as soon as somebody asks; it can not be made larger from here.
func TestResizeOfADevice(t *testing.T) {
	if !haveLoop() {
		t.Skip("no loop devices")
	}
	dir := t.TempDir()
	dev := openTestDevice(t, dir, 4<<20)
	if err := dev.Resize(8 << 20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("larger than it is: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "image"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.IoctlRetInt(dev.d.fd, unix.LOOP_SET_CAPACITY); err != nil {
		t.Fatal(err)
	}
	if size, _ := dev.Size(); size != 4<<20 {
		t.Errorf("%d bytes before it was told", size)
	}
	if err := dev.Resize(6 << 20); err != nil {
		t.Fatal(err)
	}
	if size, _ := dev.Size(); size != 8<<20 {
		t.Errorf("%d bytes after it has grown", size)
	}
	if _, err := dev.WriteAt(make([]byte, 512), 8<<20-512); err != nil {
		t.Error(err)
	}
}
