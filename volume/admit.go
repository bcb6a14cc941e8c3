package volume

import (
	"errors"
	"fmt"
	"time"

	"lockstep/block"
	"lockstep/wal"
)

// Kind is what a Change does.
type Kind uint8

// The kinds of changes.
const (
	Write Kind = iota + 1 // Data replaces the range
	Zero                  // the range reads as zeroes and stays allocated
	Trim                  // the range reads as zeroes and need not stay allocated
)

// Change is one alteration of the volume, in bytes. Any offset and length within the volume will do.
type Change struct {
	Kind   Kind
	FUA    bool // on stable storage when Apply returns
	Offset int64
	Length int64
	Data   []byte // of a Write: Length bytes
	Err    error  // set by Apply
}

const (
	// batchBytes bounds what is appended under one hold of the lock.
	batchBytes = 2 << 20
	// maxDirtyEntries bounds the active part of the index, about 70 bytes an entry; what is frozen was active before.
	maxDirtyEntries = 1 << 20
)

// batch is a run of whole-block changes that are appended together: from..to of the changes given to Apply.
type batch struct {
	records  []wal.Change
	bytes    int64
	from, to int
	reign    *reign // that the changes were admitted under
}

// Apply carries out the changes in order and sets the Err of each. When it returns they are in the log of this node,
// visible to reads, and survive the death of the process; those with FUA are as durable as Flush would make them. It
// keeps neither the slice nor any Data. It slows its callers down as the log fills, and blocks while the log is full
// and can be emptied; where it cannot, changes get ErrNoSpace.
func (v *Volume) Apply(changes []Change) {
	b := v.batches.Get().(*batch)
	defer v.batches.Put(b)
	b.reign = v.reign.Load()
	fua := false
	for i := range changes {
		c := &changes[i]
		if c.Err = v.checkChange(c); c.Err != nil {
			continue
		}
		fua = fua || c.FUA
		if v.isPartial(c) {
			v.applyBatch(b, changes)
			c.Err = v.applyPartial(b, c)
			b.reset()
			continue
		}
		if b.bytes > 0 && b.bytes+c.Length > batchBytes && c.Kind == Write {
			v.applyBatch(b, changes)
		}
		if len(b.records) == 0 {
			b.from = i
		}
		b.add(c, v.blockBytes)
		b.to = i + 1
	}
	v.applyBatch(b, changes)
	if fua {
		v.flushFUA(changes)
	}
}

func (v *Volume) checkChange(c *Change) error {
	if err := v.checkRange(c.Offset, c.Length); err != nil {
		return err
	}
	if c.Kind == Write && int64(len(c.Data)) != c.Length {
		panic(fmt.Sprintf("volume: write of %d bytes with %d bytes of data", c.Length, len(c.Data)))
	}
	if err := v.Err(); err != nil {
		return err
	}
	if v.reign.Load() == nil {
		return ErrFollower
	}
	return nil
}

// isPartial tells whether the change covers a part of some block.
func (v *Volume) isPartial(c *Change) bool { return (c.Offset|c.Length)&(v.blockBytes-1) != 0 }

// flushFUA makes the changes that have FUA durable.
func (v *Volume) flushFUA(changes []Change) {
	err := v.Flush()
	for i := range changes {
		if c := &changes[i]; c.FUA && c.Err == nil {
			c.Err = err
		}
	}
}

// applyBatch logs what the batch holds, sets the error of its changes where that fails, and empties it.
func (v *Volume) applyBatch(b *batch, changes []Change) {
	defer b.reset()
	if len(b.records) == 0 {
		return
	}
	err := v.logAll(b.reign, b.records, b.bytes, nil)
	if err == nil {
		return
	}
	// What has no room with others may have alone: a trim has space that a write has not (L5). And one that lies after the
	// end of a volume which is smaller now spoils none of the others.
	alone := (errors.Is(err, ErrNoSpace) || errors.Is(err, ErrRange)) && b.to-b.from > 1 && firstRecords(b.records) == len(b.records)
	for i := b.from; i < b.to; i++ {
		switch c := &changes[i]; {
		case c.Err != nil:
		case alone:
			b.reset()
			b.add(c, v.blockBytes)
			c.Err = v.logAll(b.reign, b.records, b.bytes, nil)
		default:
			c.Err = err
		}
	}
}

func (b *batch) reset() {
	clear(b.records) // do not keep the callers' data alive
	b.records, b.bytes = b.records[:0], 0
}

// add appends the records of a whole-block change.
func (b *batch) add(c *Change, blockBytes int64) {
	r := block.Range{Start: uint64(c.Offset / blockBytes), Count: uint64(c.Length / blockBytes)}
	switch {
	case c.Length == 0:
	case c.Kind == Write:
		b.addWrite(r.Start, c.Data, blockBytes)
	default:
		b.addZeroes(c.Kind, r)
	}
}

func (b *batch) addWrite(start uint64, data []byte, blockBytes int64) {
	for len(data) > 0 {
		n := min(len(data), wal.MaxPayloadBytes)
		count := uint64(int64(n) / blockBytes)
		b.records = append(b.records, wal.Change{
			Type: wal.RecordWrite, Range: block.Range{Start: start, Count: count}, Payload: data[:n],
		})
		b.bytes += int64(n)
		start, data = start+count, data[n:]
	}
}

func (b *batch) addZeroes(kind Kind, r block.Range) {
	if r.Count == 0 {
		return
	}
	t := wal.RecordTrim
	if kind == Zero {
		t = wal.RecordZero
	}
	b.records = append(b.records, wal.Change{Type: t, Range: r})
}

// logAll appends the records and publishes them. It waits for partial changes of other callers that they overlap; own
// is the caller's, or nil, and ends when the records are published. Once the reign that the caller began under is over it
// logs nothing more (S8).
func (v *Volume) logAll(r *reign, records []wal.Change, bytes int64, own *partial) error {
	v.pacer.wait(bytes)
	for len(records) > 0 {
		n := firstRecords(records)
		if err := v.append(r, records[:n], own); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// firstRecords returns how many records to append under one hold of the lock: about batchBytes.
func firstRecords(records []wal.Change) int {
	bytes := 0
	for i := range records {
		if bytes += len(records[i].Payload); bytes > batchBytes && i > 0 {
			return i
		}
	}
	return len(records)
}

func (v *Volume) append(r *reign, records []wal.Change, own *partial) error {
	for {
		seen := block.LSN(v.checkpoint.Load())
		err := v.tryAppend(r, records, own)
		if errors.Is(err, wal.ErrPinned) {
			time.Sleep(time.Millisecond) // a reader holds the oldest segment, for as long as its disk takes
			continue
		}
		if !errors.Is(err, wal.ErrFull) {
			return err
		}
		begun := time.Now()
		err = v.makeRoom(seen)
		v.tally.full.add(time.Since(begun))
		if errors.Is(err, ErrUncommitted) {
			return ErrFollower // which it has become meanwhile
		}
		if err != nil {
			return err
		}
	}
}

// tryAppend appends and publishes the records, or returns wal.ErrFull where there is no room for them now.
func (v *Volume) tryAppend(r *reign, records []wal.Change, own *partial) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.partials.await(records, own)
	if err := v.Err(); err != nil {
		return err
	}
	if r == nil || v.reign.Load() != r {
		return ErrFollower
	}
	if err := v.withinLocked(records); err != nil {
		return err
	}
	if entries, _ := v.index.load(); entries > maxDirtyEntries {
		return wal.ErrFull
	}
	if err := v.log.Append(records, v.now().UnixNano()); err != nil {
		return err
	}
	v.index.publish(records)
	v.takeSizeLocked(records)
	if v.wantsCheckpoint() {
		v.wake()
	}
	return nil
}

// wake tells the background that there is something to do.
func (v *Volume) wake() {
	select {
	case v.kick <- struct{}{}:
	default: // it was told already
	}
}
