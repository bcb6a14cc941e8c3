package disk_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lockstep/test/disk"
)

// recorder is a testing.TB that keeps what it is told.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	panic(r)
}

// failureOf runs a driver and returns what it fails with.
func failureOf(drive func(testing.TB)) string {
	r := &recorder{}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		drive(r)
	}()
	return r.failure
}

func TestFailuresSayHowToReplay(t *testing.T) {
	t.Setenv("LOCKSTEP_SEED", "7")
	for name, drive := range map[string]func(testing.TB){
		"exhaustive": func(tb testing.TB) { disk.Exhaustive(tb, ledgerHistory(forgetSync)) },
		"random":     func(tb testing.TB) { disk.Random(tb, ledgerHistory(forgetSync)) },
		"faults":     func(tb testing.TB) { disk.Faults(tb, ledgerHistory(retrySync), errFault) },
	} {
		said := failureOf(drive)
		for _, want := range []string{"replay with LOCKSTEP_SEED=7", "contradiction", "operations:\n", "log/ledger"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s does not say %q: %s", name, want, said)
			}
		}
	}
	t.Setenv("LOCKSTEP_SEED", "x")
	if said := failureOf(func(tb testing.TB) { disk.Random(tb, ledgerHistory(sound)) }); !strings.Contains(said, "LOCKSTEP_SEED") {
		t.Errorf("a bad seed is taken: %q", said)
	}
}

var errFault = fmt.Errorf("fault")

func TestRandomSeeds(t *testing.T) {
	seeds := func() (seen []uint64) {
		h := disk.History{Model: disk.ModelConfig{SizeBytes: 4096}, Seeds: 3}
		h.Setup = func(c *disk.Case) error {
			seen = append(seen, c.Seed)
			return nil
		}
		h.Run = func(*disk.Case) error { return nil }
		h.Recover = h.Run
		if said := failureOf(func(tb testing.TB) { disk.Random(tb, h) }); said != "" {
			t.Error(said)
		}
		return seen
	}
	if got := seeds(); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("by itself: %v", got)
	}
	t.Setenv("LOCKSTEP_SEEDS", "5")
	if got := seeds(); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("with LOCKSTEP_SEEDS: %v", got)
	}
	t.Setenv("LOCKSTEP_SEED", "9")
	if got := seeds(); !slices.Equal(got, []uint64{9}) {
		t.Errorf("with LOCKSTEP_SEED: %v", got)
	}
}
