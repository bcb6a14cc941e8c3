package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// offline is the Manager of a data directory that no server has. Each command opens the volume it needs, and closes it.
type offline struct {
	dir *directory
	log zerolog.Logger
}

// List is the Manager's.
func (o *offline) List(ctx context.Context) ([]VolumeStatus, error) {
	names, err := o.dir.names()
	if err != nil {
		return nil, err
	}
	list := []VolumeStatus{}
	for _, name := range names {
		s, err := o.Show(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// Show is the Manager's. It looks at the volume without changing it, so that a damaged one can be shown too.
func (o *offline) Show(_ context.Context, name string) (VolumeStatus, error) {
	if err := o.dir.has(name); err != nil {
		return VolumeStatus{}, err
	}
	s := VolumeStatus{Name: name, State: StateStopped}
	if err := o.look(name, &s); err != nil {
		s.State, s.Error = StateFailed, err.Error()
	}
	return s, nil
}

// Create is the Manager's.
func (o *offline) Create(ctx context.Context, r CreateRequest) (VolumeStatus, error) {
	return o.Import(ctx, r, nil)
}

// Import is the Manager's.
func (o *offline) Import(ctx context.Context, r CreateRequest, from Source) (VolumeStatus, error) {
	if err := o.dir.create(ctx, r, from); err != nil {
		return VolumeStatus{}, err
	}
	return o.Show(ctx, r.Name)
}

// Delete is the Manager's. Nobody can be connected.
func (o *offline) Delete(_ context.Context, name string, _ bool) error { return o.dir.remove(name) }

// Checkpoint is the Manager's.
func (o *offline) Checkpoint(ctx context.Context, name string) error {
	return o.with(name, func(d *disk) error { return d.volume.Checkpoint(ctx) })
}

// Export is the Manager's. Nobody can write meanwhile.
func (o *offline) Export(ctx context.Context, name string, _ bool, to Sink) error {
	return o.with(name, func(d *disk) error {
		if err := readVolume(ctx, d.volume, to); err != nil {
			return err
		}
		return to.end()
	})
}

// with opens a volume for the time of a call. It does not checkpoint it: the next start does.
func (o *offline) with(name string, do func(*disk) error) (err error) {
	if err := o.dir.has(name); err != nil {
		return err
	}
	d := newDisk(o.log, name, StateOpening)
	if err := d.open(o.dir); err != nil {
		return fmt.Errorf("open volume %s: %w", name, err)
	}
	defer func() {
		d.stopRun()
		if e := d.closeFiles(); err == nil && e != nil {
			err = fmt.Errorf("close volume %s: %w", name, e)
		}
	}()
	return do(d)
}

// Close gives the data directory back.
func (o *offline) Close() error { return o.dir.close() }

// look describes a volume as far as that can be done without opening it.
func (o *offline) look(name string, to *VolumeStatus) error {
	path := o.dir.volume(name)
	s, err := readSettings(path)
	if err != nil {
		return err
	}
	s.describe(to, path)
	in, err := o.dir.inspect(name, InspectRequest{})
	if err != nil {
		return err
	}
	to.SizeBytes, to.BlockSize, to.Epoch = in.SizeBytes, in.BlockSize, in.Epoch
	to.Head, to.Durable, to.Checkpoint = in.Head, in.Durable, in.Checkpoint
	if len(in.Problems) > 0 {
		return errors.New(in.Problems[0])
	}
	return nil
}
