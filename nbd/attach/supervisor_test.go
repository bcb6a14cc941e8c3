package attach

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// run is a supervisor at work.
type run struct {
	t      *testing.T
	end    context.CancelFunc
	result chan error
	said   []Status
}

func (w *world) config(dir string) Config {
	return Config{Export: "disk", Index: 0, Addresses: []Address{here}, Processors: 2, RunDir: dir, Kernel: w, Network: w,
		Logger: zerolog.Nop()}
}

// begin runs a supervisor until the test waits for everything to come to rest.
func begin(t *testing.T, cfg Config) *run {
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{t: t, end: cancel, result: make(chan error, 1)}
	cfg.Report = func(s Status) { r.said = append(r.said, s) }
	go func() { r.result <- Run(ctx, cfg) }()
	synctest.Wait()
	return r
}

// finish ends the supervisor and returns what it did.
func (r *run) finish() error {
	r.end()
	synctest.Wait()
	return r.ended()
}

// ended returns what a supervisor that has ended returned.
func (r *run) ended() error {
	r.t.Helper()
	select {
	case err := <-r.result:
		return err
	default:
		r.t.Fatal("the supervisor goes on")
		return nil
	}
}

func (r *run) state() State {
	if len(r.said) == 0 {
		return ""
	}
	return r.said[len(r.said)-1].State
}

// pass lets time pass, up to where everything rests again.
func pass(d time.Duration) {
	time.Sleep(d) // of the test's own clock
	synctest.Wait()
}

// bubble runs a test in a time of its own.
func bubble(t *testing.T, test func(t *testing.T, w *world, cfg Config)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(t, w, w.config(dir))
		if n := w.open(); n != 0 {
			t.Errorf("%d connections were left open", n)
		}
	})
}

func TestAttachAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		d := w.devices[0]
		want := Setup{Backend: "lockstep:disk:" + volumeA + ":2", SizeBytes: 1 << 30, BlockBytes: 4096,
			Flags: multiConn | hasFlags | sendFlush, Timeout: DefaultTimeout, DeadTimeout: DefaultDeadTimeout}
		if d.setup != want || len(d.slots) != 2 {
			t.Errorf("attached with %+v and %d links, want %+v and 2", d.setup, len(d.slots), want)
		}
		if !slices.Equal(r.said, []Status{{Device: "/dev/nbd0", State: StateAttached}}) {
			t.Errorf("reported %+v", r.said)
		}
		if err := r.finish(); err != nil || w.device(0).Attached {
			t.Errorf("ended with %v; %+v", err, w.device(0))
		}
	})
}

func TestServerIsKilledAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		for range 5 {
			w.kill(here)
			pass(3 * time.Second)
			if r.state() != StateReconnecting {
				t.Fatalf("without a server the device is %q", r.state())
			}
			w.serve(here, volumeA, 1<<30, multiConn)
			pass(lastPause)
			if n := w.live(0, here); n != 2 || r.state() != StateAttached {
				t.Fatalf("%d links are alive, and the device is %q", n, r.state())
			}
		}
		r.finish()
	})
}

// What nobody tells, the supervisor finds by itself.
func TestDeathThatNobodyTells(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.deaf = true
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.dieOne(0, 1)
		pass(DefaultProbeInterval)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links are alive, want 2", n)
		}
		r.finish()
	})
}

// Even the shortest outage is said, with what follows it; one link of several is none.
func TestOutageIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.dieOne(0, 1)
		pass(time.Second)
		w.set(func() { w.deaf = true })
		w.kill(here)
		w.serve(here, volumeA, 1<<30, multiConn)
		pass(DefaultProbeInterval)
		var states []State
		for _, s := range r.said {
			states = append(states, s.State)
		}
		if !slices.Equal(states, []State{StateAttached, StateReconnecting, StateAttached}) || r.said[1].Reason == "" {
			t.Errorf("reported %+v", r.said)
		}
		r.finish()
	})
}

func TestOneLinkDies(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		kept := w.devices[0].slots[1]
		w.dieOne(0, 0)
		pass(time.Millisecond)
		if n := w.live(0, here); n != 2 || w.count(&w.dials) != 3 || kept.dead {
			t.Errorf("%d links are alive after %d dials, the other one among them: %v", n, w.dials, !kept.dead)
		}
		r.finish()
	})
}

func TestKernelNoticesLate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.slow = 1000
		w.dieOne(0, 0)
		pass(20 * time.Second)
		if n := w.count(&w.dials); n > 50 {
			t.Errorf("%d dials in 20 s", n)
		}
		w.set(func() { w.slow = 1 })
		pass(3 * lastPause)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links are alive, want 2", n)
		}
		r.finish()
	})
}

// One link to the old server dies, the other lives on; the new server is elsewhere.
func TestServerMoves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		cfg.Addresses = append(cfg.Addresses, there)
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		left := w.devices[0].slots[1]
		w.leave(here)
		w.serve(there, volumeA, 1<<30, multiConn)
		w.dieOne(0, 0)
		pass(lastPause)
		if n := w.live(0, there); n != 2 || !left.cut {
			t.Errorf("%d links go to the new server; the one to the old was cut: %v", n, left.cut)
		}
		// It is back where it was: tried after the present one only.
		w.kill(there)
		w.serve(here, volumeA, 1<<30, multiConn)
		pass(lastPause)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links go to the server that came back", n)
		}
		r.finish()
	})
}

// A server that does not say so may be another one at each connection.
func TestServerWithoutInstance(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn).offer.Description = ""
		r := begin(t, cfg)
		kept := w.devices[0].slots[1]
		w.dieOne(0, 0)
		pass(lastPause)
		if n := w.live(0, here); n != 2 || !kept.cut {
			t.Errorf("%d links; the old one was cut: %v", n, kept.cut)
		}
		r.finish()
	})
}

func TestServerThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		cfg.Addresses = append(cfg.Addresses, there)
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.kill(here)
		w.serve(here, volumeA, 1<<30, multiConn).hangs = true
		w.serve(there, volumeA, 1<<30, multiConn)
		pass(dialTimeout + lastPause)
		if n := w.live(0, there); n != 2 {
			t.Errorf("%d links go to the server that answers", n)
		}
		w.dieOne(0, 0)
		pass(time.Second) // which is tried first from now on
		if n := w.live(0, there); n != 2 {
			t.Errorf("%d links go to the server that answers", n)
		}
		r.finish()
	})
}

func TestServerThatMustNotHaveTheDevice(t *testing.T) {
	for name, bad := range map[string]func(w *world){
		"another volume":   func(w *world) { w.serve(here, volumeB, 1<<30, multiConn) },
		"no UUID":          func(w *world) { w.serve(here, "none", 1<<30, multiConn) },
		"a smaller export": func(w *world) { w.serve(here, volumeA, 1<<30-4096, multiConn) },
		"read-only":        func(w *world) { w.serve(here, volumeA, 1<<30, multiConn|flagReadOnly) },
		"one connection":   func(w *world) { w.serve(here, volumeA, 1<<30, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, cfg Config) {
				w.serve(here, volumeA, 1<<30, multiConn)
				r := begin(t, cfg)
				w.kill(here)
				bad(w)
				pass(time.Minute)
				if n := w.live(0, here); n != 0 || r.state() != StateReconnecting {
					t.Errorf("%d links go to it, and the device is %q", n, r.state())
				}
				w.kill(here)
				w.serve(here, volumeA, 1<<30, multiConn)
				pass(lastPause)
				if n := w.live(0, here); n != 2 {
					t.Errorf("%d links go to the right one", n)
				}
				r.finish()
			})
		})
	}
}

func TestExportGrows(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.grow(here, 2<<30)
		pass(DefaultProbeInterval)
		if n := w.device(0).SizeBytes; n != 2<<30 {
			t.Errorf("the device has %d bytes", n)
		}
		// Grown while there was no server.
		w.kill(here)
		w.serve(here, volumeA, 3<<30, multiConn)
		pass(lastPause)
		if n := w.device(0).SizeBytes; n != 3<<30 {
			t.Errorf("the device has %d bytes", n)
		}
		// It does not shrink, and goes on with the links it has.
		w.grow(here, 1<<30)
		pass(time.Minute)
		if n := w.device(0).SizeBytes; n != 3<<30 || w.resizes != 2 {
			t.Errorf("the device has %d bytes after %d resizes", n, w.resizes)
		}
		r.finish()
	})
}

// Links that are not in its hands know the old size, and would refuse what is beyond it.
func TestExportGrowsUnderLinksOfAnEarlierSupervisor(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.use(0, "mounted on /mnt")
		r.finish()
		r = begin(t, cfg)
		w.grow(here, 2<<30)
		pass(3 * time.Minute)
		if n := w.device(0).SizeBytes; n != 1<<30 || w.live(0, here) != 2 {
			t.Errorf("the device has %d bytes", n)
		}
		w.kill(here)
		w.serve(here, volumeA, 2<<30, multiConn)
		pass(lastPause)
		if n := w.device(0).SizeBytes; n != 2<<30 {
			t.Errorf("the device has %d bytes", n)
		}
		r.finish()
	})
}

// A kernel that does not let a device grow keeps nothing else from working.
func TestDeviceThatDoesNotGrow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.refuseSize = errors.New("fake: no")
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.grow(here, 2<<30)
		pass(time.Minute)
		w.kill(here)
		w.serve(here, volumeA, 2<<30, multiConn)
		pass(2 * lastPause)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links are alive", n)
		}
		r.finish()
	})
}

func TestUsedDeviceOutlivesItsSupervisor(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<30, multiConn)
		r := begin(t, cfg)
		w.use(0, "mounted on /mnt")
		if err := r.finish(); err != nil || w.live(0, here) != 2 {
			t.Fatalf("%v; %d links", err, w.live(0, here))
		}

		// The next one takes it over, though the server is gone by now, and whatever it would have chosen itself.
		w.kill(here)
		cfg.Connections = 1
		r = begin(t, cfg)
		pass(10 * time.Second)
		if r.state() != StateReconnecting {
			t.Errorf("taken over without a server, the device is %q", r.state())
		}
		w.serve(here, volumeA, 1<<30, multiConn)
		pass(lastPause)
		if n := w.live(0, here); n != 2 || r.state() != StateAttached {
			t.Errorf("%d links, %q", n, r.state())
		}
		w.set(func() { w.deaf = true }) // all links are in its hands by now, so it needs not be told
		w.dieOne(0, 0)
		pass(DefaultProbeInterval)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links", n)
		}
		w.set(func() { w.deaf = false })
		w.use(0, "mounted on /mnt")
		r.finish()

		// With links alive that are not in its hands: these are left, and given others when they die.
		cfg.Index = Auto
		r = begin(t, cfg)
		if n := w.live(0, here); n != 2 || r.state() != StateAttached {
			t.Fatalf("%d links, %q", n, r.state())
		}
		w.dieOne(0, 1)
		pass(lastPause)
		w.dieOne(0, 0)
		pass(lastPause)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links", n)
		}
		w.kill(here)
		w.serve(here, volumeA, 1<<30, multiConn)
		pass(lastPause)
		if n := w.live(0, here); n != 2 {
			t.Errorf("%d links", n)
		}
		w.use(0)
		if err := r.finish(); err != nil || w.device(0).Attached {
			t.Errorf("%v; %+v", err, w.device(0))
		}
	})
}

func TestTakenOverDeviceOfAnotherVolume(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<20, multiConn)
		w.put(0, identity{export: "disk", volume: volumeB, slots: 2}.String())
		r := begin(t, cfg)
		pass(time.Minute)
		if n := w.live(0, here); n != 0 || r.state() != StateReconnecting {
			t.Errorf("%d links, %q", n, r.state())
		}
		w.use(0, "mounted")
		r.finish()
	})
}

func TestDeviceOfSomebodyElse(t *testing.T) {
	for _, backend := range []string{"", "other", "lockstep:disk2:" + volumeA + ":2", "lockstep:disk:" + volumeA, "lockstep:disk:" + volumeA + ":02"} {
		bubble(t, func(t *testing.T, w *world, cfg Config) {
			w.serve(here, volumeA, 1<<20, multiConn)
			w.put(0, backend)
			err := begin(t, cfg).ended()
			if !errors.Is(err, ErrInUse) || !w.device(0).Attached || w.count(&w.dials) != 0 {
				t.Errorf("%q: %v after %d dials", backend, err, w.dials)
			}
		})
	}
}

func TestVolumeThatIsAttachedElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<20, multiConn)
		w.put(3, identity{export: "disk", volume: volumeA, slots: 1}.String())
		if err := begin(t, cfg).ended(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "/dev/nbd3") {
			t.Errorf("%v", err)
		}
	})
}

func TestAuto(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		cfg.Index = Auto
		w.serve(here, volumeA, 1<<20, multiConn)
		w.put(0, "other")
		w.add(1) // free, but in somebody's hands
		l, _, err := takeLock(cfg.RunDir, 1)
		if err != nil {
			t.Fatal(err)
		}
		w.put(2, "other")
		r := begin(t, cfg)
		if !w.device(3).Attached || r.said[0].Device != "/dev/nbd3" {
			t.Errorf("%+v; %+v", w.device(3), r.said)
		}
		r.finish()
		l.release()
		r = begin(t, cfg)
		if !w.device(1).Attached {
			t.Errorf("%+v", r.said)
		}
		r.finish()
	})
}

func TestDeviceThatIsOpenForAMoment(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<20, multiConn)
		w.busy = 3
		r := begin(t, cfg)
		pass(busyPause * 3)
		if !w.device(0).Attached {
			t.Error("it is not attached")
		}
		r.finish()
	})
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<20, multiConn)
		r := begin(t, cfg)
		if err := begin(t, cfg).ended(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "supervises") {
			t.Errorf("%v", err)
		}
		r.finish()
	})
}

func TestDetachedBySomebodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		w.serve(here, volumeA, 1<<20, multiConn)
		r := begin(t, cfg)
		w.Detach(0)
		pass(DefaultProbeInterval)
		if err := r.ended(); err != nil {
			t.Errorf("%v", err)
		}
		r = begin(t, cfg)
		w.put(0, "other")
		pass(DefaultProbeInterval)
		if err := r.ended(); !errors.Is(err, ErrInUse) {
			t.Errorf("%v", err)
		}
	})
}

func TestServerThatIsNotThereAtTheBeginning(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		cfg.Addresses = append(cfg.Addresses, there)
		err := begin(t, cfg).ended()
		if err == nil || !strings.Contains(err.Error(), "/here") || !strings.Contains(err.Error(), "there:10809") {
			t.Errorf("%v", err)
		}
		w.serve(here, volumeA, 1<<20, multiConn).hangs = true
		if err := begin(t, cfg).finish(); err != nil {
			t.Errorf("told to end while it waits for a server: %v", err)
		}
	})
}

func TestExportThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		size   int64
		flags  uint16
		change func(*Config)
	}{
		"empty":                   {0, multiConn, func(*Config) {}},
		"half a block":            {1<<20 + 512, multiConn, func(*Config) {}},
		"one connection only":     {1 << 20, 0, func(c *Config) { c.Connections = 2 }},
		"too many connections":    {1 << 20, multiConn, func(c *Config) { c.Connections = maxConnections + 1 }},
		"no time":                 {1 << 20, multiConn, func(c *Config) { c.Timeout = time.Millisecond }},
		"no time without servers": {1 << 20, multiConn, func(c *Config) { c.DeadTimeout = -time.Second }},
		"block size":              {1 << 20, multiConn, func(c *Config) { c.BlockBytes = 768 }},
		"no address":              {1 << 20, multiConn, func(c *Config) { c.Addresses = nil }},
		"index":                   {1 << 20, multiConn, func(c *Config) { c.Index = 1 << 20 }},
	} {
		bubble(t, func(t *testing.T, w *world, cfg Config) {
			w.serve(here, volumeA, c.size, c.flags)
			c.change(&cfg)
			if err := begin(t, cfg).ended(); err == nil || w.device(0).Attached {
				t.Errorf("%s: %v; %+v", name, err, w.device(0))
			}
		})
	}
}

func TestReadOnlyDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, cfg Config) {
		cfg.ReadOnly, cfg.BlockBytes = true, 512
		w.serve(here, volumeA, 1<<20+512, 0)
		r := begin(t, cfg)
		if s := w.devices[0].setup; s.Flags&flagReadOnly == 0 || s.BlockBytes != 512 || len(w.devices[0].slots) != 1 {
			t.Errorf("%+v with %d links", s, len(w.devices[0].slots))
		}
		w.kill(here)
		w.serve(here, volumeA, 1<<20+512, flagReadOnly) // that is enough for it
		pass(lastPause)
		if n := w.live(0, here); n != 1 {
			t.Errorf("%d links", n)
		}
		r.finish()
	})
}
