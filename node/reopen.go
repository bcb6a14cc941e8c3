package node

import (
	"context"
	"errors"
	"fmt"
)

// Reopen is the Manager's.
func (h *host) Reopen(ctx context.Context, name string) (VolumeStatus, error) {
	old, err := h.withdraw(name)
	if err != nil {
		return VolumeStatus{}, err
	}
	h.retire(ctx, old)
	d := h.replace(old)
	if d == nil {
		return VolumeStatus{}, fmt.Errorf("%w: volume %s is closed; the server is stopping", ErrUnavailable, name)
	}
	h.open(d)
	s := h.status(d)
	if s.State == StateFailed {
		return s, fmt.Errorf("%w: it still cannot be opened: %s", ErrUnavailable, s.Error)
	}
	return s, nil
}

// withdraw marks a failed disk as one that nobody can acquire any more.
func (h *host) withdraw(name string) (*disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[name]
	switch {
	case d == nil:
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	case h.stopping:
		return nil, fmt.Errorf("%w: the server is stopping", ErrUnavailable)
	case d.state == StateFailed: // it is not open
	case d.state != StateServed:
		return nil, fmt.Errorf("%w: %s is in state %s", ErrUnavailable, name, d.state)
	case d.volume.Err() == nil:
		return nil, fmt.Errorf("%w: volume %s has not failed; there is nothing to reopen", ErrRequest, name)
	case d.settings.Backend == KindMemory:
		return nil, fmt.Errorf("%w: volume %s is in memory: reopened, it would be empty; copy it with `volume export` "+
			"first, then delete it", ErrRequest, name)
	}
	reason := d.err
	if d.volume != nil {
		reason = d.volume.Err()
	}
	h.changeLocked(d, StateOpening, fmt.Sprintf("an operator reopens it; it had failed: %v", reason))
	return d, nil
}

// retire disconnects the clients of a withdrawn disk, waits for all who use it, and closes it if it is open.
func (h *host) retire(ctx context.Context, d *disk) {
	d.cancel()
	if err := h.disconnect(ctx, d.name); err != nil {
		d.log.Warn().Err(err).Msg("clients of the volume were cut off")
	}
	d.users.Wait()
	if d.volume == nil {
		return
	}
	failed := d.volume.Err()
	d.stopRun()
	// A volume that failed says so again when it is closed, and that was said before.
	if err := d.closeFiles(); err != nil && (failed == nil || !errors.Is(err, failed)) {
		d.log.Warn().Err(err).Msg("the volume did not close well")
	}
}

// replace puts a new disk in the place of a retired one; nil where the server is stopping. The new one is new
// altogether: nothing of what failed is taken over.
func (h *host) replace(old *disk) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		old.volume, old.err = nil, errors.New("closed to be opened again, when the server stopped")
		h.changeLocked(old, StateFailed, old.err.Error())
		return nil
	}
	d := newDisk(h.log, old.name, StateOpening)
	h.disks[old.name] = d
	return d
}

// Reopen is the Manager's. There is nothing that could be open.
func (o *offline) Reopen(_ context.Context, name string) (VolumeStatus, error) {
	if err := o.dir.has(name); err != nil {
		return VolumeStatus{}, err
	}
	return VolumeStatus{}, fmt.Errorf("%w: no server runs that has volume %s open; the next one that starts opens it", ErrRequest, name)
}

// Reopen is the Manager's.
func (r *Remote) Reopen(ctx context.Context, name string) (s VolumeStatus, err error) {
	return s, r.post(ctx, volumePath(name)+"/reopen", struct{}{}, &s)
}
