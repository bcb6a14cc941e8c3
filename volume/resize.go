package volume

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"

	"lockstep/backend"
	"lockstep/wal"
)

// A resize is a record in the log: everything before it was done to a volume of the old size, everything after it to one
// of the new. The blocks between the two ends read as zeroes from then on, so what a smaller volume once held there does
// not come back with a larger one. What has to be larger for it, the change map's file and the base image, is made so
// before the record is logged; the base image is cut once both superblock slots say that the volume is smaller.

var (
	// ErrSize means that a volume can not have that size.
	ErrSize = errors.New("not a possible size")
	// ErrShrink means that a volume would become smaller, which was not asked for.
	ErrShrink = errors.New("it would become smaller")
	// ErrNoRoom means that there is no space for a larger volume, or for a record that makes it smaller.
	ErrNoRoom = fmt.Errorf("no room for that size: %w", syscall.ENOSPC)
)

// maxSizeBytes is the largest size that a volume may have; sums of offsets in it do not overflow.
const maxSizeBytes = math.MaxInt64/2 - 1

// growStep is how much a base image grows at a time, so that a growth can be given up in between.
const growStep = 16 << 30

// Resize makes the volume sizeBytes long, which must be a multiple of the block size (ErrSize), and returns when that is on
// stable storage, here and on every in-sync replica. What is added reads as zeroes; what is cut off is gone, and only
// where shrink allows it (ErrShrink). Where there is no room for a larger volume the error wraps ErrNoRoom, and nothing has
// changed. Space that is not needed any more is given back by a checkpoint, here or later. from is the size before: where it
// is above Size now, clients that were told of it have to be told, also after an error.
func (v *Volume) Resize(ctx context.Context, sizeBytes int64, shrink bool) (from int64, err error) {
	v.resizing.Lock()
	defer v.resizing.Unlock()
	from = v.Size()
	if sizeBytes < v.blockBytes || sizeBytes%v.blockBytes != 0 || !v.possible(sizeBytes) {
		return from, fmt.Errorf("resize volume to %d bytes: %w: it must be a multiple of %d, the block size, and below 2^62",
			sizeBytes, ErrSize, v.blockBytes)
	}
	if sizeBytes < from && !shrink {
		return from, fmt.Errorf("resize volume from %d to %d bytes: %w", from, sizeBytes, ErrShrink)
	}
	if err := v.Err(); err != nil {
		return from, err
	}
	r := v.reign.Load()
	if r == nil {
		return from, ErrFollower
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if sizeBytes != from {
		if err := v.resize(ctx, r, from, sizeBytes); err != nil {
			return from, fmt.Errorf("resize volume from %d to %d bytes: %w", from, sizeBytes, err)
		}
		v.cfg.Logger.Info().Int64("from_bytes", from).Int64("to_bytes", sizeBytes).Msg("volume resized")
	}
	return from, v.settle(ctx)
}

// possible tells whether a volume may have that size as far as offsets go, with room to spare for sums of them.
func (v *Volume) possible(sizeBytes int64) bool { return sizeBytes <= maxSizeBytes }

func (v *Volume) resize(ctx context.Context, r *reign, from, to int64) error {
	if err := v.makePlace(ctx, to); err != nil {
		return err
	}
	change := wal.ResizeChange(uint64(from/v.blockBytes), uint64(to/v.blockBytes))
	if err := v.logAll(r, []wal.Change{change}, 0, nil); err != nil {
		if v.Err() == nil { // else the log may have the record
			err = errors.Join(roomless(err), v.shrinkBase(from))
		}
		return err
	}
	return v.flush(ctx)
}

// settle moves a resize to the superblock, and cuts the base image. Where that can not be now, a later checkpoint does it.
func (v *Volume) settle(ctx context.Context) error {
	err := v.Checkpoint(ctx)
	if err == nil {
		v.checkpointing.Lock()
		err = v.cutBaseLocked()
		v.checkpointing.Unlock()
	}
	if failed := v.Err(); err == nil || failed != nil {
		return failed
	}
	v.cfg.Logger.Warn().Err(err).Msg("resized; base image and superblock follow with a later checkpoint, do not make a device smaller before")
	return nil
}

// makePlace gives change map and base image the room that a volume of that size needs, or leaves both as they were.
func (v *Volume) makePlace(ctx context.Context, sizeBytes int64) error {
	if err := v.placeMap(sizeBytes); err != nil {
		return roomless(err)
	}
	has, err := v.cfg.Base.Size()
	if err != nil {
		return err
	}
	if err := v.growBase(ctx, DataOffset+sizeBytes); err != nil {
		return errors.Join(roomless(err), v.shrinkBase(has-DataOffset))
	}
	return nil
}

func (v *Volume) growBase(ctx context.Context, wantBytes int64) error {
	has, err := v.cfg.Base.Size()
	if err != nil || has >= wantBytes {
		return err
	}
	r, ok := v.cfg.Base.(backend.Resizer)
	if !ok {
		return fmt.Errorf("base image: %w: it has %d bytes, needs %d, and can not grow", ErrSize, has, wantBytes)
	}
	for has < wantBytes {
		if err := ctx.Err(); err != nil {
			return err
		}
		has += min(growStep, wantBytes-has)
		if err := r.Resize(has); err != nil {
			return fmt.Errorf("base image: %w", err)
		}
	}
	if err := v.base.sync(); err != nil {
		return v.fail(err)
	}
	return nil
}

// roomless makes a lack of space ErrNoRoom.
func roomless(err error) error {
	if isNoSpace(noRoom(err)) {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	return err
}

// shrinkBase makes the base image as short as a volume of that size may have it.
func (v *Volume) shrinkBase(sizeBytes int64) error {
	r, ok := v.cfg.Base.(backend.Resizer)
	if !ok {
		return nil
	}
	has, err := v.cfg.Base.Size()
	if err != nil || has <= DataOffset+sizeBytes {
		return err
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

// cutBaseLocked gives back what the base image has beyond the end of a volume that both superblock slots know to be that
// small, so that either may rot. The caller holds resizing and checkpointing.
func (v *Volume) cutBaseLocked() error {
	if err := v.Err(); err != nil {
		return err
	}
	size := v.header.current.SizeBytes
	has, err := v.cfg.Base.Size()
	if err != nil || has <= DataOffset+size || size != v.Size() || has == v.keeps {
		return err
	}
	if err := v.header.write(v.header.current); err != nil {
		return v.fail(err)
	}
	if err := v.shrinkBase(size); err != nil {
		return err
	}
	v.keeps, err = v.cfg.Base.Size()
	return err
}

// withinLocked returns an error where a record touches what is not, or no longer, in the volume, and where a resize does not
// start from its size.
func (v *Volume) withinLocked(records []wal.Change) error {
	end := v.sizeBlocks()
	for i := range records {
		r := &records[i]
		if r.Type == wal.RecordResize {
			to, err := resizedBlocks(end, wal.Record{Range: r.Range, Payload: r.Payload})
			if err != nil {
				return err
			}
			end = to
			continue
		}
		if r.Range.End() > end {
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
	if blocks > uint64(maxSizeBytes/v.blockBytes) {
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
