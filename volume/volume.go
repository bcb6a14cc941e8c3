package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/wal"
)

// Errors of an open volume. What they wrap is what a client is told.
var (
	// ErrNoSpace means that the log is full and the base image has no room to take its content.
	ErrNoSpace = fmt.Errorf("no room for the change: the log is full and the base image can not grow: %w", syscall.ENOSPC)
	// ErrFailed means that a write or sync failed: the volume takes no more changes until it is opened again (I7).
	ErrFailed = fmt.Errorf("the volume failed and takes no more changes until it is reopened: %w", syscall.EIO)
	// ErrClosed means that the volume was closed.
	ErrClosed = fmt.Errorf("the volume is closed: %w", syscall.ESHUTDOWN)
	// ErrRange means that a request does not lie within the volume.
	ErrRange = fmt.Errorf("outside the volume: %w", syscall.EINVAL)
	// ErrFollower means that the volume follows a primary: another copy may take what this one refuses. Clients are told
	// what a server tells them that goes away, since a disk that fails is not what they have.
	ErrFollower = fmt.Errorf("this copy follows another one: %w", syscall.ESHUTDOWN)
)

// Committer makes records durable elsewhere too. Flush and checkpoints wait for it.
type Committer interface {
	// Commit returns nil once every record up to lsn, which is durable here, is so on every in-sync replica. When ctx
	// ends it returns without waiting any longer. An error is no failure of this copy: Commit may be called again.
	Commit(ctx context.Context, lsn block.LSN) error
}

// Config is what a volume needs from its surroundings.
type Config struct {
	// Base holds the header (DataOffset bytes) and then the data. Required. Close does not close it.
	Base backend.Backend
	// Meta is the directory that holds the change map. Required.
	Meta wal.FS
	// Log is the directory of the log's segments. Required.
	Log wal.FS
	// LogBudgetBytes is the most that the log's segments may take together. 0 means what the superblock says.
	LogBudgetBytes int64
	// NodeID names this node in the lineage.
	NodeID uuid.UUID
	// Committer is nil where no other copy has to be waited for.
	Committer Committer
	// ReadFollower has reads answered from what a follower has applied, which may be behind its primary. Without it they
	// get ErrFollower.
	ReadFollower bool
	// Now is the clock that records are stamped by; nil means time.Now.
	Now func() time.Time
	// NewID makes random IDs; nil means uuid.New.
	NewID  func() uuid.UUID
	Logger zerolog.Logger

	// Set by tests, which have small volumes. 0 means pendingFrom and pendingSlice.
	pendingFrom, pendingSlice int64 // bytes
}

func (cfg *Config) newID() uuid.UUID {
	if cfg.NewID != nil {
		return cfg.NewID()
	}
	return uuid.New()
}

func (cfg *Config) now() time.Time {
	if cfg.Now != nil {
		return cfg.Now()
	}
	return time.Now()
}

// Volume is one open volume. Its methods may be called from many goroutines.
type Volume struct {
	cfg          Config
	life         context.Context // ends when Close begins: nothing waits for other copies any longer
	stop         context.CancelFunc
	id, copyID   uuid.UUID
	sizeBytes    atomic.Int64 // changed under mu
	largest      int64        // that sizeBytes was, since the volume was opened; guarded by mu
	blockBytes   int64
	segmentBytes int64
	base         base
	log          *wal.Log
	pacer        pacer

	// mu orders changes: under it they are appended and then published, so that entries come into the index in LSN
	// order (L7).
	mu       sync.Mutex
	partials partials              // guarded by mu
	lineage  []block.EpochStart    // guarded by mu
	follow   following             // guarded by mu
	reign    atomic.Pointer[reign] // nil while the volume follows; changed under mu

	// receiving serialises what comes from a primary. It comes before resizing.
	receiving sync.Mutex

	index index

	// resizing serialises resizes. It comes before checkpointing.
	resizing sync.Mutex
	keeps    int64 // how long the base image stayed when it was last cut: a device is as long as it is. Guarded by resizing

	// checkpointing serialises checkpoints, and guards the header and the change map.
	checkpointing sync.Mutex
	header        *superblockFile
	changes       *changeMap
	nextChanges   *changeMap  // made for a resize that the base image does not have yet; or nil
	sealed        *checkpoint // frozen, and waits to be committed (S10); or nil

	keeping    sync.Mutex
	kept       block.LSN     // committed LSN that KeepCommitted made durable; guarded by keeping
	keep       atomic.Bool   // each flush does
	state      atomic.Uint32 // superblock's, for Facts
	checkpoint atomic.Uint64 // superblock's, for Stats
	baseHigh   atomic.Uint64
	running    atomic.Bool             // a checkpoint is
	refused    atomic.Pointer[refusal] // nil: the last checkpoint did its work
	failed     atomic.Pointer[error]
	closed     atomic.Bool
	kick       chan struct{} // capacity 1: a checkpoint is due
	zero       chan struct{} // capacity 1: zeroes are pending
	batches    sync.Pool
	lookups    sync.Pool

	idle idleState // of Tick

	tally tally
}

func (v *Volume) now() time.Time { return v.cfg.now() }

// ID returns the volume's UUID.
func (v *Volume) ID() uuid.UUID { return v.id }

// Size returns the volume's size in bytes. Resize changes it.
func (v *Volume) Size() int64 { return v.sizeBytes.Load() }

// sizeBlocks returns the volume's size in blocks.
func (v *Volume) sizeBlocks() uint64 { return uint64(v.Size() / v.blockBytes) }

// BlockSize returns the size of a block in bytes.
func (v *Volume) BlockSize() int { return int(v.blockBytes) }

// Err returns why the volume takes no more changes, or nil.
func (v *Volume) Err() error {
	if p := v.failed.Load(); p != nil {
		return *p
	}
	if err := v.log.Err(); err != nil {
		return err
	}
	if v.closed.Load() {
		return ErrClosed
	}
	return nil
}

// fail makes err the reason why the volume takes no more changes, unless there is one already. Clients are told EIO,
// whatever err wraps.
func (v *Volume) fail(err error) error {
	if errors.Is(err, wal.ErrFailed) || errors.Is(err, wal.ErrClosed) {
		return err // the log remembers it
	}
	err = fmt.Errorf("%w: %v", ErrFailed, err)
	if v.failed.CompareAndSwap(nil, &err) {
		v.cfg.Logger.Error().Str("from", "served").Str("to", "failed").AnErr("reason", err).Msg("volume state")
	}
	return err
}

// Flush returns nil once every change whose Apply returned before the call is on stable storage, here and on every
// in-sync replica.
func (v *Volume) Flush() error { return v.flush(v.life) }

func (v *Volume) flush(ctx context.Context) error {
	if err := v.Err(); err != nil {
		return err
	}
	r := v.reign.Load()
	if r == nil {
		return ErrFollower
	}
	target := v.log.Head() // what comes later is not waited for
	if _, err := v.log.Sync(); err != nil {
		return err
	}
	if err := v.commit(ctx, r, target); err != nil || !v.keep.Load() {
		return err
	}
	return v.persistCommitted(target)
}

// syncLog makes what was logged before the call durable on this node, and waits for no other copy. Where there is none, that
// is committed.
func (v *Volume) syncLog() error {
	durable, err := v.log.Sync()
	if err == nil && v.cfg.Committer == nil && v.reign.Load() != nil {
		v.log.SetCommitted(durable)
	}
	return err
}

// errCommit marks the errors that are other copies' rather than this one's.
type errCommit struct{ error }

func (e errCommit) Unwrap() error { return e.error }

// commit waits for the other copies, until ctx or the reign ends, or the volume is closed. Its errors are errCommit.
func (v *Volume) commit(ctx context.Context, r *reign, lsn block.LSN) error {
	if v.cfg.Committer != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(r.ctx, cancel)()
		if err := v.cfg.Committer.Commit(ctx, lsn); err != nil {
			if v.life.Err() != nil {
				err = ErrClosed
			} else if r.ctx.Err() != nil {
				err = ErrFollower
			}
			return errCommit{fmt.Errorf("commit up to record %d: %w", lsn, err)}
		}
	}
	v.log.SetCommitted(lsn)
	return nil
}
