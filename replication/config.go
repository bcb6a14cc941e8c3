package replication

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"
)

// ErrInsecure means that without a secret and without TLS an address that others can reach was to be used.
var ErrInsecure = errors.New("replication without a cluster secret or mutual TLS stays on this machine")

// Config says who a node is to its peers, and how it knows them.
type Config struct {
	// NodeID is the node's. Required.
	NodeID uuid.UUID
	// Secret is the cluster's: random bytes that all its nodes have, at least MinSecretBytes of them. Nil is none.
	Secret []byte
	// TLS is mutual TLS, for both sides: with a certificate, the CAs of servers and of clients, and clients required to
	// have one. Any certificate of these CAs may be any node's. Nil is none. Without a Secret too, only loopback
	// addresses and Unix sockets are used.
	TLS *tls.Config
	// HandshakeTimeout is the most that a handshake takes. 0 is 10 seconds.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection may be silent: there are heartbeats. 0 is 15 seconds.
	IdleTimeout time.Duration
	// SendTimeout is the most that one message takes to be sent. 0 is 15 seconds.
	SendTimeout time.Duration
}

func (cfg *Config) handshakeTimeout() time.Duration {
	return orElse(cfg.HandshakeTimeout, 10*time.Second)
}
func (cfg *Config) idleTimeout() time.Duration { return orElse(cfg.IdleTimeout, 15*time.Second) }
func (cfg *Config) sendTimeout() time.Duration { return orElse(cfg.SendTimeout, 15*time.Second) }

func orElse(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func (cfg *Config) validate() error {
	switch {
	case cfg.NodeID == uuid.Nil:
		return errors.New("replication: no node ID")
	case cfg.Secret != nil && len(cfg.Secret) < MinSecretBytes:
		return fmt.Errorf("replication: the cluster secret has %d bytes, and needs at least %d, from a random source",
			len(cfg.Secret), MinSecretBytes)
	case cfg.HandshakeTimeout < 0 || cfg.IdleTimeout < 0 || cfg.SendTimeout < 0:
		return errors.New("replication: a timeout is negative")
	case cfg.TLS == nil:
		return nil
	case cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert || cfg.TLS.ClientCAs == nil:
		return errors.New("replication: TLS has to be mutual: require and verify the certificates of clients, by CAs of the cluster")
	case cfg.TLS.InsecureSkipVerify || cfg.TLS.RootCAs == nil:
		return errors.New("replication: TLS has to be mutual: verify the certificates of servers, by CAs of the cluster")
	case len(cfg.TLS.Certificates) == 0 && (cfg.TLS.GetCertificate == nil || cfg.TLS.GetClientCertificate == nil):
		return errors.New("replication: TLS has to be mutual: this node needs a certificate, to connect and to be reached")
	}
	return nil
}

// allow returns an error that wraps ErrInsecure where an address may not be used with this configuration.
func (cfg *Config) allow(addr net.Addr) error {
	if cfg.Secret != nil || cfg.TLS != nil || addr.Network() == "unix" {
		return nil
	}
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%w: whoever reaches %s could read and write the volumes; "+
		"give all nodes one secret, or certificates, or use a loopback address", ErrInsecure, addr)
}

// tls returns the configuration of one side.
func (cfg *Config) tls(serverName string) *tls.Config {
	c := cfg.TLS.Clone()
	c.MinVersion, c.SessionTicketsDisabled = tls.VersionTLS13, true // each connection proves anew who it is
	if c.ServerName == "" {
		c.ServerName = serverName
	}
	return c
}
