package volume

import (
	"github.com/tidwall/btree"

	"lockstep/block"
	"lockstep/wal"
)

// dirty is what a range of blocks holds that the base image does not have yet.
type dirty struct {
	count    uint64 // blocks
	lsn      block.LSN
	kind     wal.RecordType // RecordWrite, RecordZero or RecordTrim
	skip     uint32         // blocks of the record before the first one; of a write only
	position wal.Position   // of the first block's data in the log; of a write only
}

// dirtyIndex maps ranges of blocks to their newest change. Its ranges never overlap; a change of any length is one
// entry. It has no lock of its own.
type dirtyIndex struct {
	blockBytes int64
	tree       btree.Map[uint64, dirty] // by first block
	blocks     uint64                   // in all ranges
	dataBlocks uint64                   // in those of writes
}

func newDirtyIndex(blockBytes int64) *dirtyIndex { return &dirtyIndex{blockBytes: blockBytes} }

// len returns the number of entries.
func (x *dirtyIndex) len() int { return x.tree.Len() }

// count notes that the index has n more, or with -n fewer, blocks of that kind.
func (x *dirtyIndex) count(kind wal.RecordType, n uint64) {
	x.blocks += n
	if kind == wal.RecordWrite {
		x.dataBlocks += n
	}
}

// tailOf returns what is left of an entry that starts at start from block at on.
func (x *dirtyIndex) tailOf(start uint64, d dirty, at uint64) dirty {
	d.count -= at - start
	if d.kind == wal.RecordWrite {
		d.skip += uint32(at - start)
		d.position.Offset += int64(at-start) * x.blockBytes
	}
	return d
}

// put makes d the newest change of its blocks. Entries it covers go, entries it cuts keep the rest.
func (x *dirtyIndex) put(start uint64, d dirty) {
	end := start + d.count
	if at, before, ok := x.before(start); ok && at+before.count > start {
		old := at + before.count
		if old > end {
			x.tree.Set(end, x.tailOf(at, before, end))
		}
		x.count(before.kind, -(min(old, end) - start))
		before.count = start - at
		x.tree.Set(at, before)
	}
	for {
		at, covered, ok := x.from(start)
		if !ok || at >= end || at == start && covered.count == d.count { // the last is replaced below
			break
		}
		x.tree.Delete(at)
		x.count(covered.kind, -(min(at+covered.count, end) - at))
		if at+covered.count > end {
			x.tree.Set(end, x.tailOf(at, covered, end))
			break
		}
	}
	if same, replaced := x.tree.Set(start, d); replaced {
		x.count(same.kind, -same.count)
	}
	x.count(d.kind, d.count)
}

// popMin takes the first entry out.
func (x *dirtyIndex) popMin() (start uint64, d dirty, ok bool) {
	start, d, ok = x.tree.PopMin()
	if ok {
		x.count(d.kind, -d.count)
	}
	return start, d, ok
}

// before returns the last entry that starts before block b.
func (x *dirtyIndex) before(b uint64) (start uint64, d dirty, ok bool) {
	if b == 0 {
		return 0, dirty{}, false
	}
	x.tree.Descend(b-1, func(k uint64, v dirty) bool {
		start, d, ok = k, v, true
		return false
	})
	return start, d, ok
}

// from returns the first entry that starts at block b or later.
func (x *dirtyIndex) from(b uint64) (start uint64, d dirty, ok bool) {
	x.tree.Ascend(b, func(k uint64, v dirty) bool {
		start, d, ok = k, v, true
		return false
	})
	return start, d, ok
}

// visit calls hit for each part of r that has an entry, cut to r, and miss for each part that has none, in order.
func (x *dirtyIndex) visit(r block.Range, hit func(start uint64, d dirty), miss func(block.Range)) {
	at, end := r.Start, r.End()
	step := func(start uint64, d dirty) bool {
		if start >= end {
			return false
		}
		if start < at {
			d, start = x.tailOf(start, d, at), at
		}
		if start > at {
			miss(block.Range{Start: at, Count: start - at})
		}
		d.count = min(d.count, end-start)
		hit(start, d)
		at = start + d.count
		return at < end
	}
	if start, d, ok := x.before(at); ok && start+d.count > at {
		if !step(start, d) {
			return
		}
	}
	x.tree.Ascend(at, step)
	if at < end {
		miss(block.Range{Start: at, Count: end - at})
	}
}

// each calls fn for all entries in order of their blocks, from block b on, until it returns false.
func (x *dirtyIndex) each(b uint64, fn func(start uint64, d dirty) bool) { x.tree.Ascend(b, fn) }
