package nbd

import (
	"crypto/tls"
	"net"
	"time"
)

// tlsSocket is the stream of a connection inside TLS.
//
// Besides the buffers of a connection in plaintext it holds, while a client is behind, sealBytes of records; and what
// crypto/tls keeps of a record that is not complete, or not taken: at most two records.
type tlsSocket struct {
	tls     *tls.Conn
	records *records

	// ahead is a byte that was read to learn that there is one; owned by who receives.
	ahead    [1]byte
	hasAhead bool

	// sealedBytes at the front of what is to be sent are records already; owned by who sends.
	sealedBytes int
}

// newTLSSocket makes a stream on top of conn, on which nothing has been sent or received yet.
func newTLSSocket(conn net.Conn, cfg *tls.Config, pool *recordPool) (*tlsSocket, error) {
	s, err := newSocket(conn)
	if err != nil {
		return nil, err
	}
	r := &records{Conn: conn, socket: s, pool: pool}
	return &tlsSocket{tls: tls.Server(r, cfg), records: r}, nil
}

// beginTransmission ends the handshake, in which reads and writes of the tls.Conn wait.
func (s *tlsSocket) beginTransmission() { s.records.transmission = true }

// receive is stream's. It takes all records that have arrived, as far as dst has room, so that a batch is what it would
// be in plaintext.
func (s *tlsSocket) receive(dst []byte, wait bool) (int, error) {
	n := 0
	if s.hasAhead {
		n = copy(dst, s.ahead[:])
		s.hasAhead = false
	}
	for n < len(dst) {
		s.records.wait = wait && n == 0
		m, err := s.tls.Read(dst[n:])
		n += m
		if err != nil && n == 0 {
			return 0, err
		}
		if err != nil {
			break // one that stays is returned by the next read as well
		}
	}
	return n, nil
}

// receiveLent is stream's. Bytes that arrive need not be the end of a record, so it waits with room for one byte.
func (s *tlsSocket) receiveLent(lend func() []byte, giveBack func()) (int, error) {
	if err := s.awaitBytes(); err != nil {
		return 0, err
	}
	dst := lend()
	if dst == nil {
		return 0, errNoBuffer
	}
	return s.receive(dst, false)
}

// awaitBytes is stream's.
func (s *tlsSocket) awaitBytes() error {
	if s.hasAhead {
		return nil
	}
	s.records.wait = true
	n, err := s.tls.Read(s.ahead[:])
	s.hasAhead = n == 1
	if s.hasAhead {
		return nil
	}
	return err
}

// setWriteDeadline is stream's.
func (s *tlsSocket) setWriteDeadline(at time.Time) error { return s.records.SetWriteDeadline(at) }

// send is stream's. Bytes count as not having left until the last record with some of them has.
func (s *tlsSocket) send(parts [][]byte, wait bool) (rest [][]byte, err error) {
	for sent := 0; ; {
		if done, err := s.records.flush(wait); err != nil || !done {
			return parts, err
		}
		sent += s.sealedBytes
		parts = dropBytes(parts, s.sealedBytes)
		s.sealedBytes = 0
		if len(parts) == 0 || wait && sent >= sendProgressBytes {
			return parts, nil
		}
		if s.sealedBytes, err = s.seal(parts); err != nil {
			return parts, err
		}
	}
}

// seal makes records of the first bytes of parts, at most sealBytes, and returns how many.
func (s *tlsSocket) seal(parts [][]byte) (int, error) {
	if len(parts) == 1 || len(parts[0]) >= sealBytes {
		return s.tls.Write(parts[0][:min(len(parts[0]), sealBytes)])
	}
	// Several small parts share a record.
	together := s.records.pool.get()
	defer s.records.pool.put(together)
	n := 0
	for _, p := range parts {
		n += copy(together[n:sealBytes], p)
	}
	return s.tls.Write(together[:n])
}

// end is stream's: it sends what TLS has to say at last, an alert or that nothing follows, as far as the client takes
// it, and waits for the client to close, whoever ended the connection, lest a reset overtakes that.
func (s *tlsSocket) end(_ bool, limit time.Duration) {
	_ = s.tls.CloseWrite() // fails where an alert was sent, which says more
	if s.setWriteDeadline(time.Now().Add(limit)) != nil {
		return // it is closed already
	}
	if done, err := s.records.flush(true); err == nil && done {
		s.records.socket.linger(limit)
	}
}

// endHandshake says goodbye before the transmission phase.
func (s *tlsSocket) endHandshake() {
	_ = s.tls.CloseWrite() // to a client that may be gone
}
