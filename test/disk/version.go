package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// version is one content that a block has had in log order.
type version struct {
	position int // of its record; 0 is what the last recovery found
	change   int // index in changes; -1 for what the last recovery found
	firm     bool
	data     []byte // nil is zeroes
}

// versionsLocked lists the contents of a block in log order. Of several at one position, which come of a change of
// part of a block whose content is not certain, one holds.
func (m *Model) versionsLocked(b int64) []version {
	versions := []version{{change: -1, firm: true, data: m.settled[b]}}
	for _, p := range m.pieces[b] {
		c := &m.changes[p.change]
		if c.status == rejected {
			continue
		}
		base := versions[latestFirm(versions):]
		if c.Offset <= b*m.block && (b+1)*m.block <= c.Offset+c.Length {
			base = base[:1] // nothing of it is left
		}
		for _, v := range base {
			versions = append(versions, version{p.position, p.change, c.status != failed, m.merged(v.data, c, b)})
		}
	}
	return versions
}

// latestFirm returns the index of the first version of the last position that is certain.
func latestFirm(versions []version) int {
	i := len(versions) - 1
	for !versions[i].firm {
		i--
	}
	for i > 0 && versions[i-1].position == versions[i].position {
		i--
	}
	return i
}

// merged returns block b with the change on top.
func (m *Model) merged(old []byte, c *change, b int64) []byte {
	lo, hi := max(c.Offset, b*m.block), min(c.Offset+c.Length, (b+1)*m.block)
	whole := hi-lo == m.block
	switch {
	case whole && c.Data == nil:
		return nil
	case whole:
		return c.Data[lo-c.Offset : hi-c.Offset]
	case c.Data == nil && old == nil:
		return nil
	}
	to := make([]byte, m.block)
	copy(to, old)
	part := to[lo-b*m.block : hi-b*m.block]
	if c.Data == nil {
		clear(part)
	} else {
		copy(part, c.Data[lo-c.Offset:hi-c.Offset])
	}
	return to
}

// equal compares the bytes at from of a version with p.
func (v version) equal(p []byte, from int64) bool {
	if v.data == nil {
		return allZero(p)
	}
	return bytes.Equal(v.data[from:from+int64(len(p))], p)
}

func allZero(p []byte) bool {
	return len(bytes.TrimLeft(p, "\x00")) == 0
}

// span is a run of log positions, first to last.
type span struct{ first, last int }

// spansLocked returns the positions at which the log may end so that block b holds p.
func (m *Model) spansLocked(b int64, p []byte) []span {
	var spans []span
	versions := m.versionsLocked(b)
	for i, v := range versions {
		if !v.equal(p, 0) {
			continue
		}
		s := span{v.position, m.last}
		for _, later := range versions[i:] {
			if later.firm && later.position > v.position {
				s.last = later.position - 1
				break
			}
		}
		spans = append(spans, s)
	}
	return join(spans)
}

// join sorts spans and merges those that touch.
func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.first - b.first })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined); n > 0 && s.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, s.last)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

func intersect(a, b []span) []span {
	var both []span
	for _, x := range a {
		for _, y := range b {
			if lo, hi := max(x.first, y.first), min(x.last, y.last); lo <= hi {
				both = append(both, span{lo, hi})
			}
		}
	}
	return both
}

// describe names what a block or a part of it seems to hold.
func describe(p []byte) string {
	if allZero(p) {
		return "zeroes"
	}
	if len(p) < 16 {
		return fmt.Sprintf("% x", p)
	}
	id, sector := binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	if id > 1<<32 || sector > 1<<40 {
		return fmt.Sprintf("% x…", p[:16])
	}
	return fmt.Sprintf("the stamp of change %d for sector %d", id, int64(sector)-1)
}
