package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// ErrUnavailable is returned for a volume that is there but cannot be used now; the error says why.
var ErrUnavailable = errors.New("volume is not available")

// opening at once takes memory and disk bandwidth; a few hide each other's waits.
const openedAtOnce = 4

// host keeps the volumes of a data directory open: to NBD clients it is the exports, to operators a Manager.
type host struct {
	dir      *directory
	readOnly bool
	log      zerolog.Logger
	// instance is of this process's life only. Clients with several connections tell by it whether they are to one server.
	instance uuid.UUID
	// disconnect ends the connections to one export. Those it could not end in time are cut off.
	disconnect func(ctx context.Context, name string) error
	// forget drops what was counted for an export that is gone.
	forget func(name string)

	mu       sync.Mutex // guards what follows, and the guarded fields of every disk
	disks    map[string]*disk
	stopping bool
}

func newHost(dir *directory, readOnly bool, log zerolog.Logger) *host {
	return &host{dir: dir, readOnly: readOnly, log: log, instance: uuid.New(), forget: func(string) {}, disks: map[string]*disk{}}
}

// openAll opens every volume there is. One that cannot be opened is kept with its error and stops no other.
func (h *host) openAll() error {
	names, err := h.dir.names()
	if err != nil {
		return err
	}
	h.mu.Lock()
	for _, name := range names {
		h.disks[name] = newDisk(h.log, name, StateOpening)
	}
	h.mu.Unlock()
	var opening errgroup.Group
	opening.SetLimit(openedAtOnce)
	for _, name := range names {
		opening.Go(func() error {
			h.open(h.find(name))
			return nil
		})
	}
	return opening.Wait()
}

// open opens a disk and says how that went, in its state and in the log.
func (h *host) open(d *disk) {
	err := d.open(h.dir)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		d.err = err
		h.changeLocked(d, StateFailed, err.Error())
		return
	}
	h.changeLocked(d, StateServed, "its log is replayed")
}

// changeLocked moves a disk to another state, and says so in the log.
func (h *host) changeLocked(d *disk, to, reason string) {
	event := d.log.Info()
	if to == StateFailed {
		event = d.log.Error()
	}
	from := d.state
	if from == StateServed && d.volume.Err() != nil {
		from = StateFailed // as the volume said itself
	}
	event.Str("from", from).Str("to", to).Str("reason", reason).Msg("volume state")
	d.state = to
}

func (h *host) find(name string) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disks[name]
}

// all returns the disks by name.
func (h *host) all() []*disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*disk
	for _, d := range h.disks {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *disk) int { return strings.Compare(a.name, b.name) })
	return all
}

// acquire returns a disk that is served, and keeps it open until it is released.
func (h *host) acquire(name string) (*disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acquireLocked(name)
}

func (h *host) acquireLocked(name string) (*disk, error) {
	d := h.disks[name]
	switch {
	case d == nil:
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	case h.stopping:
		return nil, fmt.Errorf("%w: %s: the server is stopping", ErrUnavailable, name)
	case d.state == StateFailed:
		return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, name, d.err)
	case d.state != StateServed:
		return nil, fmt.Errorf("%w: %s is in state %s", ErrUnavailable, name, d.state)
	}
	d.users.Add(1)
	return d, nil
}

func (h *host) release(d *disk) { d.users.Done() }

// reserve takes a name for a volume that is about to be made.
func (h *host) reserve(name string) (*disk, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return nil, fmt.Errorf("%w: the server is stopping", ErrUnavailable)
	}
	if h.disks[name] != nil {
		return nil, fmt.Errorf("%w: %s", ErrExists, name)
	}
	d := newDisk(h.log, name, StateCreating)
	h.disks[name] = d
	return d, nil
}

// drop forgets a disk.
func (h *host) drop(d *disk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.disks, d.name)
}

// stop refuses all further use of the disks and ends the copies that run.
func (h *host) stop() {
	h.mu.Lock()
	h.stopping = true
	h.mu.Unlock()
	for _, d := range h.all() {
		d.cancel()
	}
}

// closeAll checkpoints and closes every disk. Nobody uses them any more. ctx bounds the checkpoints.
func (h *host) closeAll(ctx context.Context) error {
	var errs []error
	for _, d := range h.all() {
		d.users.Wait()
		if d.volume == nil {
			continue
		}
		if err := d.close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close volume %s: %w", d.name, err))
		}
	}
	return errors.Join(errs...)
}
