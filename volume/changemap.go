package volume

import (
	"fmt"
	"sync"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

const (
	minChunkBytes = 64 << 10
	maxChunks     = 1 << 22

	pageEntries = 508 // of a page of the change map; with its head it fills 4 KiB
	maxPages    = (maxChunks + pageEntries - 1) / pageEntries
)

// ChunkBytesFor returns the chunk size of a volume of size bytes: the smallest power of two, at least 64 KiB, with
// which it has at most 2^22 chunks.
func ChunkBytesFor(size int64) int64 {
	chunk := int64(minChunkBytes)
	for chunkCount(size, chunk) > maxChunks {
		chunk <<= 1
	}
	return chunk
}

// chunkCount returns how many chunks cover size bytes; 0 for sizes that are not positive.
func chunkCount(size, chunkBytes int64) uint64 {
	if size <= 0 || chunkBytes <= 0 {
		return 0
	}
	return uint64((size-1)/chunkBytes) + 1
}

func validChunks(chunkBytes int64, chunks uint64) bool {
	return chunkBytes >= minChunkBytes && chunkBytes&(chunkBytes-1) == 0 && chunks >= 1 && chunks <= maxChunks
}

// changeMap knows for each chunk the LSN of the last record that touched it. It may overstate, never understate.
//
// In memory: pages made when first raised, above a floor that holds for all chunks. On disk: see changemap_format.go.
// A Write goes where the last generation that the superblock may name has nothing, so a crash at any moment leaves
// that generation whole.
//
// Raise, RaiseAll, At and Scan may be called at any time. Write, Sync and Close are serialised among themselves and
// hold up the others only while a few pages are copied.
type changeMap struct {
	volumeID   uuid.UUID
	chunkBytes int64
	chunks     uint64

	mu    sync.Mutex
	floor block.LSN
	pages []*mapPage // nil: nothing above the floor
	dirty bitmap     // pages changed since the last Write began

	io mapIO
}

// mapPage holds the entries of pageEntries chunks.
type mapPage struct {
	newest  block.LSN // Invariant: the largest of entries
	entries [pageEntries]block.LSN
}

func newChangeMap(volumeID uuid.UUID, chunkBytes int64, chunks uint64) *changeMap {
	if !validChunks(chunkBytes, chunks) {
		panic(fmt.Sprintf("volume: change map of %d chunks of %d bytes", chunks, chunkBytes))
	}
	pages := pageCount(chunks)
	return &changeMap{
		volumeID: volumeID, chunkBytes: chunkBytes, chunks: chunks,
		pages: make([]*mapPage, pages), dirty: newBitmap(pages), io: newMapIO(pages),
	}
}

func pageCount(chunks uint64) int { return int((chunks + pageEntries - 1) / pageEntries) }

// ChunkBytes returns the size of a chunk.
func (m *changeMap) ChunkBytes() int64 { return m.chunkBytes }

// Chunks returns how many chunks there are.
func (m *changeMap) Chunks() uint64 { return m.chunks }

// Raise notes that the record lsn touched count chunks from first on. An entry that is higher already stays.
func (m *changeMap) Raise(first, count uint64, lsn block.LSN) {
	if first > m.chunks || count > m.chunks-first {
		panic(fmt.Sprintf("volume: raise %d chunks at %d of %d", count, first, m.chunks))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if count == m.chunks {
		m.raiseAllLocked(lsn)
		return
	}
	if lsn <= m.floor {
		return
	}
	for end := first + count; first < end; {
		page := first / pageEntries
		from, to := first%pageEntries, min(end-page*pageEntries, pageEntries)
		m.raisePageLocked(int(page), from, to, lsn)
		first = page*pageEntries + to
	}
}

func (m *changeMap) raisePageLocked(i int, from, to uint64, lsn block.LSN) {
	p := m.pages[i]
	if p == nil {
		p = new(mapPage)
		m.pages[i] = p
	}
	changed := false
	for j, old := range p.entries[from:to] {
		if old < lsn {
			p.entries[from+uint64(j)] = lsn
			changed = true
		}
	}
	if changed {
		p.newest = max(p.newest, lsn)
		m.dirty.set(i)
	}
}

// RaiseAll notes that the record lsn touched every chunk. It raises the floor, and forgets pages it drowns.
func (m *changeMap) RaiseAll(lsn block.LSN) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.raiseAllLocked(lsn)
}

func (m *changeMap) raiseAllLocked(lsn block.LSN) {
	m.floor = max(m.floor, lsn)
	for i, p := range m.pages {
		if p != nil && p.newest <= m.floor {
			m.pages[i] = nil
		}
	}
}

// At returns the LSN of the last record that touched a chunk, or a later one. 0 means it was never touched.
func (m *changeMap) At(chunk uint64) block.LSN {
	if chunk >= m.chunks {
		panic(fmt.Sprintf("volume: chunk %d of %d in change map", chunk, m.chunks))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pages[chunk/pageEntries]
	if p == nil {
		return m.floor
	}
	return max(p.entries[chunk%pageEntries], m.floor)
}

// Scan calls fn for every chunk changed after since, in order. The map is not locked during fn; a chunk raised
// meanwhile may be seen as it was or as it is.
func (m *changeMap) Scan(since block.LSN, fn func(chunk uint64, lsn block.LSN)) {
	var entries [pageEntries]block.LSN
	for i := range m.pages {
		first := uint64(i) * pageEntries
		count := min(m.chunks-first, pageEntries)
		if !m.copyPage(i, since, &entries) {
			continue
		}
		for j, lsn := range entries[:count] {
			if lsn > since {
				fn(first+uint64(j), lsn)
			}
		}
	}
}

// copyPage fills entries with a page's, the floor included; false where none of them is after since.
func (m *changeMap) copyPage(i int, since block.LSN, entries *[pageEntries]block.LSN) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pages[i]
	if m.floor <= since && (p == nil || p.newest <= since) {
		return false
	}
	for j := range entries {
		entries[j] = m.floor
		if p != nil {
			entries[j] = max(p.entries[j], m.floor)
		}
	}
	return true
}

// mapName is the change map's file in the meta directory; mapNextName is that of a map of another size, for as long as
// it is not known to be the one that the superblock names; mapTempName is that of one being made.
const (
	mapName     = "map"
	mapNextName = "map.next"
	mapTempName = "map.new"
)

// createChangeMap makes the file of an empty map, durably, with all the space it will ever need. Its generation is 1.
// It replaces a map that is there.
func createChangeMap(fs wal.FS, volumeID uuid.UUID, chunkBytes int64, chunks uint64) (*changeMap, error) {
	m := newChangeMap(volumeID, chunkBytes, chunks)
	if err := m.createFile(fs, mapName, 1); err != nil {
		return nil, fmt.Errorf("create change map: %w", err)
	}
	return m, nil
}

// openChangeMap reads the generation that the superblock names; a later one, of a checkpoint that did not finish, is
// ignored. chunkBytes and chunks are those that the superblock's size needs, and head is the log's head. A map that a
// resize left under another name takes its own.
//
// What cannot be read counts as changed at head: single pages, or all where the head of that generation or the whole
// file is gone. Each such place is named in problems, and mended by the next Write. err is for what must not be
// mended: a map of a newer program (ErrVersion, ErrIncompatible) or of another volume (ErrForeign), or a directory
// that fails.
func openChangeMap(fs wal.FS, volumeID uuid.UUID, chunkBytes int64, chunks, generation uint64, head block.LSN) (
	m *changeMap, problems []error, err error) {
	m = newChangeMap(volumeID, chunkBytes, chunks)
	problems, err = m.openFile(fs, generation, head)
	if err != nil {
		return nil, problems, fmt.Errorf("open change map: %w", err)
	}
	return m, problems, nil
}
