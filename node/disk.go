package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/volume"
)

// disk is one volume of a host, with the goroutine that does its background work.
type disk struct {
	name string
	log  zerolog.Logger
	// ctx ends when the disk is to be closed or deleted: copies of it end with it. Clients go on until they are
	// disconnected.
	ctx    context.Context
	cancel context.CancelFunc
	// users counts those who have acquired it. Invariant: none is added outside the state served.
	users sync.WaitGroup

	// Set by open, before the state is served; settings also where it is failed, if they could be read.
	settings settings
	volume   *volume.Volume
	parts    *parts
	device   *device
	// endRun ends the background work, which clients may wait for; ran is closed when it has ended.
	endRun context.CancelFunc
	ran    chan struct{}
	// resizing is held while the volume, and what depends on its size, changes.
	resizing sync.Mutex
	// thicken, of capacity 1, says that a thick image has become larger.
	thicken chan struct{}

	// Guarded by the host's mu.
	state   string
	err     error // why it is failed
	clients int
}

func newDisk(log zerolog.Logger, name, state string) *disk {
	ctx, cancel := context.WithCancel(context.Background())
	return &disk{name: name, log: log.With().Str("volume", name).Logger(), ctx: ctx, cancel: cancel, state: state,
		thicken: make(chan struct{}, 1)}
}

// open opens the volume and starts its background work.
func (d *disk) open(dir *directory) error {
	begun := time.Now()
	path := dir.volume(d.name)
	s, err := readSettings(path)
	if err != nil {
		return err
	}
	d.settings = s
	v, p, err := openVolume(path, s, dir.nodeID, d.log)
	if err != nil {
		return err
	}
	if s.Backend == KindMemory {
		d.log.Warn().Msg("volume is in memory, not durable: its content is gone when the server stops")
	}
	d.volume, d.parts, d.device = v, p, newDevice(v)
	d.startRun()
	st := v.Stats()
	d.log.Info().Dur("took_ms", time.Since(begun)).Uint64("head", uint64(st.Head)).Uint64("checkpoint", uint64(st.Checkpoint)).
		Uint64("epoch", uint64(st.Epoch)).Msg("opened volume, and replayed its log from the checkpoint to the head")
	return nil
}

// bound returns a context that ends with ctx, and also when the disk is to be closed: a copy that takes hours must not
// keep a server from stopping.
func (d *disk) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	bound, cancel := context.WithCancel(d.ctx)
	unbind := context.AfterFunc(ctx, cancel)
	return bound, func() {
		unbind()
		cancel()
	}
}

// startRun starts the background work: the volume's own, and for a thick image the writing of its space.
func (d *disk) startRun() {
	ctx, end := context.WithCancel(context.Background())
	d.endRun, d.ran = end, make(chan struct{})
	go func() {
		defer close(d.ran)
		var work sync.WaitGroup
		work.Go(func() {
			if err := d.volume.Run(ctx); err != nil && ctx.Err() == nil {
				d.log.Error().Err(err).Msg("background work of volume ended")
			}
		})
		work.Go(func() { d.writeThick(ctx) })
		work.Wait()
	}()
}

// writeThick writes the space of a thick image that nothing was written to, which makes later syncs faster.
func (d *disk) writeThick(ctx context.Context) {
	f, ok := d.parts.base.(*backend.File)
	if !ok || f.Kind() != backend.Thick {
		return
	}
	for {
		if err := f.Fill(ctx, nil); err != nil && ctx.Err() == nil {
			d.log.Warn().Err(err).Msg("space of thick image is not all written; syncs there stay slower")
		}
		select {
		case <-ctx.Done():
			return
		case <-d.thicken:
		}
	}
}

// stopRun ends the background work. Nobody changes the volume any more.
func (d *disk) stopRun() {
	d.endRun()
	<-d.ran
}

// close ends the background work, checkpoints as far as ctx lets it, and closes the volume. Nobody uses it any more.
func (d *disk) close(ctx context.Context) error {
	d.stopRun()
	d.checkpoint(ctx)
	return d.closeFiles()
}

// closeFiles closes the volume, with a flush, and what it is kept in. The background work has ended.
func (d *disk) closeFiles() error {
	d.cancel()
	return errors.Join(d.volume.Close(), d.parts.close())
}

// checkpoint makes the next start fast. It may fail: then the log still has everything.
func (d *disk) checkpoint(ctx context.Context) {
	st := d.volume.Stats()
	if st.Failed != nil || ctx.Err() != nil {
		d.log.Warn().AnErr("failed", st.Failed).Msg("no checkpoint; the next start replays the log")
		return
	}
	begun := time.Now()
	d.log.Info().Int64("log_used_bytes", st.Log.UsedBytes).Msg("checkpointing, so that the next start is fast")
	if err := d.volume.Checkpoint(ctx); err != nil {
		d.log.Warn().Err(err).Dur("took_ms", time.Since(begun)).Msg("checkpoint cut short; the next start replays the log")
		return
	}
	d.log.Info().Dur("took_ms", time.Since(begun)).Msg("checkpoint done")
}
