package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// TLS says what a client meets that switches its connection to TLS with STARTTLS. TLS 1.3 is the only version spoken.
type TLS struct {
	// Identity is called at each handshake, possibly at once from several goroutines, so that certificates may be
	// renewed while the server runs. It must not be nil.
	Identity func() Identity

	// Require refuses everything to a client that comes over a network and has not switched to TLS (FORCEDTLS in the
	// protocol's text). Clients on Unix sockets, whose files have owners and modes, may do without (SELECTIVETLS).
	Require bool
}

// Identity is who the server is, and whom it lets in.
type Identity struct {
	// Certificate is the server's, with its private key.
	Certificate tls.Certificate

	// ClientCAs sign the certificates of clients: without such a one a client is refused. nil: nobody is asked.
	ClientCAs *x509.CertPool
}

var (
	errTLS       = errors.New("TLS handshake failed")
	errPlaintext = errors.New("client stays in plaintext where TLS is required")
)

// Messages to the people behind a client.
const (
	tlsRequired  = "TLS is required here: connect with nbds://, or with the TLS flags of your client"
	tlsNotServed = "TLS is not configured on this server"
	tlsTwice     = "the connection is inside TLS already"
)

// mustTLS reports whether a client is refused everything in plaintext.
func (s *Server) mustTLS(conn net.Conn) bool {
	return s.cfg.TLS != nil && s.cfg.TLS.Require && conn.LocalAddr().Network() != "unix"
}

// config is that of one handshake.
//
// A record is as large as it can be from the beginning: what is to be fast here are disks, not the first page of a
// browser. Without session tickets each connection proves anew who it is, to the CAs of that moment.
func (id Identity) config() *tls.Config {
	c := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{id.Certificate},
		DynamicRecordSizingDisabled: true,
		SessionTicketsDisabled:      true,
	}
	if id.ClientCAs != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, id.ClientCAs
	}
	return c
}
