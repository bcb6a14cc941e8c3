package wal

import (
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// vectorMax is the most buffers that the kernel takes in one call (IOV_MAX).
const vectorMax = 1024

// dirFile is a file of a Dir. I/O goes through the page cache; Sync takes it to the disk.
type dirFile struct {
	name     string
	readOnly bool
	synced   syncOnce

	mu sync.RWMutex // held shared during calls, so that Close can't give fd to somebody else under one of them
	fd int          // -1 once closed
}

// ReadAt returns io.EOF, as io.ReaderAt says, where the file ends before p does.
func (f *dirFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.acquire("read", off); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := transfer(p, off, io.EOF, func(p []byte, off int64) (int, error) { return unix.Pread(f.fd, p, off) })
	if err != nil && err != io.EOF {
		err = f.failure("read", off+int64(n), err)
	}
	return n, err
}

// WriteAt grows the file as needed.
func (f *dirFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.acquireChange("write", off); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := f.write(p, off)
	if err != nil {
		err = f.failure("write", off+int64(n), err)
	}
	return n, err
}

func (f *dirFile) write(p []byte, off int64) (int, error) {
	return transfer(p, off, io.ErrShortWrite, func(p []byte, off int64) (int, error) { return unix.Pwrite(f.fd, p, off) })
}

// WriteVecAt writes up to vectorMax buffers with one system call.
func (f *dirFile) WriteVecAt(bufs [][]byte, off int64) error {
	if err := f.acquireChange("write", off); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	n, err := transferVec(bufs, off, func(bufs [][]byte, off int64) (int, error) { return unix.Pwritev(f.fd, bufs, off) })
	if err != nil {
		return f.failure("write", off+n, err)
	}
	return nil
}

// ReadNoWait fills p only from what is in memory: syscall.EAGAIN where that is not all of it, the file ends before, or
// the file system can't tell.
func (f *dirFile) ReadNoWait(p []byte, off int64) error {
	if err := f.acquire("read", off); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	if len(p) == 0 {
		return nil
	}
	n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	switch {
	case err == nil && n == len(p):
		return nil
	case err == nil, err == unix.EAGAIN, err == unix.EINTR, err == unix.EOPNOTSUPP, err == unix.ENOSYS:
		return unix.EAGAIN
	}
	return f.failure("read", off, err)
}

// Sync waits for the file's data and size, by fdatasync. Once it has failed it fails for ever, until the file is
// opened again, because the kernel tells of each failure only once.
func (f *dirFile) Sync() error {
	if err := f.acquire("sync", 0); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	if err := f.synced.do(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return fmt.Errorf("sync %s: %w", f.name, err)
	}
	return nil
}

// Allocate reserves space. Where the file system can't, it writes zeroes over what lies beyond the file's end; the
// caller does not write there at the same time.
func (f *dirFile) Allocate(off, length int64) error {
	if err := f.acquireChange("allocate", off); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	err := retry(func() error { return unix.Fallocate(f.fd, 0, off, length) })
	if err == unix.EOPNOTSUPP {
		err = f.grow(off + length)
	}
	if err != nil {
		return f.failure("allocate", off, err)
	}
	return nil
}

// grow writes zeroes from the end of the file to the given one.
func (f *dirFile) grow(end int64) error {
	size, err := f.size()
	if err != nil {
		return err
	}
	zeroes := make([]byte, min(max(end-size, 0), 1<<20))
	for size < end {
		n, err := f.write(zeroes[:min(end-size, int64(len(zeroes)))], size)
		if err != nil {
			return err
		}
		size += int64(n)
	}
	return nil
}

func (f *dirFile) Size() (int64, error) {
	if err := f.acquire("measure", 0); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	size, err := f.size()
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", f.name, err)
	}
	return size, nil
}

func (f *dirFile) size() (int64, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.fd, &st) })
	return st.Size, err
}

// Close waits for calls under way. It may be called twice.
func (f *dirFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	if err != nil {
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	return nil
}

// acquire keeps the file open until mu.RUnlock, unless it returns an error.
func (f *dirFile) acquire(op string, off int64) error {
	f.mu.RLock()
	if f.fd < 0 {
		f.mu.RUnlock()
		return f.failure(op, off, fs.ErrClosed)
	}
	return nil
}

func (f *dirFile) acquireChange(op string, off int64) error {
	if f.readOnly {
		return f.failure(op, off, ErrReadOnly)
	}
	return f.acquire(op, off)
}

func (f *dirFile) failure(op string, off int64, err error) error {
	return fmt.Errorf("%s %s at %d: %w", op, f.name, off, err)
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

// transferVec calls once, with at most vectorMax buffers at a time, until all of bufs is written, and returns how many
// bytes were. It changes neither bufs nor what they hold.
func transferVec(bufs [][]byte, off int64, once func(bufs [][]byte, off int64) (int, error)) (int64, error) {
	var done int64
	for {
		for len(bufs) > 0 && len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
		if len(bufs) == 0 {
			return done, nil
		}
		n, err := once(bufs[:min(len(bufs), vectorMax)], off+done)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += int64(n)
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		if n > 0 { // it stopped within a buffer
			m, err := transferVec([][]byte{bufs[0][n:]}, off+done, once)
			done += m
			if err != nil {
				return done, err
			}
			bufs = bufs[1:]
		}
	}
}

var (
	_ FS           = (*Dir)(nil)
	_ File         = (*dirFile)(nil)
	_ NoWaitReader = (*dirFile)(nil)
)
