package volume

import "lockstep/wal"

// Extent is a run of bytes of one state.
type Extent struct {
	Length int64
	Hole   bool // not allocated
	Zero   bool // reads as zeroes
}

// Extents describes bytes from off on, in order and without gaps: at least the first, at most limit extents, and
// none beyond off + length. What the log holds counts as data unless it is a trim or a zeroing.
func (v *Volume) Extents(off, length int64, limit int) ([]Extent, error) {
	if err := v.checkRange(off, length); err != nil || length == 0 || limit < 1 {
		return nil, err
	}
	if v.closed.Load() {
		return nil, ErrClosed
	}
	l := v.lookups.Get().(*lookup)
	defer v.lookups.Put(l)
	defer l.release()
	v.index.find(l, v.blocks(off, length))
	var extents []Extent
	add := func(e Extent) bool {
		if n := len(extents); n > 0 && extents[n-1].Hole == e.Hole && extents[n-1].Zero == e.Zero {
			extents[n-1].Length += e.Length
			return true
		}
		if len(extents) == limit {
			return false
		}
		extents = append(extents, e)
		return true
	}
	for i := range l.parts {
		p := &l.parts[i]
		start := max(int64(p.Start)*v.blockBytes, off)
		end := min(int64(p.End())*v.blockBytes, off+length)
		for start < end {
			e := Extent{Length: end - start, Hole: p.kind == wal.RecordTrim, Zero: p.kind > wal.RecordWrite}
			if p.kind == 0 {
				n, hole, err := v.base.extent(start, end-start)
				if err != nil {
					return nil, err
				}
				e = Extent{Length: n, Hole: hole, Zero: hole}
			}
			if !add(e) {
				return extents, nil
			}
			start += e.Length
		}
	}
	return extents, nil
}
