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
		limits := terms{sizeBytes: 1 << 30, style: styleStructured, allocation: true}
		if limits.check(r) == codeOK && r.kind != cmdFlush {
			if end := r.offset + r.length; end < r.offset || end > limits.sizeBytes {
				t.Fatalf("%+v is let through on an export of %d bytes", r, limits.sizeBytes)
			}
		}
	})
}

// FuzzExtendedRequest decodes a header with what follows it, and expects that nothing gets through that reaches beyond
// the export, has more payload than is received, or makes the server allocate for a length that it did not check.
func FuzzExtendedRequest(f *testing.F) {
	payload := make([]byte, filterBytes)
	filter{length: 1 << 40, context: allocationContext}.encode(payload)
	f.Add(encodedExtended(request{kind: cmdBlockStatus, offset: 4096}, payload...))
	f.Add(encodedExtended(request{kind: cmdWrite, flags: cmdFlagFUA, cookie: 1 << 63, offset: 4096, length: 5}, 1, 2, 3, 4, 5))
	f.Add(encodedExtended(request{kind: cmdTrim, offset: 4096, length: 1 << 40}))
	limits := terms{sizeBytes: 1 << 50, style: styleExtended, allocation: true}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < extendedRequestBytes {
			return
		}
		r, err := decodeExtended(b)
		if err != nil {
			return
		}
		again := make([]byte, extendedRequestBytes)
		if r.encodeExtended(again); !bytes.Equal(again, b[:extendedRequestBytes]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
		if limits.check(r) != codeOK {
			return
		}
		if r.payload > maxPayloadBytes || r.payload > 0 && r.kind != cmdWrite && r.kind != cmdBlockStatus {
			t.Fatalf("%+v is let through", r)
		}
		if b = b[extendedRequestBytes:]; r.kind == cmdBlockStatus && r.payload > 0 {
			if uint64(len(b)) < r.payload {
				return
			}
			var code uint32
			if r, code = limits.checkFilter(r, b[:r.payload]); code != codeOK {
				return
			}
			again := make([]byte, filterBytes)
			if decodeFilter(b).encode(again); !bytes.Equal(again, b[:filterBytes]) {
				t.Fatalf("filter %x is encoded as %x", b[:filterBytes], again)
			}
		}
		if end := r.offset + r.length; r.kind != cmdFlush && (end < r.offset || end > limits.sizeBytes) {
			t.Fatalf("%+v is let through on an export of %d bytes", r, limits.sizeBytes)
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
	for _, s := range []style{styleStructured, styleExtended} {
		f.Add(s.appendFailure(nil, tag{7, 4096}, codeNoSpace))
		f.Add(s.appendData(nil, replyFlagDone, tag{7, 4096}, 4096, 512))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReply(b)
		if err != nil {
			return
		}
		again := appendSimple(nil, r.cookie, r.code)
		if r.style.chunked() {
			again = r.style.appendChunk(nil, 0, r.kind, tag{r.cookie, r.offset}, int(r.length))
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
	add(3, optExtendedHeaders, nil)
	add(0, optExportName, []byte("a"))
	add(3, optStartTLS, nil)
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
		// Where TLS is required, no words in plaintext get anybody in.
		h = handshake{conn: &script{Reader: bytes.NewReader(b)}, exports: offered, logger: func(string, error) {},
			tls: &TLS{Identity: func() Identity { return Identity{} }}, mustTLS: true}
		if export, _, err := h.run(); err == nil {
			t.Fatalf("entered %q in plaintext", export.Name)
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
