package volume

import (
	"errors"
	"fmt"
	"io/fs"

	"lockstep/block"
	"lockstep/wal"
)

// A change map has chunks for the largest size that its volume ever had: a smaller volume does without the last of them.
// For a larger one there is a new map, in a file beside the old one that is made, with all its space, before the resize is
// logged. The first checkpoint after the resize fills it with what the old one knows, writes it, and moves the superblock;
// then it takes the old one's name.

// covers tells whether the map has chunks for a volume of that size, which are not too many.
func (m *changeMap) covers(sizeBytes int64) bool {
	return m.chunkBytes >= ChunkBytesFor(sizeBytes) && m.chunks >= chunkCount(sizeBytes, m.chunkBytes)
}

// placeMap makes the file of the map that a volume of that size needs, where the one in use will not do.
func (v *Volume) placeMap(sizeBytes int64) error {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if v.changes.covers(sizeBytes) || v.nextChanges != nil && v.nextChanges.covers(sizeBytes) {
		return nil
	}
	return v.makeNextMap(sizeBytes)
}

func (v *Volume) makeNextMap(sizeBytes int64) error {
	chunkBytes := max(v.changes.ChunkBytes(), ChunkBytesFor(sizeBytes))
	m := newChangeMap(v.id, chunkBytes, chunkCount(sizeBytes, chunkBytes))
	if err := m.createFile(v.cfg.Meta, mapNextName, v.header.current.MapGeneration); err != nil {
		return fmt.Errorf("create change map: %w", err)
	}
	err := v.dropNextMap()
	v.nextChanges = m
	return err
}

// suits tells whether a head is one of this map, whose chunks may be more than the volume needs now.
func (m *changeMap) suits(h *mapHead) bool {
	return h.chunkBytes == m.chunkBytes && h.chunks >= m.chunks
}

// misfit says that the head is one of another map.
func (m *changeMap) misfit(h *mapHead) error {
	return fmt.Errorf("change map: %d chunks of %d bytes, want %d of %d", h.chunks, h.chunkBytes, m.chunks, m.chunkBytes)
}

// reshape gives an empty map as many chunks.
func (m *changeMap) reshape(chunks uint64) {
	pages := pageCount(chunks)
	m.chunks, m.pages, m.dirty, m.io.pending = chunks, make([]*mapPage, pages), newBitmap(pages), newBitmap(pages)
}

// fitMap makes the change map one for the largest size that the volume had since it was opened, with what is known of its
// chunks. The superblock does not name it yet: until then, the file of the other one stays.
func (v *Volume) fitMap(largestBytes int64) error {
	if v.changes.covers(largestBytes) {
		return nil
	}
	if v.nextChanges == nil || !v.nextChanges.covers(largestBytes) {
		if err := v.makeNextMap(largestBytes); err != nil {
			return noRoom(err) // its file was there when the resize was logged, and somebody removed it
		}
	}
	old := v.changes
	v.changes, v.nextChanges = v.nextChanges, nil
	v.changes.takeFrom(old, v.header.current.MapGeneration)
	return old.Close()
}

// dropNextMap closes a map that did not come into use.
func (v *Volume) dropNextMap() error {
	m := v.nextChanges
	v.nextChanges = nil
	if m == nil {
		return nil
	}
	return m.Close()
}

// openNextMap takes the map that was made for a resize which the log has, and the base image has not, or removes the file
// of one that nothing needs.
func (v *Volume) openNextMap() error {
	if !v.changes.covers(v.largest) {
		chunkBytes := max(v.changes.ChunkBytes(), ChunkBytesFor(v.largest))
		m := newChangeMap(v.id, chunkBytes, chunkCount(v.largest, chunkBytes))
		file, err := v.cfg.Meta.Open(mapNextName)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		v.nextChanges = m
		return m.adoptEmpty(file, v.header.current.MapGeneration)
	}
	err := v.cfg.Meta.Remove(mapNextName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, v.cfg.Meta.Sync()) // it must not come back with heads that count by then
}

// adoptEmpty takes a file of mapNextName as one that holds nothing. Until it is written it has no head, so that nothing takes
// it for the map that the superblock names.
func (m *changeMap) adoptEmpty(file wal.File, generation uint64) error {
	m.adopt(file, m.emptyHead(generation))
	m.io.name = mapNextName
	if err := m.ensureSize(file); err != nil {
		return err
	}
	if _, err := file.WriteAt(make([]byte, mapHeadSlots*mapUnitBytes), 0); err != nil {
		return fmt.Errorf("erase heads: %w", err)
	}
	return file.Sync()
}

// takeFrom makes an empty map say of its chunks what old says of those that they overlap. Old's chunks are of the same
// size, or smaller. The superblock names a generation of old's, and the next Write writes the one after it.
func (m *changeMap) takeFrom(old *changeMap, generation uint64) {
	m.io.kept.generation, m.io.begun.generation = generation, generation
	old.mu.Lock()
	m.floor = old.floor
	old.mu.Unlock()
	perChunk := uint64(m.chunkBytes / old.chunkBytes)
	old.Scan(m.floor, func(chunk uint64, lsn block.LSN) { m.Raise(chunk/perChunk, 1, lsn) })
}

// TakeName gives the file of a map that a resize made its lasting name, durably. The superblock names this map.
func (m *changeMap) TakeName(dir wal.FS) error {
	m.io.mu.Lock()
	defer m.io.mu.Unlock()
	if m.io.name != mapNextName {
		return nil
	}
	if err := renameMap(dir); err != nil {
		return fmt.Errorf("change map: %w", err)
	}
	m.io.name = mapName
	return nil
}

func renameMap(dir wal.FS) error {
	if err := dir.Rename(mapNextName, mapName); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// isNext tells whether the superblock names the map that a resize left under mapNextName: that one has its chunk size and
// chunks enough, and a head of its generation.
func (m *changeMap) isNext(dir wal.FS, generation uint64) (bool, error) {
	file, err := dir.Open(mapNextName)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	h, _, err := m.readHead(file, generation)
	return h != nil && m.suits(h), errors.Join(err, file.Close())
}
