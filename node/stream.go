package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The extent stream carries a volume's content, without its zeroes, between a server and its command line. It is a
// sequence of frames and says where it ends, so that one cut short is never taken for a whole one.
//
//	offset  size  field
//	0       1     kind: 1 data, 2 zeroes, 3 end, 4 failure
//	1       7     length in bytes, big endian
//	8       …     data: the bytes; failure: the reason, in UTF-8
//
// The data of a frame are at most chunkBytes long, a reason at most maxReasonBytes.
const (
	streamHeaderBytes = 8

	frameData    = 1
	frameZeroes  = 2
	frameEnd     = 3
	frameFailure = 4

	chunkBytes     = 1 << 20
	maxReasonBytes = 4096
	maxZeroesBytes = 1<<56 - 1
)

// streamType is the media type of an extent stream.
const streamType = "application/x-lockstep-extents"

// Errors of reading an extent stream.
var (
	ErrStream = errors.New("not an extent stream")
	ErrRemote = errors.New("the other side failed")
)

// streamWriter is a sink that writes an extent stream.
type streamWriter struct{ w io.Writer }

func (s streamWriter) frame(kind byte, length int64, payload []byte) error {
	var header [streamHeaderBytes]byte
	binary.BigEndian.PutUint64(header[:], uint64(length))
	header[0] = kind
	if _, err := s.w.Write(header[:]); err != nil {
		return err
	}
	_, err := s.w.Write(payload)
	return err
}

func (s streamWriter) data(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		if err := s.frame(frameData, int64(n), p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (s streamWriter) zeroes(n int64) error { return s.frame(frameZeroes, n, nil) }

func (s streamWriter) end() error { return s.frame(frameEnd, 0, nil) }

// fail ends the stream with the reason why it is not whole.
func (s streamWriter) fail(reason error) error {
	text := reason.Error()
	text = text[:min(len(text), maxReasonBytes)]
	return s.frame(frameFailure, int64(len(text)), []byte(text))
}

// streamReader is a source that reads an extent stream.
type streamReader struct {
	r     io.Reader
	ended bool
}

func (s *streamReader) next(buf []byte) (piece, error) {
	if s.ended {
		return piece{}, io.EOF
	}
	var header [streamHeaderBytes]byte
	if _, err := io.ReadFull(s.r, header[:]); err != nil {
		return piece{}, fmt.Errorf("read frame of extent stream: %w", noEOF(err))
	}
	kind := header[0]
	header[0] = 0
	length := int64(binary.BigEndian.Uint64(header[:]))
	switch {
	case kind == frameData && length > 0 && length <= int64(len(buf)):
		_, err := io.ReadFull(s.r, buf[:length])
		return piece{length: length, data: buf[:length]}, noEOF(err)
	case kind == frameZeroes && length > 0:
		return piece{length: length}, nil
	case kind == frameEnd && length == 0:
		s.ended = true
		return piece{}, io.EOF
	case kind == frameFailure && length <= maxReasonBytes:
		reason := make([]byte, length)
		_, err := io.ReadFull(s.r, reason)
		return piece{}, errors.Join(fmt.Errorf("%w: %s", ErrRemote, reason), noEOF(err))
	}
	return piece{}, fmt.Errorf("%w: frame kind %d of %d bytes", ErrStream, kind, length)
}

// noEOF makes an end in the middle of something the error that it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
