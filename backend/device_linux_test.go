package backend

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTestDevice opens a loop device of size bytes, or where there are none a file in its place, which does not go
// through what OpenDevice asks of a device but through everything after it.
func openTestDevice(t testing.TB, dir string, size int64) *Device {
	t.Helper()
	image := filepath.Join(dir, "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	var dev *Device
	if haveLoop() {
		var err error
		if dev, err = OpenDevice(attachLoop(t, image)); err != nil {
			t.Fatal(err)
		}
	} else {
		fd, err := unix.Open(image, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		dev = &Device{d: newDescriptor(image, fd, size), blockBytes: 512}
	}
	t.Cleanup(func() { closeTest(t, dev) })
	return dev
}

// haveLoop reports whether loop devices can be made here.
func haveLoop() bool {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	return errors.Join(err, control.Close()) == nil
}

func TestOpenDevice(t *testing.T) {
	if !haveLoop() {
		t.Skip("no loop devices")
	}
	dev := openTestDevice(t, t.TempDir(), 4<<20+512)
	if size, err := dev.Size(); size != 4<<20+512 || err != nil || dev.LogicalBlockSize() != 512 {
		t.Errorf("size %d, %v, blocks of %d", size, err, dev.LogicalBlockSize())
	}
	if again, err := OpenDevice(dev.d.name); again != nil || !errors.Is(err, ErrLocked) {
		t.Errorf("open twice: %v", err)
	}
	if err := errors.Join(dev.Close(), dev.Close()); err != nil {
		t.Fatal(err)
	}
	if err := dev.Sync(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("sync of a closed device: %v", err)
	}
	again, err := OpenDevice(dev.d.name)
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, again)

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if dev, err := OpenDevice(file); dev != nil || !errors.Is(err, ErrNotDevice) {
		t.Errorf("a regular file: %v", err)
	}
	if dev, err := OpenDevice(file + ".none"); dev != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

// TestDeviceMounted: a mounted device is not to be had.
func TestDeviceMounted(t *testing.T) {
	dir := mountExt3(t, 16<<20)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	device := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == dir {
			device = f[0]
		}
	}
	if dev, err := OpenDevice(device); dev != nil || !errors.Is(err, ErrLocked) {
		t.Errorf("%s, mounted at %s: %v", device, dir, err)
	}
}

// TestDevicePunches: a punched range is given back, and whole blocks only.
func TestDevicePunches(t *testing.T) {
	if !haveLoop() {
		t.Skip("no loop devices")
	}
	const size = 80 << 20
	dir := t.TempDir()
	dev := openTestDevice(t, dir, size)
	model := noise(rand.New(rand.NewPCG(1, 2)), make([]byte, size))
	if _, err := dev.WriteAt(model, 0); err != nil {
		t.Fatal(err)
	}
	const off, length = 1000, 70 << 20 // several slices, both ends within a block
	if err := errors.Join(dev.Sync(), dev.ZeroAt(off, length, true), dev.Sync()); err != nil {
		t.Fatal(err)
	}
	clear(model[off : off+length])
	wantContent(t, dev, model)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "image"), &st); err != nil || st.Blocks*512 > size-length+1<<20 {
		t.Errorf("%d bytes are taken, %v", st.Blocks*512, err)
	}
}

// TestSyncFailsForEver: the kernel reports a lost write once; no later Sync may say that all is well (I7). The device's
// own space runs out here, which it can't say before it has to write.
func TestSyncFailsForEver(t *testing.T) {
	if !haveLoop() {
		t.Skip("no loop devices")
	}
	dev := openTestDevice(t, mountTest(t, "tmpfs", "size=1m"), 8<<20)
	p := noise(rand.New(rand.NewPCG(1, 2)), make([]byte, 4<<20))
	if _, err := dev.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	first := dev.Sync()
	if !errors.Is(first, syscall.EIO) && !errors.Is(first, syscall.ENOSPC) {
		t.Fatalf("sync of what was lost: %v", first)
	}
	if second := dev.Sync(); second != first {
		t.Errorf("the sync after it: %v", second)
	}
}
