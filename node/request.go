package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"lockstep/block"
)

// ErrRequest is returned for a command that makes no sense, whatever the state of the volumes.
var ErrRequest = errors.New("invalid request")

// DefaultBlockSize is the block size of a volume, in bytes, where none is asked for.
const DefaultBlockSize = 4096

// CreateRequest says what volume to make.
type CreateRequest struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`           // on a device, 0 means all of it
	BlockSize int    `json:"block_size,omitempty"` // bytes; 0 means DefaultBlockSize
	// Backend is KindFile, the default, KindThick, KindMemory, or the absolute path of a block device.
	Backend string `json:"backend,omitempty"`
	// LogDir is the absolute path of a directory in which the directory of the log is made. Empty: in the data directory.
	LogDir   string `json:"wal_dir,omitempty"`
	LogBytes int64  `json:"wal_size_bytes,omitempty"` // the log's budget; 0 means the default of LogBudget
	Force    bool   `json:"force,omitempty"`          // take a device even though something is on it
}

// Check returns an error where the request makes no sense, whatever there is: ErrRequest or ErrName.
func (r CreateRequest) Check() error { return r.validate() }

// validate fills in the defaults. Errors wrap ErrRequest or ErrName.
func (r *CreateRequest) validate() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if r.BlockSize == 0 {
		r.BlockSize = DefaultBlockSize
	}
	if r.Backend == "" {
		r.Backend = KindFile
	}
	switch r.BlockSize {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("%w: block size %d; it is 512, 1024, 2048 or 4096", ErrRequest, r.BlockSize)
	}
	switch {
	case r.SizeBytes < 0 || r.SizeBytes == 0 && !filepath.IsAbs(r.Backend):
		return fmt.Errorf("%w: a volume needs a size", ErrRequest)
	case r.SizeBytes%int64(r.BlockSize) != 0:
		less := r.SizeBytes - r.SizeBytes%int64(r.BlockSize)
		return fmt.Errorf("%w: size %d is no multiple of the block size %d; %d is, and %d", ErrRequest, r.SizeBytes, r.BlockSize,
			less, less+int64(r.BlockSize))
	case r.Backend != KindFile && r.Backend != KindThick && r.Backend != KindMemory && !filepath.IsAbs(r.Backend):
		return fmt.Errorf("%w: backend %q; it is %s, %s, %s, or the path of a block device", ErrRequest, r.Backend, KindFile,
			KindThick, KindMemory)
	case r.Backend == KindMemory && r.LogDir != "":
		return fmt.Errorf("%w: the log of a volume in memory is in memory too, and has no directory", ErrRequest)
	case r.LogDir != "" && !filepath.IsAbs(r.LogDir):
		return fmt.Errorf("%w: log directory %q is not absolute", ErrRequest, r.LogDir)
	}
	return checkMost(r.Backend, r.SizeBytes)
}

// settings returns what is written down about the volume, all but the size of its log.
func (r *CreateRequest) settings(now time.Time) settings {
	s := settings{Version: settingsVersion, Name: r.Name, ID: uuid.New(), Backend: r.Backend, Created: now.UTC()}
	if r.LogDir != "" {
		s.LogDir = filepath.Join(r.LogDir, logDirName(s.Name, s.ID))
	}
	if r.Backend == KindMemory {
		s.SizeBytes, s.BlockSize = r.SizeBytes, r.BlockSize
	}
	if filepath.IsAbs(r.Backend) {
		s.Backend, s.Device = KindDevice, filepath.Clean(r.Backend)
	}
	return s
}

// States of a volume.
const (
	StateServed   = "served"   // open, and exported
	StateStopped  = "stopped"  // no server runs
	StateFailed   = "failed"   // could not be opened, or takes no more changes; Error says why
	StateOpening  = "opening"  // the log is being replayed
	StateCreating = "creating" // it is being made or imported
	StateDeleting = "deleting"
)

// VolumeStatus is what is known of one volume.
type VolumeStatus struct {
	Name           string      `json:"name"`
	ID             uuid.UUID   `json:"uuid"`
	State          string      `json:"state"`
	Error          string      `json:"error,omitempty"`
	SizeBytes      int64       `json:"size_bytes"`
	BlockSize      int         `json:"block_size"`
	Backend        string      `json:"backend"`
	Device         string      `json:"device,omitempty"`
	LogDir         string      `json:"wal_dir"`
	LogBudgetBytes int64       `json:"wal_budget_bytes"`
	LogUsedBytes   int64       `json:"wal_used_bytes"`
	Head           block.LSN   `json:"head_lsn"`
	Durable        block.LSN   `json:"durable_lsn"`
	Checkpoint     block.LSN   `json:"checkpoint_lsn"`
	Epoch          block.Epoch `json:"epoch"`
	Checkpointing  bool        `json:"checkpointing"`
	Clients        int         `json:"clients"`
	Created        time.Time   `json:"created"`
}

// Status is what is known of a running server.
type Status struct {
	Node     uuid.UUID      `json:"node"`
	PID      int            `json:"pid"`
	DataDir  string         `json:"data_dir"`
	TCP      []string       `json:"tcp"`
	TLS      string         `json:"tls"` // off, on or require
	Unix     string         `json:"unix"`
	Metrics  string         `json:"metrics,omitempty"` // host:port of the metrics
	ReadOnly bool           `json:"read_only"`
	Stopping bool           `json:"stopping"`
	Volumes  []VolumeStatus `json:"volumes"`
}
