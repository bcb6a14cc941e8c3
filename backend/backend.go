package backend

// Backend stores bytes at offsets and makes them durable. The method set is that of github.com/pojntfx/go-nbd's
// backend.Backend, so that backends written for that library fit.
//
// ReadAt and WriteAt follow io.ReaderAt and io.WriterAt: n < len(p) comes with an error. Writing never makes a Backend
// grow: access beyond Size is an error. Sync returns nil only once everything written before it was called is on stable storage;
// after an error nothing may be assumed of any write since the last Sync that returned nil.
type Backend interface {
	ReadAt(p []byte, off int64) (n int, err error)
	WriteAt(p []byte, off int64) (n int, err error)
	Size() (int64, error)
	Sync() error
}

// Zeroer is a Backend that can zero a range faster than by writing zeroes. Afterwards the range reads as zeroes. With
// punch the space may be given back; without, it stays (or becomes) allocated. A crash may leave any part of the range
// unzeroed until Sync returns nil.
type Zeroer interface {
	ZeroAt(off, length int64, punch bool) error
}

// SlowZeroer is a Zeroer that may have to write what it zeroes, so that large ranges take long. A caller that is told
// so asks for them in slices, when nobody waits.
type SlowZeroer interface {
	Zeroer
	ZeroesSlowly() bool
}

// Allocator is a Backend that can reserve space ahead of writes, so that a later WriteAt or Sync in the range does not
// run out of it. It fails with an error that wraps syscall.ENOSPC or syscall.EDQUOT when there is none. Content is
// unchanged.
type Allocator interface {
	Allocate(off, length int64) error
}

// Resizer is a Backend whose size can be changed, from one goroutine at a time, and beside all other calls. What is added
// reads as zeroes, unless it is a device's; what is cut off is gone, and no longer to be used when Resize is called. It is
// durable once a later Sync returns nil. Where it fails, the size is as before: for lack of space with an error that wraps
// syscall.ENOSPC or syscall.EDQUOT.
type Resizer interface {
	Resize(size int64) error
}

// NoWaitReader is a Backend that can read what is at hand without waiting for a disk. ReadNoWait returns
// syscall.EAGAIN, having read nothing of use, where the caller would have to wait.
type NoWaitReader interface {
	ReadNoWait(p []byte, off int64) error
}

// Extents is a Backend that knows which of its ranges are holes. NextExtent describes the bytes from off on: length
// of them, at least 1 and at most max, are alike. hole means not allocated, and so zero.
type Extents interface {
	NextExtent(off, max int64) (length int64, hole bool, err error)
}
