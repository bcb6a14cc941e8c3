package volume

import (
	"testing"

	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/wal"
)

// TestL9VolumeOfATebibyte: a thin volume of 1 TiB costs what is in it. A trim of everything, in one record or in 257,
// raises the floor of the change map, and a checkpoint of it does not visit what was never written.
func TestL9VolumeOfATebibyte(t *testing.T) {
	const size = 1 << 40
	for _, blockBytes := range []int{512, 4096} {
		cfg := Config{Base: backend.NewMemory(DataOffset + size), Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir(), Logger: zerolog.Nop()}
		v := openMemory(t, cfg, size, blockBytes, wal.MinSegmentBytes)
		for i := range int64(64) {
			mustApply(t, v, filled(i*(size/64)+3*int64(blockBytes), 2*int64(blockBytes), 'd'))
		}
		mustApply(t, v, filled(size-1, 1, 'e'))
		if err := v.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, pieces := range []int64{1, 257} {
			before := v.log.Head()
			for i := range pieces {
				first, end := size/4096*i/pieces*4096, size/4096*(i+1)/pieces*4096
				mustApply(t, v, Change{Kind: Trim, Offset: first, Length: end - first})
			}
			if n := v.log.Head() - before; n != block.LSN(pieces) {
				t.Errorf("%d trims made %d records", pieces, n)
			}
			if err := v.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			m := v.changes
			if m.floor <= before || m.At(m.chunks-1) != m.floor {
				t.Errorf("%d records: floor %d, trimmed from %d on", pieces, m.floor, before)
			}
			for i, p := range m.pages {
				if p != nil {
					t.Fatalf("%d records: page %d of the map has entries", pieces, i)
				}
			}
			mustApply(t, v, filled(size/2, 1<<20, 'f'))
			if err := v.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			changed := 0
			m.Scan(m.floor, func(uint64, block.LSN) { changed++ })
			if want := int(max((1<<20)/m.ChunkBytes(), 1)); changed != want {
				t.Errorf("%d chunks changed since, want %d", changed, want)
			}
		}
		extents, err := v.Extents(0, size, 10)
		want := []Extent{{size / 2, true, true}, {1 << 20, false, false}, {size/2 - 1<<20, true, true}}
		if err != nil || len(extents) != 3 || extents[0] != want[0] || extents[1] != want[1] || extents[2] != want[2] {
			t.Errorf("extents %+v, %v; want %+v", extents, err, want)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if v, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if p := mustRead(t, v, size/2, 1<<20); p[0] != 'f' || p[1<<20-1] != 'f' {
			t.Error("the data are gone")
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
