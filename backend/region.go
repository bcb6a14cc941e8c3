package backend

import (
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	unitBytes   = 4096     // what one bit speaks of
	regionBytes = 32 << 20 // what one region speaks of
	regionUnits = regionBytes / unitBytes
)

// region notes which units of its part of a file are known to be allocated.
type region struct {
	mu sync.RWMutex
	// Of each unit, true only if all its space is allocated. Changed under mu held exclusively. nil until first asked
	// for: most regions of a big volume are never written to, and 1 KiB each adds up.
	allocated *[regionUnits / 64]uint64
}

// regionAt returns the region of off, and how many of the length bytes from there on are in it.
func (f *File) regionAt(off, length int64) (*region, int64) {
	return (*f.regions.Load())[off/regionBytes], min(length, regionBytes-off%regionBytes)
}

// Allocate implements Allocator, in whole units of 4 KiB. It costs no system call where the space is known to be
// there. Where the file system can't allocate, it writes zeroes into what are holes.
func (f *File) Allocate(off, length int64) error {
	if err := f.d.check("allocate", off, length); err != nil {
		return err
	}
	if length == 0 {
		return nil
	}
	end := min((off+length+unitBytes-1)/unitBytes*unitBytes, f.d.size.Load())
	off = off / unitBytes * unitBytes
	for off < end {
		r, n := f.regionAt(off, end-off)
		if err := f.allocateIn(r, off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// allocateIn allocates whole units of one region.
func (f *File) allocateIn(r *region, off, length int64) error {
	first, end := unitsCovering(off, length)
	r.mu.RLock()
	done := r.allocated != nil && r.missing(first, end) == end
	r.mu.RUnlock()
	if done {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.allocated == nil {
		if err := f.load(r, off/regionBytes*regionBytes); err != nil {
			return err
		}
	}
	for {
		run := r.missing(first, end)
		if run == end {
			return nil
		}
		runEnd := r.present(run, end)
		if err := f.takeLocked(r, off/regionBytes*regionBytes, run, runEnd); err != nil {
			return err
		}
	}
}

// takeLocked allocates the units [first, end) of the region that starts at start.
func (f *File) takeLocked(r *region, start int64, first, end int) error {
	off := start + int64(first)*unitBytes
	length := min(int64(end-first)*unitBytes, f.d.size.Load()-off)
	err := f.d.fallocate("allocate", unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err == unix.EOPNOTSUPP {
		err = fillHoles(f.d, off, length, make([]byte, min(length, zeroSliceBytes)))
	}
	if err != nil {
		return err
	}
	r.note(first, end)
	return nil
}

// load asks the file system what is allocated of the region that starts at start. Space that nothing was written to
// looks like a hole, and is allocated again, to no effect, when it is asked for.
func (f *File) load(r *region, start int64) error {
	r.allocated = new([regionUnits / 64]uint64)
	end := min(start+regionBytes, f.d.size.Load())
	for off := start; off < end; {
		length, hole, err := f.d.nextExtent(off, end-off)
		if err != nil {
			r.allocated = nil
			return err
		}
		if !hole {
			r.note(f.unitsWithin(off, length))
		}
		off += length
	}
	return nil
}

// ZeroAt implements Zeroer. A thick file keeps its space even with punch. Where the file system can't zero a range by
// itself, zeroes are written.
func (f *File) ZeroAt(off, length int64, punch bool) error {
	if err := f.d.check("zero", off, length); err != nil {
		return err
	}
	for length > 0 {
		r, n := f.regionAt(off, length)
		if err := f.zeroIn(r, off, n, punch); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// zeroIn zeroes a range of one region.
func (f *File) zeroIn(r *region, off, length int64, punch bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.kind == Thick && length <= writtenZeroBytes {
		return f.d.writeZeroes(off, length)
	}
	r.forget(unitsCovering(off, length)) // first: some of it may be gone even after an error
	if punch && f.kind == Thin {
		err := f.d.fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err != unix.EOPNOTSUPP {
			return err
		}
	}
	err := f.d.fallocate("zero", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err == unix.EOPNOTSUPP {
		err = f.d.writeZeroes(off, length)
	}
	if err != nil {
		return err
	}
	r.note(f.unitsWithin(off, length))
	return nil
}

// unitsCovering returns the units of its region that a range touches.
func unitsCovering(off, length int64) (first, end int) {
	at := off % regionBytes
	return int(at / unitBytes), int((at + length + unitBytes - 1) / unitBytes)
}

// unitsWithin returns the units of its region that a range covers whole; the file's last unit may be a short one.
func (f *File) unitsWithin(off, length int64) (first, end int) {
	at := off % regionBytes
	first, end = int((at+unitBytes-1)/unitBytes), int((at+length)/unitBytes)
	if off+length == f.d.size.Load() {
		end = int((at + length + unitBytes - 1) / unitBytes)
	}
	return first, max(first, end)
}

// note marks units as allocated, where notes are kept.
func (r *region) note(first, end int) {
	for u := first; u < end && r.allocated != nil; u++ {
		r.allocated[u/64] |= 1 << (u % 64)
	}
}

// forget erases the marks of units.
func (r *region) forget(first, end int) {
	for u := first; u < end && r.allocated != nil; u++ {
		r.allocated[u/64] &^= 1 << (u % 64)
	}
}

// missing returns the first unit of [first, end) that is not marked; end if all are.
func (r *region) missing(first, end int) int { return r.next(first, end, ^uint64(0)) }

// present returns the first unit of [first, end) that is marked; end if none is.
func (r *region) present(first, end int) int { return r.next(first, end, 0) }

// next returns the first unit of [first, end) whose bit, after exclusive or with flip, is 1.
func (r *region) next(first, end int, flip uint64) int {
	for u := first; u < end; u = (u/64 + 1) * 64 {
		if word := (r.allocated[u/64] ^ flip) >> (u % 64); word != 0 {
			return min(u+bits.TrailingZeros64(word), end)
		}
	}
	return end
}
