package volume

import (
	"math/rand/v2"
	"testing"

	"lockstep/block"
	"lockstep/wal"
)

const indexBlocks = 300

// indexModel is a dirtyIndex as an array: for each block what it holds, with a count of 1; count 0 is nothing.
type indexModel [indexBlocks]dirty

func (m *indexModel) put(start uint64, d dirty) {
	for i := range d.count {
		m[start+i] = dirty{count: 1, lsn: d.lsn, kind: d.kind, position: d.position}
		if d.kind == wal.RecordWrite {
			m[start+i].skip = uint32(i)
			m[start+i].position.Offset += int64(i) * testBlock
		}
	}
}

// check compares a visit of the range: every block once, in order.
func (m *indexModel) check(t *testing.T, x *dirtyIndex, r block.Range) {
	t.Helper()
	next := r.Start
	x.visit(r, func(start uint64, d dirty) {
		if start != next || d.count == 0 {
			t.Fatalf("visit of %v: entry %d+%d, where %d is next", r, start, d.count, next)
		}
		for i := range d.count {
			want := m[start+i]
			got := x.tailOf(start, d, start+i)
			if got.count = 1; got != want {
				t.Fatalf("visit of %v: block %d is %+v, want %+v", r, start+i, got, want)
			}
		}
		next += d.count
	}, func(gap block.Range) {
		if gap.Start != next || gap.Count == 0 {
			t.Fatalf("visit of %v: gap %v, where %d is next", r, gap, next)
		}
		for i := gap.Start; i < gap.End(); i++ {
			if m[i].count != 0 {
				t.Fatalf("visit of %v: block %d is not in the index, want %+v", r, i, m[i])
			}
		}
		next = gap.End()
	})
	if next != r.End() {
		t.Fatalf("visit of %v ended at %d", r, next)
	}
}

// checkCounts compares the numbers of blocks.
func (m *indexModel) checkCounts(t *testing.T, x *dirtyIndex) {
	t.Helper()
	blocks, data := uint64(0), uint64(0)
	for i := range m {
		if m[i].count != 0 {
			blocks++
		}
		if m[i].kind == wal.RecordWrite {
			data++
		}
	}
	if x.blocks != blocks || x.dataBlocks != data {
		t.Fatalf("%d blocks are counted, %d of them data; there are %d and %d", x.blocks, x.dataBlocks, blocks, data)
	}
}

func randomRange(rng *rand.Rand) block.Range {
	count := 1 + rng.Uint64N(1+rng.Uint64N(40))
	return block.Range{Start: rng.Uint64N(indexBlocks - count + 1), Count: count}
}

// TestDirtyIndexAgainstModel puts and removes ranges at random and compares every block after each.
func TestDirtyIndexAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		x, m := newDirtyIndex(testBlock), indexModel{}
		for i := range 300 {
			r := randomRange(rng)
			d := dirty{count: r.Count, lsn: block.LSN(i + 1), kind: wal.RecordType(1 + rng.IntN(3))}
			if d.kind == wal.RecordWrite {
				d.position = wal.Position{Segment: uint64(i), Offset: int64(i) << 20}
			}
			if rng.IntN(8) == 0 {
				x.remove(r)
				for i := range r.Count {
					m[r.Start+i] = dirty{}
				}
			} else {
				x.put(r.Start, d)
				m.put(r.Start, d)
			}
			m.check(t, x, block.Range{Count: indexBlocks})
			m.check(t, x, randomRange(rng))
			m.checkCounts(t, x)
			if x.len() > 2*(i+1) {
				t.Fatalf("%d entries after %d changes", x.len(), i+1)
			}
		}
	}
}

// TestIndexLayers: what is active lies over what is frozen, this over what is pending; thawing changes nothing of what
// is found, at any moment, while changes go on.
func TestIndexLayers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var x index
	var m indexModel
	layer := func(kind wal.RecordType, lsn block.LSN) *dirtyIndex {
		l := newDirtyIndex(testBlock)
		for range 20 {
			r := randomRange(rng)
			d := dirty{count: r.Count, lsn: lsn, kind: kind}
			l.put(r.Start, d)
			m.put(r.Start, d)
		}
		return l
	}
	x.pending = layer(wal.RecordTrim, 0)
	x.frozen = layer(wal.RecordZero, 1)
	x.active = layer(wal.RecordTrim, 2)
	check := func() {
		t.Helper()
		var l lookup
		x.find(&l, block.Range{Count: indexBlocks})
		next := uint64(0)
		for _, p := range l.parts {
			if p.Start != next {
				t.Fatalf("part %+v, where %d is next", p.Range, next)
			}
			for ; next < p.End(); next++ {
				if p.kind != m[next].kind {
					t.Fatalf("block %d is of kind %v, want %v", next, p.kind, m[next].kind)
				}
			}
		}
		if next != indexBlocks {
			t.Fatalf("the parts end at %d", next)
		}
		for _, layer := range []*dirtyIndex{x.active, x.frozen} {
			if layer == nil {
				continue
			}
			sum := uint64(0)
			layer.each(0, func(_ uint64, d dirty) bool { sum += d.count; return true })
			if layer.blocks != sum || layer.dataBlocks != 0 {
				t.Fatalf("%d blocks are counted, %d of them data; there are %d and 0", layer.blocks, layer.dataBlocks, sum)
			}
		}
	}
	check()
	for lsn := block.LSN(3); !x.thawSome(1); lsn++ {
		check()
		if lsn < 20 { // changes go on
			r := randomRange(rng)
			d := dirty{count: r.Count, lsn: lsn, kind: wal.RecordZero}
			x.active.put(r.Start, d)
			m.put(r.Start, d)
		}
	}
	check()
	if x.frozen != nil || x.active.len() == 0 {
		t.Fatalf("thawed: %d entries are active, frozen: %v", x.active.len(), x.frozen != nil)
	}
}

func BenchmarkDirtyIndexPut(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	x := newDirtyIndex(4096)
	for i := 0; b.Loop(); i++ {
		if x.len() > 1<<20 {
			x = newDirtyIndex(4096)
		}
		x.put(rng.Uint64N(1<<28), dirty{count: 1 + rng.Uint64N(4), lsn: block.LSN(i), kind: wal.RecordWrite})
	}
}

func BenchmarkDirtyIndexVisit(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	x := newDirtyIndex(4096)
	for i := range 1 << 20 {
		x.put(rng.Uint64N(1<<24), dirty{count: 1, lsn: block.LSN(i), kind: wal.RecordWrite})
	}
	found := 0
	for b.Loop() {
		x.visit(block.Range{Start: rng.Uint64N(1 << 24), Count: 1}, func(uint64, dirty) { found++ }, func(block.Range) {})
	}
}
