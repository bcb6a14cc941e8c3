package volume

import "lockstep/wal"

// Extent is a run of bytes of one state.
type Extent struct {
	Length int64
	Hole   bool // not allocated
	Zero   bool // reads as zeroes
}

// extentsWindow is how many bytes are looked up at a time: what is beyond the extents that are asked for is not.
const extentsWindow = 64 << 20

// Extents describes bytes from off on, in order and without gaps: at least the first, at most limit extents, and
// none beyond off + length. What the log holds counts as data unless it is a trim or a zeroing.
//
// A byte is described as a hole or as zero only if it was zero at some moment of the call, so what was written and
// acknowledged before, and not trimmed or zeroed since, never is (as I3 has it of reads). Where the index has an entry,
// that is the newest of the moment of the lookup. Where it has none, the base image had all of the byte then, and is
// asked afterwards. If it says hole, it was one then, or became one by a checkpoint that moved a trim that is newer
// than the lookup and older than the answer. A write that is newer than the lookup is not in the base image's answer;
// but it began after the call did, and the moment is before it.
func (v *Volume) Extents(off, length int64, limit int) ([]Extent, error) {
	if err := v.checkRange(off, length); err != nil || length == 0 || limit < 1 {
		return nil, err
	}
	if err := v.readable(); err != nil {
		return nil, err
	}
	l := v.lookups.Get().(*lookup)
	defer v.lookups.Put(l)
	x := extentList{limit: limit}
	for end := off + length; off < end && !x.full; {
		n := min(end-off, extentsWindow-off%extentsWindow)
		if err := v.extents(&x, l, off, n); err != nil {
			return nil, v.unlessCut(err, off, n)
		}
		off += n
	}
	if err := v.readable(); err != nil { // as in read
		return nil, err
	}
	return x.extents, nil
}

// extents adds those of one window.
func (v *Volume) extents(x *extentList, l *lookup, off, length int64) error {
	defer l.release()
	v.index.find(l, v.blocks(off, length))
	for i := range l.parts {
		p := &l.parts[i]
		start := max(int64(p.Start)*v.blockBytes, off)
		end := min(int64(p.End())*v.blockBytes, off+length)
		for start < end {
			e := Extent{Length: end - start, Hole: p.kind == wal.RecordTrim, Zero: p.kind > wal.RecordWrite}
			if p.kind == 0 {
				n, hole, err := v.base.extent(start, end-start)
				if err != nil {
					return err
				}
				e = Extent{Length: n, Hole: hole, Zero: hole}
			}
			if x.add(e); x.full {
				return nil
			}
			start += e.Length
		}
	}
	return nil
}

// extentList joins neighbours that are alike.
type extentList struct {
	extents []Extent
	limit   int
	full    bool // something did not fit any more: the last extent is complete
}

func (x *extentList) add(e Extent) {
	n := len(x.extents)
	switch {
	case n > 0 && x.extents[n-1].Hole == e.Hole && x.extents[n-1].Zero == e.Zero:
		x.extents[n-1].Length += e.Length
	case n == x.limit:
		x.full = true
	default:
		x.extents = append(x.extents, e)
	}
}

// DataAfter returns how many bytes from there on are data, as Extents tells: what a Resize to that size would lose.
func (v *Volume) DataAfter(sizeBytes int64) (int64, error) {
	var data int64
	for off, size := sizeBytes, v.Size(); off < size; {
		extents, err := v.Extents(off, size-off, 1024)
		if err != nil {
			return 0, err
		}
		for _, e := range extents {
			off += e.Length
			if !e.Zero {
				data += e.Length
			}
		}
	}
	return data, nil
}
