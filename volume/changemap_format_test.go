package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

func testMapHead() *mapHead {
	h := &mapHead{
		compat: 1 << 40, volumeID: testMapID, generation: 7, floor: 55, chunkBytes: 256 << 10, chunks: 10000,
		present: newBitmap(20), slot: newBitmap(20),
	}
	copy(h.reserved[100:], "of a newer program")
	for _, i := range []int{0, 3, 19} {
		h.present.set(i)
	}
	h.slot.set(3)
	h.slot.set(8)
	return h
}

func encodedMapHead(h *mapHead) []byte {
	b := make([]byte, mapUnitBytes)
	h.encode(b)
	return b
}

func encodedMapPage() []byte {
	b := make([]byte, mapUnitBytes)
	var entries [pageEntries]block.LSN
	for i := range entries {
		entries[i] = block.LSN(1000 + i)
	}
	encodeMapPage(b, testMapID, 3, 6, &entries)
	return b
}

func TestChangeMapGolden(t *testing.T) {
	for name, got := range map[string][]byte{
		"changemap_head_v1.bin": encodedMapHead(testMapHead()), "changemap_page_v1.bin": encodedMapPage(),
	} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the format has changed", name)
		}
	}
	h, err := decodeMapHead(encodedMapHead(testMapHead()))
	if err != nil || !reflect.DeepEqual(h, testMapHead()) {
		t.Fatalf("got %+v, %v", h, err)
	}
	p, err := decodeMapPage(encodedMapPage(), h, 3)
	if err != nil || p.entries[0] != 1000 || p.entries[507] != 1507 || p.newest != 1507 {
		t.Fatalf("got %v, %v", p, err)
	}
	h.chunks = 3*pageEntries + 10 // the page is the last, and of a longer map
	if p, err = decodeMapPage(encodedMapPage(), h, 3); err != nil || p.entries[9] != 1009 || p.entries[10] != 0 || p.newest != 1009 {
		t.Fatalf("last page: got %v, %v", p, err)
	}
}

func TestMapHeadDecodeErrors(t *testing.T) {
	le := binary.LittleEndian
	u64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint64(b[at:], v); return sealed(b, mapCRCAt) }
	}
	for _, c := range []struct {
		name    string
		change  func([]byte) []byte
		want    error
		mention string
	}{
		{"foreign", func(b []byte) []byte { b[0] = 'X'; return b }, ErrForeign, ""},
		{"nothing", func(b []byte) []byte { clear(b); return b }, ErrForeign, ""},
		{"short", func(b []byte) []byte { return b[:100] }, ErrForeign, ""},
		{"version", func(b []byte) []byte { b[mapVersionAt] = 2; return b }, ErrVersion, "2"},
		{"incompatible", u64(mapIncompatAt, 1<<9|1<<60), ErrIncompatible, "flag bit 9, flag bit 60"},
		{"torn", func(b []byte) []byte { clear(b[2048:]); return b }, ErrTorn, "generation 7"},
		{"corrupt", func(b []byte) []byte { b[mapFloorAt] ^= 1; return b }, ErrCorrupt, "checksum"},
		{"ends differ, sealed", u64(mapEndAt, 6), ErrCorrupt, "generation"},
		{"no chunks", u64(mapChunksAt, 0), ErrCorrupt, "chunks"},
		{"too many chunks", u64(mapChunksAt, maxChunks+1), ErrCorrupt, "chunks"},
		{"chunk size", u64(mapChunkBytesAt, 100000), ErrCorrupt, "chunks"},
		{"page past the last", func(b []byte) []byte {
			b[mapPresentAt+2] |= 1 << 4
			return sealed(b, mapCRCAt)
		}, ErrCorrupt, "page"},
		{"slot past the last", func(b []byte) []byte {
			b[mapEndAt-1] = 1
			return sealed(b, mapCRCAt)
		}, ErrCorrupt, "page"},
	} {
		_, err := decodeMapHead(c.change(encodedMapHead(testMapHead())))
		for _, e := range []error{ErrForeign, ErrVersion, ErrIncompatible, ErrTorn, ErrCorrupt} {
			if errors.Is(err, e) != (e == c.want) {
				t.Fatalf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
		if !strings.Contains(err.Error(), c.mention) {
			t.Fatalf("%s: %q does not mention %q", c.name, err, c.mention)
		}
	}
}

func TestMapPageDecodeErrors(t *testing.T) {
	h := testMapHead()
	old := testMapHead()
	old.generation = 5
	for _, c := range []struct {
		name    string
		page    []byte
		head    *mapHead
		index   int
		want    error
		mention string
	}{
		{"zeroes", make([]byte, mapUnitBytes), h, 3, ErrForeign, "magic"},
		{"short", encodedMapPage()[:2048], h, 3, ErrForeign, "magic"},
		{"bit", append(encodedMapPage()[:4095], 0xff), h, 3, ErrCorrupt, "checksum"},
		{"place", encodedMapPage(), h, 4, ErrCorrupt, "page 3 in the place of 4"},
		{"future", encodedMapPage(), old, 3, ErrCorrupt, "generation 6"},
		{"volume", encodedMapPage(), &mapHead{volumeID: uuid.UUID{1}, generation: 7, chunks: 10000}, 3, ErrForeign, "volume"},
	} {
		if _, err := decodeMapPage(c.page, c.head, c.index); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.mention) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// damagedMap has ten pages at generations 2 and 3; odd chunks of page 4 changed in the third.
func damagedMap(t *testing.T) (*sectorDir, []block.LSN) {
	dir := newSectorDir()
	m := mustCreateMap(t, dir, 10*pageEntries-30)
	for i := range m.chunks {
		m.Raise(i, 1, block.LSN(1+i%50))
	}
	m.save(t, 2)
	for i := uint64(1); i < pageEntries; i += 2 {
		m.Raise(4*pageEntries+i, 1, 60)
	}
	m.save(t, 3)
	return dir, m.content()
}

// S20: what cannot be read counts as changed at head; everything else is as it was; the next Write mends it.
func TestS20DamagedPageIsOverstatedAndMended(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	at := func(slot, page int) int64 { return int64(2+10*slot+page) * mapUnitBytes }
	// After two writes page 4 is in slot 0, the others in slot 1.
	for name, c := range map[string]struct {
		page   int
		damage func(f *sectorDisk)
	}{
		"flipped bit":  {2, func(f *sectorDisk) { f.cache[at(1, 2)+int64(r.IntN(4096))] ^= 1 << r.IntN(8) }},
		"zeroed":       {2, func(f *sectorDisk) { clear(f.cache[at(1, 2):][:4096]) }},
		"unreadable":   {2, func(f *sectorDisk) { f.bad[at(1, 2)] = true }},
		"last page":    {9, func(f *sectorDisk) { f.cache[at(1, 9)+100] ^= 1 }},
		"misdirected":  {2, func(f *sectorDisk) { copy(f.cache[at(1, 2):][:4096], f.cache[at(1, 3):]) }},
		"other slot":   {4, func(f *sectorDisk) { f.cache[at(0, 4)+4095] ^= 1 }},
		"of tomorrow":  {2, func(f *sectorDisk) { ageMapPage(f.cache[at(1, 2):][:4096], 4) }},
		"cut off file": {9, func(f *sectorDisk) { f.cache = f.cache[:at(1, 9)+512] }},
	} {
		t.Run(name, func(t *testing.T) {
			dir, want := damagedMap(t)
			c.damage(dir.files[mapName])
			chunks := uint64(len(want))
			m, problems, err := openChangeMap(dir, testMapID, minChunkBytes, chunks, 3, 1000)
			if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), fmt.Sprintf("page %d", c.page)) {
				t.Fatalf("problems %v, %v", problems, err)
			}
			if size, _ := dir.files[mapName].Size(); size != mapFileBytes(10) {
				t.Fatalf("size %d", size)
			}
			for i := c.page * pageEntries; i < min((c.page+1)*pageEntries, len(want)); i++ {
				want[i] = 1000
			}
			wantContent(t, "opened", m.content(), want)
			m.save(t, 4)
			wantContent(t, "mended", reopenMap(t, dir, chunks, 4).content(), want)
		})
	}
}

func ageMapPage(b []byte, generation uint64) {
	binary.LittleEndian.PutUint64(b[pageGenerationAt:], generation)
	sealed(b, pageCRCAt)
}

func regenerateMapHead(t *testing.T, b []byte, generation uint64) {
	h, err := decodeMapHead(b)
	if err != nil {
		t.Fatal(err)
	}
	h.generation = generation
	h.encode(b)
}

// S20: without the head that the superblock names, all chunks count as changed at head, whatever else is in the file.
func TestS20DamagedHeadOverstatesAll(t *testing.T) {
	for name, damage := range map[string]func(dir *sectorDir){
		"zeroed":     func(d *sectorDir) { clear(d.files[mapName].cache[4096:8192]) },
		"flipped":    func(d *sectorDir) { d.files[mapName].cache[4096+mapFloorAt] ^= 1 },
		"torn":       func(d *sectorDir) { clear(d.files[mapName].cache[4096+1024 : 8192]) },
		"unreadable": func(d *sectorDir) { d.files[mapName].bad[4096] = true },
		"older": func(d *sectorDir) {
			regenerateMapHead(t, d.files[mapName].cache[4096:8192], 1)
		},
		"newer": func(d *sectorDir) {
			regenerateMapHead(t, d.files[mapName].cache[4096:8192], 5)
		},
		"empty file":  func(d *sectorDir) { d.files[mapName].cache = nil },
		"no file":     func(d *sectorDir) { delete(d.files, mapName) },
		"no file yet": func(d *sectorDir) { d.files[mapTempName] = d.files[mapName]; delete(d.files, mapName) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, want := damagedMap(t)
			damage(dir)
			chunks := uint64(len(want))
			m, problems, err := openChangeMap(dir, testMapID, minChunkBytes, chunks, 3, 1000)
			if err != nil || len(problems) != 1 {
				t.Fatalf("problems %v, %v", problems, err)
			}
			for i := range want {
				want[i] = 1000
			}
			wantContent(t, "opened", m.content(), want)
			if file := dir.files[mapName]; len(file.bad) > 0 {
				file.bad = map[int64]bool{}
			}
			m.Raise(5, 1, 1001)
			want[5] = 1001
			m.save(t, 4)
			again := reopenMap(t, dir, chunks, 4)
			wantContent(t, "mended", again.content(), want)
			again.save(t, 5)
			wantContent(t, "both heads mended", reopenMap(t, dir, chunks, 5).content(), want)
		})
	}
}

func TestChangeMapOfOtherShapeIsMadeAnew(t *testing.T) {
	dir, _ := damagedMap(t)
	m, problems, err := openChangeMap(dir, testMapID, minChunkBytes, 20*pageEntries, 3, 1000)
	if err != nil || len(problems) != 1 || m.At(0) != 1000 || m.At(20*pageEntries-1) != 1000 {
		t.Fatalf("problems %v, %v", problems, err)
	}
	m = reopenMap(t, dir, 20*pageEntries, 3) // the new file is whole at once
	m.Raise(20*pageEntries-1, 1, 2000)
	m.save(t, 4)
	wantContent(t, "grown", reopenMap(t, dir, 20*pageEntries, 4).content(), m.content())
}

// What is another's is refused and left as it is.
func TestChangeMapOfOthersIsRefused(t *testing.T) {
	for _, c := range []struct {
		want   error
		change func(h *mapHead, b []byte)
	}{
		{ErrForeign, func(h *mapHead, b []byte) { h.volumeID[0]++; h.encode(b) }},
		{ErrVersion, func(h *mapHead, b []byte) { h.encode(b); b[mapVersionAt] = 2 }},
		{ErrIncompatible, func(h *mapHead, b []byte) { h.encode(b); b[mapIncompatAt] = 1; sealed(b, mapCRCAt) }},
	} {
		dir, want := damagedMap(t)
		h, err := decodeMapHead(dir.files[mapName].cache[4096:8192])
		if err != nil {
			t.Fatal(err)
		}
		c.change(h, dir.files[mapName].cache[4096:8192])
		before := slices.Clone(dir.files[mapName].cache)
		_, _, err = openChangeMap(dir, testMapID, minChunkBytes, uint64(len(want)), 3, 1000)
		if !errors.Is(err, c.want) || !bytes.Equal(before, dir.files[mapName].cache) {
			t.Fatalf("got %v, want %v", err, c.want)
		}
	}
}

// An older program keeps a newer one's compatible flags and what goes with them.
func TestChangeMapKeepsUnknownCompatible(t *testing.T) {
	dir := newSectorDir()
	mustCreateMap(t, dir, 10000)
	h := testMapHead()
	h.present, h.chunkBytes = newBitmap(20), minChunkBytes
	copy(dir.files[mapName].cache[4096:], encodedMapHead(h))
	m := reopenMap(t, dir, 10000, 7)
	m.save(t, 8)
	m.save(t, 9)
	got, err := decodeMapHead(dir.files[mapName].cache[4096:8192])
	if err != nil || got.compat != h.compat || got.reserved != h.reserved || got.generation != 9 {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// failingDir is a directory of which one call fails.
type failingDir struct {
	*sectorDir
	open, create error
}

func (d failingDir) Open(name string) (wal.File, error) {
	if d.open != nil {
		return nil, d.open
	}
	return d.sectorDir.Open(name)
}

func (d failingDir) Create(name string) (wal.File, error) {
	if d.create != nil {
		return nil, d.create
	}
	return d.sectorDir.Create(name)
}

func TestChangeMapDirectoryFails(t *testing.T) {
	if _, _, err := openChangeMap(failingDir{sectorDir: newSectorDir(), open: syscall.EIO},
		testMapID, minChunkBytes, 10, 1, 1); !errors.Is(err, syscall.EIO) {
		t.Fatalf("open: %v", err)
	}
	if _, _, err := openChangeMap(failingDir{sectorDir: newSectorDir(), create: syscall.ENOSPC},
		testMapID, minChunkBytes, 10, 1, 1); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("create: %v", err)
	}
}

func FuzzDecodeMapHead(f *testing.F) {
	f.Add(encodedMapHead(testMapHead()), true)
	f.Add(make([]byte, mapUnitBytes), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) == mapUnitBytes {
			b = slices.Clone(b)
			copy(b[mapEndAt:], b[mapGenerationAt:mapGenerationAt+8])
			sealed(b, mapCRCAt)
		}
		h, err := decodeMapHead(b)
		if err != nil {
			return
		}
		if got := encodedMapHead(h); !bytes.Equal(got, b) {
			t.Fatalf("decoded %+v is encoded differently", h)
		}
	})
}

func FuzzDecodeMapPage(f *testing.F) {
	f.Add(encodedMapPage(), 3, true)
	f.Add(make([]byte, mapUnitBytes), 0, false)
	f.Fuzz(func(t *testing.T, b []byte, index int, seal bool) {
		h := testMapHead()
		if index < 0 || index >= pageCount(h.chunks) {
			return
		}
		if seal && len(b) == mapUnitBytes {
			b = sealed(slices.Clone(b), pageCRCAt)
		}
		p, err := decodeMapPage(b, h, index)
		if err != nil {
			return
		}
		if p.newest != slices.Max(p.entries[:]) {
			t.Fatal("newest is not the newest")
		}
		again := make([]byte, mapUnitBytes)
		encodeMapPage(again, h.volumeID, index, h.generation, &p.entries)
		p2, err := decodeMapPage(again, h, index)
		if err != nil || *p2 != *p {
			t.Fatalf("came back different: %v", err)
		}
	})
}
