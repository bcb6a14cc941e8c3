package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"

	"lockstep/block"
	"lockstep/wal"
)

const mapBatchPages = 256 // pages read or written with one call: 1 MiB

// mapIO is the part of a change map that knows its file. Its mutex comes before changeMap.mu.
type mapIO struct {
	mu   sync.Mutex
	file wal.File
	name string // mapName, or mapNextName until TakeName

	// kept is the head of the newest generation that the superblock may name: a crash goes back to it, so nothing it
	// points at is overwritten. Once a later generation is begun, the one before it is known to be named.
	kept mapHead
	// begun is the head of the generation written last; kept's generation or the one after it.
	begun mapHead
	// pending has the pages that may differ between kept and what is in memory, save those dirty since. Writing the
	// generation after kept's once more writes them once more.
	pending bitmap
	stage   mapStage
}

// mapStage says how far begun has come.
type mapStage uint8

const (
	mapSynced  mapStage = iota // begun is on stable storage
	mapWritten                 // begun waits for Sync
	mapBroken                  // a Write or Sync failed; only another Write helps
)

var errMapBroken = errors.New("the last write of the change map failed")

func newMapIO(pages int) mapIO {
	return mapIO{pending: newBitmap(pages)}
}

// mapFileBytes is the size of a map's file.
func mapFileBytes(pages int) int64 { return int64(mapHeadSlots+2*pages) * mapUnitBytes }

func mapHeadOffset(generation uint64) int64 { return int64(generation%mapHeadSlots) * mapUnitBytes }

func (m *changeMap) pageOffset(page int, slot bool) int64 {
	unit := mapHeadSlots + page
	if slot {
		unit += len(m.pages)
	}
	return int64(unit) * mapUnitBytes
}

// createFile makes a file that holds generation: the floor, and no pages. Under mapNextName it has no head until it is
// written, and nothing takes it for the map that the superblock names.
func (m *changeMap) createFile(dir wal.FS, name string, generation uint64) (err error) {
	if err := dir.Remove(mapTempName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := dir.Create(mapTempName)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close() // the error that counts is there already
		}
	}()
	if err := file.Allocate(0, mapFileBytes(len(m.pages))); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	h := m.emptyHead(generation)
	b := make([]byte, mapUnitBytes)
	if name == mapName {
		h.encode(b)
	}
	if _, err := file.WriteAt(b, mapHeadOffset(generation)); err != nil {
		return fmt.Errorf("write head: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := dir.Rename(mapTempName, name); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	m.adopt(file, h)
	m.io.name = name
	return nil
}

func (m *changeMap) emptyHead(generation uint64) mapHead {
	return mapHead{
		volumeID: m.volumeID, generation: generation, floor: m.floor, chunkBytes: m.chunkBytes, chunks: m.chunks,
		present: newBitmap(len(m.pages)), slot: newBitmap(len(m.pages)),
	}
}

// adopt takes file, in which h is durable.
func (m *changeMap) adopt(file wal.File, h mapHead) {
	m.io.file, m.io.kept, m.io.begun, m.io.stage = file, h, h, mapSynced
}

func (m *changeMap) openFile(dir wal.FS, generation uint64, head block.LSN) (problems []error, err error) {
	if next, err := m.isNext(dir, generation); err != nil {
		return nil, err
	} else if next {
		if err := renameMap(dir); err != nil {
			return nil, err
		}
	}
	file, err := dir.Open(mapName)
	if errors.Is(err, fs.ErrNotExist) {
		m.floor = head
		return []error{fmt.Errorf("change map: %w", err)}, m.createFile(dir, mapName, generation)
	}
	if err != nil {
		return nil, err
	}
	h, problem, err := m.readHead(file, generation)
	if err == nil && h != nil && !m.suits(h) {
		m.floor = head
		return []error{m.misfit(h)}, errors.Join(file.Close(), m.createFile(dir, mapName, generation))
	}
	if err == nil && h != nil {
		m.reshape(h.chunks)
	}
	if err == nil {
		err = m.ensureSize(file)
	}
	if err != nil {
		file.Close() // the error that counts is there already
		return nil, err
	}
	if h == nil {
		m.floor = head
		m.adopt(file, m.emptyHead(generation))
		return []error{problem}, nil
	}
	m.floor = h.floor
	m.adopt(file, *h)
	return m.readPages(head), nil
}

// readHead returns the head of a generation; none, and why, where it is missing or cannot be read. err is for a head
// that is another's.
func (m *changeMap) readHead(file wal.File, generation uint64) (h *mapHead, problem, err error) {
	b := make([]byte, mapUnitBytes)
	place := fmt.Sprintf("change map: head of generation %d", generation)
	if _, err := file.ReadAt(b, mapHeadOffset(generation)); err != nil {
		return nil, fmt.Errorf("%s: %w", place, err), nil
	}
	h, err = decodeMapHead(b)
	switch {
	case errors.Is(err, ErrVersion) || errors.Is(err, ErrIncompatible):
		return nil, nil, fmt.Errorf("%s: %w", place, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", place, err), nil
	case h.volumeID != m.volumeID:
		return nil, nil, fmt.Errorf("%s: %w: belongs to volume %v, not %v", place, ErrForeign, h.volumeID, m.volumeID)
	case h.generation != generation:
		return nil, fmt.Errorf("%s: %w: generation %d in its place", place, ErrCorrupt, h.generation), nil
	}
	return h, nil, nil
}

// ensureSize gives a file that was cut short its space back.
func (m *changeMap) ensureSize(file wal.File) error {
	want := mapFileBytes(len(m.pages))
	size, err := file.Size()
	if err != nil || size >= want {
		return err
	}
	if err := file.Allocate(0, want); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	return nil
}

// readPages loads the pages of the kept generation. One that cannot be read counts as changed at head, and is written
// by the next Write to its other slot.
func (m *changeMap) readPages(head block.LSN) (problems []error) {
	buf := make([]byte, min(mapBatchPages, len(m.pages))*mapUnitBytes)
	h := &m.io.kept
	for run := range pageRuns(h.present, h.slot, len(m.pages)) {
		b := buf[:run.count*mapUnitBytes]
		_, batchErr := m.io.file.ReadAt(b, m.pageOffset(run.first, run.slot))
		for i := range run.count {
			page, one := run.first+i, b[i*mapUnitBytes:(i+1)*mapUnitBytes]
			var err error
			if batchErr != nil {
				_, err = m.io.file.ReadAt(one, m.pageOffset(page, run.slot))
			}
			if err == nil {
				m.pages[page], err = decodeMapPage(one, h, page)
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("change map: page %d: %w", page, err))
				m.fillPage(page, head)
			}
		}
	}
	return problems
}

func (m *changeMap) fillPage(page int, lsn block.LSN) {
	first := uint64(page) * pageEntries
	m.pages[page] = new(mapPage)
	m.raisePageLocked(page, 0, min(m.chunks-first, pageEntries), lsn)
}

// pageRun is a run of pages that lie one after the other in the file.
type pageRun struct {
	first, count int
	slot         bool
}

// pageRuns yields the pages set in which, in order, as runs of pages that have the same bit in slots.
func pageRuns(which, slots bitmap, pages int) iter.Seq[pageRun] {
	return func(yield func(pageRun) bool) {
		for i := 0; i < pages; {
			if !which.get(i) {
				i++
				continue
			}
			run := pageRun{first: i, slot: slots.get(i)}
			for i < pages && run.count < mapBatchPages && which.get(i) && slots.get(i) == run.slot {
				i++
				run.count++
			}
			if !yield(run) {
				return
			}
		}
	}
}
