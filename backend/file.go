package backend

import (
	"fmt"
	"sync/atomic"
)

// Kind says what a File does with space.
type Kind uint8

const (
	// Thin takes space when it is written to and gives it back when it is zeroed with punch.
	Thin Kind = iota + 1
	// Thick has all its space from the beginning and keeps it.
	Thick
)

func (k Kind) String() string {
	switch k {
	case Thin:
		return "thin"
	case Thick:
		return "thick"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// writtenZeroBytes is up to how many bytes a thick file is zeroed by writing. Written space costs less per sync than
// space that is only allocated; beyond this, writing costs more than it saves.
const writtenZeroBytes = 1 << 20

// File is a regular file. All methods may be called concurrently.
//
// Its regions are locked shared by what writes data, and exclusively by what changes where space is: ZeroAt, Fill,
// Resize, and Allocate when it finds some missing. No two are held at once, and none is asked for with the descriptor held.
type File struct {
	d       *descriptor
	kind    Kind
	regions atomic.Pointer[[]*region] // never fewer than the size needs
}

func newFile(d *descriptor, kind Kind) *File {
	f := &File{d: d, kind: kind}
	f.makeRegions(d.size.Load())
	return f
}

// Kind is what the file was opened as.
func (f *File) Kind() Kind { return f.kind }

// Size in bytes.
func (f *File) Size() (int64, error) { return f.d.size.Load(), nil }

// Sync waits for all that was written; see the package's invariants for what follows a failure.
func (f *File) Sync() error { return f.d.sync() }

// Close waits for calls under way, also one of Fill, and unlocks the file. It does not sync. It may be called twice.
func (f *File) Close() error { return f.d.close() }

// ReadAt fills p, or says why not.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.d.readAt(p, off)
}

// ReadNoWait fills p from the page cache; syscall.EAGAIN where that would take a wait for the disk.
func (f *File) ReadNoWait(p []byte, off int64) error {
	if err := f.d.check("read", off, int64(len(p))); err != nil {
		return err
	}
	return f.d.readNoWait(p, off)
}

// WriteAt writes all of p, or returns an error that wraps syscall.ENOSPC where there is no room for it.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		r, n := f.regionAt(off+int64(done), int64(len(p)-done))
		r.mu.RLock()
		m, err := f.d.writeAt(p[done:done+int(n)], off+int64(done))
		r.mu.RUnlock()
		done += m
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// NextExtent implements Extents. Space that is allocated, but that nothing was written to, counts as a hole: it reads
// as zeroes. max may reach beyond the end of the file, off may not.
func (f *File) NextExtent(off, max int64) (length int64, hole bool, err error) {
	if err := checkExtent(f.d.name, off, max, f.d.size.Load()); err != nil {
		return 0, false, err
	}
	return f.d.nextExtent(off, max)
}

// checkExtent returns ErrRange unless there is a byte at off, and one is asked for.
func checkExtent(name string, off, max, size int64) error {
	if max < 1 {
		return fmt.Errorf("extent of %s: %d bytes at %d: %w", name, max, off, ErrRange)
	}
	return checkRange("extent of", name, off, 1, size)
}

var (
	_ Backend      = (*File)(nil)
	_ Zeroer       = (*File)(nil)
	_ Allocator    = (*File)(nil)
	_ Resizer      = (*File)(nil)
	_ NoWaitReader = (*File)(nil)
	_ Extents      = (*File)(nil)
)
