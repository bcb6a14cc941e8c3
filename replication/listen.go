package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// maxHandshakes is how many connections may be unauthenticated at a time. Further ones wait to be accepted, until one of
// these is done or its timeout is over.
const maxHandshakes = 64

// acceptPause is between tries to accept where the machine has no room for a connection.
const acceptPause = 50 * time.Millisecond

// Listener is where peers connect to.
type Listener struct {
	cfg    *Config
	nl     net.Listener
	logger zerolog.Logger
}

// Listen listens on an address, HOST:PORT, or the path of a Unix socket where network is "unix". Without secret and TLS
// the address has to be this machine's (ErrInsecure).
func Listen(ctx context.Context, cfg *Config, network, address string, logger zerolog.Logger) (*Listener, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	nl, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	if err := cfg.allow(nl.Addr()); err != nil {
		_ = nl.Close()
		return nil, fmt.Errorf("listen for peers on %s: %w", address, err)
	}
	return &Listener{cfg: cfg, nl: nl, logger: logger}, nil
}

// Addr returns where it listens.
func (l *Listener) Addr() net.Addr { return l.nl.Addr() }

// Close stops listening; Serve does so by itself.
func (l *Listener) Close() error { return l.nl.Close() }

// Serve accepts peers until the context ends, and then waits for all of them to end. Each that is authenticated and
// admitted is given to handle, on a goroutine of its own, with a context that ends with Serve's; the connection is closed
// when handle returns, and when the context ends.
func (l *Listener) Serve(ctx context.Context, admit Admission, handle func(context.Context, *Conn)) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.nl.Close() })()
	slots := make(chan struct{}, maxHandshakes)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		nc, err := l.nl.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				<-slots
				pause(ctx, acceptPause) // of file descriptors there may be some again
				continue
			}
			return fmt.Errorf("accept peers on %s: %w", l.nl.Addr(), err)
		}
		all.Go(func() {
			c, err := l.handshake(ctx, nc, admit)
			<-slots
			if err != nil {
				l.logger.Warn().Err(err).Stringer("peer", nc.RemoteAddr()).Msg("peer refused")
				return
			}
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer func() { _ = c.Close() }()
			handle(ctx, c)
		})
	}
}

func (l *Listener) handshake(ctx context.Context, nc net.Conn, admit Admission) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.handshakeTimeout())
	defer cancel()
	if l.cfg.TLS != nil {
		nc = tls.Server(nc, l.cfg.tls(""))
	}
	c := newConn(nc, l.cfg)
	if err := c.within(ctx, func() error { return c.accept(admit) }); err != nil {
		return nil, fmt.Errorf("accept a peer: %w", err)
	}
	return c, nil
}
