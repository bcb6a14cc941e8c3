package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"lockstep/nbd"
)

// supervisor keeps one device attached.
type supervisor struct {
	cfg Config
	log zerolog.Logger

	index    int
	lock     lock
	identity identity
	deaths   <-chan struct{} // from the kernel
	unwatch  func()

	links       []held    // those that the kernel took, of one instance
	unknown     int       // as in facts
	suspect     bool      // as in facts
	exportBytes int64     // as in facts
	offered     export    // of the last server that was accepted
	offeredAt   time.Time // when the kernel was given links last
	at          Address   // of that server

	status    Status
	complaint string // what complain logged last
}

// held is a link that the kernel has, with the size of the export that it was told of.
type held struct {
	Link
	toldBytes int64
}

// Run attaches an export, or takes over a device that an earlier Run left attached, and supervises it until ctx ends or
// the device is detached by somebody else; both return nil. When ctx ends, the device is detached, unless something
// uses it: then it stays attached.
//
// Errors before the device is attached wrap ErrInUse, ErrPermission, nbd.ErrUnknownExport or nbd.ErrTLSRequired where
// that is the reason. Afterwards, a server that is gone or not acceptable is no error: Run tries until it is back.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	s := &supervisor{cfg: cfg, log: cfg.Logger.With().Str("export", cfg.Export).Logger()}
	defer s.close()
	if err := s.start(ctx); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return nil // nothing is attached
		}
		return err
	}
	return s.supervise(ctx)
}

// close gives up everything but the device.
func (s *supervisor) close() {
	for _, l := range s.links {
		l.Close()
	}
	if s.unwatch != nil {
		s.unwatch()
	}
	s.lock.release()
}

// supervise is the loop that doc.go speaks of.
func (s *supervisor) supervise(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		f, err := s.look()
		if err != nil {
			return err
		}
		switch decide(f) {
		case stepEnd:
			s.log.Info().Str("device", s.path()).Msg("device was detached by somebody else")
			return nil
		case stepForeign:
			return fmt.Errorf("%w: %s was attached by somebody else meanwhile (%q)", ErrInUse, s.path(), f.device.Backend)
		case stepRenew:
			s.renew()
		case stepGrow:
			if err := s.grow(f.device); err == nil {
				continue
			}
			s.await(ctx, lastPause)
		case stepMend:
			if f.live+f.unknown == 0 {
				s.lost()
			}
			if err := s.mend(ctx, f); err == nil {
				pause = firstPause
				continue
			} else if ctx.Err() == nil {
				s.report(StateReconnecting, strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			s.await(ctx, pause)
			pause = min(2*pause, lastPause)
		case stepRest:
			s.report(StateAttached, "")
			if s.await(ctx, s.cfg.ProbeInterval) {
				s.suspect = s.suspect || time.Since(s.offeredAt) >= unknownInterval
				s.probe(ctx)
			}
		}
	}
	return s.stop()
}

// lost reports that requests wait, unless that is known already, with a better reason.
func (s *supervisor) lost() {
	if s.status.State == StateAttached {
		s.report(StateReconnecting, "all connections have ended")
	}
}

// look takes stock. Links that died are let go.
func (s *supervisor) look() (facts, error) {
	d, err := s.cfg.Kernel.Device(s.index)
	if err != nil {
		return facts{}, err
	}
	s.links = slices.DeleteFunc(s.links, func(l held) bool {
		if l.Alive() {
			return false
		}
		l.Close()
		return true
	})
	f := facts{device: d, identity: s.identity, live: len(s.links), unknown: s.unknown, suspect: s.suspect, exportBytes: s.exportBytes}
	for i, l := range s.links {
		if i == 0 || l.toldBytes < f.toldBytes {
			f.toldBytes = l.toldBytes
		}
	}
	return f, nil
}

// await waits until something has happened, and reports whether it was only that the time is over.
func (s *supervisor) await(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.deaths:
		s.suspect = true
	case <-timer.C:
		return true
	}
	return false
}

// probe asks the server for the export's size.
func (s *supervisor) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	offer, err := s.cfg.Network.Ask(ctx, s.at, s.cfg.Export)
	if err != nil {
		s.log.Debug().Err(err).Msg("server cannot be asked for the export's size")
		return
	}
	d, err := s.cfg.Kernel.Device(s.index)
	if err != nil || !d.Attached {
		return // the next look says so
	}
	e := readOffer(offer)
	if err := accept(s.identity, d, e); err != nil {
		s.complain(err)
		return
	}
	s.complaint = ""
	s.exportBytes = e.sizeBytes
	if e.sizeBytes > d.SizeBytes && s.unknown > 0 {
		s.complain(errInOtherHands)
	}
}

var errInOtherHands = errors.New("the export has grown, but connections of an earlier `lockstep attach` do not know it: " +
	"the device grows once the server is restarted, or the device attached again")

// complain logs once why the device is not as its server would have it.
func (s *supervisor) complain(err error) {
	if text := err.Error(); text != s.complaint {
		s.complaint = text
		s.log.Error().Err(err).Str("device", s.path()).Stringer("server", s.at).Msg("device and server do not agree")
	}
}

// renew cuts the links that were told of a smaller export than there is now: others take their place.
func (s *supervisor) renew() {
	s.log.Info().Str("device", s.path()).Int64("size", s.exportBytes).Msg("export has grown: connections are made anew")
	for _, l := range s.links {
		if l.toldBytes < s.exportBytes {
			l.Cut() // the next look lets go of it
		}
	}
}

// grow passes the export's size on to the device.
func (s *supervisor) grow(d Device) error {
	err := s.cfg.Kernel.Resize(s.index, s.identity.String(), s.exportBytes)
	if err == nil {
		var after Device
		after, err = s.cfg.Kernel.Device(s.index)
		if err == nil && after.SizeBytes < s.exportBytes {
			err = errors.New("the kernel leaves it as it is")
		}
	}
	if err != nil {
		s.complain(fmt.Errorf("the device does not grow with its export (%w): detach and attach it again", err))
		return err
	}
	s.log.Info().Str("device", s.path()).Int64("from", d.SizeBytes).Int64("to", s.exportBytes).Msg("device has grown with its export")
	return nil
}

func (s *supervisor) path() string { return DevicePath(s.index) }

// report tells of a change of state.
func (s *supervisor) report(state State, reason string) {
	next := Status{Device: s.path(), State: state, Reason: reason}
	if next == s.status {
		return
	}
	s.log.Info().Str("device", next.Device).Str("from", string(s.status.State)).Str("to", string(state)).
		Str("reason", reason).Int("connections", len(s.links)).Msg("device changes state")
	s.status = next
	if s.cfg.Report != nil {
		s.cfg.Report(next)
	}
}

// stop ends the attachment, unless the device is in use.
func (s *supervisor) stop() error {
	d, err := s.cfg.Kernel.Device(s.index)
	if err != nil || !d.Attached || d.Backend != s.identity.String() {
		return err
	}
	users, err := s.cfg.Kernel.Release(s.index, len(s.links)+s.unknown == s.identity.slots)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		s.log.Warn().Str("device", s.path()).Str("users", strings.Join(users, ", ")).Msg("device is in use and stays attached, " +
			"but is not connected again when its server ends: attach it again, or unmount it and use `lockstep detach`")
		return nil
	}
	s.log.Info().Str("device", s.path()).Msg("device is detached")
	return nil
}

// dial reaches one of the servers, beginning with the last good one, and chooses the export.
func (s *supervisor) dial(ctx context.Context, acceptable func(export) error) (Link, export, error) {
	addresses := s.cfg.Addresses
	if i := slices.Index(addresses, s.at); i > 0 {
		addresses = slices.Concat(addresses[i:], addresses[:i])
	}
	var failures []error
	for _, a := range addresses {
		link, offer, err := s.dialAt(ctx, a)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		e := readOffer(offer)
		if err := acceptable(e); err != nil {
			link.Close()
			failures = append(failures, fmt.Errorf("export %q at %v: %w", s.cfg.Export, a, err))
			continue
		}
		s.at = a
		return link, e, nil
	}
	return nil, export{}, errors.Join(failures...)
}

func (s *supervisor) dialAt(ctx context.Context, a Address) (Link, nbd.Offer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errNoAnswer)
	defer cancel()
	return s.cfg.Network.Dial(ctx, a, s.cfg.Export)
}

var errNoAnswer = fmt.Errorf("no answer within %v", dialTimeout)
