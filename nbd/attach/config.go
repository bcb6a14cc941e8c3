package attach

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// Defaults of Config.
const (
	DefaultTimeout       = 30 * time.Second
	DefaultDeadTimeout   = 5 * time.Minute
	DefaultProbeInterval = 5 * time.Second
	DefaultRunDir        = "/run/lockstep-attach" // not /run/lockstep: systemd removes that one with the server
)

const (
	// Auto stands for the first device that is free.
	Auto = -1

	defaultConnections = 4
	maxConnections     = 16

	// dialTimeout is how long a server may take to let us in.
	dialTimeout = 5 * time.Second
	// Pauses between attempts to reach a server double from the first to the last.
	firstPause, lastPause = 100 * time.Millisecond, 2 * time.Second
	// unknownInterval is how often the kernel is offered links for slots of which we cannot see whether they need one.
	unknownInterval = time.Minute
	// A free device may be open for a moment, by whoever looks at new devices.
	busyPause, busyAttempts = 200 * time.Millisecond, 25
)

// Config says what is attached where.
type Config struct {
	// Export is the name of the export, which is the volume's.
	Export string
	// Index of the device, or Auto.
	Index int
	// Addresses are where the server may be, tried in turn; at least one.
	Addresses []Address
	// Connections is how many; 0 means 4 where the export allows several, but no more than the machine has processors,
	// for each of which the kernel uses one. At most 16.
	Connections int
	// Processors of the machine; 0 means 1.
	Processors int
	// Timeout of a request: after it, its connection counts as dead, and the request is sent on another. In whole
	// seconds, at least 1. Default DefaultTimeout. After the death of a server, what was in flight is sent again when
	// this is over, not before.
	Timeout time.Duration
	// DeadTimeout is how long requests wait while there is no server; then they fail. In whole seconds, at least 1.
	// Default DefaultDeadTimeout.
	DeadTimeout time.Duration
	// BlockBytes is the device's block size; 0 means the export's preferred one. A power of two from 512 to 4096.
	BlockBytes int
	// ReadOnly attaches the device for reading only.
	ReadOnly bool
	// ProbeInterval is how often the server is asked for the export's size, so that the device grows with it. Default
	// DefaultProbeInterval.
	ProbeInterval time.Duration
	// RunDir is where the locks of supervised devices are. Default DefaultRunDir.
	RunDir string

	Kernel  Kernel  // required
	Network Network // required
	// Report is called with each change of state, on the goroutine of Run. nil means nothing is called.
	Report func(Status)
	Logger zerolog.Logger
}

// State is how an attached device is.
type State string

// The states of a device that is supervised.
const (
	StateAttached     State = "attached"
	StateReconnecting State = "reconnecting" // a link is missing, or all of them
)

// Status is what Report is told.
type Status struct {
	Device string // path
	State  State
	Reason string // why not StateAttached; else ""
}

func (c *Config) validate() error {
	if len(c.Addresses) == 0 {
		return errors.New("no address of a server")
	}
	if c.Index != Auto && (c.Index < 0 || c.Index > maxIndex) {
		return fmt.Errorf("there is no device of index %d", c.Index)
	}
	if c.Connections < 0 || c.Connections > maxConnections {
		return fmt.Errorf("%d connections: from 1 to %d are possible", c.Connections, maxConnections)
	}
	c.Processors = max(c.Processors, 1)
	for _, d := range []struct {
		what  string
		value *time.Duration
		def   time.Duration
	}{
		{"timeout", &c.Timeout, DefaultTimeout},
		{"dead timeout", &c.DeadTimeout, DefaultDeadTimeout},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < time.Second {
			return fmt.Errorf("a %s of %v: at least a second is needed, or waiting would not end as it should", d.what, *d.value)
		}
	}
	if c.BlockBytes != 0 && !possibleBlock(c.BlockBytes) {
		return fmt.Errorf("a block size of %d: 512, 1024, 2048 or 4096 are possible", c.BlockBytes)
	}
	if c.ProbeInterval <= 0 {
		c.ProbeInterval = DefaultProbeInterval
	}
	if c.RunDir == "" {
		c.RunDir = DefaultRunDir
	}
	return nil
}

func possibleBlock(n int) bool { return n >= 512 && n <= 4096 && n&(n-1) == 0 }

// connections chooses how many there will be.
func (c *Config) connections(e export) (int, error) {
	switch {
	case c.Connections > 1 && !e.multiConn:
		return 0, fmt.Errorf("%d connections: the export %q allows one only", c.Connections, c.Export)
	case c.Connections > 0:
		return c.Connections, nil
	case e.multiConn:
		return min(defaultConnections, c.Processors), nil
	}
	return 1, nil
}

// setup chooses what a free device is attached with.
func (c *Config) setup(id identity, e export) (Setup, error) {
	s := Setup{
		Backend:     id.String(),
		SizeBytes:   e.sizeBytes,
		BlockBytes:  c.BlockBytes,
		Flags:       e.flags,
		Timeout:     c.Timeout,
		DeadTimeout: c.DeadTimeout,
	}
	if s.BlockBytes == 0 {
		s.BlockBytes = min(max(e.preferred, 512), 4096)
	}
	if c.ReadOnly {
		s.Flags |= flagReadOnly
	}
	if s.SizeBytes == 0 || s.SizeBytes%int64(s.BlockBytes) != 0 {
		return Setup{}, fmt.Errorf("export %q has %d bytes: no whole number of blocks of %d", c.Export, s.SizeBytes, s.BlockBytes)
	}
	return s, nil
}

// flagReadOnly is the protocol's transmission flag for an export that takes no changes.
const flagReadOnly uint16 = 1 << 1
