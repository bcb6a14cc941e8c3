package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fillSliceBytes is how much Fill writes while it keeps writers of the same region waiting.
const fillSliceBytes = 1 << 20

// Fill writes zeroes to all space of a thick file that nothing was written to, because a sync in space that is only
// allocated costs more. It may run beside everything else, takes its time for each slice to reach the disk, and goes
// on where it was when it is called again after an interruption or a restart. progress, if not nil, is told after
// each step how many of the total bytes need no more work. It returns nil when all is written and synced, and
// otherwise why not: the context's error, fs.ErrClosed, or a failure.
//
// What a Resize adds or takes away meanwhile is left to a later Fill.
//
// Space that was read but never written may look written, and is then left to a later Fill.
func (f *File) Fill(ctx context.Context, progress func(done, total int64)) error {
	if f.kind != Thick {
		return fmt.Errorf("fill %s: a %s file has no space to fill: %w", f.d.name, f.kind, unix.EINVAL)
	}
	own, err := f.reopen()
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	err = f.fill(ctx, own, progress)
	if err == nil {
		err = own.sync()
	}
	if err := errors.Join(err, own.close()); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}

// reopen opens the file a second time. Fill needs that for two reasons: its reads must not read ahead, since what is
// in the page cache looks written; and waiting for the disk on f's own descriptor could take the report of a lost
// write away from Sync.
func (f *File) reopen() (*descriptor, error) {
	if err := f.d.acquire("reopen", 0); err != nil {
		return nil, err
	}
	defer f.d.release()
	fd, _, err := openPath(fmt.Sprintf("/proc/self/fd/%d", f.d.fd), 0)
	if err != nil {
		return nil, f.d.failure("reopen", 0, err)
	}
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil {
		return nil, errors.Join(f.d.failure("advise", 0, err), unix.Close(fd))
	}
	return newDescriptor(f.d.name, fd, f.d.size.Load()), nil
}

func (f *File) fill(ctx context.Context, own *descriptor, progress func(done, total int64)) error {
	size := own.size.Load()
	buf := make([]byte, min(fillSliceBytes, size))
	for off := int64(0); off < min(size, f.d.size.Load()); {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s at %d: %w", f.d.name, off, err)
		}
		length, hole, err := own.nextExtent(off, size-off)
		if err != nil {
			return err
		}
		if hole {
			length = min(length, fillSliceBytes-off%fillSliceBytes) // so it is within one region
			if err := f.fillSlice(own, off, length, buf); err != nil {
				return err
			}
		}
		off += length
		if progress != nil {
			progress(off, size)
		}
	}
	return nil
}

// fillSlice fills the holes of a range within one region and waits for them to reach the disk, so that the next Sync
// finds little to do, and leaves the page cache to data.
func (f *File) fillSlice(own *descriptor, off, length int64, buf []byte) error {
	r, _ := f.regionAt(off, length)
	if err := f.fillLocked(r, own, off, length, buf); err != nil {
		return err
	}
	return own.writeBack(off, length)
}

func (f *File) fillLocked(r *region, own *descriptor, off, length int64, buf []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// f is kept open: once it is closed its lock is gone, and the file may be somebody else's.
	if err := f.d.acquire("fill", off); err != nil {
		return err
	}
	defer f.d.release()
	return fillHoles(own, off, min(length, f.d.size.Load()-off), buf) // it may have shrunk meanwhile
}

// fillHoles writes zeroes into the holes of a range, reading each one first: should the file system be wrong about
// one (some have been), what it holds stays. Nobody else may write to the range meanwhile.
func fillHoles(d *descriptor, off, length int64, buf []byte) error {
	for length > 0 {
		n, hole, err := d.nextExtent(off, length)
		if err != nil {
			return err
		}
		if hole {
			n = min(n, int64(len(buf)))
			if err := fillHole(d, off, buf[:n]); err != nil {
				return err
			}
		}
		off, length = off+n, length-n
	}
	return nil
}

func fillHole(d *descriptor, off int64, buf []byte) error {
	if _, err := d.readAt(buf, off); err != nil {
		return err
	}
	if !bytes.Equal(buf, d.zeroes[:len(buf)]) {
		return nil
	}
	return d.writeZeroes(off, int64(len(buf)))
}

// writeBack waits until a range is written to the disk, which is less than a sync, and drops it from the page cache.
func (d *descriptor) writeBack(off, length int64) error {
	if err := d.acquire("write back", off); err != nil {
		return err
	}
	defer d.release()
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := retry(func() error { return unix.SyncFileRange(d.fd, off, length, all) }); err != nil {
		return d.failure("write back", off, err)
	}
	if err := unix.Fadvise(d.fd, off, length, unix.FADV_DONTNEED); err != nil {
		return d.failure("advise", off, err)
	}
	return nil
}
