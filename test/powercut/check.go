package main

import (
	"fmt"
	"slices"
)

// errLost is a volume that no power cut may leave behind.
type errLost struct {
	connection int
	why        string
}

func (e *errLost) Error() string { return fmt.Sprintf("connection %d: %s", e.connection, e.why) }

// prefix is what is there of the changes of a connection: the first n, and where started is set, the first records of the
// next one, too.
type prefix struct {
	n       int
	started bool
}

// pieces returns the sectors, from and to, that each record of a change has: a block of which a part is changed has one of
// its own, and so have the whole blocks between two of these. A crash may keep the first records of a request that was not
// flushed (L11).
func pieces(c change) (all [][2]int) {
	end := c.Begin + c.Size
	head := min(end, (c.Begin+blockSectors-1)/blockSectors*blockSectors)
	tail := max(head, end/blockSectors*blockSectors)
	for _, p := range [][2]int{{c.Begin, head}, {head, tail}, {tail, end}} {
		if p[0] < p[1] {
			all = append(all, p)
		}
	}
	return all
}

// model is a region while changes are made to it, beside what was found in it.
type model struct {
	now, found []int // for each sector the number of the change that wrote it, 0 where it is zero
	differ     int   // sectors that are not as found
}

// apply makes a piece of a change.
func (m *model) apply(p [2]int, stamp int) {
	for i := p[0]; i < p[1]; i++ {
		if m.now[i] != m.found[i] {
			m.differ--
		}
		m.now[i] = stamp
		if m.now[i] != m.found[i] {
			m.differ++
		}
	}
}

// prefixes returns all those that make found of a region of zeroes, in order. nearest is the number of changes that comes
// nearest, and wrong how many sectors are otherwise then.
func prefixes(changes []change, found []int) (all []prefix, nearest, wrong int) {
	m := model{make([]int, len(found)), found, 0}
	for _, stamp := range found {
		if stamp != 0 {
			m.differ++
		}
	}
	wrong = m.differ
	look := func(n int, started bool) {
		if m.differ == 0 {
			all = append(all, prefix{n, started})
		}
		if m.differ < wrong {
			nearest, wrong = n, m.differ
		}
	}
	look(0, false)
	for i, c := range changes {
		stamp := 0
		if c.Kind == kindWrite {
			stamp = i + 1
		}
		for j, p := range pieces(c) {
			if j > 0 {
				look(i, true)
			}
			m.apply(p, stamp)
		}
		look(i+1, false)
	}
	return all, nearest, wrong
}

// check returns up to which change of each connection a volume has them, or an *errLost. found has the stamps of each
// region, required the changes that must be there.
func (h *history) check(found [connections][]int, required vector) (vector, error) {
	var possible [connections][]prefix
	for c := range possible {
		all, nearest, wrong := prefixes(h[c], found[c])
		if len(all) == 0 {
			return vector{}, &errLost{c, fmt.Sprintf("its part is not what its changes up to any of them made of it; "+
				"nearest is change %d, with %d other sectors", nearest, wrong)}
		}
		possible[c] = all
	}
	return h.agree(possible, required)
}

// agree returns the least of what is possible that holds all that is required, and with each change all those that were
// acknowledged before it was sent.
func (h *history) agree(possible [connections][]prefix, required vector) (vector, error) {
	var has vector
	var cause [connections]string
	for c := range cause {
		has[c] = -1
		cause[c] = "a flush or FUA was acknowledged for it"
	}
	for raised := true; raised; {
		raised = false
		for c := range has {
			if has[c] >= required[c] {
				continue
			}
			i := slices.IndexFunc(possible[c], func(p prefix) bool { return p.n >= required[c] })
			if i < 0 {
				last := possible[c][len(possible[c])-1]
				return vector{}, &errLost{c, fmt.Sprintf("change %d has to be there, because %s; but only those up to %d are",
					required[c], cause[c], last.n)}
			}
			p := possible[c][i]
			has[c], raised = p.n, true
			for other, number := range h.after(c, p) {
				if number > required[other] {
					required[other] = number
					cause[other] = fmt.Sprintf("what connection %d sent after change %d is", c, p.n)
				}
			}
		}
	}
	return has, nil
}

// after returns what had been acknowledged when the last change was sent that a prefix has something of.
func (h *history) after(connection int, p prefix) vector {
	last := p.n
	if p.started {
		last++
	}
	if last == 0 {
		return vector{}
	}
	return h[connection][last-1].After
}
