package attach

import (
	"context"
	"errors"
	"fmt"
)

// start attaches a free device, or takes over one that has the export already.
func (s *supervisor) start(ctx context.Context) error {
	if s.cfg.Index != Auto {
		if err := s.claim(s.cfg.Index); err != nil {
			return err
		}
		d, err := s.cfg.Kernel.Device(s.index)
		if err != nil {
			return err
		}
		if d.Attached { // the server is not asked: it may be gone, and that is what we are for
			return s.takeOver(d)
		}
	}
	link, e, err := s.dial(ctx, func(export) error { return nil })
	if err != nil {
		return err
	}
	n, err := s.cfg.connections(e)
	if err != nil {
		link.Close()
		return err
	}
	s.identity = identity{export: s.cfg.Export, volume: e.volume, slots: n}
	if found, err := s.takeOverAny(); err != nil || found {
		link.Close()
		return err
	}
	links, err := s.dialMore(ctx, link, e, n)
	if err == nil {
		err = s.attach(ctx, e, links)
	}
	if err != nil {
		closeAll(links)
		return err
	}
	for _, l := range links {
		s.links = append(s.links, held{l, e.sizeBytes})
	}
	s.offered, s.exportBytes = e, e.sizeBytes
	if e.volume == "" {
		s.log.Warn().Msg("the server does not say which volume this is: another one of that name and size would be taken for it")
	}
	return nil
}

// claim locks a device and listens for deaths of its links, before it can have any.
func (s *supervisor) claim(index int) error {
	l, _, err := takeLock(s.cfg.RunDir, index)
	if err != nil {
		return err
	}
	deaths, unwatch, err := s.cfg.Kernel.Watch(index)
	if err != nil {
		l.release()
		return err
	}
	s.index, s.lock, s.deaths, s.unwatch = index, l, deaths, unwatch
	return nil
}

// unclaim undoes claim.
func (s *supervisor) unclaim() {
	s.unwatch()
	s.lock.release()
	s.lock, s.unwatch = lock{}, nil
}

// takeOver goes on with a device that is attached. Its links are not in our hands.
func (s *supervisor) takeOver(d Device) error {
	id, err := parseIdentity(d.Backend)
	if err != nil || id.export != s.cfg.Export {
		return fmt.Errorf("%w: %s is attached already, by %s", ErrInUse, s.path(), attacher(d))
	}
	s.identity, s.unknown, s.suspect = id, id.slots, true
	s.log.Info().Str("device", s.path()).Str("volume", id.volume).Int("connections", id.slots).Msg("device is attached already and taken over")
	return nil
}

// attacher says who attached a device.
func attacher(d Device) string {
	if id, err := parseIdentity(d.Backend); err == nil {
		return fmt.Sprintf("lockstep, as export %q", id.export)
	}
	return fmt.Sprintf("process %d (backend identifier %q)", d.PID, d.Backend)
}

// takeOverAny looks for a device that has the volume already, and goes on with it. A volume is not attached twice: two
// devices would each keep parts of it in their own cache.
func (s *supervisor) takeOverAny() (found bool, err error) {
	indexes, err := s.cfg.Kernel.Indexes()
	if err != nil {
		return false, err
	}
	for _, index := range indexes {
		d, err := s.cfg.Kernel.Device(index)
		if err != nil {
			return false, err
		}
		id, err := parseIdentity(d.Backend)
		if err != nil || !d.Attached || !id.sameVolume(s.identity) {
			continue
		}
		if s.cfg.Index != Auto {
			return false, fmt.Errorf("%w: %q is attached already, as %s", ErrInUse, s.cfg.Export, DevicePath(index))
		}
		if err := s.claim(index); err != nil {
			return false, err
		}
		return true, s.takeOver(d)
	}
	return false, nil
}

// attach gives the links to a free device: the one that was asked for, or the first.
func (s *supervisor) attach(ctx context.Context, e export, links []Link) error {
	setup, err := s.cfg.setup(s.identity, e)
	if err != nil {
		return err
	}
	if s.cfg.Index == Auto {
		return s.attachAny(setup, links)
	}
	for attempt := 1; ; attempt++ {
		err := s.cfg.Kernel.Attach(s.index, setup, links)
		if !errors.Is(err, ErrInUse) || attempt == busyAttempts {
			return err
		}
		d, lookErr := s.cfg.Kernel.Device(s.index)
		if lookErr != nil {
			return lookErr
		}
		if d.Attached {
			return fmt.Errorf("%w: %s is attached already, by %s", ErrInUse, s.path(), attacher(d))
		}
		s.await(ctx, busyPause) // somebody has the free device open
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// attachAny takes the first device that is free, or a new one after the last.
func (s *supervisor) attachAny(setup Setup, links []Link) error {
	indexes, err := s.cfg.Kernel.Indexes()
	if err != nil {
		return err
	}
	next := 0
	if n := len(indexes); n > 0 {
		next = indexes[n-1] + 1
	}
	for _, index := range append(indexes, next) {
		free, err := s.tryClaim(index)
		if err != nil {
			return err
		}
		if !free {
			continue
		}
		err = s.cfg.Kernel.Attach(index, setup, links)
		if err == nil {
			return nil
		}
		s.unclaim()
		if !errors.Is(err, ErrInUse) {
			return err
		}
	}
	return fmt.Errorf("%w: all NBD devices are", ErrInUse)
}

// tryClaim claims a device that is not attached.
func (s *supervisor) tryClaim(index int) (free bool, err error) {
	if err := s.claim(index); errors.Is(err, ErrInUse) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	d, err := s.cfg.Kernel.Device(index)
	if err == nil && !d.Attached {
		return true, nil
	}
	s.unclaim()
	return false, err
}
