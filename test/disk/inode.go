package disk

// inode is one file's content: as a process sees it, and as it is on stable storage.
//
// Invariant: durable with all pending writes applied in order reads as cache does.
type inode struct {
	id          int
	fixed       bool // a base: only Resize changes its size
	size        int64
	durableSize int64
	cache       content
	durable     content
	pending     []write
	bad         []badRange
}

// badRange is a range of bytes whose reads fail.
type badRange struct {
	off, length int64
	err         error
}

func (n *inode) clone() *inode {
	c := *n
	c.cache, c.durable = n.cache.clone(), n.durable.clone()
	c.pending = append([]write(nil), n.pending...)
	c.bad = append([]badRange(nil), n.bad...)
	return &c
}

// readError returns the error planted in the range, and where it begins.
func (n *inode) readError(off, length int64) (at int64, err error) {
	for _, b := range n.bad {
		if off < b.off+b.length && b.off < off+length {
			return max(off, b.off), b.err
		}
	}
	return 0, nil
}

// write takes the first limit bytes of bufs.
func (n *inode) write(seq int, bufs [][]byte, off, limit int64) {
	if limit == 0 {
		return
	}
	n.grow(seq, off+limit)
	end := off
	for _, p := range bufs {
		p = p[:min(int64(len(p)), off+limit-end)]
		n.cache.write(p, end)
		end += int64(len(p))
	}
	n.pending = append(n.pending, n.versions(seq, off, limit))
}

func (n *inode) grow(seq int, size int64) {
	if size <= n.size {
		return
	}
	n.size = size
	n.pending = append(n.pending, write{seq: seq, kind: growth, size: size})
}

func (n *inode) resize(seq int, size int64) {
	if size >= n.size {
		n.grow(seq, size)
		return
	}
	n.size = size
	n.cache.truncate(size)
	n.pending = append(n.pending, write{seq: seq, kind: truncation, size: size})
}

// journalled tells what a failed sync does not give up: size and space.
func (w *write) journalled() bool {
	return w.kind == growth || w.kind == truncation || w.kind == reservation
}

// zero zeroes a range; whole pages become fill.
func (n *inode) zero(seq int, off, length int64, fill *page) {
	if length == 0 {
		return
	}
	n.cache.zero(off, length, fill)
	head, tail := inner(off, length)
	if head >= tail {
		n.pending = append(n.pending, n.versions(seq, off, length))
		return
	}
	if edge := head*pageSize - off; edge > 0 {
		n.pending = append(n.pending, n.versions(seq, off, edge))
	}
	n.pending = append(n.pending, write{seq: seq, kind: uniform, first: head * pageSectors, end: tail * pageSectors, fill: fill})
	if edge := off + length - tail*pageSize; edge > 0 {
		n.pending = append(n.pending, n.versions(seq, tail*pageSize, edge))
	}
}

func (n *inode) reserve(seq int, off, length int64) {
	if length == 0 {
		return
	}
	if !n.fixed {
		n.grow(seq, off+length)
	}
	first, end := off/pageSize, (off+length+pageSize-1)/pageSize
	n.cache.reserve(first, end)
	n.pending = append(n.pending, write{seq: seq, kind: reservation, first: first * pageSectors, end: end * pageSectors})
}

// versions is the pending write for a range that has just been changed in the cache.
func (n *inode) versions(seq int, off, length int64) write {
	w := write{seq: seq, kind: data, first: off / SectorSize, end: (off + length + SectorSize - 1) / SectorSize}
	first, end := w.pageRange()
	w.pages = make([]*page, 0, end-first)
	for i := first; i < end; i++ {
		w.pages = append(w.pages, n.cache.page(i))
	}
	return w
}

// sync makes what is dirty durable. What an earlier failed sync gave up stays given up.
func (n *inode) sync() {
	abandoned := false
	for i := range n.pending {
		if w := &n.pending[i]; w.state == dirty {
			w.state = synced
		} else if w.state == lost {
			abandoned = true
		}
	}
	if !abandoned {
		n.durable, n.durableSize, n.pending = n.cache.clone(), n.size, nil
		return
	}
	// Synced writes stay in the list behind a lost one, so that this one cannot cover them after a power cut. Size and
	// space are journalled and cover nothing.
	kept := n.pending[:0:0]
	for _, w := range n.pending {
		if w.state == synced && (w.journalled() || len(kept) == 0) {
			n.land(w, nil)
			continue
		}
		kept = append(kept, w)
	}
	n.pending = kept
}

// failSync does what Linux does: the pages stay in the cache and are clean, so no later sync writes them. Size and
// space are in the journal, which is tried again.
func (n *inode) failSync() {
	for i := range n.pending {
		if w := &n.pending[i]; w.state == dirty && !w.journalled() {
			w.state = lost
		}
	}
}

// land applies a write to stable storage; keep chooses sectors, nil means all.
func (n *inode) land(w write, keep func() bool) {
	if w.kind == growth {
		if keep == nil || keep() {
			n.durableSize = max(n.durableSize, w.size)
		}
		return
	}
	if w.kind == truncation {
		if keep == nil || keep() {
			n.durableSize = w.size
			n.durable.truncate(w.size)
		}
		return
	}
	w.apply(&n.durable, keep)
}

// powerCut leaves what is durable and what of the pending writes was chosen to survive.
func (n *inode) powerCut(coin func() bool) {
	for _, w := range n.pending {
		switch {
		case w.state == synced || w.fate == kept:
			n.land(w, nil)
		case w.fate == torn:
			n.land(w, coin)
		}
	}
	n.durable.truncate(n.durableSize)
	n.pending, n.size, n.cache = nil, n.durableSize, n.durable.clone()
}

// flip inverts bits in every version of the range, so that nothing but a new write mends it.
func (n *inode) flip(off, length int64, bits byte) {
	n.cache.flip(off, length, bits)
	n.durable.flip(off, length, bits)
	for i := range n.pending {
		n.pending[i].flip(off, length, bits)
	}
}
