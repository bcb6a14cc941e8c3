package replication

import (
	"math/rand/v2"
	"slices"
	"testing"

	"lockstep/block"
)

// testTracker has a, the primary, and b in sync, both durable to 10.
func testTracker(minCopies int) *Tracker {
	t := NewTracker("a", minCopies)
	t.InForce(1, []string{"a", "b"})
	t.Durable("a", 10)
	t.Durable("b", 10)
	return t
}

func wantCommitted(t *testing.T, tr *Tracker, what string, want block.LSN) {
	t.Helper()
	if got := tr.Committed(); got != want {
		t.Errorf("%s: committed is %d, want %d (%s)", what, got, want, tr)
	}
}

// TestS10Committed: the least durable LSN over the in-sync set, the primary included; over the larger set while a change is
// pending; never decreasing.
func TestS10Committed(t *testing.T) {
	tr := NewTracker("a", 1)
	tr.Durable("a", 5)
	wantCommitted(t, tr, "no configuration", 0)
	tr.InForce(1, []string{"b", "a"})
	wantCommitted(t, tr, "b not heard of", 0)
	tr.Durable("b", 9)
	wantCommitted(t, tr, "b is ahead", 5)
	tr.Durable("a", 12)
	wantCommitted(t, tr, "b is behind", 9)
	tr.Durable("c", 20)
	wantCommitted(t, tr, "c is not waited for", 9)
	tr.Durable("b", 3)
	wantCommitted(t, tr, "b goes back", 9)
	tr.Propose([]string{"a"})
	tr.Durable("a", 15)
	wantCommitted(t, tr, "b is to go", 9)
	if tr.InForce(1, []string{"a"}) {
		t.Error("an old version is taken")
	}
	wantCommitted(t, tr, "an old configuration", 9)
	if !tr.InForce(2, []string{"a"}) {
		t.Error("a new version is not taken")
	}
	wantCommitted(t, tr, "b is gone", 15)
	tr.Lost("b")
	tr.Propose([]string{"a", "b"})
	tr.Durable("a", 30)
	wantCommitted(t, tr, "b is to come", 15)
	tr.Durable("b", 12)
	wantCommitted(t, tr, "b comes", 15)
	tr.Durable("b", 18)
	wantCommitted(t, tr, "b came", 18)
	tr.InForce(3, []string{"b"})
	tr.Durable("b", 40)
	wantCommitted(t, tr, "the primary is not in the configuration", 18)
}

// TestS3Admission: set {P}, C's session has target 100 and C is durable to 100; flushes up to 105 were acknowledged without
// it. It is admissible only once it has these, and what is acknowledged from the proposal on it has as well.
func TestS3Admission(t *testing.T) {
	tr := NewTracker("p", 1)
	tr.InForce(1, []string{"p"})
	tr.Durable("c", 100)
	tr.Durable("p", 105)
	wantCommitted(t, tr, "without c", 105)
	tr.Durable("d", 105)
	if tr.Admissible("d") {
		t.Error("d is admissible, and flushes do not wait for it")
	}
	tr.Propose([]string{"p", "c"})
	if tr.Admissible("c") {
		t.Error("c is admissible without 101 to 105")
	}
	ticket := tr.Wait(110)
	tr.Durable("p", 110)
	if len(tr.Answered()) > 0 {
		t.Error("a flush is acknowledged without c")
	}
	tr.Durable("c", 104)
	if tr.Admissible("c") {
		t.Error("c is admissible without 105")
	}
	tr.Durable("c", 105)
	if !tr.Admissible("c") || tr.Admissible("p") || tr.Admissible("d") {
		t.Error("c is not admissible, or somebody else is")
	}
	tr.Lost("c")
	if tr.Admissible("c") {
		t.Error("c is admissible without being there")
	}
	tr.Durable("c", 110)
	if got := tr.Answered(); !slices.Equal(got, []Ticket{ticket}) || !tr.Admissible("c") {
		t.Errorf("answered %v", got)
	}
	tr.InForce(2, []string{"p", "c"})
	tr.Durable("p", 120)
	wantCommitted(t, tr, "with c", 110)
}

// TestS4MinCopies: m=2, in sync {a, b}; b dies, and the set shrinks to {a}: the pending flush is not acknowledged, also not
// one that was committed in between; once there are two again both are.
func TestS4MinCopies(t *testing.T) {
	tr := testTracker(2)
	first, second := tr.Wait(10), tr.Wait(11)
	tr.Durable("a", 11)
	tr.InForce(2, []string{"a"})
	if got := tr.Answered(); len(got) > 0 || !tr.Below() {
		t.Errorf("answered %v below m", got)
	}
	wantCommitted(t, tr, "below m", 10)
	tr.Propose([]string{"a", "c"})
	tr.Durable("c", 11)
	if got := tr.Answered(); len(got) > 0 {
		t.Errorf("answered %v before c counts", got)
	}
	tr.InForce(3, []string{"a", "c"})
	if got := tr.Answered(); !slices.Equal(got, []Ticket{first, second}) {
		t.Errorf("answered %v with c", got)
	}
	tr.Durable("a", 12)
	tr.Durable("c", 12)
	third := tr.Wait(12)
	tr.SetMinCopies(3)
	if got := tr.Answered(); len(got) > 0 {
		t.Errorf("answered %v after m was raised", got)
	}
	tr.SetMinCopies(1)
	if got := tr.Answered(); !slices.Equal(got, []Ticket{third}) {
		t.Errorf("answered %v after m was lowered", got)
	}
}

// TestTrackerBarriers: replicas are asked once for what is waited for, and not for what they have.
func TestTrackerBarriers(t *testing.T) {
	tr := testTracker(1)
	if lsn, ok := tr.Barrier(); ok {
		t.Errorf("barrier at %d for nobody", lsn)
	}
	tr.Wait(9)
	if lsn, ok := tr.Barrier(); ok {
		t.Errorf("barrier at %d for what is committed", lsn)
	}
	ticket := tr.Wait(20)
	tr.Wait(15)
	if lsn, ok := tr.Barrier(); !ok || lsn != 20 || tr.Pending() != 20 {
		t.Errorf("barrier at %d, %v", lsn, ok)
	}
	if lsn, ok := tr.Barrier(); ok {
		t.Errorf("barrier at %d again", lsn)
	}
	tr.Forget(ticket)
	if tr.Pending() != 15 {
		t.Errorf("pending %d after the newest is forgotten", tr.Pending())
	}
	tr.Durable("a", 20)
	tr.Durable("b", 20)
	if got := tr.Answered(); len(got) != 2 {
		t.Errorf("answered %v", got)
	}
}

// TestTrackerRandom: whatever happens in whatever order, a flush is answered only when every copy that it had to wait for
// since it was asked has it, and is answered when they have. The model keeps the sets of each moment and nothing else.
func TestTrackerRandom(t *testing.T) {
	ids := []string{"a", "b", "c", "d"}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		tr := NewTracker("a", 1+rng.IntN(2))
		var version uint64
		force, proposed := []string(nil), []string(nil)
		durable, waits := map[string]block.LSN{}, map[Ticket]block.LSN{}
		committed := block.LSN(0)
		some := func() []string {
			set := []string{"a"}
			for _, id := range ids[1:] {
				if rng.IntN(2) == 0 {
					set = append(set, id)
				}
			}
			return set
		}
		for range 200 {
			switch id := ids[rng.IntN(4)]; rng.IntN(9) {
			case 0:
				version++
				force, proposed = some(), nil
				if old := uint64(rng.IntN(int(version))); tr.InForce(old, ids) {
					t.Fatalf("seed %d: configuration %d is taken after %d", seed, old, version-1)
				}
				tr.InForce(version, force)
			case 1:
				next := some()
				proposed = append(proposed, next...)
				tr.Propose(next)
			case 2:
				tr.Lost(id)
				delete(durable, id)
			case 3:
				lsn := committed + block.LSN(rng.IntN(9))
				waits[tr.Wait(lsn)] = lsn
			default:
				lsn := block.LSN(rng.IntN(5)) + durable[id]
				tr.Durable(id, lsn)
				if lsn > 0 {
					durable[id] = lsn
				}
			}
			below := len(force) < tr.minCopies
			if !below {
				least := durable["a"]
				for _, id := range append(slices.Clone(force), proposed...) {
					least = min(least, durable[id])
				}
				committed = max(committed, least)
			}
			wantCommitted(t, tr, "after a step", committed)
			for _, ticket := range tr.Answered() {
				if below || waits[ticket] > committed {
					t.Fatalf("seed %d: %d is answered, %s", seed, waits[ticket], tr)
				}
				delete(waits, ticket)
			}
			for _, lsn := range waits {
				if !below && lsn <= committed {
					t.Fatalf("seed %d: %d is not answered, %s", seed, lsn, tr)
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}
