package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"lockstep/volume"
)

// ErrTooLong is returned where more bytes are imported than the volume has.
var ErrTooLong = errors.New("content is longer than the volume")

// piece is the next run of bytes of a content: data, or zeroes where data is nil.
type piece struct {
	length int64
	data   []byte
}

// Source gives a content in order. next may use buf, of chunkBytes, for what it returns; io.EOF comes after the last.
type Source interface {
	next(buf []byte) (piece, error)
}

// Sink takes a content in order. Nothing may be assumed of what it made until end has returned nil.
type Sink interface {
	data(p []byte) error
	zeroes(n int64) error
	end() error
}

// readVolume copies the content of a volume into a sink, but does not end it. The copy is of one moment only if nobody
// writes meanwhile; where the size changes it is ErrChanged.
func readVolume(ctx context.Context, v *volume.Volume, to Sink) error {
	buf := make([]byte, chunkBytes)
	size := v.Size()
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := readExtent(v, to, off, size-off, buf)
		if v.Size() != size {
			return fmt.Errorf("%w: its size was %d bytes, and is %d now", ErrChanged, size, v.Size())
		}
		if err != nil {
			return fmt.Errorf("read volume at %d: %w", off, err)
		}
		off += n
	}
	return nil
}

// readExtent copies the run of bytes at off, as much of it as is handled at once, at most rest, and returns its length.
func readExtent(v *volume.Volume, to Sink, off, rest int64, buf []byte) (int64, error) {
	extents, err := v.Extents(off, rest, 1)
	if err != nil {
		return 0, err
	}
	length := extents[0].Length
	if extents[0].Zero {
		return length, to.zeroes(length)
	}
	p := buf[:min(length, chunkBytes)]
	if err := v.Read(p, off); err != nil {
		return 0, err
	}
	if allZero(p) {
		return int64(len(p)), to.zeroes(int64(len(p)))
	}
	return int64(len(p)), to.data(p)
}

// fillVolume copies a source into a volume that reads as zeroes throughout, and makes it durable. A content shorter
// than the volume leaves its rest zero; a longer one is ErrTooLong.
func fillVolume(ctx context.Context, v *volume.Volume, from Source) error {
	buf := make([]byte, chunkBytes)
	off := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := from.next(buf)
		if errors.Is(err, io.EOF) {
			return v.Flush()
		}
		if err != nil {
			return fmt.Errorf("content at %d: %w", off, err)
		}
		if p.length > v.Size()-off {
			return fmt.Errorf("%w of %d bytes", ErrTooLong, v.Size())
		}
		if p.data != nil {
			change := []volume.Change{{Kind: volume.Write, Offset: off, Length: p.length, Data: p.data}}
			v.Apply(change)
			if change[0].Err != nil {
				return fmt.Errorf("write volume at %d: %w", off, change[0].Err)
			}
		}
		off += p.length
	}
}

// copyContent copies a source into a sink.
func copyContent(from Source, to Sink) error {
	buf := make([]byte, chunkBytes)
	for {
		p, err := from.next(buf)
		if errors.Is(err, io.EOF) {
			return to.end()
		}
		if err != nil {
			return err
		}
		if p.data != nil {
			err = to.data(p.data)
		} else {
			err = to.zeroes(p.length)
		}
		if err != nil {
			return err
		}
	}
}

func allZero(p []byte) bool { return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }
