// Package block holds the words every other package shares: log sequence numbers, epochs, block ranges and lineage.
// It has no behaviour beyond what a word means, and imports nothing of lockstep.
package block

import "github.com/google/uuid"

// LSN is the log sequence number of a record: 1, 2, 3 … without gaps within a volume. 0 means "before the first".
type LSN uint64

// Epoch numbers one period of authority over a volume. 0 means "none yet".
type Epoch uint64

// Range is Count blocks from block number Start on. Its unit is the volume's block, never the byte.
type Range struct {
	Start, Count uint64
}

// End returns the first block after the range.
func (r Range) End() uint64 { return r.Start + r.Count }

// EpochStart is one entry of a lineage: from record First on, until the next entry, the log was written under
// this epoch. Two logs agree up to their fork point, which is found by comparing entries.
type EpochStart struct {
	Epoch   Epoch
	ID      uuid.UUID // random, made with the epoch: equal numbers under different IDs are different epochs
	Primary uuid.UUID // node ID of the epoch's primary
	First   LSN       // LSN of the epoch-start record
}
