package volume

import (
	"slices"
	"testing"

	"lockstep/wal"
)

// TestExtentsLookNoFurtherThanAsked: of a large range only what the answer needs is looked up, and no long list of parts
// is kept for the next lookup.
func TestExtentsLookNoFurtherThanAsked(t *testing.T) {
	const size, blockBytes = 1 << 30, 4096
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, blockBytes, 1<<20)
	for b := uint64(0); b < extentsWindow/blockBytes; b += 2 {
		v.index.active.put(b, dirty{count: 1, kind: wal.RecordZero})
	}
	// A segment that there is not: a lookup that comes this far panics.
	v.index.active.put(extentsWindow/blockBytes, dirty{count: 1, kind: wal.RecordWrite, position: wal.Position{Segment: 99}})
	for limit := 1; limit < 4; limit++ {
		got, err := v.Extents(0, size, limit)
		want := []Extent{{blockBytes, false, true}, {blockBytes, true, true}, {blockBytes, false, true}}[:limit]
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d extents: %+v, %v", limit, got, err)
		}
	}
	l := &lookup{log: v.log}
	v.index.find(l, v.blocks(0, extentsWindow))
	if len(l.parts) != extentsWindow/blockBytes {
		t.Errorf("%d parts", len(l.parts))
	}
	if l.release(); cap(l.parts) != 0 {
		t.Errorf("a list of %d parts is kept", cap(l.parts))
	}
}

// TestExtentsGoOnBeyondTheWindow: extents that begin and end within windows, and go over several, are joined.
func TestExtentsGoOnBeyondTheWindow(t *testing.T) {
	const size, mib = 1 << 30, 1 << 20
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, 4096, mib)
	mustApply(t, v, Change{Kind: Zero, Offset: 10 * mib, Length: 290 * mib}, filled(300*mib, 4096, 'a'))
	for _, c := range []struct {
		off, length int64
		limit       int
		want        []Extent
	}{
		{0, size, 9, []Extent{{10 * mib, true, true}, {290 * mib, false, true}, {4096, false, false}, {724*mib - 4096, true, true}}},
		{0, size, 2, []Extent{{10 * mib, true, true}, {290 * mib, false, true}}},
		{15*mib + 7, 200 * mib, 9, []Extent{{200 * mib, false, true}}},
		{255*mib + 1, 700 * mib, 1, []Extent{{45*mib - 1, false, true}}},
		{64 * mib, 64 * mib, 1, []Extent{{64 * mib, false, true}}},
	} {
		if got, err := v.Extents(c.off, c.length, c.limit); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%d extents of %d bytes at %d: %+v, %v, want %+v", c.limit, c.length, c.off, got, err, c.want)
		}
	}
}
