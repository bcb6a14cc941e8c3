package volume

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"lockstep/backend"
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

// TestI3NoHoleWhereThereIsData: writers, each with blocks of its own, write, trim and zero them while checkpoints move
// all of it to the base image, which punches holes. What was written and acknowledged is never described as a hole or
// as zeroes, neither at once nor after the checkpoint came by, and blocks that nobody touches never are.
func TestI3NoHoleWhereThereIsData(t *testing.T) {
	const size = 4 << 20
	for name, base := range map[string]func(t *testing.T) backend.Backend{
		"memory": func(*testing.T) backend.Backend { return backend.NewMemory(DataOffset + size) },
		"file": func(t *testing.T) backend.Backend {
			f, err := backend.CreateFile(filepath.Join(t.TempDir(), "base"), DataOffset+size, backend.Thin)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _, _ := memoryConfig(size)
			cfg.Base = base(t)
			v := openMemory(t, cfg, size, 4096, 256<<10)
			v.pacer.fill = func() float64 { return 0 } // nobody is slowed down
			extentsBesideWriters(t, v, size)
		})
	}
}

func extentsBesideWriters(t *testing.T, v *Volume, size int64) {
	const part, writers, run = 1 << 20, 3, 64 << 10
	still := int64(writers * part) // data from here on stay
	for off := still; off < size; off += run {
		mustApply(t, v, filled(off, run, 's'))
	}
	stop := make(chan bool)
	var wg, background sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			for i := range int64(100) {
				off := w*part + i*7%(part/run)*run
				wantData(t, v, filled(off, run, 'w'))
				if t.Failed() {
					return
				}
				kind := Trim
				if i%3 == 0 {
					kind = Zero
				}
				if err := applyOne(v, Change{Kind: kind, Offset: off, Length: run}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	background.Go(func() {
		now := time.Unix(1, 0)
		for !ended(stop) {
			now = now.Add(tickEvery)
			v.Tick(now)
			if err := errors.Join(v.Checkpoint(context.Background()), v.Flush()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	background.Go(func() {
		for !ended(stop) {
			wantNoHole(t, v, still, size-still)
		}
	})
	wg.Wait()
	close(stop)
	background.Wait()
}

func ended(stop chan bool) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// wantData writes, and looks at what was written before and after checkpoints move it.
func wantData(t *testing.T, v *Volume, c Change) {
	if err := applyOne(v, c); err != nil {
		t.Error(err)
		return
	}
	for range 20 {
		wantNoHole(t, v, c.Offset, c.Length)
	}
}

func wantNoHole(t *testing.T, v *Volume, off, length int64) {
	extents, err := v.Extents(off, length, 1000)
	if err != nil {
		t.Error(err)
	}
	for _, e := range extents {
		if e.Hole || e.Zero {
			t.Errorf("data at %d, %d bytes, are described by %+v", off, length, extents)
			return
		}
	}
}
