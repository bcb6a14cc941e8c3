package volume

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// Records come from the primary as wal.Reader returned them there. Their way:
//
//	decode    each record's checksum and shape; they are consecutive
//	compare   those that this copy has: byte for byte, where its log still has them (S6)
//	place     room for a resize, before its record
//	append    under the lock: epoch and reign (S8), what replay would refuse, then the log, as they came
//	publish   the index, the size, the lineage; reads see them
//
// Nothing of the bytes is trusted: what Receive takes, the next open can replay.

// ErrDiverged means that records are not those that this copy has under the same LSNs: the two logs are not the same up to
// there, and both sides must stop (S6).
var ErrDiverged = errors.New("the logs have diverged")

// Join tells up to which record the log of the epoch's primary is the same as this one: before, the last one before those that
// will be received, id is the ID of the epoch that it is of, and crc its checksum, 0 where the sender does not know it (S6).
// LSN 0 is before the first, and needs no other facts. Errors wrap ErrDiverged; wal.ErrGap, where this copy does not have the
// record; or those of Receive.
func (v *Volume) Join(epoch block.Epoch, before block.LSN, id uuid.UUID, crc uint32) error {
	v.receiving.Lock()
	defer v.receiving.Unlock()
	if err := v.join(epoch, before, id, crc); err != nil {
		return fmt.Errorf("join after record %d: %w", before, err)
	}
	return nil
}

func (v *Volume) join(epoch block.Epoch, before block.LSN, id uuid.UUID, crc uint32) error {
	if err := v.checkJoin(epoch, before, id); err != nil {
		return err
	}
	if before > 0 && crc != 0 {
		own, err := v.recordCRC(before)
		if err != nil {
			return err
		}
		if own != 0 && own != crc {
			return fmt.Errorf("%w: the record's checksum is %08x here, %08x there", ErrDiverged, own, crc)
		}
	}
	return v.agree(epoch, before)
}

func (v *Volume) checkJoin(epoch block.Epoch, before block.LSN, id uuid.UUID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.followsLocked(epoch); err != nil {
		return err
	}
	if head := v.log.Head(); before > head {
		return fmt.Errorf("%w: this copy ends with record %d", wal.ErrGap, head)
	}
	if before == 0 {
		return nil
	}
	if e, ok := v.epochOfLocked(before); !ok || e.ID != id {
		return fmt.Errorf("%w: the record is of epoch %d, %s, here, and of %s there", ErrDiverged, e.Epoch, e.ID, id)
	}
	return nil
}

// recordCRC returns the checksum of a record; 0 where the log does not know it any more.
func (v *Volume) recordCRC(lsn block.LSN) (uint32, error) {
	r, err := v.log.NewReader(lsn + 1)
	if errors.Is(err, wal.ErrNotRetained) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return r.Before(), nil
}

// epochOfLocked returns the lineage entry that a record is of; false where it was pruned.
func (v *Volume) epochOfLocked(lsn block.LSN) (block.EpochStart, bool) {
	return epochOf(v.lineage, lsn)
}

func epochOf(lineage []block.EpochStart, lsn block.LSN) (block.EpochStart, bool) {
	for i := len(lineage); i > 0; i-- {
		if e := lineage[i-1]; e.First <= lsn {
			return e, true
		}
	}
	return block.EpochStart{}, false
}

// lineageUpTo returns the lineage as of a record.
func (v *Volume) lineageUpTo(lsn block.LSN) []block.EpochStart {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []block.EpochStart
	for _, e := range v.lineage {
		if e.First <= lsn {
			all = append(all, e)
		}
	}
	return all
}

// agree notes that the log is the primary's up to lsn.
func (v *Volume) agree(epoch block.Epoch, lsn block.LSN) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.followsLocked(epoch); err != nil {
		return err
	}
	v.raiseLocked(lsn, 0)
	return nil
}

// Receive logs records of the epoch's primary, raw as wal.Reader returned them there, and publishes them. When it returns
// those up to applied, the head, are visible to reads and survive the end of this process; Sync makes them durable. What this
// copy has already is compared, and not logged again. They must follow on what is known to be that primary's: what Join
// said, and what was received in the epoch.
//
// Errors wrap wal.ErrGap; wal.ErrOldEpoch, a record that is of no epoch that may come there; ErrDiverged; ErrOldEpoch and
// ErrNotFollowed, which are about the sender's epoch; ErrRange, a record that is not of a volume of this size; those of a
// record that does not decode; ErrNoRoom and ErrNoSpace; ErrUncommitted, after which the same records can be received again
// once more is committed; or the volume's failure. After an error records up to applied were taken, and none after.
func (v *Volume) Receive(epoch block.Epoch, raw []byte) (applied block.LSN, err error) {
	v.receiving.Lock()
	defer v.receiving.Unlock()
	changes, err := wal.DecodeRecords(raw, int(v.blockBytes))
	if err == nil {
		err = v.receive(epoch, changes, raw)
	}
	if err != nil {
		err = fmt.Errorf("receive records: %w", err)
	}
	return v.log.Head(), err
}

func (v *Volume) receive(epoch block.Epoch, changes []wal.Change, raw []byte) error {
	known, err := v.countKnown(epoch, changes)
	if err != nil {
		return err
	}
	if known > 0 {
		if err := v.compare(changes[:known], raw); err != nil {
			return err
		}
		if err := v.agree(epoch, changes[known-1].LSN); err != nil {
			return err
		}
	}
	for changes = changes[known:]; len(changes) > 0; {
		n := firstReceived(changes)
		if err := v.receiveSome(epoch, changes[:n]); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// countKnown returns how many of the records this copy has, or why none of them is to be looked at.
func (v *Volume) countKnown(epoch block.Epoch, changes []wal.Change) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.followsLocked(epoch); err != nil || len(changes) == 0 {
		return 0, err
	}
	first := changes[0].LSN
	if agreed := v.follow.agreed; first > agreed+1 {
		return 0, fmt.Errorf("%w: %d, and the logs are known to be the same up to %d", wal.ErrGap, first, agreed)
	}
	return int(min(v.log.Head()+1-first, block.LSN(len(changes)))), nil
}

// compare checks records against those of the log. Of what the base image has, and the log let go of, only the epochs can be
// compared.
func (v *Volume) compare(changes []wal.Change, raw []byte) error {
	err := v.compareBytes(changes, raw)
	if !errors.Is(err, wal.ErrNotRetained) {
		return err
	}
	checkpoint := block.LSN(v.checkpoint.Load())
	if changes[0].LSN > checkpoint {
		return err
	}
	for len(changes) > 0 && changes[0].LSN <= checkpoint {
		if err := v.compareEpoch(&changes[0]); err != nil {
			return err
		}
		raw = raw[recordBytes(&changes[0]):]
		changes = changes[1:]
	}
	return v.compareBytes(changes, raw)
}

func (v *Volume) compareBytes(changes []wal.Change, raw []byte) error {
	if len(changes) == 0 {
		return nil
	}
	r, err := v.log.NewReader(changes[0].LSN)
	if err != nil {
		return err
	}
	length := 0
	for i := range changes {
		length += recordBytes(&changes[i])
	}
	own, _, _, err := r.Read(nil, length)
	if err != nil {
		return err
	}
	for i := range changes {
		n := recordBytes(&changes[i])
		if len(own) < n || !bytes.Equal(own[:n], raw[:n]) {
			return fmt.Errorf("%w: record %d is another one here", ErrDiverged, changes[i].LSN)
		}
		own, raw = own[n:], raw[n:]
	}
	return nil
}

func recordBytes(c *wal.Change) int { return wal.RecordHeaderBytes + len(c.Payload) }

func (v *Volume) compareEpoch(c *wal.Change) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e, ok := v.epochOfLocked(c.LSN); ok && e.Epoch != c.Epoch() {
		return fmt.Errorf("%w: record %d is of epoch %d here, of %d there", ErrDiverged, c.LSN, e.Epoch, c.Epoch())
	}
	return nil
}

// firstReceived returns how many records to append under one hold of the lock: a resize comes alone.
func firstReceived(changes []wal.Change) int {
	n := firstRecords(changes)
	for i := range changes[:n] {
		if changes[i].Type == wal.RecordResize {
			return max(i, 1)
		}
	}
	return n
}

// receiveSome makes place for a resize, and appends.
func (v *Volume) receiveSome(epoch block.Epoch, changes []wal.Change) error {
	if changes[0].Type != wal.RecordResize {
		return v.appendReceived(epoch, changes)
	}
	v.resizing.Lock()
	defer v.resizing.Unlock()
	from := v.Size()
	to, err := v.resizedBytes(&changes[0])
	if err != nil {
		return err
	}
	if err := v.makePlace(v.life, to); err != nil {
		return fmt.Errorf("resize to %d bytes by record %d: %w", to, changes[0].LSN, err)
	}
	err = v.appendReceived(epoch, changes)
	if err != nil && v.Err() == nil { // else the log may have the record
		err = errors.Join(err, v.shrinkBase(from))
	}
	return err
}

// resizedBytes is the volume's size after a resize record, which must follow on the one that it has.
func (v *Volume) resizedBytes(c *wal.Change) (int64, error) {
	blocks, err := resizedBlocks(v.sizeBlocks(), wal.Record{Range: c.Range, Payload: c.Payload})
	if err != nil {
		return 0, fmt.Errorf("record %d: %w", c.LSN, err)
	}
	if blocks > uint64(maxSizeBytes/v.blockBytes) {
		return 0, fmt.Errorf("record %d: resize to %d blocks: %w", c.LSN, blocks, ErrSize)
	}
	return int64(blocks) * v.blockBytes, nil
}

func (v *Volume) appendReceived(epoch block.Epoch, changes []wal.Change) error {
	for {
		seen := block.LSN(v.checkpoint.Load())
		err := v.tryReceive(epoch, changes)
		switch {
		case errors.Is(err, wal.ErrPinned):
			time.Sleep(time.Millisecond) // as in append
		case errors.Is(err, wal.ErrFull):
			begun := time.Now()
			err = v.makeRoom(seen)
			v.tally.full.add(time.Since(begun))
			if err != nil {
				return fmt.Errorf("record %d: %w", changes[0].LSN, err)
			}
		default:
			return err
		}
	}
}

// tryReceive appends and publishes the records, or returns wal.ErrFull where there is no room for them now.
func (v *Volume) tryReceive(epoch block.Epoch, changes []wal.Change) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.followsLocked(epoch); err != nil {
		return err
	}
	if head := v.log.Head(); changes[0].LSN != head+1 || v.follow.agreed != head {
		return fmt.Errorf("%w: %d after %d", wal.ErrGap, changes[0].LSN, head)
	}
	starts, err := v.checkReceivedLocked(epoch, changes)
	if err != nil {
		return err
	}
	if entries, _ := v.index.load(); entries > maxDirtyEntries {
		return wal.ErrFull
	}
	if err := v.log.AppendReceived(changes); err != nil {
		return err
	}
	v.index.publish(changes)
	v.takeSizeLocked(changes)
	v.lineage = append(v.lineage, starts...)
	v.raiseLocked(changes[len(changes)-1].LSN, 0)
	if v.wantsCheckpoint() {
		v.wake()
	}
	return nil
}

// checkReceivedLocked refuses what replay, or the superblock, would refuse, and what the epoch's primary can not have. It
// returns the lineage entries that the records make.
func (v *Volume) checkReceivedLocked(epoch block.Epoch, changes []wal.Change) (starts []block.EpochStart, err error) {
	if err := v.withinLocked(changes); err != nil {
		return nil, err
	}
	newest := v.log.Epoch()
	for i := range changes {
		c := &changes[i]
		if int64(recordBytes(c)) > v.segmentBytes-2*superblockAlign {
			return nil, fmt.Errorf("record %d has %d bytes, and a segment of the log %d: make the copy anew with a larger log",
				c.LSN, recordBytes(c), v.segmentBytes)
		}
		if c.Epoch() > epoch {
			return nil, fmt.Errorf("record %d is of epoch %d, from the primary of epoch %d: %w", c.LSN, c.Epoch(), epoch, wal.ErrOldEpoch)
		}
		if c.Type != wal.RecordEpochStart {
			continue
		}
		e := c.EpochStart()
		if e.Epoch <= newest {
			return nil, fmt.Errorf("record %d begins epoch %d after epoch %d: %w", c.LSN, e.Epoch, newest, wal.ErrOldEpoch)
		}
		if e.Epoch == epoch && e.ID != v.follow.seenID {
			return nil, fmt.Errorf("record %d begins epoch %d as %s: %w", c.LSN, epoch, e.ID, ErrEpochTaken)
		}
		newest = e.Epoch
		starts = append(starts, e)
	}
	return starts, nil
}

// Sync makes what was received durable on this node, and returns up to which record all are.
func (v *Volume) Sync() (block.LSN, error) {
	if err := v.Err(); err != nil {
		return 0, err
	}
	return v.log.Sync()
}
