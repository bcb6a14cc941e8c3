package node

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/volume"
	"lockstep/wal"
)

const metaName = "meta"

// parts are the three places that a volume is kept in, open and locked.
type parts struct {
	base image
	meta place
	log  place
}

// place is an open directory.
type place interface {
	wal.FS
	io.Closer
}

// openParts opens what settings describe; dir is the volume's own directory.
func openParts(dir string, s settings) (*parts, error) {
	if s.Backend == KindMemory {
		return memoryParts(s)
	}
	p := &parts{}
	err := p.open(dir, s)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *parts) open(dir string, s settings) (err error) {
	if p.log, err = openPlace(s.logDir(dir)); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if p.meta, err = openPlace(filepath.Join(dir, metaName)); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if p.base, err = openImage(dir, s); err != nil {
		return fmt.Errorf("base image: %w", err)
	}
	return nil
}

// openPlace keeps a nil pointer from becoming a place that is not nil.
func openPlace(path string) (place, error) {
	d, err := wal.OpenDir(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// config returns what the volume package is to be told.
func (p *parts) config(s settings, nodeID uuid.UUID, log zerolog.Logger) volume.Config {
	return volume.Config{Base: p.base, Meta: p.meta, Log: p.log, LogBudgetBytes: s.LogBytes, NodeID: nodeID, Logger: log}
}

// close closes what is open.
func (p *parts) close() error {
	var errs []error
	if p.base != nil {
		errs = append(errs, p.base.Close())
	}
	for _, dir := range []place{p.meta, p.log} {
		if dir != nil {
			errs = append(errs, dir.Close())
		}
	}
	return errors.Join(errs...)
}

// openVolume opens a volume and what it is kept in.
func openVolume(dir string, s settings, nodeID uuid.UUID, log zerolog.Logger) (*volume.Volume, *parts, error) {
	p, err := openParts(dir, s)
	if err != nil {
		return nil, nil, err
	}
	v, err := volume.Open(p.config(s, nodeID, log))
	if err == nil && v.ID() != s.ID {
		err = errors.Join(fmt.Errorf("%w: volume %s where %s says %s", ErrFormat, v.ID(), settingsName, s.ID), v.Close())
	}
	if err != nil {
		return nil, nil, errors.Join(err, p.close())
	}
	return v, p, nil
}
