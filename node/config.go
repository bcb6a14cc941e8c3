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
	DefaultListen          = "127.0.0.1:10809"
	DefaultShutdownTimeout = 30 * time.Second
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
	// ReadOnly serves every volume for reading only.
	ReadOnly bool
	// ShutdownTimeout bounds the time from the end of the context to the end of the checkpoints. Default
	// DefaultShutdownTimeout.
	ShutdownTimeout time.Duration
	// Hurry, once done, ends a shutdown's waiting: clients are cut off and checkpoints skipped. Nothing that was
	// flushed is lost; the next start has more log to replay. nil means never.
	Hurry context.Context
	// Ready is called once the volumes are served, on the goroutine of Run. nil means nothing is called.
	Ready  func(Endpoints)
	Logger zerolog.Logger
}

// Endpoints says where a server answers.
type Endpoints struct {
	TCP     []string // host:port, as bound
	Unix    string   // absolute path
	Admin   string   // absolute path
	Volumes []VolumeStatus
}

// Check returns an error where Run would refuse the configuration for what it says.
func (c Config) Check() error { return c.validate() }

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
	if c.Unix, err = socketPath(c.Unix, dir, "lockstep.sock", "--unix"); err != nil {
		return err
	}
	if c.Admin, err = socketPath(c.Admin, dir, adminSocketName, "--admin"); err != nil {
		return err
	}
	if c.Unix == c.Admin {
		return fmt.Errorf("--unix and --admin are the same path: %s", c.Unix)
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = DefaultShutdownTimeout
	}
	if c.ShutdownTimeout < 0 {
		return errors.New("--shutdown-timeout is negative")
	}
	return nil
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
