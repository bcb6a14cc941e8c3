package backend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNotDevice means that what should be a block device is something else.
var ErrNotDevice = errors.New("not a block device")

const (
	// deviceZeroBytes is how much a device is asked to zero at once: where it has to write them, the kernel can't be
	// interrupted.
	deviceZeroBytes = 32 << 20
	// deviceAlignBytes is the least alignment of what a device zeroes by itself: the page cache's.
	deviceAlignBytes = 4096
)

// Device is a raw block device. All methods may be called concurrently. It can neither reserve space
// nor tell what is a hole.
type Device struct {
	d          *descriptor
	blockBytes int
}

// OpenDevice opens a block device exclusively: ErrLocked where it is mounted, swapped to, part of an array, or open
// exclusively elsewhere. ProbeForeign says whether it holds something.
func OpenDevice(path string) (*Device, error) {
	dev, err := openDevice(path)
	if err != nil {
		return nil, fmt.Errorf("open device %s: %w", path, err)
	}
	return dev, nil
}

func openDevice(path string) (*Device, error) {
	fd, st, err := openPath(path, unix.O_EXCL)
	if err == unix.EBUSY {
		return nil, fmt.Errorf("%w: mounted, part of an array, or open in another process", ErrLocked)
	}
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, errors.Join(ErrNotDevice, unix.Close(fd))
	}
	size, err := deviceBytes(fd)
	blockBytes, blockErr := unix.IoctlGetInt(fd, unix.BLKSSZGET)
	if err := errors.Join(err, blockErr); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Device{d: newDescriptor(path, fd, size), blockBytes: blockBytes}, nil
}

func deviceBytes(fd int) (int64, error) {
	size, err := unix.IoctlGetInt(fd, unix.BLKGETSIZE64)
	if err == nil && size <= 0 {
		err = fmt.Errorf("size %d: %w", size, unix.ENOMEDIUM)
	}
	return int64(size), err
}

// Resize takes note that the device was made larger or smaller, as a logical volume can be. It changes nothing, and is an
// error that wraps syscall.ENOSPC where the device has fewer than size bytes.
func (v *Device) Resize(size int64) error {
	if err := v.d.acquire("resize", 0); err != nil {
		return err
	}
	defer v.d.release()
	has, err := deviceBytes(v.d.fd)
	if err == nil && has < size {
		err = fmt.Errorf("it has %d bytes, not %d: %w", has, size, unix.ENOSPC)
	}
	if err != nil {
		return v.d.failure("resize", 0, err)
	}
	v.d.size.Store(has)
	return nil
}

// Size in bytes, as it was when the device was opened or last resized.
func (v *Device) Size() (int64, error) { return v.d.size.Load(), nil }

// LogicalBlockSize is the least that the device itself can address, in bytes. Any offset and length may be used here;
// the page cache reads what surrounds them.
func (v *Device) LogicalBlockSize() int { return v.blockBytes }

// Sync waits for all that was written, in the device's own cache too; see the package's invariants for what follows a
// failure.
func (v *Device) Sync() error { return v.d.sync() }

// Close waits for calls under way. It does not sync. It may be called twice.
func (v *Device) Close() error { return v.d.close() }

// ReadAt fills p, or says why not.
func (v *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := v.d.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	return v.d.readAt(p, off)
}

// ReadNoWait fills p from the page cache; syscall.EAGAIN where that would take a wait for the disk.
func (v *Device) ReadNoWait(p []byte, off int64) error {
	if err := v.d.check("read", off, int64(len(p))); err != nil {
		return err
	}
	return v.d.readNoWait(p, off)
}

// WriteAt writes all of p, or says why not.
func (v *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := v.d.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	return v.d.writeAt(p, off)
}

// ZeroAt implements Zeroer. Where the device can't zero a range by itself, zeroes are written; a caller that wants to
// be able to stop in between asks for a range in parts.
func (v *Device) ZeroAt(off, length int64, punch bool) error {
	if err := v.d.check("zero", off, length); err != nil {
		return err
	}
	// The device takes whole blocks only, so what is before the first and after the last of them is written.
	align := max(deviceAlignBytes, int64(v.blockBytes))
	first, end := (off+align-1)/align*align, (off+length)/align*align
	if first >= end {
		return v.d.writeZeroes(off, length)
	}
	if err := v.d.writeZeroes(off, first-off); err != nil {
		return err
	}
	for at := first; at < end; at += deviceZeroBytes {
		if err := v.zeroBlocks(at, min(deviceZeroBytes, end-at), punch); err != nil {
			return err
		}
	}
	return v.d.writeZeroes(end, off+length-end)
}

// ZeroesSlowly is true: whether a device zeroes by itself shows only in the time it takes.
func (v *Device) ZeroesSlowly() bool { return true }

func (v *Device) zeroBlocks(off, length int64, punch bool) error {
	if punch {
		err := v.d.fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err != unix.EOPNOTSUPP {
			return err
		}
	}
	err := v.d.fallocate("zero", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err == unix.EOPNOTSUPP {
		err = v.d.writeZeroes(off, length)
	}
	return err
}

var (
	_ Backend      = (*Device)(nil)
	_ SlowZeroer   = (*Device)(nil)
	_ Resizer      = (*Device)(nil)
	_ NoWaitReader = (*Device)(nil)
)
