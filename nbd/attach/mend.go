package attach

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// errUnnoticed means that a link has died, and the kernel has not noticed yet.
	errUnnoticed = errors.New("the kernel has not let go of the dead connections yet")
	// errMoved means that two connections went to two servers.
	errMoved = errors.New("the server was replaced while connections to it were made")
)

// mend gives the kernel new links for those that are dead, if the server that is there may have the device.
func (s *supervisor) mend(ctx context.Context, f facts) error {
	first, e, err := s.dial(ctx, func(e export) error { return s.acceptable(f.device, e) })
	if err != nil {
		return err
	}
	s.cutOthers(e)
	links, err := s.dialMore(ctx, first, e, s.identity.slots-len(s.links))
	defer func() { closeAll(links) }() // those that the kernel did not take
	if err != nil {
		return err
	}
	taken, err := s.cfg.Kernel.Replace(s.index, s.setupAgain(), links)
	if err != nil {
		return err
	}
	before := len(s.links)
	links = s.keep(links, taken, e.sizeBytes)
	lost := s.identity.slots - s.unknown - before // links that we know to be dead
	s.unknown = min(s.unknown, s.identity.slots-len(s.links))
	s.suspect, s.offeredAt = false, time.Now()
	s.offered, s.exportBytes = e, e.sizeBytes
	s.complaint = ""
	if len(s.links) == before && lost > 0 {
		return errUnnoticed
	}
	return nil
}

// acceptable is accept, with the reason logged once.
func (s *supervisor) acceptable(d Device, e export) error {
	err := accept(s.identity, d, e)
	if err != nil {
		s.complain(err)
	}
	return err
}

// cutOthers ends the links to another instance than that of e: it may have left the links it has, but no two servers
// may ever get parts of what the kernel sends.
func (s *supervisor) cutOthers(e export) {
	if len(s.links) == 0 || e.sameInstance(s.offered) {
		return
	}
	s.log.Warn().Str("device", s.path()).Int("connections", len(s.links)).Stringer("server", s.at).
		Msg("server was replaced: the connections to the old one are cut")
	for _, l := range s.links {
		l.Cut()
		l.Close()
	}
	s.links = nil
}

// dialMore makes links to where the first went, up to n. Those made are returned in any case.
func (s *supervisor) dialMore(ctx context.Context, first Link, e export, n int) ([]Link, error) {
	links := []Link{first}
	for len(links) < n {
		l, offer, err := s.dialAt(ctx, s.at)
		if err != nil {
			return links, err
		}
		links = append(links, l)
		if other := readOffer(offer); other.volume != e.volume || other.instance != e.instance || other.sizeBytes < e.sizeBytes {
			return links, fmt.Errorf("%w (%v)", errMoved, s.at)
		}
	}
	return links, nil
}

// setupAgain is the part of a Setup that Replace uses.
func (s *supervisor) setupAgain() Setup {
	return Setup{Backend: s.identity.String(), Timeout: s.cfg.Timeout, DeadTimeout: s.cfg.DeadTimeout}
}

// keep adds the links that were taken to ours, and returns the others.
func (s *supervisor) keep(links []Link, taken []bool, toldBytes int64) (others []Link) {
	for i, l := range links {
		if taken[i] {
			s.links = append(s.links, held{l, toldBytes})
		} else {
			others = append(others, l)
		}
	}
	return others
}

func closeAll(links []Link) {
	for _, l := range links {
		l.Close()
	}
}
