package volume

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

var testMapID = uuid.UUID{0xd4, 1, 2, 3, 4, 5, 6, 7, 8}

// content returns every chunk's LSN.
func (m *changeMap) content() []block.LSN {
	all := make([]block.LSN, m.chunks)
	for i := range all {
		all[i] = m.At(uint64(i))
	}
	return all
}

// save writes and syncs a generation.
func (m *changeMap) save(t testing.TB, generation uint64) {
	t.Helper()
	if err := m.Write(generation); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
}

func mustCreateMap(t testing.TB, dir wal.FS, chunks uint64) *changeMap {
	t.Helper()
	m, err := createChangeMap(dir, testMapID, minChunkBytes, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reopenMap opens a map in which nothing may be damaged.
func reopenMap(t testing.TB, dir wal.FS, chunks, generation uint64) *changeMap {
	t.Helper()
	m, problems, err := openChangeMap(dir, testMapID, minChunkBytes, chunks, generation, math.MaxUint64)
	if err != nil || len(problems) != 0 {
		t.Fatalf("open generation %d: %v, %v", generation, problems, err)
	}
	return m
}

func wantContent(t testing.TB, what string, got, want []block.LSN) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: chunk %d at %d, want %d", what, i, got[i], want[i])
		}
	}
}

func TestChunkBytesFor(t *testing.T) {
	for _, c := range []struct{ size, want int64 }{
		{0, 64 << 10}, {512, 64 << 10}, {256 << 30, 64 << 10}, {256<<30 + 1, 128 << 10},
		{1 << 40, 256 << 10}, {1<<40 + 512, 512 << 10}, {math.MaxInt64, 1 << 41},
	} {
		if got := ChunkBytesFor(c.size); got != c.want {
			t.Errorf("%d: %d, want %d", c.size, got, c.want)
		}
		if got := chunkCount(c.size, ChunkBytesFor(c.size)); got > 1<<22 {
			t.Errorf("%d: %d chunks", c.size, got)
		}
	}
}

// Random raises, writes, crashes and reopenings against a plain slice. Undamaged, the map is never more nor less.
func TestL9ChangeMapAgainstModel(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 3))
		chunks := []uint64{1, 507, 508, 509, 5000}[r.IntN(5)]
		dir := newSectorDir()
		m := mustCreateMap(t, dir, chunks)
		model := make([]block.LSN, chunks)
		named, saved := uint64(1), slices.Clone(model) // what the superblock says, and what that generation holds
		lsn := block.LSN(0)
		for step := range 150 {
			lsn += block.LSN(r.IntN(3))
			switch n := r.IntN(20); {
			case n < 12:
				first := r.Uint64N(chunks)
				count := r.Uint64N(min(chunks-first, 1<<r.IntN(13)) + 1)
				at := lsn - min(lsn, block.LSN(r.IntN(3))) // not always in order
				m.Raise(first, count, at)
				for i := first; i < first+count; i++ {
					model[i] = max(model[i], at)
				}
			case n == 12:
				at := lsn - min(lsn, block.LSN(r.IntN(30)))
				m.RaiseAll(at)
				for i := range model {
					model[i] = max(model[i], at)
				}
			case n < 16:
				m.save(t, named+1)
				if r.IntN(4) > 0 { // else the superblock was not written, and the same generation comes again
					named, saved = named+1, slices.Clone(model)
				}
			case n < 18:
				dir.ops.done, dir.ops.cutAt = 0, 1+r.IntN(8)
				err := m.Write(named + 1)
				if err == nil && m.Sync() == nil && r.IntN(2) == 0 {
					named, saved = named+1, slices.Clone(model)
				}
				dir = dir.crash(r)
				m = reopenMap(t, dir, chunks, named)
				model = slices.Clone(saved)
			default:
				dir = dir.crash(r)
				m = reopenMap(t, dir, chunks, named)
				model = slices.Clone(saved)
			}
			wantContent(t, fmt.Sprintf("seed %d step %d", seed, step), m.content(), model)
			checkScan(t, m, model, lsn-min(lsn, block.LSN(r.IntN(40))))
		}
	}
}

func checkScan(t *testing.T, m *changeMap, model []block.LSN, since block.LSN) {
	t.Helper()
	next := uint64(0)
	m.Scan(since, func(chunk uint64, lsn block.LSN) {
		for ; next < chunk; next++ {
			if model[next] > since {
				t.Fatalf("scan since %d passes over chunk %d at %d", since, next, model[next])
			}
		}
		if chunk != next || lsn != model[chunk] || lsn <= since {
			t.Fatalf("scan since %d: chunk %d at %d, want %d at %d", since, chunk, lsn, next, model[chunk])
		}
		next++
	})
	for ; next < uint64(len(model)); next++ {
		if model[next] > since {
			t.Fatalf("scan since %d ends before chunk %d at %d", since, next, model[next])
		}
	}
}

// A power cut at every operation of Write and Sync leaves the generation that the superblock names, exactly; once Sync
// has returned, the new one is there too.
func TestL9ChangeMapCrashAtEveryOperation(t *testing.T) {
	const chunks = 4 * pageEntries
	for cut := 1; ; cut++ {
		finished := false
		for seed := range uint64(12) {
			r := rand.New(rand.NewPCG(seed, uint64(cut)))
			dir := newSectorDir()
			m := mustCreateMap(t, dir, chunks)
			m.Raise(0, 700, 10)
			m.save(t, 2)
			m.RaiseAll(5)
			m.Raise(600, 1, 20)
			m.save(t, 3)
			before := m.content()
			m.Raise(100, 3, 30)
			m.RaiseAll(12) // takes page 0 away ...
			m.Raise(7, 1, 31)
			m.Raise(2000, 1, 32)
			after := m.content()

			dir.ops.done, dir.ops.cutAt = 0, cut
			err := m.Write(4)
			if err == nil {
				err = m.Sync()
			}
			if err != nil && !errors.Is(err, errPowerCut) {
				t.Fatal(err)
			}
			crashed := dir.crash(r)
			again := reopenMap(t, crashed, chunks, 3)
			wantContent(t, fmt.Sprintf("cut %d seed %d, old generation", cut, seed), again.content(), before)
			if err == nil {
				finished = true
				wantContent(t, "new generation", reopenMap(t, crashed, chunks, 4).content(), after)
			}
			// Recovery goes on from the old one, over what the cut left in the other slots.
			again.Raise(1000, 200, 33)
			want := again.content()
			again.save(t, 4)
			crashed = crashed.crash(r)
			wantContent(t, "after recovery", reopenMap(t, crashed, chunks, 4).content(), want)
		}
		if finished {
			if cut < 5 {
				t.Fatalf("only %d operations", cut)
			}
			return
		}
	}
}

// The generation that the superblock names outlives attempts at the next one without a power cut too.
func TestL9ChangeMapFailedWriteIsWrittenAgainWhole(t *testing.T) {
	const chunks = 6 * pageEntries
	for fail := 1; fail <= 4; fail++ {
		dir := newSectorDir()
		m := mustCreateMap(t, dir, chunks)
		m.Raise(0, 100, 1)
		m.save(t, 2)
		before := m.content()
		m.Raise(50, 1, 5)
		m.Raise(2*pageEntries, 1, 6)
		m.Raise(4*pageEntries, 1, 7)
		dir.ops.done, dir.ops.cutAt = 0, fail
		if err := m.Write(3); !errors.Is(err, errPowerCut) {
			t.Fatalf("fail at %d: %v", fail, err)
		}
		dir.ops.cutAt = 0
		if err := m.Sync(); !errors.Is(err, errMapBroken) {
			t.Fatalf("sync after a failed write: %v", err)
		}
		wantContent(t, "named generation", reopenMap(t, dir, chunks, 2).content(), before)
		m.Raise(5*pageEntries, 1, 8)
		m.save(t, 3)
		wantContent(t, "second attempt", reopenMap(t, dir, chunks, 3).content(), m.content())
	}
}

// L4: after a failed sync what was written may be nowhere, and is written again before another sync counts.
func TestL4ChangeMapFailedSync(t *testing.T) {
	const chunks = 3 * pageEntries
	dir := newSectorDir()
	m := mustCreateMap(t, dir, chunks)
	m.Raise(0, chunks-1, 5)
	if err := m.Write(2); err != nil {
		t.Fatal(err)
	}
	dir.files[mapName].forgetSync = true
	if err := m.Sync(); err == nil {
		t.Fatal("sync succeeded")
	}
	dir.files[mapName].forgetSync = false
	if err := m.Sync(); !errors.Is(err, errMapBroken) {
		t.Fatalf("second sync: %v", err)
	}
	m.save(t, 2)
	crashed := dir.crash(rand.New(rand.NewPCG(1, 1)))
	wantContent(t, "after the second write", reopenMap(t, crashed, chunks, 2).content(), m.content())
}

func TestChangeMapWriteOfAWrongGenerationPanics(t *testing.T) {
	for _, c := range []struct {
		name       string
		generation uint64
		prepare    func(m *changeMap)
	}{
		{"the same", 1, func(*changeMap) {}},
		{"one left out", 3, func(*changeMap) {}},
		{"next before sync", 3, func(m *changeMap) { _ = m.Write(2) }},
	} {
		m := mustCreateMap(t, newSectorDir(), 10)
		c.prepare(m)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", c.name)
				}
			}()
			_ = m.Write(c.generation)
		}()
	}
}

// Only what changed is written, in long runs, and never in the place of what the superblock names.
func TestChangeMapWritesOnlyWhatChanged(t *testing.T) {
	const pages = 600
	dir := newSectorDir()
	m := mustCreateMap(t, dir, pages*pageEntries)
	file := dir.files[mapName]
	m.Raise(0, pages*pageEntries-1, 1)
	file.writes = nil
	m.save(t, 2)
	if len(file.writes) != 4 { // 256 + 256 + 88 pages, and the head
		t.Fatalf("%d writes for %d adjacent pages", len(file.writes), pages)
	}
	m.Raise(10*pageEntries, 1, 2)
	m.Raise(11*pageEntries, 1, 2)
	m.Raise(50*pageEntries, 1, 2)
	file.writes = nil
	m.save(t, 3)
	var got []int64
	for _, w := range file.writes {
		got = append(got, w.off/mapUnitBytes, int64(len(w.data)/mapUnitBytes))
	}
	// After creation a page is first written to slot 1, so this time it is slot 0; the head's slot is 3 mod 2.
	if want := []int64{2 + 10, 2, 2 + 50, 1, 1, 1}; !slices.Equal(got, want) {
		t.Fatalf("wrote units, lengths %v, want %v", got, want)
	}
	file.writes = nil
	m.save(t, 4)
	if len(file.writes) != 1 {
		t.Fatalf("%d writes where nothing changed", len(file.writes))
	}
}

// A trim of everything is one number.
func TestL9ChangeMapFloor(t *testing.T) {
	const chunks = 40 * pageEntries
	dir := newSectorDir()
	m := mustCreateMap(t, dir, chunks)
	m.Raise(0, chunks-1, 5)
	m.save(t, 2)
	m.Raise(3, 1, 9)
	m.Raise(0, chunks, 8) // all of it
	for i, p := range m.pages {
		if (p != nil) != (i == 0) {
			t.Fatalf("page %d: %v", i, p != nil)
		}
	}
	file := dir.files[mapName]
	file.writes = nil
	m.save(t, 3)
	if len(file.writes) != 2 {
		t.Fatalf("%d writes, want a page and the head", len(file.writes))
	}
	again := reopenMap(t, dir.crash(rand.New(rand.NewPCG(1, 1))), chunks, 3)
	if again.At(3) != 9 || again.At(4) != 8 || again.At(chunks-1) != 8 {
		t.Fatalf("got %d, %d, %d", again.At(3), again.At(4), again.At(chunks-1))
	}
	if again.pages[1] != nil {
		t.Fatal("a page below the floor was kept on disk")
	}
	again.RaiseAll(7)
	if again.At(4) != 8 {
		t.Fatal("the floor sank")
	}
}

// What is raised in the middle of a Write may wait for the next one, but the generation is whole.
func TestL9ChangeMapRaisedDuringWrite(t *testing.T) {
	const chunks = 4 * pageEntries
	for name, raise := range map[string]func(m *changeMap){
		"new page":           func(m *changeMap) { m.Raise(3*pageEntries, 1, 9) },
		"page being written": func(m *changeMap) { m.Raise(0, 1, 9) },
		"page of before":     func(m *changeMap) { m.Raise(pageEntries, 1, 9) },
		"all":                func(m *changeMap) { m.RaiseAll(9) },
		"all, and one":       func(m *changeMap) { m.RaiseAll(9); m.Raise(0, 1, 10); m.Raise(pageEntries, 1, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newSectorDir()
			m := mustCreateMap(t, dir, chunks)
			m.Raise(pageEntries, 5, 1)
			m.save(t, 2)
			m.Raise(0, 5, 2)
			before := m.content()
			dir.files[mapName].onWrite = func() { raise(m) }
			m.save(t, 3)
			for i, lsn := range reopenMap(t, dir, chunks, 3).content() {
				if lsn < before[i] {
					t.Fatalf("chunk %d at %d, want %d", i, lsn, before[i])
				}
			}
			m.save(t, 4)
			wantContent(t, "next", reopenMap(t, dir, chunks, 4).content(), m.content())
		})
	}
}

func TestL9CreateChangeMapCrashAtEveryOperation(t *testing.T) {
	for cut := 1; ; cut++ {
		for seed := range uint64(10) {
			dir := newSectorDir()
			dir.ops.cutAt = cut
			_, err := createChangeMap(dir, testMapID, minChunkBytes, 1000)
			crashed := dir.crash(rand.New(rand.NewPCG(seed, 0)))
			if err == nil { // what was not acknowledged is made anew; what was is there
				wantContent(t, "created", reopenMap(t, crashed, 1000, 1).content(), make([]block.LSN, 1000))
				size, _ := crashed.files[mapName].Size()
				if names, _ := crashed.List(); size != 4096*(2+2*2) || !slices.Equal(names, []string{mapName}) {
					t.Fatalf("size %d, files %v", size, names)
				}
				if cut != 7 {
					t.Fatalf("%d operations, want create, allocate, write, sync, rename, sync", cut-1)
				}
				return
			}
			if crashed.files[mapName] != nil { // never half a map under its name
				wantContent(t, "cut", reopenMap(t, crashed, 1000, 1).content(), make([]block.LSN, 1000))
			}
			wantContent(t, "second try", mustCreateMap(t, crashed, 1000).content(), make([]block.LSN, 1000))
		}
	}
}

// Readers, raisers and a writer at once. Each generation holds at least what was raised before its Write began.
func TestChangeMapConcurrently(t *testing.T) {
	const chunks = 20 * pageEntries
	dir := newSectorDir()
	m := mustCreateMap(t, dir, chunks)
	var raisers sync.WaitGroup
	done := make(chan struct{})
	for worker := range uint64(3) {
		raisers.Go(func() {
			r := rand.New(rand.NewPCG(worker, 9))
			for lsn := block.LSN(1); lsn < 2000; lsn++ {
				m.Raise(r.Uint64N(chunks-100), r.Uint64N(100), lsn)
				if lsn%300 == 0 {
					m.RaiseAll(lsn - 150)
				}
			}
		})
	}
	var scanner sync.WaitGroup
	scanner.Go(func() {
		for {
			last := -1
			m.Scan(100, func(chunk uint64, lsn block.LSN) {
				if int(chunk) <= last || lsn <= 100 || m.At(chunk) < lsn {
					t.Errorf("chunk %d at %d after %d", chunk, lsn, last)
				}
				last = int(chunk)
			})
			select {
			case <-done:
				return
			default:
			}
		}
	})
	generation := uint64(1)
	for range 30 {
		before := m.content()
		generation++
		m.save(t, generation)
		for i, lsn := range reopenMap(t, dir, chunks, generation).content() {
			if lsn < before[i] {
				t.Fatalf("generation %d: chunk %d at %d, was %d before", generation, i, lsn, before[i])
			}
		}
	}
	raisers.Wait()
	close(done)
	scanner.Wait()
	m.save(t, generation+1)
	wantContent(t, "in the end", reopenMap(t, dir, chunks, generation+1).content(), m.content())
}

// The largest map, all of it raised, takes at most 40 MiB.
func TestChangeMapMemory(t *testing.T) {
	m := newChangeMap(testMapID, minChunkBytes, maxChunks)
	m.Raise(0, maxChunks-1, 1)
	m.Raise(maxChunks-1, 1, 1)
	total := uintptr(0)
	for _, p := range m.pages {
		if p == nil {
			t.Fatal("a page is missing")
		}
		total += (unsafe.Sizeof(*p)+1023)&^1023 + unsafe.Sizeof(p) // no size class is coarser here
	}
	if total > 40<<20 {
		t.Fatalf("%d bytes", total)
	}
}
