package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
)

// Defaults of Config.
const (
	DefaultDataDir         = "lockstep-data"
	SocketName             = "lockstep.sock" // of the socket in the data directory on which NBD is served
	DefaultListen          = "127.0.0.1:10809"
	DefaultShutdownTimeout = 30 * time.Second
)

// What Config.TLS may be.
const (
	TLSOff     = "off"     // plaintext only
	TLSOn      = "on"      // clients may switch to TLS
	TLSRequire = "require" // clients over TCP have to; those on the Unix socket may
)

// Config is what a server process is told by its command line.
type Config struct {
	// DataDir is the directory that everything is kept in; it is made if it is missing. Default DefaultDataDir.
	DataDir string
	// Listen has the host:port addresses on which NBD is served over TCP. nil means DefaultListen, an empty list none.
	Listen []string
	// Unix is the path of the socket on which NBD is served. Default lockstep.sock in DataDir.
	Unix string
	// Admin is the path of the socket on which commands are taken. Default admin.sock in DataDir.
	Admin string
	// TLS is TLSOff, TLSOn or TLSRequire. Default TLSOn where there is a TLSCert, else TLSOff.
	TLS string
	// TLSCert and TLSKey are the paths of the server's certificate, with what is between it and its CA, and of its
	// private key; TLSCA is that of the CAs which sign clients' certificates, and empty where clients need none. All
	// are in PEM form, and read again when they change.
	TLSCert, TLSKey, TLSCA string
	// Metrics is the host:port on which metrics and health are served over HTTP, besides the admin socket. Empty means
	// none.
	Metrics string
	// ReadOnly serves every volume for reading only.
	ReadOnly bool
	// ShutdownTimeout bounds the time from the end of the context to the end of the checkpoints. Default
	// DefaultShutdownTimeout.
	ShutdownTimeout time.Duration
	// Hurry, once done, ends a shutdown's waiting: clients are cut off and checkpoints skipped. Nothing that was
	// flushed is lost; the next start has more log to replay. nil means never.
	Hurry context.Context
	// Ready is called once the volumes are served, on the goroutine of Run. nil means nothing is called.
	Ready func(Endpoints)
	// Notify tells the service manager how the server is, in the words of sd_notify(3). nil means nobody is told.
	Notify func(state string) error
	// Watchdog is the longest that the service manager waits to be told, by Notify, that the server is alive. 0 means it
	// does not wait.
	Watchdog time.Duration
	Logger   zerolog.Logger
}

// Endpoints says where a server answers.
type Endpoints struct {
	TCP     []string // host:port, as bound
	TLS     string   // as in Config
	Unix    string   // absolute path
	Admin   string   // absolute path
	Metrics string   // host:port, as bound; empty where there is none
	Volumes []VolumeStatus
}

// Check returns an error where Run would refuse the configuration for what it says, or for the certificates it names.
func (c Config) Check() error {
	if err := c.validate(); err != nil {
		return err
	}
	_, err := offeredTLS(c)
	return err
}

// validate fills in the defaults and makes the paths absolute.
func (c *Config) validate() error {
	if c.DataDir == "" {
		c.DataDir = DefaultDataDir
	}
	dir, err := absolute(c.DataDir)
	if err != nil {
		return err
	}
	c.DataDir = dir
	if c.Listen == nil {
		c.Listen = []string{DefaultListen}
	}
	for _, address := range c.Listen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("--listen wants host:port: %w", err)
		}
	}
	if c.Metrics != "" {
		if _, _, err := net.SplitHostPort(c.Metrics); err != nil {
			return fmt.Errorf("--metrics wants host:port: %w", err)
		}
	}
	if c.Unix, err = socketPath(c.Unix, dir, SocketName, "--unix"); err != nil {
		return err
	}
	if c.Admin, err = socketPath(c.Admin, dir, adminSocketName, "--admin"); err != nil {
		return err
	}
	if c.Unix == c.Admin {
		return fmt.Errorf("--unix and --admin are the same path: %s", c.Unix)
	}
	if err := c.validateTLS(); err != nil {
		return err
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = DefaultShutdownTimeout
	}
	if c.ShutdownTimeout < 0 {
		return errors.New("--shutdown-timeout is negative")
	}
	return nil
}

func (c *Config) validateTLS() error {
	if c.TLS == "" {
		c.TLS = TLSOff
		if c.TLSCert != "" {
			c.TLS = TLSOn
		}
	}
	if err := CheckTLS(c.TLS); err != nil {
		return fmt.Errorf("--tls: %w", err)
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together: one of them is missing")
	case c.TLSCert == "" && c.TLSCA != "":
		return errors.New("--tls-ca needs --tls-cert and --tls-key")
	case c.TLSCert == "" && c.TLS != TLSOff:
		return fmt.Errorf("--tls %s needs --tls-cert and --tls-key", c.TLS)
	}
	return nil
}

// CheckTLS returns an error for what Config.TLS may not be.
func CheckTLS(mode string) error {
	switch mode {
	case TLSOff, TLSOn, TLSRequire:
		return nil
	}
	return fmt.Errorf("%q is not %s, %s or %s", mode, TLSOff, TLSOn, TLSRequire)
}

func socketPath(path, dir, name, flag string) (string, error) {
	if path == "" {
		path = filepath.Join(dir, name)
	}
	path, err := absolute(path)
	if err != nil {
		return "", err
	}
	return path, checkSocketPath(path, flag)
}
