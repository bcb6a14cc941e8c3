package nbd

import (
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"lockstep/test/authority"
)

// TestKeyUpdate lets a client change its keys and ask the server to change its own, as clients do after so many
// records. crypto/tls never begins that; openssl does it for a line with a K.
func TestKeyUpdate(t *testing.T) {
	ca := authority.New(t)
	id := Identity{Certificate: ca.Server("server").TLS(t)}
	m := newMemory(testSize)
	f := start(t, Config{TLS: &TLS{Identity: func() Identity { return id }}}, Export{Name: "a", Device: m})
	server := f.dial()
	server.greet(flagFixedNewstyle)
	server.option(optStartTLS, nil)
	server.wantReply(optStartTLS, repAck)
	w, sent := openssl(t, ca, server.conn)
	w.enter()
	for round := range 40 {
		for range round % 3 { // none, one, or two in a row
			sent.quiet()
			w.write([]byte("K\n"))
			<-sent.more
		}
		data := randomBytes(20_000)
		r := request{kind: cmdWrite, cookie: uint64(round), offset: uint64(round), length: uint64(len(data))}
		w.want(codeOK, r, data...)
		r.kind = cmdRead
		if got := w.want(codeOK, r).payload; string(got) != string(data) {
			t.Fatalf("round %d reads other bytes than it wrote", round)
		}
	}
}

// relay copies what openssl sends to the server, and tells of it: a line with a K is one only where openssl reads it
// alone.
type relay struct {
	io.Writer
	more chan struct{} // something was sent since quiet
}

func (r *relay) Write(p []byte) (int, error) {
	select {
	case r.more <- struct{}{}: // first: an answer to it comes after that
	default: // it was told already
	}
	return r.Writer.Write(p)
}

// quiet forgets what was sent so far.
func (r *relay) quiet() {
	select {
	case <-r.more:
	default:
	}
}

// openssl runs a TLS client of openssl's on a connection to the server.
func openssl(t *testing.T, ca *authority.Authority, server net.Conn) (*wire, *relay) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	authority.Write(t, dir, map[string][]byte{"ca.pem": ca.PEM()})
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-brief", "-tls1_3", "-connect", l.Addr().String(),
		"-CAfile", filepath.Join(dir, "ca.pem"), "-verify_return_error", "-verify_hostname", "localhost")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	sent := &relay{Writer: server, more: make(chan struct{}, 1)}
	ended := make(chan struct{}, 2)
	pipe := func(dst io.Writer, src io.Reader) {
		_, _ = io.Copy(dst, src) // ends with either connection
		ended <- struct{}{}
	}
	go pipe(sent, conn)
	go pipe(conn, server)
	t.Cleanup(func() {
		conn.Close()
		server.Close()
		<-ended
		<-ended
		_ = cmd.Wait() // its connection was cut
	})
	return &wire{tb: t, conn: &opensslConn{Conn: conn, in: in, out: out}}, sent
}

// opensslConn is the side of openssl on which the bytes are not encrypted.
type opensslConn struct {
	net.Conn
	in  io.Writer
	out io.Reader
}

func (c *opensslConn) Read(p []byte) (int, error)  { return c.out.Read(p) }
func (c *opensslConn) Write(p []byte) (int, error) { return c.in.Write(p) }
