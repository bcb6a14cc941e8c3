package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

const (
	// extendEvery is how often a start that takes long says that it goes on, and extendBy how long it may then be silent.
	extendEvery = 10 * time.Second
	extendBy    = 30 * time.Second
	// stopMargin is what a stop may take beyond the bound of its checkpoints, to sync and close what is open.
	stopMargin = 15 * time.Second
	// statusEvery is how often a server that serves looks whether its status line has changed.
	statusEvery = 5 * time.Second
)

// notifier tells a service manager how the server is, in the words of sd_notify(3).
type notifier struct {
	tell func(state string) error // Config.Notify
	log  zerolog.Logger

	mu     sync.Mutex // guards what follows
	failed bool       // the last one was not told
}

// say tells some words. That nobody hears them keeps no server from serving.
func (n *notifier) say(words ...string) {
	if n.tell == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.tell(strings.Join(words, "\n"))
	if err != nil && !n.failed {
		n.log.Warn().Err(err).Msg("the service manager cannot be told how the server is")
	}
	n.failed = err != nil
}

func statusLine(text string) string {
	return "STATUS=" + strings.ReplaceAll(text, "\n", "; ")
}

func extend(by time.Duration) string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", by.Microseconds()) }

// during does something that may take long, while it says every now and then how far that is, and that it goes on.
func (n *notifier) during(status func() string, do func() error) error {
	ended, said := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		tick := time.NewTicker(extendEvery)
		defer tick.Stop()
		for {
			n.say(extend(extendBy), statusLine(status()))
			select {
			case <-ended:
				return
			case <-tick.C:
			}
		}
	}()
	err := do()
	close(ended)
	<-said
	return err
}

// attend keeps the status line, which was last said to be said, up to date until ctx ends and, where a watchdog wants to hear of it at least every so
// often, says that the server is alive, as long as it is.
func (n *notifier) attend(ctx context.Context, said string, status func() string, watchdog time.Duration, alive func(context.Context) error) {
	refresh := time.NewTicker(statusEvery)
	defer refresh.Stop()
	var check <-chan time.Time // nil: never
	if watchdog > 0 {
		t := time.NewTicker(watchdog / 3) // so that one may be late
		defer t.Stop()
		check = t.C
	}
	sound := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-refresh.C:
			if now := status(); now != said {
				said = now
				n.say(statusLine(now))
			}
		case <-check:
			sound = n.ping(ctx, watchdog/3, alive, sound)
		}
	}
}

// ping says that the server is alive if it is, and returns whether it is; before is whether it was the last time.
func (n *notifier) ping(ctx context.Context, within time.Duration, alive func(context.Context) error, before bool) bool {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := alive(bounded)
	switch {
	case err == nil:
		n.say(daemon.SdNotifyWatchdog)
		if !before {
			n.log.Info().Str("from", "stuck").Str("to", "alive").Msg("self-check")
		}
	case ctx.Err() != nil: // the server stops
		return before
	case before:
		n.log.Error().Str("from", "alive").Str("to", "stuck").AnErr("reason", err).
			Msg("self-check; the service manager's watchdog is not told that all is well")
	}
	return err == nil
}

// alive returns nil where what serves answers: the admin socket's loop, the table of volumes, and the NBD socket's loop.
// No disk is asked: to restart the server mends none.
func (n *node) alive(ctx context.Context) error {
	r := NewRemote(n.cfg.Admin)
	if err := errors.Join(r.alive(ctx), r.Close()); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", n.cfg.Unix)
	if err != nil {
		return fmt.Errorf("connect to the NBD socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// A server that has too many clients closes the connection, and so answers as well.
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the greeting on the NBD socket: %w", err)
	}
	return nil
}

// line describes the server in one line, for people: "serving 2 volumes, 1 clients; FAILED: db".
func (n *node) line(doing string) string {
	states := map[string]int{}
	var failed []string
	clients := 0
	for _, d := range n.host.all() {
		s := n.host.status(d)
		states[s.State]++
		clients += s.Clients
		if s.State == StateFailed {
			failed = append(failed, s.Name)
		}
	}
	text := fmt.Sprintf("%s %d volumes, %d clients", doing, states[StateServed], clients)
	if states[StateOpening] > 0 {
		text += fmt.Sprintf("; opening %d, replaying their logs", states[StateOpening])
	}
	if len(failed) > 0 {
		text += "; FAILED: " + strings.Join(failed, ", ")
	}
	return text
}
