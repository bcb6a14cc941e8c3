package backend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Resize implements Resizer. Of a thick file, the space that is added is taken at once; Fill writes it.
func (f *File) Resize(size int64) error {
	old := f.d.size.Load()
	var err error
	switch {
	case size <= 0:
		err = fmt.Errorf("size %d: %w", size, unix.EINVAL)
	case size < old:
		err = f.shrink(size)
	case size > old:
		err = f.grow(old, size)
	}
	if err != nil {
		return fmt.Errorf("resize %s from %d to %d bytes: %w", f.d.name, old, size, err)
	}
	return nil
}

func (f *File) grow(old, size int64) error {
	if f.kind == Thick {
		if err := f.truncate(old); err != nil { // what a growth that was cut short took
			return err
		}
		if err := f.checkFree(size - old); err != nil {
			return err
		}
		if err := f.take(old, size); err != nil {
			return errors.Join(err, f.truncate(old)) // gives back what was taken
		}
	}
	if err := f.truncate(size); err != nil {
		return err
	}
	f.makeRegions(size)
	r, _ := f.regionAt(old-1, 1)
	r.mu.Lock()
	r.forget(unitsCovering(old-1, 1)) // it may have been a short one
	r.mu.Unlock()
	f.d.size.Store(size)
	return nil
}

// checkFree spares us filling a disk to find out that it is too small.
func (f *File) checkFree(bytes int64) error {
	if err := f.d.acquire("look for free space", 0); err != nil {
		return err
	}
	defer f.d.release()
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.d.fd, &st); err != nil {
		return f.d.failure("look for free space", 0, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < bytes {
		return fmt.Errorf("%d bytes more, and %d are free: %w", bytes, free, unix.ENOSPC)
	}
	return nil
}

// shrink ends the use of what is cut off before it cuts.
func (f *File) shrink(size int64) error {
	old := f.d.size.Swap(size)
	for i, r := range *f.regions.Load() {
		start := int64(i) * regionBytes
		if start+regionBytes <= size {
			continue
		}
		r.mu.Lock() // Fill and Allocate may be at it
		r.forget(int(max(size-start, 0)/unitBytes), regionUnits)
		r.mu.Unlock()
	}
	if err := f.truncate(size); err != nil {
		f.d.size.Store(old)
		return err
	}
	return nil
}

func (f *File) truncate(size int64) error {
	if err := f.d.acquire("truncate", size); err != nil {
		return err
	}
	defer f.d.release()
	if err := retry(func() error { return unix.Ftruncate(f.d.fd, size) }); err != nil {
		return f.d.failure("truncate", size, err)
	}
	return nil
}

// makeRegions has regions for a file of size bytes, those that there are among them.
func (f *File) makeRegions(size int64) {
	var regions []*region
	if old := f.regions.Load(); old != nil {
		regions = append(regions, *old...)
	}
	for int64(len(regions))*regionBytes < size {
		regions = append(regions, new(region))
	}
	f.regions.Store(&regions)
}
