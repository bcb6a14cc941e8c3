package node

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NewSource returns a source of what a file holds from here on: of a regular file without reading its holes, and with
// its length in bytes; of anything else, such as a pipe, with the length -1. The caller closes the file afterwards.
func NewSource(f *os.File) (Source, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	if !info.Mode().IsRegular() {
		return &rawReader{r: f}, -1, nil
	}
	begin, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, err
	}
	return &fileReader{f: f, off: begin, size: info.Size()}, info.Size() - begin, nil
}

// NewSink returns a sink into a file: an empty regular one is left with holes, and durable; anything else gets every byte.
// The caller closes the file afterwards.
func NewSink(f *os.File) Sink {
	info, err := f.Stat()
	how, howErr := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	begin, beginErr := f.Seek(0, io.SeekCurrent)
	plain := err == nil && howErr == nil && beginErr == nil && info.Mode().IsRegular()
	if plain && info.Size() == 0 && begin == 0 && how&unix.O_APPEND == 0 {
		return &fileWriter{f: f}
	}
	return rawWriter{f}
}

// rawReader is a source of plain bytes.
type rawReader struct {
	r   io.Reader
	err error // why reading ended
}

func (s *rawReader) next(buf []byte) (piece, error) {
	n := 0
	for n < chunkBytes && s.err == nil {
		var read int
		read, s.err = s.r.Read(buf[n:chunkBytes])
		n += read
	}
	if n == 0 {
		return piece{}, s.err
	}
	if allZero(buf[:n]) {
		return piece{length: int64(n)}, nil
	}
	return piece{length: int64(n), data: buf[:n]}, nil
}

// fileReader is a source of a regular file's bytes that does not read its holes.
type fileReader struct {
	f         *os.File
	off, size int64
}

func (s *fileReader) next(buf []byte) (piece, error) {
	if s.off >= s.size {
		return piece{}, io.EOF
	}
	data, err := unix.Seek(int(s.f.Fd()), s.off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		data, err = s.size, nil // nothing but a hole follows
	}
	if err != nil {
		return piece{}, fmt.Errorf("look for data in %s at %d: %w", s.f.Name(), s.off, err)
	}
	if hole := min(data, s.size) - s.off; hole > 0 {
		s.off += hole
		return piece{length: hole}, nil
	}
	p := buf[:min(chunkBytes, s.size-s.off)]
	if _, err := s.f.ReadAt(p, s.off); err != nil {
		return piece{}, noEOF(err)
	}
	s.off += int64(len(p))
	if allZero(p) {
		return piece{length: int64(len(p))}, nil
	}
	return piece{length: int64(len(p)), data: p}, nil
}

// rawWriter is a sink of plain bytes, zeroes included.
type rawWriter struct{ w io.Writer }

func (s rawWriter) data(p []byte) error {
	_, err := s.w.Write(p)
	return err
}

func (s rawWriter) zeroes(n int64) error {
	zero := make([]byte, min(n, chunkBytes))
	for ; n > 0; n -= int64(len(zero)) {
		zero = zero[:min(n, int64(len(zero)))]
		if err := s.data(zero); err != nil {
			return err
		}
	}
	return nil
}

func (s rawWriter) end() error { return nil }

// fileWriter is a sink that leaves holes in a new, empty file, and makes it durable.
type fileWriter struct {
	f   *os.File
	off int64
}

func (s *fileWriter) data(p []byte) error {
	n, err := s.f.WriteAt(p, s.off)
	s.off += int64(n)
	return err
}

func (s *fileWriter) zeroes(n int64) error {
	s.off += n
	return nil
}

func (s *fileWriter) end() error {
	if err := s.f.Truncate(s.off); err != nil {
		return err
	}
	return s.f.Sync()
}
