package node

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// told keeps what a service manager is told, and hands it on where somebody waits.
type told struct {
	states chan string // must have room for all of them
}

func (m told) notify(state string) error {
	m.states <- state
	return nil
}

func (m told) all() (all []string) {
	for {
		select {
		case s := <-m.states:
			all = append(all, s)
		default:
			return all
		}
	}
}

// Ready is only said when the volumes are served, and a stop says how long it may take.
func TestNotifications(t *testing.T) {
	dir := emptyServerDir(t)
	manager := told{make(chan string, 1000)}
	var atReady error
	s := start(t, dir, func(c *Config) {
		c.ShutdownTimeout = 20 * time.Second
		c.Notify = func(state string) error {
			if strings.HasPrefix(state, "READY=1\n") {
				_, atReady = attach(t, filepath.Join(dir, "lockstep.sock"), "first")
			}
			return manager.notify(state)
		}
	})
	s.end(t)
	if atReady != nil {
		t.Errorf("ready, but a client is refused: %v", atReady)
	}
	all := manager.all()
	for i, want := range []string{
		"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=opened ",
		"READY=1\nSTATUS=serving 1 volumes, 0 clients",
		"STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=stopping",
	} {
		at := slices.IndexFunc(all, func(s string) bool { return strings.HasPrefix(s, want) })
		if at < i {
			t.Errorf("%q is missing, or in the wrong place, in %q", want, all)
		}
	}
}

func TestWatchdogIsFed(t *testing.T) {
	manager := told{make(chan string, 1000)}
	s := start(t, emptyServerDir(t), func(c *Config) { c.Notify, c.Watchdog = manager.notify, 60*time.Millisecond })
	for pings := 0; pings < 3; {
		if state := <-manager.states; state == "WATCHDOG=1" {
			pings++
		}
	}
	s.end(t)
	manager.all()
}

func TestLongStartExtendsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		manager := told{make(chan string, 10)}
		n := notifier{tell: manager.notify, log: zerolog.Nop()}
		err := n.during(func() string { return "two\nlines" }, func() error {
			<-time.After(2*extendEvery + time.Second)
			return errBroken
		})
		want := slices.Repeat([]string{"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=two; lines"}, 3)
		if got := manager.all(); !slices.Equal(got, want) || !errors.Is(err, errBroken) {
			t.Errorf("said %q, returned %v", got, err)
		}
	})
}

// The watchdog hears nothing from a server that is stuck, and hears of it again when it is not; the log says each once.
// The status line is said when it changes.
func TestAttend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		manager := told{make(chan string, 100)}
		var log bytes.Buffer
		n := notifier{tell: manager.notify, log: zerolog.New(&log)}
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		since := func() int { return int(time.Since(begun) / time.Second) }
		status := func() string {
			if since() < 40 {
				return "young"
			}
			return "old"
		}
		alive := func(ctx context.Context) error {
			if s := since(); s > 10 && s < 31 {
				<-ctx.Done() // stuck
				return ctx.Err()
			}
			return nil
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			n.attend(ctx, "young", status, 15*time.Second, alive)
		}()
		<-time.After(51 * time.Second)
		cancel()
		<-ended
		// Every 5 s: at 5 and 10, and, once what hung until 35 has ended, from 35 or 40 on.
		got := manager.all()
		pings := 0
		for _, s := range got {
			if s == "WATCHDOG=1" {
				pings++
			}
		}
		if pings < 4 || pings > 6 || !slices.Contains(got, "STATUS=old") || slices.Contains(got, "STATUS=young") {
			t.Errorf("said %q", got)
		}
		for _, once := range []string{`"to":"stuck"`, `"to":"alive"`} {
			if strings.Count(log.String(), once) != 1 {
				t.Errorf("%s is not in the log once:\n%s", once, log.String())
			}
		}
	})
}

// TestAttendSaysWhatChangedBefore: what changed between the line that was said and the first look is said too.
func TestAttendSaysWhatChangedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		manager := told{make(chan string, 100)}
		n := notifier{tell: manager.notify, log: zerolog.Nop()}
		ctx, cancel := context.WithTimeout(t.Context(), 2*statusEvery+time.Second)
		defer cancel()
		n.attend(ctx, "no clients", func() string { return "one client" }, 0, nil)
		if got := manager.all(); !slices.Equal(got, []string{"STATUS=one client"}) {
			t.Errorf("said %q", got)
		}
	})
}

func TestUnreachableServiceManagerIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	n := notifier{tell: func(string) error { return errBroken }, log: zerolog.New(&log)}
	n.say("STATUS=a")
	n.say("STATUS=b")
	if strings.Count(log.String(), errBroken.Error()) != 1 {
		t.Errorf("the log has\n%s", log.String())
	}
}

// deaf returns the path of a socket on which nobody accepts.
func deaf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deaf.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path
}

func TestSelfCheck(t *testing.T) {
	cfg := Config{DataDir: emptyServerDir(t), Listen: []string{}, Logger: zerolog.Nop()}
	ready := make(chan struct{})
	cfg.Ready = func(Endpoints) { close(ready) }
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	dir, err := openDirectory(cfg.DataDir, cfg.Admin, false, cfg.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	n := &node{cfg: cfg, host: newHost(dir, false, cfg.Logger)}
	if err := n.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- n.run(ctx) }()
	<-ready
	check := func(what string, n *node, sound bool) {
		t.Helper()
		within := 10 * time.Second
		if !sound {
			within = 50 * time.Millisecond // it waits in vain
		}
		bounded, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		if err := n.alive(bounded); (err == nil) != sound {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("a sound server", n, true)
	check("a deaf NBD socket", &node{cfg: Config{Admin: cfg.Admin, Unix: deaf(t)}}, false)
	check("a deaf admin socket", &node{cfg: Config{Admin: deaf(t), Unix: cfg.Unix}}, false)
	check("no NBD socket", &node{cfg: Config{Admin: cfg.Admin, Unix: cfg.Unix + ".gone"}}, false)
	n.host.mu.Lock()
	check("a table of volumes that is locked for ever", n, false)
	n.host.mu.Unlock()
	check("a server that came back", n, true)
	stop()
	if err := <-result; err != nil {
		t.Error(err)
	}
}
