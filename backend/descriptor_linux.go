package backend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrRange means an access that is not within the backend.
var ErrRange = errors.New("outside of the backend")

// zeroSliceBytes is the most that one write of zeroes writes.
const zeroSliceBytes = 1 << 20

// descriptor is an open file or device. Its methods do what their system call does, all of it, and
// may run concurrently.
type descriptor struct {
	name   string
	size   atomic.Int64 // what the owner takes for the end; the file itself may be longer
	zeroes []byte       // of zeroSliceBytes; never written

	mu sync.RWMutex // held shared during calls, so that close can't give fd to somebody else under one of them
	fd int          // -1 once closed

	syncMu  sync.Mutex
	syncErr error // of the first sync that failed; the answer of every later one
}

func newDescriptor(name string, fd int, size int64) *descriptor {
	d := &descriptor{name: name, zeroes: make([]byte, zeroSliceBytes), fd: fd}
	d.size.Store(size)
	return d
}

// acquire keeps the descriptor open until release, unless it returns an error.
func (d *descriptor) acquire(op string, off int64) error {
	d.mu.RLock()
	if d.fd < 0 {
		d.mu.RUnlock()
		return d.failure(op, off, fs.ErrClosed)
	}
	return nil
}

func (d *descriptor) release() { d.mu.RUnlock() }

func (d *descriptor) failure(op string, off int64, err error) error {
	return fmt.Errorf("%s %s at %d: %w", op, d.name, off, asNoSpace(err))
}

// asNoSpace makes an exceeded quota also a lack of space.
func asNoSpace(err error) error {
	if errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w (%w)", unix.ENOSPC, err)
	}
	return err
}

// checkRange returns ErrRange unless length bytes at off lie within size.
func checkRange(op, name string, off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%s %s: %d bytes at %d of %d: %w", op, name, length, off, size, ErrRange)
	}
	return nil
}

func (d *descriptor) check(op string, off, length int64) error {
	return checkRange(op, d.name, off, length, d.size.Load())
}

func (d *descriptor) readAt(p []byte, off int64) (int, error) {
	if err := d.acquire("read", off); err != nil {
		return 0, err
	}
	defer d.release()
	n, err := transfer(p, off, io.ErrUnexpectedEOF, func(p []byte, off int64) (int, error) {
		return unix.Pread(d.fd, p, off)
	})
	if err != nil {
		err = d.failure("read", off+int64(n), err)
	}
	return n, err
}

func (d *descriptor) writeAt(p []byte, off int64) (int, error) {
	if err := d.acquire("write", off); err != nil {
		return 0, err
	}
	defer d.release()
	n, err := transfer(p, off, io.ErrShortWrite, func(p []byte, off int64) (int, error) {
		return unix.Pwrite(d.fd, p, off)
	})
	if err != nil {
		err = d.failure("write", off+int64(n), err)
	}
	return n, err
}

// writeZeroes writes them in slices of zeroSliceBytes.
func (d *descriptor) writeZeroes(off, length int64) error {
	for length > 0 {
		n, err := d.writeAt(d.zeroes[:min(length, int64(len(d.zeroes)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// readNoWait returns syscall.EAGAIN unless all of p is in memory.
func (d *descriptor) readNoWait(p []byte, off int64) error {
	if err := d.acquire("read", off); err != nil {
		return err
	}
	defer d.release()
	if len(p) == 0 {
		return nil
	}
	n, err := unix.Preadv2(d.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	switch {
	case err == nil && n == len(p):
		return nil
	case err == nil, err == unix.EAGAIN, err == unix.EINTR, err == unix.EOPNOTSUPP, err == unix.ENOSYS:
		return unix.EAGAIN
	}
	return d.failure("read", off, err)
}

// fallocate returns the bare syscall.EOPNOTSUPP where the file system or device can't do it.
func (d *descriptor) fallocate(op string, mode uint32, off, length int64) error {
	if err := d.acquire(op, off); err != nil {
		return err
	}
	defer d.release()
	err := retry(func() error { return unix.Fallocate(d.fd, mode, off, length) })
	if err == nil || err == unix.EOPNOTSUPP {
		return err
	}
	return d.failure(op, off, err)
}

// nextExtent describes the bytes from off on, of which there must be one, up to max of them.
func (d *descriptor) nextExtent(off, max int64) (length int64, hole bool, err error) {
	max = min(max, d.size.Load()-off)
	if err := d.acquire("seek", off); err != nil {
		return 0, false, err
	}
	defer d.release()
	for {
		data, err := unix.Seek(d.fd, off, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // no data from here to the end
			return max, true, nil
		case err != nil:
			return 0, false, d.failure("seek data", off, err)
		case data > off:
			return min(data-off, max), true, nil
		}
		end, err := unix.Seek(d.fd, off, unix.SEEK_HOLE)
		if err != nil {
			return 0, false, d.failure("seek hole", off, err)
		}
		if end > off {
			return min(end-off, max), false, nil
		} // else a hole was punched between the two calls
	}
}

// sync fails for ever once it has failed.
func (d *descriptor) sync() error {
	if err := d.acquire("sync", 0); err != nil {
		return err
	}
	defer d.release()
	d.syncMu.Lock()
	defer d.syncMu.Unlock()
	if d.syncErr != nil {
		return d.syncErr
	}
	if err := retry(func() error { return unix.Fdatasync(d.fd) }); err != nil {
		d.syncErr = fmt.Errorf("sync %s: %w", d.name, asNoSpace(err))
	}
	return d.syncErr
}

// close waits for calls under way. It may be called twice.
func (d *descriptor) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	d.fd = -1
	if err != nil {
		return fmt.Errorf("close %s: %w", d.name, asNoSpace(err))
	}
	return nil
}

// transfer calls once until all of p is done, and returns how much of it was. atEnd is the error where once finds
// nothing more to do.
func transfer(p []byte, off int64, atEnd error, once func(p []byte, off int64) (int, error)) (int, error) {
	done := 0
	for done < len(p) {
		n, err := once(p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, atEnd
		default:
			done += n
		}
	}
	return done, nil
}

// retry calls fn until it is not interrupted by a signal.
func retry(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}
