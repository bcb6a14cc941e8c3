package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/test/authority"
)

// network serves the fixture on a TCP port as well, and returns what dials it.
func (f *fixture) network() func() *wire {
	f.tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.tb.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- f.Serve(ctx, l) }()
	f.tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			f.tb.Errorf("Serve on TCP: %v", err)
		}
	})
	return func() *wire {
		f.tb.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			f.tb.Fatal(err)
		}
		f.tb.Cleanup(func() { conn.Close() })
		return &wire{tb: f.tb, conn: conn}
	}
}

// enter sends GO, and a flush that has to work.
func (w *wire) enter() {
	w.tb.Helper()
	w.option(optGo, infoRequest{}.encode())
	w.wantReply(optGo, repInfo)
	w.wantReply(optGo, repAck)
	w.want(codeOK, request{kind: cmdFlush, cookie: 1})
}

func TestRequiredTLSRefusesPlaintext(t *testing.T) {
	offered, client := mutualTLS(t)
	offered.Require = true
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	dial := f.network()
	w := dial()
	w.greet(flagFixedNewstyle)
	for _, o := range []struct {
		code uint32
		data []byte
	}{
		{optList, nil}, {optList, []byte{1}}, {optInfo, infoRequest{}.encode()}, {optGo, infoRequest{}.encode()},
		{optGo, nil}, {optGo, make([]byte, maxOptionBytes+1)}, {optStructuredReply, nil}, {optExtendedHeaders, nil},
		{optListMetaContext, nil}, {optSetMetaContext, contextRequest{}.encode()}, {77, nil}, {77, make([]byte, 1<<20)},
	} {
		w.option(o.code, o.data)
		if text := w.wantReply(o.code, repErrTLSReqd); string(text) != tlsRequired {
			t.Errorf("option %d is refused with %q", o.code, text)
		}
	}
	w.startTLS(client)
	w.enter()

	w = dial()
	w.greet(flagFixedNewstyle)
	w.option(optAbort, nil)
	w.wantReply(optAbort, repAck)
	w.wantEnd()
	for _, flags := range []uint16{flagFixedNewstyle, 0} {
		w = dial()
		w.greet(flags)
		w.option(optExportName, []byte("a"))
		w.wantEnd()
	}
	// A Unix socket has an owner and a mode; there TLS may be, and need not.
	w = f.dial()
	w.greet(flagFixedNewstyle)
	w.enter()
	w = f.dial()
	w.greet(flagFixedNewstyle)
	w.startTLS(client)
	w.enter()
}

func TestSTARTTLSAnswers(t *testing.T) {
	offered, client := mutualTLS(t)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.option(optList, nil) // it is not required here
	w.wantReply(optList, repServer)
	w.wantReply(optList, repAck)
	w.option(optStartTLS, []byte{1})
	w.wantReply(optStartTLS, repErrInvalid)
	w.option(optStartTLS, make([]byte, maxOptionBytes+1))
	w.wantReply(optStartTLS, repErrInvalid)
	w.startTLS(client)
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repErrInvalid)
	w.option(optStartTLS, []byte{1})
	w.wantReply(optStartTLS, repErrInvalid)
	w.option(77, nil)
	w.wantReply(77, repErrUnsup)
	w.enter()

	w = start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial()
	w.greet(flagFixedNewstyle)
	w.option(optStartTLS, []byte{1})
	w.wantReply(optStartTLS, repErrInvalid)
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repErrPolicy)
	w.enter()
}

// TestSTARTTLSForgets agrees on everything in plaintext, where somebody in between could have, then switches to TLS.
func TestSTARTTLSForgets(t *testing.T) {
	offered, client := mutualTLS(t)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	for _, headers := range []uint32{optStructuredReply, optExtendedHeaders} {
		w := f.dial()
		w.greet(flagFixedNewstyle)
		w.option(headers, nil)
		w.wantReply(headers, repAck)
		w.option(optSetMetaContext, contextRequest{queries: []string{contextAllocation}}.encode())
		w.wantReply(optSetMetaContext, repMetaContext)
		w.wantReply(optSetMetaContext, repAck)
		w.startTLS(client)
		w.option(optSetMetaContext, contextRequest{queries: []string{contextAllocation}}.encode())
		w.wantReply(optSetMetaContext, repErrInvalid) // chunks are needed first, again
		w.enter()
		if a := w.want(codeOK, request{kind: cmdRead, length: 10}); a.style != styleSimple {
			t.Fatalf("a read is answered in chunks, which option %d asked for in plaintext", headers)
		}
	}
	// The context alone: chunks are agreed on inside TLS, the context was before.
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.option(optStructuredReply, nil)
	w.wantReply(optStructuredReply, repAck)
	w.option(optSetMetaContext, contextRequest{queries: []string{contextAllocation}}.encode())
	w.wantReply(optSetMetaContext, repMetaContext)
	w.wantReply(optSetMetaContext, repAck)
	w.startTLS(client)
	w.style = styleStructured
	w.option(optStructuredReply, nil)
	w.wantReply(optStructuredReply, repAck)
	w.enter()
	w.want(codeInvalid, request{kind: cmdBlockStatus, length: 1})
}

// TestRefusedCertificates lets in nobody whom the CA does not know.
func TestRefusedCertificates(t *testing.T) {
	ca, other := authority.New(t), authority.New(t)
	id := Identity{Certificate: ca.Server("server").TLS(t), ClientCAs: ca.Pool()}
	f := start(t, Config{TLS: &TLS{Identity: func() Identity { return id }}}, Export{Name: "a", Device: newMemory(testSize)})
	old := clientTLS(t, ca, ca.Client("old"))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, cfg := range map[string]*tls.Config{
		"none":            clientTLS(t, ca),
		"another CA's":    clientTLS(t, ca, other.Client("x")),
		"another, forced": forced(clientTLS(t, ca, other.Client("x"))),
		"expired":         forced(clientTLS(t, ca, ca.ExpiredClient("x"))),
		"a server's":      forced(clientTLS(t, ca, ca.Server("x"))),
		"TLS 1.2":         old,
	} {
		w := f.dial()
		w.greet(flagFixedNewstyle)
		w.option(optStartTLS, nil)
		w.wantReply(optStartTLS, repAck)
		c := tls.Client(w.conn, cfg)
		// In TLS 1.3 a client is done before the server has seen its certificate, so the refusal may come with the read.
		err := c.Handshake()
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if !isAlert(err) {
			t.Errorf("%s: the client sees %v, want an alert", name, err)
		}
		w.conn.Close()
	}
	f.connectTLS(clientTLS(t, ca, ca.Client("right"))).want(codeOK, request{kind: cmdFlush})
}

// isAlert reports whether a tls.Conn says that the other side sent an alert.
func isAlert(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Op == "remote error"
}

// forced shows its certificate whatever the server asks for.
func forced(c *tls.Config) *tls.Config {
	certificate := c.Certificates[0]
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	return c
}

// connectTLS enters transmission inside TLS.
func (f *fixture) connectTLS(cfg *tls.Config) *wire {
	f.tb.Helper()
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.startTLS(cfg)
	w.enter()
	return w
}

// TestIdentityIsAskedEachTime renews the certificate, and changes the CA, while a client is connected.
func TestIdentityIsAskedEachTime(t *testing.T) {
	before, after := authority.New(t), authority.New(t)
	var id atomic.Pointer[Identity]
	id.Store(&Identity{Certificate: before.Server("before").TLS(t), ClientCAs: before.Pool()})
	f := start(t, Config{TLS: &TLS{Identity: func() Identity { return *id.Load() }}}, Export{Name: "a", Device: newMemory(testSize)})
	old := clientTLS(t, before, before.Client("x"))
	first := f.connectTLS(old)
	id.Store(&Identity{Certificate: after.Server("after").TLS(t), ClientCAs: after.Pool()})
	second := f.connectTLS(clientTLS(t, after, after.Client("x")))
	if name := second.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; name != "after" {
		t.Errorf("a new client is shown the certificate %q", name)
	}
	first.want(codeOK, request{kind: cmdFlush})
	// A client of the old CA that knows the server's new certificate is refused: no ticket lets it in.
	old.RootCAs = after.Pool()
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repAck)
	c := tls.Client(w.conn, old)
	err := c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("a client of the old CA is let in")
	}
}

// TestStallInTheTLSHandshake switches to TLS and says no more: the limit of the handshake covers that too, and a server
// that closes does not wait for it.
func TestStallInTheTLSHandshake(t *testing.T) {
	for _, limit := range []time.Duration{100 * time.Millisecond, time.Hour} {
		offered, _ := mutualTLS(t)
		f := start(t, Config{TLS: offered, HandshakeTimeout: limit}, Export{Name: "a", Device: newMemory(testSize)})
		w := f.dial()
		w.greet(flagFixedNewstyle)
		w.option(optStartTLS, nil)
		w.wantReply(optStartTLS, repAck)
		if limit == time.Hour {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		w.wantEnd()
	}
}

// TestNoDelay looks whether small answers leave at once: with Nagle's algorithm on they wait for the client's delayed
// acknowledgement.
func TestNoDelay(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	w := f.network()()
	w.greet(flagFixedNewstyle)
	w.enter()
	raw, err := f.onlyTransmission().conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	on := 0
	if e := raw.Control(func(fd uintptr) { on, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if on != 1 {
		t.Error("small answers are held back")
	}
}
