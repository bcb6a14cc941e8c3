package disk

// write is one change of a file that stable storage may not have yet. Data is held in whole sectors, each with the
// content it had just after the change.
type write struct {
	seq        int // number of the operation
	kind       writeKind
	state      writeState
	fate       fate
	first, end int64   // sectors; whole pages for uniform and reservation
	pages      []*page // data: content after the change
	fill       *page   // uniform: every page of the range
	size       int64   // growth, truncation
}

type writeKind uint8

const (
	data writeKind = iota + 1
	uniform
	reservation
	growth
	truncation
)

type writeState uint8

const (
	dirty  writeState = iota // the next sync makes it durable
	lost                     // a sync failed: no later one makes it durable
	synced                   // durable, and kept only because a lost write comes before it
)

// fate is what a power cut does to something that is not durable.
type fate uint8

const (
	gone fate = iota
	kept
	torn // each sector by itself
)

func (w *write) pageRange() (first, end int64) {
	return w.first / pageSectors, (w.end + pageSectors - 1) / pageSectors
}

// apply puts the write into c; keep is asked for each sector, nil means all of them.
func (w *write) apply(c *content, keep func() bool) {
	first, end := w.pageRange()
	if w.kind == reservation {
		if keep == nil || keep() {
			c.reserve(first, end)
		}
		return
	}
	if w.kind == uniform && keep == nil {
		c.fill(first, end, w.fill)
		return
	}
	for i := first; i < end; i++ {
		w.applyPage(c, i, keep)
	}
}

func (w *write) applyPage(c *content, i int64, keep func() bool) {
	from := w.page(i)
	lo := max(w.first-i*pageSectors, 0)
	hi := min(w.end-i*pageSectors, pageSectors)
	var chosen uint8 // a bit for each sector of the page
	for s := lo; s < hi; s++ {
		if keep == nil || keep() {
			chosen |= 1 << s
		}
	}
	switch chosen {
	case 0:
		return
	case 1<<pageSectors - 1:
		c.set(i, from)
		return
	}
	to := new(page)
	if old := c.page(i); old != nil {
		*to = *old
	}
	if from == nil {
		from = zeroPage
	}
	for s := lo; s < hi; s++ {
		if chosen&(1<<s) != 0 {
			copy(to[s*SectorSize:(s+1)*SectorSize], from[s*SectorSize:])
		}
	}
	c.set(i, to)
}

func (w *write) page(i int64) *page {
	if w.kind == uniform {
		return w.fill
	}
	first, _ := w.pageRange()
	return w.pages[i-first]
}

// flip inverts bits where the write has bytes of the range.
func (w *write) flip(off, length int64, bits byte) {
	first, end := w.pageRange()
	if w.kind == uniform {
		w.kind = data // its pages differ from now on
		for i := first; i < end; i++ {
			w.pages = append(w.pages, w.fill)
		}
	}
	if w.kind != data {
		return
	}
	w.pages = append([]*page(nil), w.pages...) // a clone may share them
	for i := first; i < end; i++ {
		lo, hi := max(off-i*pageSize, 0), min(off+length-i*pageSize, pageSize)
		if lo >= hi {
			continue
		}
		to := new(page)
		if from := w.pages[i-first]; from != nil {
			*to = *from
		}
		for at := lo; at < hi; at++ {
			to[at] ^= bits
		}
		w.pages[i-first] = to
	}
}
