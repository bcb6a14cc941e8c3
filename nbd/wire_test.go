package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
)

// wire is a client made of raw bytes.
type wire struct {
	tb    testing.TB
	conn  net.Conn
	style style

	peeked *reply // its header has been read, and its payload not
}

func (w *wire) write(b []byte) {
	w.tb.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.tb.Fatalf("client writes %d bytes: %v", len(b), err)
	}
}

func (w *wire) read(n int) []byte {
	w.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(w.conn, b); err != nil {
		w.tb.Fatalf("client reads %d bytes: %v", n, err)
	}
	return b
}

// wantEnd checks that the server closes without another byte.
func (w *wire) wantEnd() {
	w.tb.Helper()
	n, err := w.conn.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		w.tb.Fatalf("connection goes on: %d bytes, error %v", n, err)
	}
}

func (w *wire) greet(flags uint16) {
	w.tb.Helper()
	w.read(greetingBytes)
	w.write([]byte{0, 0, byte(flags >> 8), byte(flags)})
}

func (w *wire) option(code uint32, data []byte) {
	w.tb.Helper()
	b := make([]byte, optionBytes)
	option{code: code, length: uint32(len(data))}.encode(b)
	w.write(append(b, data...))
}

func (w *wire) wantReply(code, kind uint32) []byte {
	w.tb.Helper()
	header := w.read(20)
	want := appendOptionReply(nil, code, kind)
	if !bytes.Equal(header[:16], want[:16]) {
		w.tb.Fatalf("reply to option %d: got %x, want %x", code, header[:16], want[:16])
	}
	n := int(header[16])<<24 | int(header[17])<<16 | int(header[18])<<8 | int(header[19])
	return w.read(n)
}

func encoded(r request, payload ...byte) []byte {
	b := make([]byte, requestBytes)
	r.encode(b)
	return append(b, payload...)
}

// encodedExtended sets PAYLOAD_LEN where there is a payload, and for any write.
func encodedExtended(r request, payload ...byte) []byte {
	if len(payload) > 0 || r.kind == cmdWrite {
		r.flags |= cmdFlagPayloadLen
		r.payload = uint64(len(payload))
	}
	b := make([]byte, extendedRequestBytes)
	r.encodeExtended(b)
	return append(b, payload...)
}

// encoded is the request in the connection's layout.
func (w *wire) encoded(r request, payload ...byte) []byte {
	if w.style == styleExtended {
		return encodedExtended(r, payload...)
	}
	return encoded(r, payload...)
}

func (w *wire) send(r request, payload ...byte) {
	w.tb.Helper()
	w.write(w.encoded(r, payload...))
}

// answer is one reply with its payload.
type answer struct {
	reply
	payload []byte
}

// next reads a reply; data is the length of a read that a simple reply may answer.
func (w *wire) next(data int) answer {
	w.tb.Helper()
	a := answer{reply: w.nextHeader()}
	if a.style == styleSimple {
		if a.code == codeOK {
			a.payload = w.read(data)
		}
		return a
	}
	a.payload = w.read(int(a.length))
	if a.kind == chunkError {
		a.code = binary.BigEndian.Uint32(a.payload)
	}
	return a
}

// nextHeader reads the header of a simple reply or a chunk, and checks that the connection may have it.
func (w *wire) nextHeader() reply {
	w.tb.Helper()
	if p := w.peeked; p != nil {
		w.peeked = nil
		return *p
	}
	b := w.read(simpleBytes)
	switch binary.BigEndian.Uint32(b) {
	case magicChunk:
		b = append(b, w.read(chunkBytes-simpleBytes)...)
	case magicExtendedChunk:
		b = append(b, w.read(extendedChunkBytes-simpleBytes)...)
	}
	r, err := decodeReply(b)
	if err != nil {
		w.tb.Fatalf("decode reply %x: %v", b, err)
	}
	if r.style != w.style && !(r.style == styleSimple && w.style == styleStructured) {
		w.tb.Fatalf("reply %+v to a client with style %d", r, w.style)
	}
	return r
}

// peek returns the header of what comes next.
func (w *wire) peek() reply {
	w.tb.Helper()
	r := w.nextHeader()
	w.peeked = &r
	return r
}

// nextRead reads the whole answer to a read that succeeds, checks it as a strict client does, and returns the data and
// how long each chunk's part of them is, holes negative.
func (w *wire) nextRead(r request) (data []byte, chunks []int) {
	w.tb.Helper()
	data = make([]byte, r.length)
	covered := make([]bool, r.length)
	for {
		a := w.next(int(r.length))
		if a.code != codeOK || a.cookie != r.cookie || w.style == styleExtended && a.offset != r.offset {
			w.tb.Fatalf("answer %+v to %+v", a.reply, r)
		}
		if a.style == styleSimple {
			return a.payload, []int{len(a.payload)}
		}
		if a.kind == chunkNone {
			break
		}
		at, part := binary.BigEndian.Uint64(a.payload)-r.offset, a.payload[8:]
		n := len(part)
		if a.kind == chunkOffsetHole {
			n = int(binary.BigEndian.Uint32(part))
			part = make([]byte, n)
			chunks = append(chunks, -n)
		} else {
			chunks = append(chunks, n)
		}
		if n == 0 || at >= r.length || uint64(n) > r.length-at {
			w.tb.Fatalf("chunk %+v of %d bytes at %d, of %+v", a.reply, n, at, r)
		}
		for i := range part {
			if covered[at+uint64(i)] {
				w.tb.Fatalf("byte %d of %+v is told twice", at+uint64(i), r)
			}
			covered[at+uint64(i)] = true
		}
		copy(data[at:], part)
		if a.done {
			break
		}
	}
	if i := slices.Index(covered, false); i >= 0 {
		w.tb.Fatalf("byte %d of %+v is missing", i, r)
	}
	return data, chunks
}

// want sends a request and checks the code of its answer.
func (w *wire) want(code uint32, r request, payload ...byte) answer {
	w.tb.Helper()
	w.send(r, payload...)
	data := 0
	if r.kind == cmdRead && !w.style.chunked() {
		data = int(r.length)
	}
	a := w.next(data)
	if a.cookie != r.cookie || a.code != code {
		w.tb.Fatalf("request %+v: got cookie %d code %d, want code %d", r, a.cookie, a.code, code)
	}
	if !a.done || w.style == styleExtended && a.offset != r.offset {
		w.tb.Fatalf("request %+v: answered by %+v", r, a.reply)
	}
	return a
}
