package node

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"lockstep/nbd"
)

// ErrNoCertificate means that a file has no certificate in it where one is needed.
var ErrNoCertificate = errors.New("no certificate in PEM form")

// certificates are who the server is inside TLS and whom it lets in, as three files have it.
//
// The files are looked at in each handshake, for that costs three system calls there and needs nobody: whoever renews
// a certificate need not know of the server, nor have the right to signal it. New files that cannot be used are said in
// the log, once, and the ones before stay: an ACME client may have replaced the certificate and be about to replace
// the key.
type certificates struct {
	certFile, keyFile, caFile string // caFile may be empty
	log                       zerolog.Logger

	mu        sync.Mutex
	identity  nbd.Identity
	content   [3]string    // of the files, that identity was made of
	complaint string       // why the newest files cannot be used; empty: they are
	seen      [3]fileState // of the files that were read last
	young     bool         // they were written just before, so that another write need not show in seen
}

// youngTime is longer than the steps in which file systems count time.
const youngTime = time.Second

// fileState tells a file from what was there before; its zero value is that of no file.
type fileState struct {
	inode, size        int64
	modified, replaced time.Time
}

// offeredTLS is what clients of a server are offered; nil: nothing.
func offeredTLS(cfg Config) (*nbd.TLS, error) {
	if cfg.TLS == TLSOff {
		return nil, nil
	}
	c, err := loadCertificates(cfg)
	if err != nil {
		return nil, err
	}
	return &nbd.TLS{Identity: c.Identity, Require: cfg.TLS == TLSRequire}, nil
}

// loadCertificates reads the files for the first time, where they have to be good.
func loadCertificates(cfg Config) (*certificates, error) {
	c := &certificates{certFile: cfg.TLSCert, keyFile: cfg.TLSKey, caFile: cfg.TLSCA, log: cfg.Logger}
	if err := c.read(c.look()); err != nil {
		return nil, err
	}
	c.say("TLS certificate loaded")
	return c, nil
}

// Identity returns the newest, for nbd.TLS.
func (c *certificates) Identity() nbd.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.look()
	if now == c.seen && !c.young {
		return c.identity
	}
	before := c.content
	switch err := c.read(now); {
	case err == nil && c.content != before:
		c.say("TLS certificate reloaded")
		fallthrough
	case err == nil:
		c.complaint = ""
	case err.Error() != c.complaint:
		c.complaint = err.Error()
		c.log.Warn().Err(err).Msg("changed TLS files cannot be used, the ones before stay in force")
	}
	return c.identity
}

// look is cheap.
func (c *certificates) look() (states [3]fileState) {
	for i, path := range [3]string{c.certFile, c.keyFile, c.caFile} {
		var s syscall.Stat_t
		if path != "" && syscall.Stat(path, &s) == nil { // reading it says what is wrong
			states[i] = fileState{inode: int64(s.Ino), size: s.Size,
				modified: time.Unix(s.Mtim.Unix()), replaced: time.Unix(s.Ctim.Unix())}
		}
	}
	return states
}

// read takes over what the files have; states are from before, so that what changes meanwhile is read again.
func (c *certificates) read(states [3]fileState) error {
	c.seen, c.young = states, false
	for _, s := range states {
		c.young = c.young || time.Since(s.replaced) < youngTime
	}
	var content [3]string
	for i, file := range [3]struct{ flag, path string }{{"--tls-cert", c.certFile}, {"--tls-key", c.keyFile}, {"--tls-ca", c.caFile}} {
		if file.path == "" {
			continue
		}
		b, err := ReadRegular(file.path)
		if err != nil {
			return fmt.Errorf("%s: %w", file.flag, err)
		}
		content[i] = string(b)
	}
	if content == c.content {
		return nil
	}
	id, err := c.parse(content)
	if err == nil {
		c.identity, c.content = id, content
	}
	return err
}

func (c *certificates) parse(content [3]string) (id nbd.Identity, err error) {
	if id.Certificate, err = tls.X509KeyPair([]byte(content[0]), []byte(content[1])); err != nil {
		return id, fmt.Errorf("--tls-cert %s with --tls-key %s: %w", c.certFile, c.keyFile, err)
	}
	if c.caFile == "" {
		return id, nil
	}
	id.ClientCAs = x509.NewCertPool()
	if !id.ClientCAs.AppendCertsFromPEM([]byte(content[2])) {
		return id, fmt.Errorf("--tls-ca %s: %w", c.caFile, ErrNoCertificate)
	}
	return id, nil
}

func (c *certificates) say(message string) {
	leaf := c.identity.Certificate.Leaf
	level, now := c.log.Info(), time.Now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		level, message = c.log.Warn(), message+", but it is not valid now: clients will refuse it"
	}
	level.Str("file", c.certFile).Stringer("subject", leaf.Subject).Strs("names", leaf.DNSNames).
		Time("not_before", leaf.NotBefore).Time("not_after", leaf.NotAfter).
		Bool("asks_clients", c.identity.ClientCAs != nil).Msg(message)
}
