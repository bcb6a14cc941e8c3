package nbd

import (
	"fmt"
	"net"

	"github.com/rs/zerolog"
)

// acceptTLS answers STARTTLS. Where it is acknowledged, the next byte from the client belongs to TLS: the handshake
// never reads ahead, so nothing that arrived in plaintext behind the option can be taken for something sent inside.
func (h *handshake) acceptTLS(o option) {
	switch {
	case h.secure != nil:
		h.refuse(o, repErrInvalid, tlsTwice)
	case o.length != 0:
		h.refuse(o, repErrInvalid, "option takes no data")
	case h.tls == nil:
		h.refuse(o, repErrPolicy, tlsNotServed)
	default:
		h.starting = true
		h.reply(o, repAck)
	}
}

// startTLS switches the connection to TLS, and forgets what was agreed on before.
func (h *handshake) startTLS() error {
	h.starting = false
	s, err := newTLSSocket(h.conn, h.tls.Identity().config(), h.records)
	if err != nil {
		return err
	}
	if err := s.tls.Handshake(); err != nil {
		return fmt.Errorf("%w: %w", errTLS, err)
	}
	h.agreement = agreement{}
	h.conn, h.secure = s.tls, s
	return nil
}

// stream is what the transmission phase goes on with: conn is the client's connection, below TLS.
func (h *handshake) stream(conn net.Conn) (stream, error) {
	if h.secure == nil {
		return newSocket(conn)
	}
	h.secure.beginTransmission()
	return h.secure, nil
}

// identified adds who the client is to what is logged of it, where TLS asked.
func identified(l zerolog.Logger, s stream) zerolog.Logger {
	secure, ok := s.(*tlsSocket)
	if !ok {
		return l
	}
	with := l.With().Bool("tls", true)
	if chain := secure.tls.ConnectionState().PeerCertificates; len(chain) > 0 {
		with = with.Stringer("certificate", chain[0].Subject)
	}
	return with.Logger()
}
