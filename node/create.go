package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/volume"
)

// ErrNoRoom is returned where the space that a volume takes at once is not free.
var ErrNoRoom = errors.New("no room for the volume")

// create makes a volume: everything in a directory aside, synced, and then under its name in one step. content, where
// it is not nil, is copied into the volume before that. The caller keeps others from using the name meanwhile. What is
// written when it fails is removed again; what a crash leaves is removed at the next start.
func (d *directory) create(ctx context.Context, r CreateRequest, content Source) error {
	if err := r.validate(); err != nil {
		return err
	}
	if err := d.absent(r.Name); err != nil {
		return err
	}
	s := r.settings(time.Now())
	if s.Backend == KindDevice {
		most, err := d.checkDevice(s.Device, r.Force)
		if err != nil {
			return fmt.Errorf("create volume %s: %w", r.Name, err)
		}
		if r.SizeBytes == 0 {
			r.SizeBytes = most - most%int64(r.BlockSize)
		}
	}
	aside := d.aside(r.Name, creatingMark)
	err := d.makePlaces(aside, &s, r)
	if err == nil {
		err = d.build(ctx, aside, s, r, content)
	}
	if err == nil {
		err = d.absent(r.Name)
	}
	if err == nil {
		err = os.Rename(aside, d.volume(r.Name))
	}
	if err != nil {
		err = fmt.Errorf("create volume %s: %w", r.Name, err)
		return errors.Join(err, d.discard(aside))
	}
	if err := syncDir(filepath.Join(d.path, volumesName)); err != nil {
		return fmt.Errorf("create volume %s: it may be gone after a power cut: %w", r.Name, err)
	}
	return nil
}

// makePlaces makes the directories of a volume and writes its settings, first of all, so that what a crash leaves
// can be found.
func (d *directory) makePlaces(aside string, s *settings, r CreateRequest) error {
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	if r.LogDir != "" {
		if err := os.MkdirAll(r.LogDir, 0o700); err != nil {
			return err
		}
	}
	logDir := s.logDir(aside)
	free, err := freeBytes(filepath.Dir(logDir))
	if err != nil {
		return err
	}
	if promised := d.promised(logDir, *s, r.SizeBytes); promised < free {
		free -= promised
	} else if promised > 0 {
		return fmt.Errorf("%w: a thick volume of %s and its log do not fit into the %s that are free", ErrNoRoom,
			humanBytes(r.SizeBytes), humanBytes(free))
	}
	if s.Backend == KindMemory {
		free = 4 * memoryLogBytes // of which the default takes a quarter
	}
	if s.LogBytes, err = LogBudget(r.LogBytes, r.SizeBytes, free); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(aside, settingsName), *s); err != nil {
		return err
	}
	for _, dir := range []string{logDir, filepath.Join(aside, metaName)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(logDir))
}

// promised returns how much of the space that is free where the log will be the volume's base image takes for sure.
func (d *directory) promised(logDir string, s settings, volumeBytes int64) int64 {
	if s.Backend != KindThick || !sameFileSystem(filepath.Dir(logDir), d.path) {
		return 0
	}
	return volumeBytes + volume.DataOffset
}

// build makes the base image and the volume, and copies its content.
func (d *directory) build(ctx context.Context, aside string, s settings, r CreateRequest, content Source) error {
	if s.Backend == KindMemory {
		if content != nil {
			return fmt.Errorf("%w: a volume in memory is empty at each start of the server: write to it as a client", ErrRequest)
		}
		return syncDir(aside)
	}
	if err := createImage(aside, s, r.SizeBytes); err != nil {
		return fmt.Errorf("base image: %w", err)
	}
	p, err := openParts(aside, s)
	if err != nil {
		return err
	}
	geometry := volume.Geometry{
		ID: s.ID, SizeBytes: r.SizeBytes, BlockSize: r.BlockSize, LogBudgetBytes: s.LogBytes,
		Unzeroed: s.Backend == KindDevice,
	}
	err = volume.Create(p.config(s, d.nodeID, d.log), geometry)
	if err := errors.Join(err, p.close()); err != nil {
		return err
	}
	if content != nil {
		if err := d.fill(ctx, aside, s, content); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	return syncDir(aside)
}

// fill copies a content into a new volume and moves it to the base image.
func (d *directory) fill(ctx context.Context, aside string, s settings, content Source) error {
	v, p, err := openVolume(aside, s, d.nodeID, d.log)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx)) // filling may wait for it
	ran := make(chan error, 1)
	go func() { ran <- v.Run(run) }()
	err = fillVolume(ctx, v, content)
	stop()
	<-ran // what it could not do shows in the flush and the checkpoint
	if err == nil {
		err = v.Checkpoint(ctx)
	}
	return errors.Join(err, v.Close(), p.close())
}

// freeBytes returns how much this user may still write where path is.
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("free space at %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func sameFileSystem(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev
}
