package disk

import "fmt"

// fewPending is up to how many unsynced changes every subset of them is tried.
const fewPending = 4

// exhaustive crashes Run at each operation. It returns the number of lives it went through.
func (h *History) exhaustive(seed uint64) (lives int, err error) {
	c, err := h.start(seed)
	if err != nil {
		return 0, err
	}
	return h.crashEach(c, "run", h.Run, max(h.Depth, 1))
}

// crashEach runs part, from where the case stands, once for each of its operations and once to its end.
func (h *History) crashEach(from *Case, name string, part func(*Case) error, depth int) (lives int, err error) {
	start := from.Disk.Ops()
	for k := 1; ; k++ {
		c := from.fork()
		c.steps = append(c.steps, fmt.Sprintf("%s with a crash at operation %d", name, start+k))
		c.Disk.SetPlan(CrashAt(start + k))
		if err := c.live(name, part, nil); err != nil {
			return lives, err
		}
		for _, e := range endings(c.Disk.Pending(), depth < max(h.Depth, 1)) {
			n, err := h.recoverEach(c, e, depth)
			lives += n
			if err != nil {
				return lives, err
			}
		}
		if !c.Disk.Crashed() {
			return lives, nil
		}
	}
}

// recoverEach lets Recover follow an ending of the case: undisturbed, and with more crashes if depth allows.
func (h *History) recoverEach(from *Case, e ending, depth int) (lives int, err error) {
	c := from.fork()
	c.end(e)
	if depth > 1 {
		if lives, err = h.crashEach(c, "recover", h.Recover, depth-1); err != nil {
			return lives, err
		}
	}
	return lives + 1, h.recoverTwice(c)
}

// recoverTwice lets Recover run twice, with a power cut between that keeps nothing: what the first has found or
// flushed is there for the second.
func (h *History) recoverTwice(c *Case) error {
	if err := c.live("recover", h.Recover, nil); err != nil {
		return err
	}
	c.end(ending{choice: KeepNone()})
	return c.live("recover again", h.Recover, nil)
}

// endings lists how a process with that many unsynced changes may end; few of them for a second crash.
func endings(pending int, few bool) []ending {
	all := []ending{{kill: true}, {choice: KeepNone()}, {choice: KeepSectors()}}
	if few {
		return all
	}
	all = append(all, ending{choice: KeepAll()}, ending{choice: KeepLater()}, ending{choice: KeepWrites()})
	if pending <= fewPending {
		for bits := uint64(1); bits+1 < 1<<pending; bits++ {
			all = append(all, ending{choice: KeepSubset(bits)})
		}
	}
	return all
}

// faults fails each operation of Run with the error.
func (h *History) faults(seed uint64, fault error) (lives int, err error) {
	from, err := h.start(seed)
	if err != nil {
		return 0, err
	}
	start := from.Disk.Ops()
	for k := 1; ; k++ {
		c := from.fork()
		c.steps = append(c.steps, fmt.Sprintf("run with %v at operation %d", fault, start+k))
		c.Disk.SetPlan(FailAt(start+k, fault))
		if err := c.live("run", h.Run, fault); err != nil {
			return lives, err
		}
		for _, e := range endings(c.Disk.Pending(), false) {
			f := c.fork()
			f.end(e)
			lives++
			if err := h.recoverTwice(f); err != nil {
				return lives, err
			}
		}
		if c.Disk.Ops() < start+k {
			return lives, nil
		}
	}
}

// random goes through a life of up to four crashes.
func (h *History) random(seed uint64) error {
	c, err := h.start(seed)
	if err != nil {
		return err
	}
	name, part := "run", h.Run
	for crashes := 1 + c.Rand.IntN(4); crashes > 0; crashes-- {
		ops, err := h.measure(c, name, part)
		if err != nil {
			return err
		}
		at := c.Disk.Ops() + 1 + c.Rand.IntN(ops+1) // one beyond: after the last
		c.steps = append(c.steps, fmt.Sprintf("%s with a crash at operation %d", name, at))
		c.Disk.SetPlan(CrashAt(at))
		if err := c.live(name, part, nil); err != nil {
			return err
		}
		all := endings(c.Disk.Pending(), false)
		c.end(all[c.Rand.IntN(len(all))])
		name, part = "recover", h.Recover
	}
	return h.recoverTwice(c)
}

// measure counts the operations of a part of the history, on a copy.
func (h *History) measure(from *Case, name string, part func(*Case) error) (ops int, err error) {
	c := from.fork()
	if err := c.live(name, part, nil); err != nil {
		return 0, err
	}
	return c.Disk.Ops() - from.Disk.Ops(), nil
}
