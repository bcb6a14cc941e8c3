package nbd

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

func FuzzRequest(f *testing.F) {
	f.Add(encoded(request{kind: cmdWrite, flags: cmdFlagFUA, cookie: 1 << 63, offset: 4096, length: 512}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < requestBytes {
			return
		}
		r, err := decodeRequest(b)
		if err != nil {
			return
		}
		if again := encoded(r); !bytes.Equal(again, b[:requestBytes]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
		limits := terms{sizeBytes: 1 << 30, structured: true, allocation: true}
		if limits.check(r) == codeOK && r.kind != cmdFlush {
			if end := r.offset + uint64(r.length); end < r.offset || end > limits.sizeBytes {
				t.Fatalf("%+v is let through on an export of %d bytes", r, limits.sizeBytes)
			}
		}
	})
}

func FuzzOption(f *testing.F) {
	f.Add(infoRequest{name: "disk", infos: []uint16{0, 3}}.encode())
	f.Add(contextRequest{name: "disk", queries: []string{"base:", contextAllocation}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeInfoRequest(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x decodes to %+v", b, r)
		}
		if r, err := decodeContextRequest(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x decodes to %+v", b, r)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(appendSimple(nil, 7, codeIO))
	f.Add(appendFailure(nil, 7, codeNoSpace))
	f.Add(appendData(nil, 7, 4096, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReply(b)
		if err != nil {
			return
		}
		again := appendSimple(nil, r.cookie, r.code)
		if r.structured {
			again = appendChunk(nil, 0, r.kind, r.cookie, r.length)
			copy(again[chunkFlagsAt:], b[chunkFlagsAt:chunkTypeAt])
		}
		if !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x decodes to %+v", b, r)
		}
	})
}

// FuzzHandshake plays any stream of bytes as a client: the server must neither panic, nor keep an export, nor hang.
func FuzzHandshake(f *testing.F) {
	add := func(flags byte, code uint32, data []byte) {
		b := append([]byte{0, 0, 0, flags}, make([]byte, optionBytes)...)
		option{code: code, length: uint32(len(data))}.encode(b[clientFlagsBytes:])
		f.Add(append(b, data...))
	}
	add(3, optGo, infoRequest{name: "a"}.encode())
	add(3, optSetMetaContext, contextRequest{name: "a", queries: []string{contextAllocation}}.encode())
	add(0, optExportName, []byte("a"))
	device := newMemory(testSize)
	f.Fuzz(func(t *testing.T, b []byte) {
		offered := newExports(Export{Name: "a", Device: device})
		h := handshake{conn: &script{Reader: bytes.NewReader(b)}, exports: offered, logger: func(string, error) {}}
		export, agreed, err := h.run()
		if err == nil {
			if export.Name != "a" || agreed.sizeBytes != testSize {
				t.Fatalf("entered %q with %+v", export.Name, agreed)
			}
			export.release()
		}
		if offered.lent != 0 {
			t.Fatalf("%d exports were not released", offered.lent)
		}
	})
}

// script is a connection that says what it is told and hears nothing.
type script struct{ io.Reader }

func (s *script) Write(b []byte) (int, error)      { return len(b), nil }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
