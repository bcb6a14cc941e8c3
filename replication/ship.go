package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// shipper runs a Sender on its connection: one goroutine sends, one takes acks in.
type shipper struct {
	conn     *Conn
	appended <-chan struct{}
	acked    func(Ack)
	room     chan struct{} // capacity 1: an ack made room

	mu     sync.Mutex
	sender *Sender // guarded by mu; what Next returned is the sending goroutine's
}

// Ship is the primary's end of one connection of the log lane: it sends what the Sender says, until the context ends or the
// connection does, and returns why. appended tells of new records, as wal.Log.Subscribe does; acked is told of each ack
// that is true, on one goroutine. The connection is closed when Ship returns.
func Ship(ctx context.Context, c *Conn, s *Sender, appended <-chan struct{}, acked func(Ack)) error {
	sh := &shipper{conn: c, sender: s, appended: appended, acked: acked, room: make(chan struct{}, 1)}
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	group.Go(func() error { return sh.send(ctx) })
	group.Go(sh.receive)
	return group.Wait()
}

// send sends records while the window has room, and heartbeats where there are none.
func (sh *shipper) send(ctx context.Context) error {
	if err := sh.conn.Send(sh.sender.Header(), sh.sender.Start()); err != nil {
		return err
	}
	beat := time.NewTicker(sh.conn.cfg.idleTimeout() / 3)
	defer beat.Stop()
	for {
		sh.mu.Lock()
		m, err := sh.sender.Next()
		sh.mu.Unlock()
		if err != nil {
			return err
		}
		if m != nil {
			if err := sh.conn.Send(sh.sender.Header(), m); err != nil {
				return err
			}
			continue
		}
		select {
		case <-sh.appended:
		case <-sh.room:
		case <-beat.C:
			if err := sh.conn.Send(sh.sender.Header(), &Heartbeat{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive takes acks in. A replica that lies is told so.
func (sh *shipper) receive() error {
	for {
		h, m, err := sh.conn.Receive()
		if err == nil {
			err = sh.take(h, m)
		}
		if err != nil {
			return sh.conn.end(sh.sender.Header(), err)
		}
	}
}

func (sh *shipper) take(h Header, m Message) error {
	ack, ok := m.(*Ack)
	if !ok {
		if m.Kind() == KindHeartbeat {
			return nil
		}
		return fmt.Errorf("%w: %s from a replica", ErrUnexpected, m.Kind())
	}
	sh.mu.Lock()
	err := sh.sender.Acked(h, ack)
	sh.mu.Unlock()
	if err != nil {
		return err
	}
	sh.acked(*ack)
	select {
	case sh.room <- struct{}{}:
	default: // it was told already
	}
	return nil
}
