package volume

import (
	"errors"
	"fmt"
	"syscall"

	"lockstep/block"
	"lockstep/wal"
)

// Read fills p from byte off on with the newest data. It may wait for a disk.
func (v *Volume) Read(p []byte, off int64) error {
	return v.read(p, off, true)
}

// ReadNoWait is Read where nothing has to be waited for; it returns false where something would.
func (v *Volume) ReadNoWait(p []byte, off int64) (bool, error) {
	err := v.read(p, off, false)
	if errors.Is(err, syscall.EAGAIN) {
		return false, nil
	}
	return true, err
}

func (v *Volume) read(p []byte, off int64, wait bool) error {
	if err := v.checkRange(off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	if err := v.readable(); err != nil {
		return err
	}
	l := v.lookups.Get().(*lookup)
	defer v.lookups.Put(l)
	defer l.release()
	v.index.find(l, v.blocks(off, int64(len(p))))
	for i := range l.parts {
		if err := v.readPart(p, off, &l.parts[i], wait); err != nil {
			return v.unlessCut(err, off, int64(len(p)))
		}
	}
	return v.readable() // it may have been fenced meanwhile (S8)
}

// readable returns why reads are refused, or nil.
func (v *Volume) readable() error {
	if v.closed.Load() {
		return ErrClosed
	}
	if v.reign.Load() == nil && !v.cfg.ReadFollower {
		return ErrFollower
	}
	return nil
}

// readPart fills what of p, which begins at byte off, lies in the part.
func (v *Volume) readPart(p []byte, off int64, at *part, wait bool) error {
	start := max(int64(at.Start)*v.blockBytes, off)
	end := min(int64(at.End())*v.blockBytes, off+int64(len(p)))
	dst := p[start-off : end-off]
	switch at.kind {
	case 0:
		return v.base.read(dst, start, wait)
	case wal.RecordWrite:
		from := at.offset + start - int64(at.Start)*v.blockBytes
		if wait {
			return at.segment.ReadAt(dst, from)
		}
		return at.segment.ReadNoWait(dst, from)
	default:
		clear(dst)
		return nil
	}
}

// unlessCut returns err, or ErrRange where a resize has cut the bytes off meanwhile.
func (v *Volume) unlessCut(err error, off, length int64) error {
	if cut := v.checkRange(off, length); cut != nil {
		return cut
	}
	return err
}

// blocks returns the blocks that the bytes touch.
func (v *Volume) blocks(off, length int64) block.Range {
	first := off / v.blockBytes
	return block.Range{Start: uint64(first), Count: uint64((off+length+v.blockBytes-1)/v.blockBytes - first)}
}

func (v *Volume) checkRange(off, length int64) error {
	size := v.Size()
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%d bytes at %d: %w of %d bytes", length, off, ErrRange, size)
	}
	return nil
}
