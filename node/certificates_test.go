package node

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/test/authority"
)

// tlsFiles is a directory with a server's certificate, its key and a CA.
type tlsFiles struct {
	dir string
	ca  *authority.Authority
	log bytes.Buffer
	cfg Config
}

func newTLSFiles(t *testing.T) *tlsFiles {
	f := &tlsFiles{dir: t.TempDir(), ca: authority.New(t)}
	pair := f.ca.Server("first")
	authority.Write(t, f.dir, map[string][]byte{"cert": pair.Certificate, "key": pair.Key, "ca": f.ca.PEM()})
	f.cfg = Config{TLS: TLSOn, TLSCert: filepath.Join(f.dir, "cert"), TLSKey: filepath.Join(f.dir, "key"),
		TLSCA: filepath.Join(f.dir, "ca"), Logger: zerolog.New(&f.log)}
	return f
}

// served is the name in the certificate that clients are shown now.
func served(c *certificates) string { return c.Identity().Certificate.Leaf.Subject.CommonName }

func TestCertificatesAreReadAgain(t *testing.T) {
	f := newTLSFiles(t)
	c, err := loadCertificates(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if served(c) != "first" {
		t.Fatalf("serves %s", served(c))
	}
	second := f.ca.Server("second")
	authority.Write(t, f.dir, map[string][]byte{"cert": second.Certificate}) // and the key not yet
	for range 3 {
		if served(c) != "first" {
			t.Fatalf("serves %s with half of a pair", served(c))
		}
	}
	if n := strings.Count(f.log.String(), "cannot be used"); n != 1 {
		t.Errorf("half of a pair is in the log %d times:\n%s", n, f.log.String())
	}
	authority.Write(t, f.dir, map[string][]byte{"key": second.Key})
	if served(c) != "second" {
		t.Fatalf("serves %s after both files were replaced", served(c))
	}
	// As a renewal does it: another file under the old name.
	third := f.ca.Server("third")
	authority.Write(t, f.dir, map[string][]byte{"cert.new": third.Certificate, "key.new": third.Key})
	for _, name := range []string{"cert", "key"} {
		if err := os.Rename(filepath.Join(f.dir, name+".new"), filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if served(c) != "third" {
		t.Fatalf("serves %s after a renewal", served(c))
	}
	if n := strings.Count(f.log.String(), "TLS certificate reloaded"); n != 2 {
		t.Errorf("two new certificates are in the log %d times:\n%s", n, f.log.String())
	}
}

// TestChangeThatFileTimesDoNotShow replaces files as soon as they were read, within one step of the file system's
// clock.
func TestChangeThatFileTimesDoNotShow(t *testing.T) {
	f := newTLSFiles(t)
	c, err := loadCertificates(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	second := f.ca.Server("second")
	authority.Write(t, f.dir, map[string][]byte{"cert": second.Certificate, "key": second.Key})
	c.seen = c.look()
	if served(c) != "second" {
		t.Fatalf("serves %s", served(c))
	}
}

func TestClientCAIsReadAgain(t *testing.T) {
	f := newTLSFiles(t)
	c, err := loadCertificates(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	other := authority.New(t)
	authority.Write(t, f.dir, map[string][]byte{"ca": other.PEM()})
	if !c.Identity().ClientCAs.Equal(other.Pool()) {
		t.Fatal("the CA of before is asked")
	}
	for _, broken := range [][]byte{nil, []byte("no PEM")} {
		authority.Write(t, f.dir, map[string][]byte{"ca": broken})
		if pool := c.Identity().ClientCAs; pool == nil || !pool.Equal(other.Pool()) {
			t.Fatalf("a CA file with %q lets in others than before", broken)
		}
	}
	if err := os.Remove(filepath.Join(f.dir, "ca")); err != nil {
		t.Fatal(err)
	}
	if pool := c.Identity().ClientCAs; pool == nil || !pool.Equal(other.Pool()) {
		t.Fatal("without the CA file others are let in than before")
	}
}

func TestCertificatesThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *tlsFiles)
		says   string
		is     error
	}{
		"no certificate":   {func(f *tlsFiles) { f.cfg.TLSCert += "x" }, "--tls-cert", fs.ErrNotExist},
		"no key":           {func(f *tlsFiles) { f.cfg.TLSKey += "x" }, "--tls-key", fs.ErrNotExist},
		"no CA":            {func(f *tlsFiles) { f.cfg.TLSCA += "x" }, "--tls-ca", fs.ErrNotExist},
		"key for a CA":     {func(f *tlsFiles) { f.cfg.TLSCA = f.cfg.TLSKey }, "--tls-ca", ErrNoCertificate},
		"key of another":   {func(f *tlsFiles) { authority.Write(t, f.dir, map[string][]byte{"key": f.ca.Server("x").Key}) }, "does not match", nil},
		"key for the cert": {func(f *tlsFiles) { f.cfg.TLSCert = f.cfg.TLSKey }, "--tls-cert", nil},
	} {
		f := newTLSFiles(t)
		c.change(f)
		_, err := offeredTLS(f.cfg)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want something about %s", name, err, c.says)
		}
	}
}

func TestTLSFlags(t *testing.T) {
	for _, c := range []struct {
		mode, cert, key, ca string
		becomes, says       string
	}{
		{becomes: TLSOff},
		{cert: "c", key: "k", becomes: TLSOn},
		{mode: TLSRequire, cert: "c", key: "k", ca: "a", becomes: TLSRequire},
		{mode: TLSOff, cert: "c", key: "k", becomes: TLSOff},
		{mode: TLSOn, says: "--tls on needs --tls-cert"},
		{mode: TLSRequire, ca: "a", says: "--tls-ca needs --tls-cert"},
		{cert: "c", says: "--tls-cert and --tls-key go together"},
		{key: "k", says: "--tls-cert and --tls-key go together"},
		{mode: "yes", cert: "c", key: "k", says: `"yes" is not off, on or require`},
	} {
		cfg := Config{DataDir: "d", TLS: c.mode, TLSCert: c.cert, TLSKey: c.key, TLSCA: c.ca}
		err := cfg.validate()
		switch {
		case c.says == "" && (err != nil || cfg.TLS != c.becomes):
			t.Errorf("%+v: mode %s, %v", c, cfg.TLS, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestWarningAboutOpenAddresses listens where others can connect, and looks whether the log says so.
func TestWarningAboutOpenAddresses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"plain":              func(c *Config) { c.TLS = TLSOff },
		"on":                 func(c *Config) { c.TLS = TLSOn },
		"require without CA": func(c *Config) { c.TLS, c.TLSCA = TLSRequire, "" },
		"require":            func(c *Config) { c.TLS = TLSRequire },
	} {
		f := newTLSFiles(t)
		change(&f.cfg)
		s := start(t, t.TempDir(), func(cfg *Config) {
			cfg.Listen, cfg.Logger = []string{"0.0.0.0:0"}, f.cfg.Logger
			cfg.TLS, cfg.TLSCert, cfg.TLSKey, cfg.TLSCA = f.cfg.TLS, f.cfg.TLSCert, f.cfg.TLSKey, f.cfg.TLSCA
		})
		s.end(t)
		if warned := strings.Contains(f.log.String(), "without authentication"); warned != (name != "require") {
			t.Errorf("%s: warned is %v", name, warned)
		}
	}
}
