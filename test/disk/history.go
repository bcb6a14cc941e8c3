package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// History is a piece of life of what is being tested: a log, a volume. Its functions open everything from c.Disk,
// tell c.Model what they do, and return nil or an error that wraps the one the disk gave them. They start no goroutine
// that outlives them, and close what they opened unless they fail.
type History struct {
	Model ModelConfig
	Disk  Config // Seed is set by the driver

	// Setup, if not nil, runs first and never fails.
	Setup func(c *Case) error
	// Run does the work that is interrupted.
	Run func(c *Case) error
	// Recover opens what Run or Recover left, passes it to c.Model.CheckRecovered, and should then change something,
	// flush, and read it back.
	Recover func(c *Case) error

	// Depth is how many crashes in a row Exhaustive goes through: with 2 it also crashes at each operation of Recover.
	// 0 is 1.
	Depth int
	// Seeds is how many random lives Random goes through; 0 is 100. LOCKSTEP_SEEDS replaces it.
	Seeds int
}

// Case is one life of a History on one disk.
type Case struct {
	Disk  *Disk
	Model *Model
	Rand  *rand.Rand // for the history's own choices
	Seed  uint64

	source *rand.PCG
	steps  []string // what the driver did
}

// Exhaustive runs the history once for each of its operations and cuts the power, or kills the process, in the middle
// of it. From each such point it tries every kind of Choice, and every subset where there are few unsynced changes;
// each time Recover must succeed, and once more after a power cut that follows. LOCKSTEP_SEED replaces the seed, 1.
func Exhaustive(t testing.TB, h History) {
	t.Helper()
	seed := envNumber(t, "LOCKSTEP_SEED", 1)
	lives, err := h.exhaustive(seed)
	if err != nil {
		t.Fatalf("%v\nreplay with LOCKSTEP_SEED=%d", err, seed)
	}
	t.Logf("seed %d: %d lives", seed, lives)
}

// Faults runs the history once for each of its operations and error, and fails the operation with that error. The
// history may end with it or go on; whatever it acknowledged must be there for Recover, after a kill and after a power
// cut.
func Faults(t testing.TB, h History, errs ...error) {
	t.Helper()
	seed := envNumber(t, "LOCKSTEP_SEED", 1)
	for _, fault := range errs {
		lives, err := h.faults(seed, fault)
		if err != nil {
			t.Fatalf("%v\nreplay with LOCKSTEP_SEED=%d", err, seed)
		}
		t.Logf("seed %d, %v: %d lives", seed, fault, lives)
	}
}

// Random goes through lives of several crashes each, at random operations and with random choices. LOCKSTEP_SEEDS sets
// how many; LOCKSTEP_SEED runs the one with that seed.
func Random(t testing.TB, h History) {
	t.Helper()
	first, count := uint64(1), envNumber(t, "LOCKSTEP_SEEDS", uint64(max(h.Seeds, 0)))
	if count == 0 {
		count = 100
	}
	if one := envNumber(t, "LOCKSTEP_SEED", 0); one != 0 {
		first, count = one, 1
	}
	for seed := first; seed < first+count; seed++ {
		if err := h.random(seed); err != nil {
			t.Fatalf("%v\nreplay with LOCKSTEP_SEED=%d", err, seed)
		}
	}
}

func envNumber(t testing.TB, name string, unset uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return unset
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// start makes a case that has been through Setup.
func (h *History) start(seed uint64) (*Case, error) {
	cfg := h.Disk
	cfg.Seed = seed
	c := &Case{Disk: New(cfg), Model: NewModel(h.Model), Seed: seed, source: rand.NewPCG(seed, 1)}
	c.Rand = rand.New(c.source)
	if h.Setup != nil {
		if err := h.Setup(c); err != nil {
			return nil, c.failure("set up", err)
		}
	}
	return c, nil
}

// fork copies the case, so that several futures can be tried.
func (c *Case) fork() *Case {
	source := *c.source
	return &Case{
		Disk:   c.Disk.Clone(),
		Model:  c.Model.Clone(),
		Rand:   rand.New(&source),
		Seed:   c.Seed,
		source: &source,
		steps:  append([]string(nil), c.steps...),
	}
}

// ending is how a process ends: by kill -9, or by a power cut.
type ending struct {
	kill   bool
	choice Choice
}

func (e ending) String() string {
	if e.kill {
		return "kill"
	}
	return "power cut, " + e.choice.String()
}

func (c *Case) end(e ending) {
	c.steps = append(c.steps, e.String())
	c.Disk.SetPlan(nil)
	if e.kill {
		c.Disk.Kill()
		return
	}
	c.Disk.Recover(e.choice)
	c.Model.PowerCut()
}

// live runs a part of the history and judges how it ended. fault is the error the plan injects, if any.
func (c *Case) live(name string, part func(*Case) error, fault error) error {
	err := part(c)
	switch {
	case errors.Is(err, ErrContradiction):
		return c.failure(name, err)
	case err == nil && !c.Disk.Crashed():
		if open := c.Disk.OpenHandles(); len(open) > 0 {
			return c.failure(name, fmt.Errorf("left open: %v", open))
		}
		return nil
	case err == nil: // it did not need what the crash fell into
		return nil
	case c.Disk.Crashed() && errors.Is(err, ErrCrashed):
		return nil
	case fault != nil && errors.Is(err, fault):
		return nil
	}
	return c.failure(name, err)
}

func (c *Case) failure(name string, err error) error {
	return fmt.Errorf("%s: %w\nseed %d; %v\noperations:\n%s", name, err, c.Seed, c.steps, c.Disk.Trace())
}
