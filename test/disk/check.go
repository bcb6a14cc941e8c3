package disk

import (
	"fmt"
	"slices"
	"strings"
)

// CheckRead tells whether p may be read at byte off now: every block is as its newest acknowledged change left it, or
// as one that is on its way does (I3, I8).
func (m *Model) CheckRead(off int64, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(p) > 0 {
		b, from := off/m.block, off%m.block
		n := min(int64(len(p)), m.block-from)
		if err := m.checkBlockLocked(b, p[:n], from); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (m *Model) checkBlockLocked(b int64, p []byte, from int64) error {
	versions := m.versionsLocked(b)
	newest := len(versions) - 1
	for versions[newest].change >= 0 && m.changes[versions[newest].change].status != acked {
		newest--
	}
	for newest > 0 && versions[newest-1].position == versions[newest].position {
		newest--
	}
	for _, v := range versions[newest:] {
		if v.equal(p, from) {
			return nil
		}
	}
	return fmt.Errorf("read of block %d from byte %d: %w: found %s, expected %s", b, from, ErrContradiction,
		m.identifyLocked(b, p, from), m.nameLocked(versions[newest]))
}

// CheckRecovered reads the whole volume and tells whether it is what recovery may leave: all records up to some
// position, and none after (I5), with all that was flushed before a power cut (I1), or all that was acknowledged
// before a kill or clean stop (I2). The model goes on from there: what it found is durable, because opening a volume
// makes it so; what it did not find must never come back.
func (m *Model) CheckRecovered(read func(p []byte, off int64) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	floor, why := m.acked, "acknowledged"
	if m.powerCut {
		floor, why = m.durable, "flushed"
	}
	allowed := []span{{floor, m.last}}
	found := make([][]byte, m.size/m.block)
	for b := range int64(len(found)) {
		p := make([]byte, m.block)
		if err := read(p, b*m.block); err != nil {
			return fmt.Errorf("read block %d: %w", b, err)
		}
		found[b] = p
		spans := m.spansLocked(b, p)
		switch {
		case len(spans) == 0:
			return fmt.Errorf("recovered block %d: %w: found %s; it may hold%s", b, ErrContradiction,
				m.identifyLocked(b, p, 0), m.choicesLocked(b))
		case spans[len(spans)-1].last < floor:
			return fmt.Errorf("recovered block %d: %w: lost: found %s, which was replaced before record %d, the last %s",
				b, ErrContradiction, m.identifyLocked(b, p, 0), floor, why)
		}
		if allowed = intersect(allowed, spans); len(allowed) == 0 {
			return m.conflictLocked(b, found, floor)
		}
	}
	m.settleLocked(allowed[len(allowed)-1].last, found)
	return nil
}

// conflictLocked names a block that block b cannot go with.
func (m *Model) conflictLocked(b int64, found [][]byte, floor int) error {
	spans := intersect([]span{{floor, m.last}}, m.spansLocked(b, found[b]))
	for other := range b {
		theirs := m.spansLocked(other, found[other])
		if len(intersect(spans, theirs)) == 0 {
			return fmt.Errorf("recovered blocks %d and %d: %w: not a prefix of the log: block %d has %s, so the log ends at "+
				"record %v; block %d has %s, so it ends at %v", other, b, ErrContradiction,
				other, m.identifyLocked(other, found[other], 0), theirs, b, m.identifyLocked(b, found[b], 0), spans)
		}
	}
	return fmt.Errorf("recovered blocks 0 to %d: %w: not a prefix of the log: no end of it explains them together; block %d "+
		"has %s, so the log ends at record %v", b, ErrContradiction, b, m.identifyLocked(b, found[b], 0), spans)
}

// settleLocked makes what was found the beginning of the next life, after a log that ended at position end.
func (m *Model) settleLocked(end int, found [][]byte) {
	for b := range m.pieces {
		for _, v := range m.versionsLocked(b) {
			if v.position > end && !v.equal(found[b], 0) {
				m.forgone[b] = append(m.forgone[b], lostData{m.first + ChangeID(v.change), v.data})
			}
		}
		m.settled[b] = found[b]
		if allZero(found[b]) {
			delete(m.settled, b)
		}
	}
	m.first += ChangeID(len(m.changes))
	m.changes, m.pieces = nil, map[int64][]piece{}
	m.last, m.acked, m.durable, m.powerCut = 0, 0, 0, false
	m.round++
}

// identifyLocked names the content p, found at byte from of block b.
func (m *Model) identifyLocked(b int64, p []byte, from int64) string {
	for _, v := range slices.Backward(m.versionsLocked(b)) {
		if v.equal(p, from) {
			return m.nameLocked(v)
		}
	}
	for _, l := range m.forgone[b] {
		if l.data != nil && (version{data: l.data}).equal(p, from) {
			return fmt.Sprintf("change %d, which a recovery before gave up and which has come back", l.id)
		}
	}
	return "what no change left there (" + describe(p) + ")"
}

func (m *Model) nameLocked(v version) string {
	if v.change < 0 {
		return "what the last recovery found"
	}
	c := m.changes[v.change]
	kind := "zeroes"
	if c.Data != nil {
		kind = "data"
	}
	return fmt.Sprintf("%s of change %d [%d, +%d) (record %d)", kind, m.first+ChangeID(v.change), c.Offset, c.Length, v.position)
}

func (m *Model) choicesLocked(b int64) string {
	var s strings.Builder
	for _, v := range m.versionsLocked(b) {
		s.WriteString("; " + m.nameLocked(v))
	}
	return s.String()
}
