package attach

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// Whatever happens to servers, links and supervisors, the kernel gets no link that it must not have (checkLocked), and
// once the right server is there for good, the device has all its links and the export's size.
func TestRandomHistories(t *testing.T) {
	first, n := uint64(1), 100
	if text := os.Getenv("LOCKSTEP_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, n = seed, 1
	}
	for seed := first; seed < first+uint64(n) && !t.Failed(); seed++ {
		bubble(t, func(t *testing.T, w *world, cfg Config) {
			h := &history{world: w, t: t, cfg: cfg, random: rand.New(rand.NewPCG(seed, 0)), size: 1 << 30}
			h.cfg.Addresses = []Address{here, there}
			h.play()
			if t.Failed() {
				t.Logf("LOCKSTEP_SEED=%d: %v", seed, h.steps)
			}
		})
	}
}

// history is one run of TestRandomHistories.
type history struct {
	*world
	t      *testing.T
	cfg    Config
	random *rand.Rand
	run    *run
	size   int64 // of the volume, which only grows
	at     Address
	steps  []string
	// blind: links may be alive that this supervisor did not make. It cannot cut them, so a server that leaves them must
	// end them itself.
	blind bool
}

func (h *history) play() {
	h.start()
	h.run = begin(h.t, h.cfg)
	for range 40 {
		h.step()
		pass(time.Duration(h.random.IntN(8000)) * time.Millisecond)
	}
	h.end()
}

// start starts the right server, and ends every other.
func (h *history) start() {
	h.at = []Address{here, there}[h.random.IntN(2)]
	h.world.kill(here)
	h.world.kill(there)
	for slot := range h.slots() {
		h.dieOne(0, slot) // to a server that has left its address
	}
	h.blind = false
	h.serve(h.at, volumeA, h.size, multiConn)
}

func (h *history) slots() []*fakeLink {
	var slots []*fakeLink
	h.set(func() {
		if d := h.devices[0]; d != nil {
			slots = slices.Clone(d.slots)
		}
	})
	return slots
}

func (h *history) step() {
	actions := []struct {
		name string
		do   func()
	}{
		{"kill", func() { h.world.kill(h.at) }},
		{"start", h.start},
		{"move", func() {
			if h.blind {
				h.start()
				return
			}
			if h.servers[h.at] != nil && h.random.IntN(2) == 0 {
				h.leave(h.at) // the old one keeps its links, and must lose them
			}
			h.at = []Address{here, there}[h.random.IntN(2)]
			h.world.kill(h.at)
			h.serve(h.at, volumeA, h.size, multiConn)
		}},
		{"one dies", func() { h.dieOne(0, h.random.IntN(len(h.slots()))) }},
		{"grow", func() {
			h.size += 1 << 20
			h.world.grow(h.at, h.size)
		}},
		{"impostor", func() {
			h.world.kill(h.at)
			h.serve(h.at, []string{volumeA, volumeB}[h.random.IntN(2)], h.size-4096, multiConn)
		}},
		{"slow", func() { h.set(func() { h.slow = h.random.IntN(4) }) }},
		{"hang", func() {
			h.set(func() {
				if s := h.servers[h.at]; s != nil {
					s.hangs = !s.hangs
				}
			})
		}},
		{"supervisor", func() {
			h.use(0, "mounted")
			h.start()
			pass(time.Duration(h.random.IntN(8000)) * time.Millisecond)
			h.blind = true
			if err := h.run.finish(); err != nil {
				h.t.Error(err)
			}
			h.run = begin(h.t, h.cfg)
		}},
	}
	a := actions[h.random.IntN(len(actions))]
	h.steps = append(h.steps, a.name)
	a.do()
}

// end brings the right server for good, and sees whether all comes to order.
func (h *history) end() {
	h.set(func() { h.slow = 0 })
	h.start()
	pass(2*dialTimeout + 2*DefaultProbeInterval + unknownInterval)
	if n := h.live(0, h.at); n != 2 || h.device(0).SizeBytes != h.size || h.run.state() != StateAttached {
		h.t.Errorf("%d links; %d bytes, not %d; %q", n, h.device(0).SizeBytes, h.size, h.run.state())
	}
	h.use(0)
	if err := h.run.finish(); err != nil || h.device(0).Attached {
		h.t.Errorf("%v; %+v", err, h.device(0))
	}
}
