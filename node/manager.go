package node

import (
	"context"
	"errors"
	"fmt"

	"lockstep/volume"
)

// ErrChanged is returned by an export during which the volume was written to.
var ErrChanged = errors.New("volume changed while it was copied")

// Manager carries out an operator's commands on volumes: in a running server, or on a data directory that no server
// has. Errors wrap ErrNotFound, ErrExists, ErrInUse, ErrName, ErrRequest, ErrLogSize and ErrUnavailable where they
// apply.
type Manager interface {
	// List returns all volumes, by name.
	List(ctx context.Context) ([]VolumeStatus, error)
	Show(ctx context.Context, name string) (VolumeStatus, error)
	Create(ctx context.Context, r CreateRequest) (VolumeStatus, error)
	// Resize makes a volume larger, which clients see when they connect again, or with force smaller: what is after the new
	// end is lost then, and clients are disconnected. Without force that is refused with volume.ErrNeedsForce, and the error
	// says how much data would be lost.
	Resize(ctx context.Context, name string, r ResizeRequest) (VolumeStatus, error)
	// Delete deletes a volume with all its data. With force, its clients are disconnected first.
	Delete(ctx context.Context, name string, force bool) error
	// Checkpoint moves what is in the log to the base image.
	Checkpoint(ctx context.Context, name string) error
	// Export copies a volume's content. Without force, a volume that clients are connected to, or that changes
	// meanwhile, is refused.
	Export(ctx context.Context, name string, force bool, to Sink) error
	// Import creates a volume with a content. It appears under its name once it is whole.
	Import(ctx context.Context, r CreateRequest, from Source) (VolumeStatus, error)
	// Inspect reads a volume that is not open: in a server, one that could not be opened.
	Inspect(ctx context.Context, name string, r InspectRequest) (Inspection, error)
	// Recover cuts the log of a damaged volume, or says what that would cost; for the same volumes as Inspect.
	Recover(ctx context.Context, name string, r RecoverRequest) (RecoverReport, error)
	// Reopen closes a volume that failed, and opens it again, as a restart of the server does with all: its clients are
	// disconnected, and it is recovered from what its disks really hold. One that could not be opened is tried again.
	Reopen(ctx context.Context, name string) (VolumeStatus, error)
	Close() error
}

// List is the Manager's.
func (h *host) List(context.Context) ([]VolumeStatus, error) {
	list := []VolumeStatus{}
	for _, d := range h.all() {
		list = append(list, h.status(d))
	}
	return list, nil
}

// Show is the Manager's.
func (h *host) Show(_ context.Context, name string) (VolumeStatus, error) {
	if d := h.find(name); d != nil {
		return h.status(d), nil
	}
	return VolumeStatus{}, fmt.Errorf("%w: %q", ErrNotFound, name)
}

// status describes a disk in whatever state it is.
func (h *host) status(d *disk) VolumeStatus {
	h.mu.Lock()
	s := VolumeStatus{Name: d.name, State: d.state, Clients: d.clients}
	if d.err != nil {
		s.Error = d.err.Error()
	}
	if s.State == StateServed || s.State == StateFailed {
		d.settings.describe(&s, h.dir.volume(d.name))
	}
	open := h.disks[d.name] == d // and no other has taken its place
	if open {
		_, err := h.acquireLocked(d.name)
		open = err == nil
	}
	h.mu.Unlock()
	if open {
		describeVolume(d.volume, &s)
		h.release(d)
	}
	return s
}

func (s settings) describe(to *VolumeStatus, dir string) {
	to.ID, to.Backend, to.Device, to.Created = s.ID, s.Backend, s.Device, s.Created
	to.LogDir, to.LogBudgetBytes = s.logDir(dir), s.LogBytes
}

func describeVolume(v *volume.Volume, to *VolumeStatus) {
	st := v.Stats()
	to.SizeBytes, to.BlockSize = v.Size(), v.BlockSize()
	to.LogUsedBytes, to.LogBudgetBytes = st.Log.UsedBytes, st.Log.BudgetBytes
	to.Head, to.Durable, to.Checkpoint, to.Epoch = st.Head, st.Durable, st.Checkpoint, st.Epoch
	to.Checkpointing = st.Checkpointing
	if st.Failed != nil {
		to.State, to.Error = StateFailed, st.Failed.Error()
	}
}

// Create is the Manager's.
func (h *host) Create(ctx context.Context, r CreateRequest) (VolumeStatus, error) {
	return h.make(ctx, r, nil)
}

// Import is the Manager's.
func (h *host) Import(ctx context.Context, r CreateRequest, from Source) (VolumeStatus, error) {
	return h.make(ctx, r, from)
}

func (h *host) make(ctx context.Context, r CreateRequest, content Source) (VolumeStatus, error) {
	d, err := h.reserve(r.Name)
	if err != nil {
		return VolumeStatus{}, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	if err := h.dir.create(ctx, r, content); err != nil {
		h.drop(d)
		return VolumeStatus{}, err
	}
	h.mu.Lock()
	h.changeLocked(d, StateOpening, "it was made")
	h.mu.Unlock()
	h.open(d)
	return h.status(d), nil
}

// Delete is the Manager's.
func (h *host) Delete(ctx context.Context, name string, force bool) error {
	d, err := h.condemn(name, force)
	if err != nil {
		return err
	}
	h.retire(ctx, d)
	err = h.dir.remove(name)
	if h.dir.has(name) == nil {
		h.mu.Lock()
		d.volume, d.err = nil, fmt.Errorf("closed, but not deleted: %w", err)
		h.changeLocked(d, StateFailed, d.err.Error())
		h.mu.Unlock()
		return err
	}
	h.drop(d)
	h.forget(name)
	d.log.Info().Msg("volume deleted")
	return err
}

// condemn marks a disk as being deleted, from when on nobody acquires it.
func (h *host) condemn(name string, force bool) (*disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[name]
	switch {
	case d == nil:
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	case h.stopping:
		return nil, fmt.Errorf("%w: the server is stopping", ErrUnavailable)
	case d.state != StateServed && d.state != StateFailed:
		return nil, fmt.Errorf("%w: %s is in state %s", ErrUnavailable, name, d.state)
	case d.clients > 0 && !force:
		return nil, fmt.Errorf("volume %s is %w by %d NBD connections; --force disconnects them", name, ErrInUse, d.clients)
	}
	h.changeLocked(d, StateDeleting, fmt.Sprintf("an operator deletes it, with %d clients", d.clients))
	return d, nil
}

// Checkpoint is the Manager's.
func (h *host) Checkpoint(ctx context.Context, name string) error {
	d, err := h.acquire(name)
	if err != nil {
		return err
	}
	defer h.release(d)
	ctx, cancel := d.bound(ctx)
	defer cancel()
	return d.volume.Checkpoint(ctx)
}

// Export is the Manager's.
func (h *host) Export(ctx context.Context, name string, force bool, to Sink) error {
	d, err := h.acquire(name)
	if err != nil {
		return err
	}
	defer h.release(d)
	if clients := h.status(d).Clients; clients > 0 && !force {
		return fmt.Errorf("volume %s is %w by %d NBD connections; --force copies it all the same, but the copy is not of "+
			"one moment", name, ErrInUse, clients)
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	before := d.volume.Stats().Head
	if err := readVolume(ctx, d.volume, to); err != nil {
		return err
	}
	if d.volume.Stats().Head != before && !force {
		return ErrChanged
	}
	return to.end()
}

// Close does nothing: the server closes the volumes when it stops.
func (h *host) Close() error { return nil }
