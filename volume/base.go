package volume

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/histogram"
)

// base is the base image: the backend's data in blocks. Reads of a stripe exclude writes to it, so that a read never
// sees half of a block that a checkpoint is writing.
type base struct {
	backend    backend.Backend
	blockBytes int64
	stripes    [baseStripes]sync.RWMutex

	written, zeroed atomic.Uint64 // bytes
	syncs           histogram.Latency
}

const (
	baseStripes     = 64
	baseStripeBytes = 1 << 20
)

// stripe calls fn for each part of the byte range that lies in one stripe, with the stripe's lock.
func (b *base) stripe(off, length int64, fn func(off, n int64, lock *sync.RWMutex) error) error {
	for length > 0 {
		n := min(length, baseStripeBytes-off%baseStripeBytes)
		if err := fn(off, n, &b.stripes[off/baseStripeBytes%baseStripes]); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// read fills p from byte off of the volume. Without wait it returns syscall.EAGAIN where it would have to.
func (b *base) read(p []byte, off int64, wait bool) error {
	start := off
	return b.stripe(off, int64(len(p)), func(off, n int64, lock *sync.RWMutex) error {
		part := p[off-start:][:n]
		if !wait {
			return b.readNoWait(part, off, lock)
		}
		lock.RLock()
		defer lock.RUnlock()
		if got, err := b.backend.ReadAt(part, DataOffset+off); err != nil && !(err == io.EOF && got == len(part)) {
			return fmt.Errorf("read base image at %d: %w", off, err)
		}
		return nil
	})
}

func (b *base) readNoWait(p []byte, off int64, lock *sync.RWMutex) error {
	r, ok := b.backend.(backend.NoWaitReader)
	if !ok || !lock.TryRLock() {
		return syscall.EAGAIN
	}
	defer lock.RUnlock()
	return r.ReadNoWait(p, DataOffset+off)
}

// write writes p at byte off of the volume.
func (b *base) write(p []byte, off int64) error {
	start := off
	return b.stripe(off, int64(len(p)), func(off, n int64, lock *sync.RWMutex) error {
		lock.Lock()
		defer lock.Unlock()
		if _, err := b.backend.WriteAt(p[off-start:][:n], DataOffset+off); err != nil {
			return fmt.Errorf("write base image at %d: %w", off, err)
		}
		b.written.Add(uint64(n))
		return nil
	})
}

// zeroSlice is how many bytes are zeroed under one hold of the locks. Giving space back is a matter of extents; zeroes
// may have to be written.
func zeroSlice(punch bool) int64 {
	if punch {
		return 1 << 30
	}
	return 64 << 20
}

// zero makes the blocks read as zeroes; with punch their space may be given back. It goes in slices, so that no read
// waits for long.
func (b *base) zero(r block.Range, punch bool) error {
	has, err := b.backend.Size()
	if err != nil {
		return fmt.Errorf("size of the base image: %w", err)
	}
	off := int64(r.Start) * b.blockBytes
	length := min(int64(r.Count)*b.blockBytes, has-DataOffset-off) // a volume that shrank has blocks that are not there
	z, ok := b.backend.(backend.Zeroer)
	if !ok {
		return b.writeZeroes(off, length)
	}
	for length > 0 {
		n := min(length, zeroSlice(punch))
		if err := b.zeroStripes(z, off, n, punch); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// zeroStripes zeroes a range with all stripes locked: a range of any length is one step.
func (b *base) zeroStripes(z backend.Zeroer, off, length int64, punch bool) error {
	for i := range b.stripes {
		b.stripes[i].Lock()
		defer b.stripes[i].Unlock()
	}
	if err := z.ZeroAt(DataOffset+off, length, punch); err != nil {
		return fmt.Errorf("zero base image at %d, %d bytes: %w", off, length, err)
	}
	b.zeroed.Add(uint64(length))
	return nil
}

func (b *base) writeZeroes(off, length int64) error {
	zeroes := make([]byte, min(length, baseStripeBytes))
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if err := b.write(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// allocate reserves space for the blocks, where the backend can.
func (b *base) allocate(r block.Range) error {
	a, ok := b.backend.(backend.Allocator)
	if !ok {
		return nil
	}
	off, length := int64(r.Start)*b.blockBytes, int64(r.Count)*b.blockBytes
	if err := a.Allocate(DataOffset+off, length); err != nil {
		return fmt.Errorf("allocate base image at %d, %d bytes: %w", off, length, err)
	}
	return nil
}

func (b *base) sync() error {
	begun := time.Now()
	if err := b.backend.Sync(); err != nil {
		return fmt.Errorf("sync base image: %w", err)
	}
	b.syncs.Add(time.Since(begun), 1)
	return nil
}

// extent describes the bytes of the volume from off on: length of them, at most max, are alike.
func (b *base) extent(off, max int64) (length int64, hole bool, err error) {
	x, ok := b.backend.(backend.Extents)
	if !ok {
		return max, false, nil
	}
	length, hole, err = x.NextExtent(DataOffset+off, max)
	if err != nil {
		return 0, false, fmt.Errorf("look for holes in the base image at %d: %w", off, err)
	}
	if length < 1 || length > max {
		return 0, false, fmt.Errorf("look for holes in the base image at %d: an extent of %d bytes", off, length)
	}
	return length, hole, nil
}
