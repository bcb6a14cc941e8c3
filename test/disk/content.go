package disk

import "bytes"

const (
	// SectorSize is what a power cut never splits, in bytes.
	SectorSize = 512

	pageSize    = 4096 // unit of allocation and of copy on write
	pageSectors = pageSize / SectorSize
	leafPages   = 64
)

// page is never changed once a content or a write refers to it; so contents, versions and clones share it.
type page [pageSize]byte

// zeroPage stands for every allocated page that holds only zeroes. A hole is a nil page.
var zeroPage = new(page)

// content is a sparse array of pages, cheap to clone: leaves are shared until one side changes them.
type content struct {
	owner     *owner // leaves of another owner are shared and are copied before a change
	leaves    []*leaf
	allocated int64 // pages that are not holes
}

type owner struct{ _ byte }

type leaf struct {
	owner *owner
	pages [leafPages]*page
}

func newContent() content { return content{owner: new(owner)} }

func (c *content) clone() content {
	c.owner = new(owner) // what was c's alone is shared from here on
	return content{
		owner:     new(owner),
		leaves:    append([]*leaf(nil), c.leaves...),
		allocated: c.allocated,
	}
}

func (c *content) page(i int64) *page {
	if l := i / leafPages; l < int64(len(c.leaves)) && c.leaves[l] != nil {
		return c.leaves[l].pages[i%leafPages]
	}
	return nil
}

func (c *content) set(i int64, p *page) {
	old := c.page(i)
	if old == p {
		return
	}
	if old == nil {
		c.allocated++
	}
	if p == nil {
		c.allocated--
	}
	c.ownLeaf(i / leafPages).pages[i%leafPages] = p
}

func (c *content) ownLeaf(i int64) *leaf {
	for int64(len(c.leaves)) <= i {
		c.leaves = append(c.leaves, nil)
	}
	l := c.leaves[i]
	switch {
	case l == nil:
		l = &leaf{owner: c.owner}
	case l.owner != c.owner:
		l = &leaf{owner: c.owner, pages: l.pages}
	}
	c.leaves[i] = l
	return l
}

// fill sets the pages first to end-1.
func (c *content) fill(first, end int64, p *page) {
	for i := first; i < end; {
		l := i / leafPages
		if p == nil && l >= int64(len(c.leaves)) {
			return
		}
		if p == nil && c.leaves[l] == nil {
			i = (l + 1) * leafPages
			continue
		}
		c.set(i, p)
		i++
	}
}

// reserve makes holes among the pages first to end-1 allocated zeroes.
func (c *content) reserve(first, end int64) {
	for i := first; i < end; i++ {
		if c.page(i) == nil {
			c.set(i, zeroPage)
		}
	}
}

// holes counts the holes among the pages first to end-1, and stops at more than max.
func (c *content) holes(first, end, max int64) int64 {
	var n int64
	for i := first; i < end && n <= max; i++ {
		if c.page(i) == nil {
			n++
		}
	}
	return n
}

func (c *content) read(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/pageSize, off%pageSize
		n := min(int64(len(p)), pageSize-at)
		if from := c.page(i); from != nil {
			copy(p[:n], from[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (c *content) write(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/pageSize, off%pageSize
		n := min(int64(len(p)), pageSize-at)
		c.overlay(i, at, p[:n])
		p, off = p[n:], off+n
	}
}

// overlay replaces page i by one that holds p from byte at on.
func (c *content) overlay(i, at int64, p []byte) {
	if len(p) == pageSize && bytes.Equal(p, zeroPage[:]) {
		c.set(i, zeroPage)
		return
	}
	to := new(page)
	if old := c.page(i); old != nil && len(p) < pageSize {
		*to = *old
	}
	copy(to[at:], p)
	c.set(i, to)
}

// zero makes the bytes zeroes; whole pages become fill, which is nil for a hole.
func (c *content) zero(off, length int64, fill *page) {
	head, tail := inner(off, length)
	if head >= tail { // no whole page inside
		c.blank(off, length)
		return
	}
	c.blank(off, head*pageSize-off)
	c.fill(head, tail, fill)
	c.blank(tail*pageSize, off+length-tail*pageSize)
}

// blank zeroes bytes that lie within one or two pages; holes stay holes.
func (c *content) blank(off, length int64) {
	for length > 0 {
		i, at := off/pageSize, off%pageSize
		n := min(length, pageSize-at)
		if p := c.page(i); p != nil && p != zeroPage {
			c.overlay(i, at, zeroPage[:n])
		}
		off, length = off+n, length-n
	}
}

// inner returns the whole pages inside a byte range: head to tail-1.
func inner(off, length int64) (head, tail int64) {
	return (off + pageSize - 1) / pageSize, (off + length) / pageSize
}

// truncate makes everything from size on holes and zeroes.
func (c *content) truncate(size int64) {
	end := int64(len(c.leaves)) * leafPages * pageSize
	if size < end {
		c.zero(size, end-size, nil)
	}
}

// flip inverts bits of the bytes off to off+length-1.
func (c *content) flip(off, length int64, bits byte) {
	p := make([]byte, length)
	c.read(p, off)
	for i := range p {
		p[i] ^= bits
	}
	c.write(p, off)
}
