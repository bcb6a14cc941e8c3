package disk

import (
	"fmt"
	"io/fs"
	"syscall"

	"lockstep/backend"
	"lockstep/wal"
)

// handle is an open file. What a process that died had open fails for ever.
type handle struct {
	disk   *Disk
	life   int // of the process that opened it
	name   string
	inode  int
	closed bool // guarded by disk.mu
}

// file is a handle on a file of a directory.
type file struct{ handle }

// Base is a disk image: a file outside the directories that is always there. It needs no Close.
type Base struct{ handle }

var (
	_ wal.File             = (*file)(nil)
	_ wal.NoWaitReader     = (*file)(nil)
	_ backend.Backend      = (*Base)(nil)
	_ backend.Zeroer       = (*Base)(nil)
	_ backend.Allocator    = (*Base)(nil)
	_ backend.Resizer      = (*Base)(nil)
	_ backend.Extents      = (*Base)(nil)
	_ backend.NoWaitReader = (*Base)(nil)
)

// do carries out a numbered operation on the open file.
func (h *handle) do(a *action) (done int64, err error) {
	if err := h.disk.usable(h); err != nil {
		return 0, h.failed(a.Kind, err)
	}
	a.File, a.inode = h.name, h.inode
	return h.disk.do(h.life, a)
}

func (h *handle) failed(kind OpKind, err error) error {
	return &fs.PathError{Op: kind.String(), Path: h.name, Err: err}
}

// ReadAt follows io.ReaderAt. Reads see the page cache: everything written, synced or not.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, h.failed(OpRead, syscall.EINVAL)
	}
	a := action{Op: Op{Kind: OpRead, Offset: off, Length: int64(len(p))}, bufs: [][]byte{p}}
	if h.disk.countReads {
		done, err := h.do(&a)
		return int(done), err
	}
	a.File, a.inode = h.name, h.inode
	done, err := h.disk.read(h, &a)
	return int(done), err
}

// ReadNoWait reads like ReadAt, but returns syscall.EAGAIN each time it is due by Config.ColdEvery.
func (h *handle) ReadNoWait(p []byte, off int64) error {
	if h.disk.cold() {
		return syscall.EAGAIN
	}
	_, err := h.ReadAt(p, off)
	return err
}

// WriteAt writes to the page cache. A failed write may have written a part.
func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	done, err := h.writeVec([][]byte{p}, off)
	return int(done), err
}

func (h *handle) writeVec(bufs [][]byte, off int64) (int64, error) {
	var length int64
	for _, p := range bufs {
		length += int64(len(p))
	}
	if off < 0 {
		return 0, h.failed(OpWrite, syscall.EINVAL)
	}
	return h.do(&action{Op: Op{Kind: OpWrite, Offset: off, Length: length}, bufs: bufs})
}

// Allocate reserves space for the range, all of it or, where there is not enough, none with syscall.ENOSPC.
func (h *handle) Allocate(off, length int64) error {
	if off < 0 || length <= 0 {
		return h.failed(OpAllocate, syscall.EINVAL)
	}
	_, err := h.do(&action{Op: Op{Kind: OpAllocate, Offset: off, Length: length}})
	return err
}

// Sync makes the file durable.
func (h *handle) Sync() error {
	_, err := h.do(&action{Op: Op{Kind: OpSync}})
	return err
}

// Size returns the size in bytes.
func (h *handle) Size() (int64, error) { return h.disk.size(h) }

func (f *file) WriteVecAt(bufs [][]byte, off int64) error {
	_, err := f.writeVec(bufs, off)
	return err
}

func (f *file) Close() error { return f.disk.close(&f.handle) }

// WriteAt writes within the image; a range that ends beyond it is an error and writes nothing.
func (b *Base) WriteAt(p []byte, off int64) (int, error) {
	if err := b.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	return b.handle.WriteAt(p, off)
}

// Allocate reserves space within the image.
func (b *Base) Allocate(off, length int64) error {
	if err := b.within(off, length); err != nil {
		return err
	}
	return b.handle.Allocate(off, length)
}

// ZeroAt zeroes a range; with punch, its whole pages of 4 KiB become holes.
func (b *Base) ZeroAt(off, length int64, punch bool) error {
	if err := b.within(off, length); err != nil {
		return err
	}
	_, err := b.do(&action{Op: Op{Kind: OpZero, Offset: off, Length: length}, punch: punch})
	return err
}

// NextExtent follows backend.Extents.
func (b *Base) NextExtent(off, max int64) (length int64, hole bool, err error) {
	if err := b.within(off, 1); err != nil {
		return 0, false, err
	}
	if max <= 0 {
		return 0, false, fmt.Errorf("next extent of %s: %w", b.name, syscall.EINVAL)
	}
	return b.disk.extent(&b.handle, off, max)
}

// Resize follows backend.Resizer. A power cut may undo it until it is synced.
func (b *Base) Resize(size int64) error {
	if size <= 0 {
		return b.failed(OpResize, syscall.EINVAL)
	}
	_, err := b.do(&action{Op: Op{Kind: OpResize, Length: size}})
	return err
}

func (b *Base) within(off, length int64) error {
	size, err := b.Size()
	if err != nil {
		return err
	}
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%s [%d, +%d) of %d bytes: %w", b.name, off, length, size, syscall.EINVAL)
	}
	return nil
}
