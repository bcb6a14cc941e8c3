package wal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"lockstep/block"
)

// Errors of records that come from another copy.
var (
	// ErrGap means that a record does not follow on the one before it.
	ErrGap = errors.New("records are not consecutive")
	// ErrOldEpoch means that a record's epoch is not the log's, and does not begin a newer one.
	ErrOldEpoch = errors.New("record of another epoch")
)

// DecodeRecords splits what Reader.Read returned into changes for AppendReceived, and checks each record, its CRC too, and
// that they are consecutive. The changes point into b. Errors wrap ErrGap or a record's.
func DecodeRecords(b []byte, blockBytes int) ([]Change, error) {
	var changes []Change
	for off := 0; off < len(b); {
		r, n, err := decodeRecord(b[off:], blockBytes)
		if err != nil {
			return nil, fmt.Errorf("record %d of the batch, at byte %d: %w", len(changes), off, err)
		}
		if i := len(changes); i > 0 && r.LSN != changes[i-1].LSN+1 {
			return nil, fmt.Errorf("%w: %d after %d", ErrGap, r.LSN, changes[i-1].LSN)
		}
		changes = append(changes, Change{
			Type: r.Type, Range: r.Range, Payload: r.Payload, LSN: r.LSN, received: b[off : off+RecordHeaderBytes : off+RecordHeaderBytes],
		})
		off += n
	}
	return changes, nil
}

// Epoch returns the epoch of a record that DecodeRecords decoded.
func (c *Change) Epoch() block.Epoch {
	return block.Epoch(binary.LittleEndian.Uint64(c.received[recordOffEpoch:]))
}

// EpochStart returns the lineage entry that a received epoch-start record makes.
func (c *Change) EpochStart() block.EpochStart {
	r := Record{Epoch: c.Epoch(), LSN: c.LSN, Payload: c.Payload}
	return r.EpochStart()
}

// AppendReceived logs records of another copy under the LSNs and epochs that they have there, byte for byte, and sets their
// positions. They must follow on the head (ErrGap), and be of the log's epoch, which an epoch-start record among them raises
// (ErrOldEpoch): else nothing is appended, as with ErrFull. Otherwise it is Append.
func (l *Log) AppendReceived(changes []Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	epoch, err := l.checkReceivedLocked(changes)
	if err != nil {
		return err
	}
	if err := l.admitLocked(changes); err != nil {
		return err
	}
	if len(changes) > 0 && changes[0].LSN != l.Head()+1 { // admitLocked may have let another one in
		return fmt.Errorf("%w: %d after %d", ErrGap, changes[0].LSN, l.Head())
	}
	l.epoch = max(l.epoch, epoch)
	return l.appendLocked(changes, 0)
}

// checkReceivedLocked returns the epoch after the changes.
func (l *Log) checkReceivedLocked(changes []Change) (block.Epoch, error) {
	epoch := l.epoch
	for i := range changes {
		c := &changes[i]
		if want := l.Head() + 1 + block.LSN(i); c.LSN != want {
			return 0, fmt.Errorf("append received records: %w: %d after %d", ErrGap, c.LSN, want-1)
		}
		e := c.Epoch()
		if e != epoch && (c.Type != RecordEpochStart || e < epoch) {
			return 0, fmt.Errorf("append received records: %w: record %d is of epoch %d, the log's is %d", ErrOldEpoch, c.LSN, e, epoch)
		}
		epoch = e
	}
	return epoch, nil
}
