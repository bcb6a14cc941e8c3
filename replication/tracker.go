package replication

import (
	"cmp"
	"fmt"
	"slices"

	"lockstep/block"
)

// Tracker decides what is committed (S10), in one epoch of a primary: the least durable LSN over all copies that flushes
// wait for. These are the in-sync set of the configuration in force, and, while a change of it is under way, those of the
// set that is to follow too.
//
// To admit a replica (S3): Propose the set with it, from when on flushes wait for it; when it is Admissible, have the
// configuration changed; once that is durable in the store, InForce. To drop one: have the configuration changed, then
// InForce; until then flushes wait for it.
//
// Invariant: committed never decreases; no waiter is answered above it, nor while the set in force is below minCopies (S4)
// or without the primary.
type Tracker struct {
	self      string
	minCopies int
	version   uint64
	inForce   []string
	proposed  []string
	durable   map[string]block.LSN // of each that was ever heard of; only looked up, never ranged over
	committed block.LSN
	waiters   []waiter // by LSN
	tickets   Ticket
	asked     block.LSN // newest LSN that a barrier was returned for
}

// Ticket is a wait for an LSN to be committed.
type Ticket uint64

type waiter struct {
	lsn    block.LSN
	ticket Ticket
}

// NewTracker returns the tracker of a primary, of the ID self, before any configuration is in force: nothing is committed.
func NewTracker(self string, minCopies int) *Tracker {
	return &Tracker{self: self, minCopies: minCopies, durable: map[string]block.LSN{}}
}

// InForce tells that a configuration with this in-sync set, the primary included, is durable in the store. It ends what was
// proposed: who still waits to be admitted is proposed anew. It reports whether the version is newer than any before; an older one changes nothing (S23).
func (t *Tracker) InForce(version uint64, inSync []string) bool {
	if version <= t.version {
		return false
	}
	t.version, t.inForce, t.proposed, t.asked = version, sorted(inSync), nil, 0
	t.advance()
	return true
}

// Propose tells that a set is to follow, the primary included: from now on flushes wait for those of both. It holds until
// InForce, also where it is not known whether the store took the change.
func (t *Tracker) Propose(inSync []string) {
	t.proposed, t.asked = sorted(append(slices.Clone(inSync), t.proposed...)), 0
}

func sorted(set []string) []string {
	set = slices.Clone(set)
	slices.Sort(set)
	return slices.Compact(set)
}

// SetMinCopies changes how many copies have to be in sync.
func (t *Tracker) SetMinCopies(n int) {
	t.minCopies = n
	t.advance()
}

// Waited returns the copies that flushes wait for, the primary included, in order.
func (t *Tracker) Waited() []string { return sorted(append(slices.Clone(t.inForce), t.proposed...)) }

// Durable tells that a copy has every record of this primary's log up to an LSN on stable storage: its own word for its own
// log, an Ack of the log lane for another's.
func (t *Tracker) Durable(id string, lsn block.LSN) {
	if lsn > t.durable[id] {
		t.durable[id] = lsn
		t.advance()
	}
}

// Lost tells that a copy may not be what it was: its connection ended. It counts for nothing until it is heard of again.
func (t *Tracker) Lost(id string) {
	delete(t.durable, id)
	t.asked = 0
}

// Below tells whether too few copies are in sync to acknowledge anything (S4).
func (t *Tracker) Below() bool {
	_, member := slices.BinarySearch(t.inForce, t.self)
	return !member || len(t.inForce) < t.minCopies
}

// Admissible tells whether a copy that is proposed, and not in force, has everything that was ever acknowledged: flushes
// wait for it, so that it will have all that is acknowledged from now on too (S3).
func (t *Tracker) Admissible(id string) bool {
	durable, heard := t.durable[id]
	return heard && durable >= t.committed && slices.Contains(t.proposed, id) && !slices.Contains(t.inForce, id)
}

// Committed returns the newest committed LSN.
func (t *Tracker) Committed() block.LSN { return t.committed }

func (t *Tracker) advance() {
	if t.Below() {
		return
	}
	least := t.durable[t.self]
	for _, id := range t.Waited() {
		least = min(least, t.durable[id])
	}
	t.committed = max(t.committed, least)
}

// Wait returns a ticket that Answered returns once the LSN is committed.
func (t *Tracker) Wait(lsn block.LSN) Ticket {
	t.tickets++
	w := waiter{lsn: lsn, ticket: t.tickets}
	at, _ := slices.BinarySearchFunc(t.waiters, w, func(a, b waiter) int {
		return cmp.Or(cmp.Compare(a.lsn, b.lsn), cmp.Compare(a.ticket, b.ticket))
	})
	t.waiters = slices.Insert(t.waiters, at, w)
	return w.ticket
}

// Forget ends a wait.
func (t *Tracker) Forget(ticket Ticket) {
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool { return w.ticket == ticket })
}

// Answered returns the waits that are over, by LSN. Below min-copies there are none, also of what is committed already.
func (t *Tracker) Answered() []Ticket {
	if t.Below() {
		return nil
	}
	var over []Ticket
	for len(t.waiters) > 0 && t.waiters[0].lsn <= t.committed {
		over = append(over, t.waiters[0].ticket)
		t.waiters = t.waiters[1:]
	}
	return over
}

// Barrier returns an LSN that replicas have to be asked to make durable; false where everything that is waited for was
// asked for, since the copies that are waited for, and their connections, have been these.
func (t *Tracker) Barrier() (block.LSN, bool) {
	if len(t.waiters) == 0 {
		return 0, false
	}
	newest := t.waiters[len(t.waiters)-1].lsn
	if newest <= t.asked || newest <= t.committed {
		return 0, false
	}
	t.asked = newest
	return newest, true
}

// Pending returns the newest LSN that is waited for, 0 for none: what a replica is asked for that is connected anew.
func (t *Tracker) Pending() block.LSN {
	if len(t.waiters) == 0 {
		return 0
	}
	return t.waiters[len(t.waiters)-1].lsn
}

// String says where the tracker stands, for errors and status.
func (t *Tracker) String() string {
	s := fmt.Sprintf("committed %d, configuration %d", t.committed, t.version)
	for _, id := range t.Waited() {
		s += fmt.Sprintf(", %s durable to %d", id, t.durable[id])
	}
	return s
}
