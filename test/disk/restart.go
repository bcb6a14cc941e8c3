package disk

import (
	"cmp"
	"maps"
	"slices"
)

// Recover cuts the power, unless a Plan has, and turns it on again: of what was not synced, there is what the choice
// kept. Whatever was open fails with ErrCrashed from here on.
func (d *Disk) Recover(c Choice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.finishLocked()
	survivors := d.unsyncedLocked()
	fates, coin := c.fates(d.rng, len(survivors))
	for i, s := range survivors {
		*s.fate = fates[i]
	}
	for _, n := range d.inodes {
		if n != nil {
			n.powerCut(coin)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.dirs)) {
		d.dirs[name].powerCut(d.rng, c.random(), d.unordered)
	}
	d.dropUnlinkedLocked()
	d.restartLocked("power cut, " + c.String())
}

// Kill ends the process, as kill -9 does, in the middle of an operation where a Plan crashed there; the page cache
// stays. What was written is there for the next process, but no more durable than it was. Whatever was open fails with
// ErrCrashed from here on.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.inflight; a != nil {
		sectors := (a.parts() + SectorSize - 1) / SectorSize
		part := d.rng.Int64N(sectors+1) * SectorSize
		_, _ = d.performLocked(a, min(part, a.parts())) // where there was no room, what fits
	}
	d.restartLocked("kill")
}

func (d *Disk) restartLocked(note string) {
	d.life++
	d.crashed, d.inflight = false, nil
	clear(d.handles)
	d.trace.add(step{note: note})
}

// finishLocked puts the operation that the power cut fell into into the page cache: Choice says how much of that
// survives.
func (d *Disk) finishLocked() {
	if a := d.inflight; a != nil {
		_, _ = d.performLocked(a, a.parts()) // where there was no room, what fits
		d.inflight = nil
	}
}

// Pending returns the number of changes that a power cut can lose here, those of the operation it fell into included.
func (d *Disk) Pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inflight == nil {
		return len(d.unsyncedLocked())
	}
	c := d.cloneLocked()
	c.finishLocked()
	return len(c.unsyncedLocked())
}

// unsynced is one change a power cut may lose.
type unsynced struct {
	seq  int
	fate *fate
}

// unsyncedLocked lists what a power cut may lose, in the order it was done.
func (d *Disk) unsyncedLocked() []unsynced {
	var all []unsynced
	for _, n := range d.inodes {
		if n == nil {
			continue
		}
		for i := range n.pending {
			if w := &n.pending[i]; w.state != synced {
				all = append(all, unsynced{w.seq, &w.fate})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.dirs)) {
		dir := d.dirs[name]
		for i := range dir.pending {
			all = append(all, unsynced{dir.pending[i].seq, &dir.pending[i].fate})
		}
	}
	slices.SortStableFunc(all, func(a, b unsynced) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// dropUnlinkedLocked forgets the files that no directory names, right after a power cut, when nothing is open.
func (d *Disk) dropUnlinkedLocked() {
	linked := map[int]bool{}
	for _, id := range d.bases {
		linked[id] = true
	}
	for _, dir := range d.dirs {
		for _, id := range dir.entries {
			linked[id] = true
		}
	}
	for id := range d.inodes {
		if !linked[id] {
			d.inodes[id] = nil
		}
	}
}
