package node

import (
	"errors"
	"fmt"
	"io"
)

// ErrTooShort is returned where fewer bytes come than were announced.
var ErrTooShort = errors.New("content ended early")

// Progress is called with the number of bytes copied so far, zeroes included.
type Progress func(bytes int64)

// Counted returns a sink that reports its progress.
func Counted(to Sink, report Progress) Sink { return &counted{Sink: to, report: report} }

type counted struct {
	Sink
	report Progress
	bytes  int64
}

func (s *counted) data(p []byte) error {
	err := s.Sink.data(p)
	s.add(int64(len(p)))
	return err
}

func (s *counted) zeroes(n int64) error {
	err := s.Sink.zeroes(n)
	s.add(n)
	return err
}

func (s *counted) add(n int64) {
	s.bytes += n
	s.report(s.bytes)
}

// CountedSource returns a source that reports its progress.
func CountedSource(from Source, report Progress) Source {
	return &countedSource{from: from, report: report}
}

type countedSource struct {
	from   Source
	report Progress
	bytes  int64
}

func (s *countedSource) next(buf []byte) (piece, error) {
	p, err := s.from.next(buf)
	s.bytes += p.length
	s.report(s.bytes)
	return p, err
}

// Exactly returns a source that fails with ErrTooShort where the other one ends before so many bytes: a pipe that broke
// off looks like one that ended.
func Exactly(from Source, bytes int64) Source { return &exactSource{from: from, missing: bytes} }

type exactSource struct {
	from    Source
	missing int64
}

func (s *exactSource) next(buf []byte) (piece, error) {
	p, err := s.from.next(buf)
	s.missing -= p.length
	if errors.Is(err, io.EOF) && s.missing > 0 {
		return piece{}, fmt.Errorf("%w: %d bytes are missing", ErrTooShort, s.missing)
	}
	return p, err
}
