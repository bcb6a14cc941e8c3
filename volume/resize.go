package volume

import (
	"context"
	"errors"
	"fmt"
	"math"

	"lockstep/backend"
	"lockstep/wal"
)

// A resize is a record in the log: everything before it was done to a volume of the old size, everything after it to one
// of the new. The blocks between the two ends read as zeroes from then on, so what a smaller volume once held there does
// not come back with a larger one. What has to be larger for it, the base image and the change map's file, is made so
// before the record is logged; what may be smaller is made so after the base image has the record.

// ErrSize means that a volume can not have that size.
var ErrSize = errors.New("not a possible size")

// Resize makes the volume sizeBytes long, which must be a multiple of the block size, and returns when that is on stable
// storage, here and on every in-sync replica. What is added reads as zeroes; what is cut off is gone. Where there is no
// room for a larger base image the error wraps ErrNoSpace, and nothing has changed. Space that is not needed any more is
// given back as far as that is possible now.
func (v *Volume) Resize(ctx context.Context, sizeBytes int64) error {
	if sizeBytes < v.blockBytes || sizeBytes%v.blockBytes != 0 || sizeBytes > math.MaxInt64-DataOffset-maxChunks {
		return fmt.Errorf("resize volume to %d bytes: %w: it must be a positive multiple of the block size, %d bytes",
			sizeBytes, ErrSize, v.blockBytes)
	}
	v.resizing.Lock()
	defer v.resizing.Unlock()
	from := v.Size()
	if sizeBytes == from {
		return nil
	}
	if err := v.resize(ctx, from, sizeBytes); err != nil {
		return fmt.Errorf("resize volume from %d to %d bytes: %w", from, sizeBytes, err)
	}
	v.cfg.Logger.Info().Int64("from_bytes", from).Int64("to_bytes", sizeBytes).Msg("volume resized")
	return nil
}

func (v *Volume) resize(ctx context.Context, from, to int64) error {
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.makePlace(to); err != nil {
		return err
	}
	change := wal.ResizeChange(uint64(from/v.blockBytes), uint64(to/v.blockBytes))
	if err := v.logAll([]wal.Change{change}, 0, nil); err != nil {
		return err
	}
	if err := v.flush(ctx); err != nil {
		return err
	}
	if err := v.Checkpoint(ctx); err != nil {
		if failed := v.Err(); failed != nil {
			return failed
		}
		// The log has the record, and a later checkpoint moves it.
		v.cfg.Logger.Warn().Err(err).Msg("resized, but the base image does not have it yet")
		return nil
	}
	if to < from {
		return v.cutBase(to)
	}
	return nil
}

// makePlace gives the base image and the change map the room that a volume of that size needs.
func (v *Volume) makePlace(sizeBytes int64) error {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if err := v.growBase(DataOffset + sizeBytes); err != nil {
		return err
	}
	next, err := v.resizedMap(sizeBytes)
	if err != nil {
		return spaceless(err)
	}
	if err := v.dropNextMap(); err != nil {
		return err
	}
	v.nextChanges = next
	return nil
}

func (v *Volume) growBase(wantBytes int64) error {
	has, err := v.cfg.Base.Size()
	if err != nil || has >= wantBytes {
		return err
	}
	r, ok := v.cfg.Base.(backend.Resizer)
	if !ok {
		return fmt.Errorf("base image: %w: it has %d bytes, needs %d, and can not grow", ErrSize, has, wantBytes)
	}
	if err := r.Resize(wantBytes); err != nil {
		return spaceless(fmt.Errorf("base image: %w", err))
	}
	if err := v.base.sync(); err != nil {
		return v.fail(err)
	}
	return nil
}

// spaceless makes a lack of space ErrNoSpace.
func spaceless(err error) error {
	if isNoSpace(noRoom(err)) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// cutBase gives back what a smaller volume does not need of the base image, whose superblock says that it is smaller.
func (v *Volume) cutBase(sizeBytes int64) error {
	r, ok := v.cfg.Base.(backend.Resizer)
	if !ok {
		return nil
	}
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if v.header.current.SizeBytes != sizeBytes {
		return nil // that checkpoint was of a moment before
	}
	if err := r.Resize(DataOffset + sizeBytes); err != nil {
		v.cfg.Logger.Warn().Err(err).Msg("the base image keeps the space of a larger volume")
		return nil
	}
	if err := v.base.sync(); err != nil {
		return v.fail(err)
	}
	return nil
}

// withinLocked returns an error where a record touches what is not, or no longer, in the volume.
func (v *Volume) withinLocked(records []wal.Change) error {
	end := v.sizeBlocks()
	for i := range records {
		if r := &records[i]; r.Range.End() > end && r.Type != wal.RecordResize {
			return fmt.Errorf("blocks %d+%d: %w of %d blocks", r.Range.Start, r.Range.Count, ErrRange, end)
		}
	}
	return nil
}

// takeSizeLocked makes the size what the records say that were appended and published.
func (v *Volume) takeSizeLocked(records []wal.Change) {
	for i := range records {
		if records[i].Type != wal.RecordResize {
			continue
		}
		r := wal.Record{Range: records[i].Range, Payload: records[i].Payload}
		blocks, err := r.Resize()
		if err != nil {
			panic("volume: " + err.Error())
		}
		v.setSize(int64(blocks) * v.blockBytes)
	}
}

func (v *Volume) setSize(bytes int64) {
	v.sizeBytes.Store(bytes)
	v.largest = max(v.largest, bytes)
}

// replayResize takes a resize after the checkpoint into size and index.
func (v *Volume) replayResize(r wal.Record) error {
	blocks, err := resizedBlocks(v.sizeBlocks(), r)
	if err != nil {
		return err
	}
	if blocks > uint64(math.MaxInt64-DataOffset)/uint64(v.blockBytes) {
		return fmt.Errorf("resize to %d blocks: %w", blocks, ErrSize)
	}
	v.index.publish([]wal.Change{{Type: r.Type, Range: r.Range, LSN: r.LSN}})
	v.setSize(int64(blocks) * v.blockBytes)
	return nil
}

// resizedBlocks is the size in blocks after a resize record that follows on a size of from blocks.
func resizedBlocks(from uint64, r wal.Record) (uint64, error) {
	to, err := r.Resize()
	if err != nil {
		return 0, err
	}
	if r.Range != wal.ResizeChange(from, to).Range {
		return 0, fmt.Errorf("a resize over blocks %d+%d to %d: %w of %d blocks", r.Range.Start, r.Range.Count, to, ErrRange, from)
	}
	return to, nil
}

// chunkBytesFor is the chunk size of the change map once the volume has that size: what it was, or more where there would
// be too many chunks.
func (v *Volume) chunkBytesFor(sizeBytes int64) int64 {
	return max(v.changes.ChunkBytes(), ChunkBytesFor(sizeBytes))
}

// resizedMap makes an empty map file for a volume of that size, beside the one in use; nil where that one will do.
func (v *Volume) resizedMap(sizeBytes int64) (*changeMap, error) {
	chunkBytes := v.chunkBytesFor(sizeBytes)
	chunks := chunkCount(sizeBytes, chunkBytes)
	if v.changes.fits(chunkBytes, chunks) {
		return nil, nil
	}
	m := newChangeMap(v.id, chunkBytes, chunks)
	if err := m.createFile(v.cfg.Meta, mapNextName, v.header.current.MapGeneration); err != nil {
		return nil, fmt.Errorf("create change map: %w", err)
	}
	return m, nil
}

// fitMap makes the change map one for a volume of that size, with what is known of its chunks. The superblock does not
// name it yet: until then, the file of the other one stays.
func (v *Volume) fitMap(sizeBytes int64) error {
	chunkBytes := v.chunkBytesFor(sizeBytes)
	chunks := chunkCount(sizeBytes, chunkBytes)
	if v.changes.fits(chunkBytes, chunks) {
		return nil
	}
	next := v.nextChanges
	if next == nil || !next.fits(chunkBytes, chunks) {
		// It was made before the last restart, or for a resize after this one.
		var err error
		if next, err = v.resizedMap(sizeBytes); err != nil {
			return noRoom(err)
		}
	}
	next.takeFrom(v.changes, v.header.current.MapGeneration)
	old := v.changes
	v.changes = next
	if v.nextChanges == next {
		v.nextChanges = nil
	}
	return errors.Join(old.Close(), v.dropNextMap())
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

// DataAfter returns how many bytes from there on are data, as Extents tells: what a Resize to that size would lose.
func (v *Volume) DataAfter(sizeBytes int64) (int64, error) {
	var data int64
	for off := sizeBytes; off < v.Size(); {
		extents, err := v.Extents(off, v.Size()-off, 1024)
		if err != nil {
			return 0, err
		}
		for _, e := range extents {
			off += e.Length
			if !e.Zero {
				data += e.Length
			}
		}
	}
	return data, nil
}
