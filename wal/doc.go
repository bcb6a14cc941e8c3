// Package wal is the write-ahead log of one copy of a volume: it assigns LSNs, makes records durable, reads them back
// and reclaims their space.
//
// # What is on disk
//
// A log is a directory of segments of one size, each a header and then frames on a fixed grid. A frame wraps what one
// append wrote: it never leaves the node, and carries what is true only of this disk. In it are records, which are
// byte for byte the same on every node and on the wire.
//
//	segment  = header(4096) frame* (zeroes or stale bytes)
//	frame    = header(64) record* padding to the grid
//	record   = header(64) payload
//
// Frames form a chain: each names its predecessor's CRC, and the chain runs on from the last frame of one segment to
// the first of the next. What a segment held before it was recycled, or before the log was cut, can not be taken for
// part of the chain: it has another segment sequence, another predecessor or an older incarnation.
//
// # Lifecycle
//
// Open walks the chain from the checkpoint on, hands each record to the caller, and tells a torn tail (where the log
// ends) from damage (an error). It writes nothing. Harden then makes durable all that was found, and Start, under a
// new incarnation that the caller has made durable, opens the log for Append. Close does not sync.
//
// # Other copies
//
// A Reader returns records byte for byte, for other copies, whose AppendReceived takes them under the LSNs and epochs that
// they have. What the base image has is kept for readers as long as nobody needs its space, across restarts too; a
// Retention has the log grow to its budget before it is given up.
//
// # Invariants
//
//   - File order is LSN order: an LSN is assigned and its record appended under one lock.
//   - tail <= checkpointed + 1; durable <= head. durable only grows, and only when an fdatasync returned nil.
//   - After a failed write or sync the log takes no more appends (ErrFailed) until it is opened again.
//   - A segment is recycled only when all its records are at or below what Reclaim was told, and nobody pins it;
//     what a Retention keeps, only when the budget has no room beside it.
//
// It survives the death of the process (records are in the page cache when Append returns) and the loss of any subset
// of what was not synced.
package wal
