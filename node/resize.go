package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"lockstep/backend"
	"lockstep/volume"
)

// ResizeRequest says what size a volume is to have.
type ResizeRequest struct {
	SizeBytes int64 `json:"size_bytes"`
	// Force lets the volume become smaller: what is after its new end is lost, and its clients are disconnected.
	Force bool `json:"force,omitempty"`
}

// resize checks the request against the volume and carries it out; shrunk says that the volume became smaller, also where
// there is an error.
func (d *disk) resize(ctx context.Context, dir *directory, r ResizeRequest) (shrunk bool, err error) {
	d.resizing.Lock()
	defer d.resizing.Unlock()
	if err := r.validate(d.settings.Backend, d.volume.BlockSize()); err != nil {
		return false, err
	}
	from, err := d.volume.Resize(ctx, r.SizeBytes, r.Force)
	shrunk = d.volume.Size() < from
	switch {
	case errors.Is(err, volume.ErrShrink):
		return false, d.refuseCut(r.SizeBytes)
	case errors.Is(err, volume.ErrNoRoom):
		return shrunk, fmt.Errorf("%w: %w", ErrNoRoom, err)
	case err != nil:
		return shrunk, err
	}
	return shrunk, d.settled(dir)
}

// validate returns an error that wraps ErrRequest for a size that no volume of that kind can have.
func (r ResizeRequest) validate(kind string, blockSize int) error {
	switch {
	case r.SizeBytes <= 0:
		return fmt.Errorf("%w: a volume needs a size", ErrRequest)
	case r.SizeBytes%int64(blockSize) != 0:
		return fmt.Errorf("%w: size %d is no multiple of the block size %d", ErrRequest, r.SizeBytes, blockSize)
	}
	return checkMost(kind, r.SizeBytes)
}

// checkMost refuses a volume in memory that is larger than any memory.
func checkMost(kind string, sizeBytes int64) error {
	if most := int64(backend.MaxMemoryBytes - volume.DataOffset); kind == KindMemory && sizeBytes > most {
		return fmt.Errorf("%w: a volume in memory has at most %s", ErrRequest, humanBytes(most))
	}
	return nil
}

// refuseCut says what a cut would lose.
func (d *disk) refuseCut(to int64) error {
	lost, err := d.volume.DataAfter(to)
	if err != nil {
		return fmt.Errorf("look at what a smaller size would lose: %w", err)
	}
	return fmt.Errorf("volume %s has %s: making it %s cuts off its end, where up to %s of data are; make the file system in it "+
		"smaller first; this %w (--force)", d.name, humanBytes(d.volume.Size()), humanBytes(to), humanBytes(lost), volume.ErrNeedsForce)
}

// settled has what depends on the size follow it: the settings of a volume in memory, the writing of what a thick image grew
// by.
func (d *disk) settled(dir *directory) error {
	if d.settings.Backend != KindMemory {
		select {
		case d.thicken <- struct{}{}:
		default: // it is to look again anyway
		}
		return nil
	}
	s := d.settings
	s.SizeBytes = d.volume.Size()
	if err := writeJSON(filepath.Join(dir.volume(d.name), settingsName), s); err != nil {
		return fmt.Errorf("resized, but the next start makes the volume as large as it was: %w", err)
	}
	return nil
}

// Resize is the Manager's.
func (h *host) Resize(ctx context.Context, name string, r ResizeRequest) (VolumeStatus, error) {
	d, err := h.acquire(name)
	if err != nil {
		return VolumeStatus{}, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	shrunk, err := d.resize(ctx, h.dir, r)
	h.release(d)
	if shrunk {
		// They were told of a larger one.
		if err := h.disconnect(ctx, name); err != nil {
			d.log.Warn().Err(err).Msg("clients of volume that became smaller were cut off")
		}
	}
	if err != nil {
		return VolumeStatus{}, err
	}
	return h.status(d), nil
}

// Resize is the Manager's. Nobody can be connected.
func (o *offline) Resize(ctx context.Context, name string, r ResizeRequest) (VolumeStatus, error) {
	err := o.with(name, func(d *disk) error {
		_, err := d.resize(ctx, o.dir, r)
		return err
	})
	if err != nil {
		return VolumeStatus{}, err
	}
	return o.Show(ctx, name)
}

// Resize is the Manager's.
func (r *Remote) Resize(ctx context.Context, name string, req ResizeRequest) (s VolumeStatus, err error) {
	return s, r.post(ctx, volumePath(name)+"/resize", req, &s)
}
