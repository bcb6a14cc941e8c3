package volume

import (
	"fmt"
	"slices"
)

// Write writes what is new as a generation: one more than the one that the superblock names. Where the superblock did
// not come to name the generation of the last Write, this is that generation again. Asking for one more than in the
// last Write therefore says that the superblock names that one, durably. Only Sync makes it durable. What is raised
// during Write may be in this generation or in the next.
func (m *changeMap) Write(generation uint64) error {
	m.io.mu.Lock()
	defer m.io.mu.Unlock()
	if generation == m.io.begun.generation+1 && m.io.stage == mapSynced {
		m.io.kept = m.io.begun
		clear(m.io.pending)
	}
	if generation != m.io.kept.generation+1 {
		panic(fmt.Sprintf("volume: change map: write generation %d, kept %d, begun %d at stage %d",
			generation, m.io.kept.generation, m.io.begun.generation, m.io.stage))
	}
	m.io.stage = mapBroken
	next := m.beginWrite(generation)
	if err := m.writePages(next); err != nil {
		return fmt.Errorf("write change map generation %d: %w", generation, err)
	}
	if err := m.writeHead(next); err != nil {
		return fmt.Errorf("write change map generation %d: head: %w", generation, err)
	}
	m.io.begun, m.io.stage = *next, mapWritten
	return nil
}

// beginWrite moves the dirty pages to pending and chooses the slot of each: the one that kept has not.
func (m *changeMap) beginWrite(generation uint64) *mapHead {
	next := m.io.kept
	next.generation = generation
	next.present, next.slot = slices.Clone(next.present), slices.Clone(next.slot)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.pages {
		m.io.pending.put(i, p != nil && (m.dirty.get(i) || m.io.pending.get(i)))
		next.slot.put(i, next.slot.get(i) != m.io.pending.get(i))
	}
	clear(m.dirty)
	return &next
}

// writePages writes the pending pages.
func (m *changeMap) writePages(next *mapHead) error {
	buf := make([]byte, min(mapBatchPages, len(m.pages))*mapUnitBytes)
	for run := range pageRuns(m.io.pending, next.slot, len(m.pages)) {
		b := buf[:run.count*mapUnitBytes]
		m.encodePages(b, run.first, next.generation)
		if _, err := m.io.file.WriteAt(b, m.pageOffset(run.first, run.slot)); err != nil {
			return fmt.Errorf("%d pages at %d: %w", run.count, run.first, err)
		}
	}
	return nil
}

// encodePages fills b with pages from first on. One that RaiseAll took away meanwhile is written as empty.
func (m *changeMap) encodePages(b []byte, first int, generation uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range len(b) / mapUnitBytes {
		p := m.pages[first+i]
		if p == nil {
			p = new(mapPage)
		}
		encodeMapPage(b[i*mapUnitBytes:(i+1)*mapUnitBytes], m.volumeID, first+i, generation, &p.entries)
	}
}

// writeHead completes next with what is in memory now, and writes it. A page that was made during this Write is not
// on disk, and stays dirty. One that RaiseAll took away needs to be no more: the floor covers it, and is written here.
func (m *changeMap) writeHead(next *mapHead) error {
	m.mu.Lock()
	next.floor = m.floor
	for i, p := range m.pages {
		onDisk := m.io.pending.get(i) || m.io.kept.present.get(i)
		next.present.put(i, p != nil && onDisk)
	}
	m.mu.Unlock()
	b := make([]byte, mapUnitBytes)
	next.encode(b)
	_, err := m.io.file.WriteAt(b, mapHeadOffset(next.generation))
	return err
}

// Sync makes the generation of the last Write durable; the superblock may name it afterwards. After an error the
// pages must be written again: another Sync would prove nothing.
func (m *changeMap) Sync() error {
	m.io.mu.Lock()
	defer m.io.mu.Unlock()
	if m.io.stage == mapBroken {
		return errMapBroken
	}
	m.io.stage = mapBroken
	if err := m.io.file.Sync(); err != nil {
		return fmt.Errorf("sync change map generation %d: %w", m.io.begun.generation, err)
	}
	m.io.stage = mapSynced
	return nil
}

// Close closes the file; nothing is written.
func (m *changeMap) Close() error {
	m.io.mu.Lock()
	defer m.io.mu.Unlock()
	if err := m.io.file.Close(); err != nil {
		return fmt.Errorf("close change map: %w", err)
	}
	return nil
}
