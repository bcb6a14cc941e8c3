package nbd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// Somebody between client and server may put bytes of his own into what is sent in plaintext. None of them may be
// taken for bytes inside TLS.

func optionBytesOf(code uint32, data []byte) []byte {
	b := make([]byte, optionBytes)
	option{code: code, length: uint32(len(data))}.encode(b)
	return append(b, data...)
}

// rest reads until the end, however that comes.
func (w *wire) rest() []byte {
	w.tb.Helper()
	b, err := io.ReadAll(w.conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		w.tb.Fatal(err)
	}
	return b
}

// TestBytesBehindSTARTTLS sends more in plaintext together with STARTTLS. It has to be taken for TLS, which it is not.
func TestBytesBehindSTARTTLS(t *testing.T) {
	for name, injected := range map[string][]byte{
		"GO":          optionBytesOf(optGo, infoRequest{}.encode()),
		"EXPORT_NAME": optionBytesOf(optExportName, nil),
		"LIST":        optionBytesOf(optList, nil),
		"structured":  optionBytesOf(optStructuredReply, nil),
		"abort":       optionBytesOf(optAbort, nil),
		"STARTTLS":    optionBytesOf(optStartTLS, nil),
		"a write":     append(optionBytesOf(optGo, infoRequest{}.encode()), encoded(request{kind: cmdWrite, length: 1}, 'x')...),
	} {
		t.Run(name, func(t *testing.T) {
			offered, _ := mutualTLS(t)
			m := newMemory(testSize)
			w := start(t, Config{TLS: offered}, Export{Name: "a", Device: m}).dial()
			w.greet(flagFixedNewstyle)
			w.write(append(optionBytesOf(optStartTLS, nil), injected...))
			w.wantReply(optStartTLS, repAck)
			// An alert may follow, in the words of TLS; nothing that answers an option or a request.
			if got := w.rest(); len(got) > 0 && got[0] != 21 || bytes.Contains(got, []byte{0x56, 0x5a, 0x9}) {
				t.Fatalf("the server answers %x", got)
			}
			if m.applies.Load() != 0 {
				t.Fatal("an injected write was carried out")
			}
		})
	}
}

// TestBytesBetweenSTARTTLSAndTLS puts an option between the acknowledgement and a real client's TLS.
func TestBytesBetweenSTARTTLSAndTLS(t *testing.T) {
	offered, client := mutualTLS(t)
	w := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)}).dial()
	w.greet(flagFixedNewstyle)
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repAck)
	w.option(optStructuredReply, nil)
	if err := tls.Client(w.conn, client).Handshake(); err == nil {
		t.Fatal("a TLS handshake succeeds with an option of plaintext before it")
	}
}

// TestPlaintextInsideTLS puts a request in plaintext between the records of a connection in transmission.
func TestPlaintextInsideTLS(t *testing.T) {
	offered, client := mutualTLS(t)
	m := newMemory(testSize)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: m})
	w := f.dial()
	raw := w.conn
	w.greet(flagFixedNewstyle)
	w.startTLS(client)
	w.enter()
	if _, err := raw.Write(encoded(request{kind: cmdWrite, length: 1}, 'x')); err != nil {
		t.Fatal(err)
	}
	if _, err := w.conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the server goes on")
	}
	f.exports.awaitIdle()
	if m.applies.Load() != 0 {
		t.Fatal("a write in plaintext was carried out")
	}
}

// TestDamagedRecord changes one bit of a record: the request in it is not carried out.
func TestDamagedRecord(t *testing.T) {
	offered, client := mutualTLS(t)
	m := newMemory(testSize)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: m})
	w := f.dial()
	flipping := &flip{Conn: w.conn}
	w.conn = flipping
	w.greet(flagFixedNewstyle)
	w.startTLS(client)
	w.enter()
	flipping.on = true
	w.send(request{kind: cmdWrite, length: 100}, make([]byte, 100)...)
	if _, err := w.conn.Read(make([]byte, 1)); !isAlert(err) {
		t.Fatalf("the client sees %v, want an alert", err)
	}
	f.exports.awaitIdle()
	if m.applies.Load() != 0 {
		t.Fatal("a write from a damaged record was carried out")
	}
}

// flip changes a bit of what is sent.
type flip struct {
	net.Conn
	on bool
}

func (f *flip) Write(b []byte) (int, error) {
	if f.on {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
	}
	return f.Conn.Write(b)
}
