package volume

import (
	"sync"

	"lockstep/block"
	"lockstep/wal"
)

// index is what the volume holds beyond its base image, newest first: active takes new changes, frozen is what a
// checkpoint is moving to the base image, and pending are zeroes that a slow device does not have yet.
type index struct {
	sync.RWMutex
	active  *dirtyIndex
	frozen  *dirtyIndex // nil while no checkpoint has begun; while one runs it never changes
	pending *dirtyIndex // zeroes only
	// bytes is what the active entries take in the log, covered ones included.
	bytes int64
}

// part is a range of blocks that is found in one place.
type part struct {
	block.Range
	kind    wal.RecordType // 0 means the base image
	segment *wal.Segment   // of a write; pinned
	offset  int64          // of its data in the segment
}

// lookup collects where the blocks of a range are.
type lookup struct {
	log   *wal.Log
	parts []part
}

func (l *lookup) hit(start uint64, d dirty) {
	p := part{Range: block.Range{Start: start, Count: d.count}, kind: d.kind}
	if d.kind == wal.RecordWrite {
		p.segment, p.offset = l.log.Pin(d.position.Segment), d.position.Offset
	}
	l.parts = append(l.parts, p)
}

func (l *lookup) miss(r block.Range) { l.parts = append(l.parts, part{Range: r}) }

// release unpins what find pinned.
func (l *lookup) release() {
	for i := range l.parts {
		if s := l.parts[i].segment; s != nil {
			s.Unpin()
		}
	}
	if cap(l.parts) > maxKeptParts {
		l.parts = nil
		return
	}
	clear(l.parts)
	l.parts = l.parts[:0]
}

// maxKeptParts is the longest list that is kept for the next lookup.
const maxKeptParts = 4096

// find fills l with the places of r's blocks, in order. Looking up and pinning is one step (L8): a segment is
// reclaimed only after its entries left the index, which takes the lock.
func (x *index) find(l *lookup, r block.Range) {
	x.RLock()
	defer x.RUnlock()
	x.active.visit(r, l.hit, func(r block.Range) {
		if x.frozen == nil {
			x.findPending(l, r)
			return
		}
		x.frozen.visit(r, l.hit, func(r block.Range) { x.findPending(l, r) })
	})
}

func (x *index) findPending(l *lookup, r block.Range) {
	if x.pending.len() == 0 {
		l.miss(r)
		return
	}
	x.pending.visit(r, l.hit, l.miss)
}

// publish makes the appended records visible. The caller holds Volume.mu.
func (x *index) publish(records []wal.Change) {
	x.Lock()
	defer x.Unlock()
	for i := range records {
		r := &records[i]
		kind := r.Type
		if kind == wal.RecordEpochStart {
			continue // it touches no block
		}
		if kind == wal.RecordResize {
			kind = wal.RecordTrim // which it is to what it touches
		}
		x.active.put(r.Range.Start, dirty{count: r.Range.Count, lsn: r.LSN, kind: kind, position: r.Position})
		x.bytes += int64(wal.RecordHeaderBytes + len(r.Payload))
	}
}

// load returns how many active entries there are and what they take in the log.
func (x *index) load() (entries int, bytes int64) {
	x.RLock()
	defer x.RUnlock()
	return x.active.len(), x.bytes
}

// thawSlice is how many entries thaw moves under one hold of the lock.
const thawSlice = 1024

// thaw undoes the freeze of entries that take so many bytes in the log: what is frozen is overlaid with what is active,
// in slices, so that nobody waits long for the lock. At any moment active is newer than frozen.
func (x *index) thaw(bytes int64) {
	for !x.thawSome(thawSlice) {
	}
	x.Lock()
	defer x.Unlock()
	x.bytes += bytes
}

// thawSome moves at most n active entries; done says that nothing is frozen any more.
func (x *index) thawSome(n int) (done bool) {
	x.Lock()
	defer x.Unlock()
	for ; n > 0; n-- {
		start, d, ok := x.active.popMin()
		if !ok {
			x.active, x.frozen = x.frozen, nil
			return true
		}
		x.frozen.put(start, d)
	}
	return false
}
