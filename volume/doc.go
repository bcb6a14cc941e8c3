// Package volume is the disk: it joins a log and a base image into read, write, trim, zero, flush and recovery.
//
// # Where data are
//
// A change is widened to whole blocks and appended to the log; the dirty index then says where its blocks are. A read
// looks there first, newest change first, and then in the base image. A checkpoint moves what the log holds to the
// base image, in order of the blocks and without what was overwritten; only then may the log be reclaimed.
//
//	base image:  superblock slots, up to DataOffset; then the data
//	meta:        the change map, which knows for each chunk when it last changed
//	log:         see package wal
//
// The size changes by a record in the log, too: see resize.go.
//
// # Lifecycle
//
// Create makes the files. Open reads the superblock, replays the log beyond the checkpoint into the index, makes all of
// it durable, and begins a new incarnation and epoch. Run does the background work. Close makes the log durable, and log
// and superblock say so; it waits for no other copy. After a
// write or sync failed, changes and flushes get ErrFailed until the volume is opened again; reads go on.
//
// A replicated volume opens with OpenFollower, which begins no epoch. It takes records of the primary that Follow named, with
// Join and Receive, until Lead makes it the primary; Follow and Fence end that (follow.go). Truncate cuts a follower's
// log, which is not open, where it parted from its primary's.
//
// # Invariants
//
//   - checkpoint <= base_high <= durable <= head.
//   - Every entry of the index lies in a segment that Log.Reclaim was not told of. Entries are published in LSN order.
//   - The base image never holds a change that is not durable in the log, and none beyond base_high.
//   - A follower's base image holds only what its primary said, in the epoch that is followed, is committed (S10).
//   - A change is logged under the reign that it was admitted in, a record in the epoch that is followed: both are compared under
//     the lock of the append (S8).
//   - The newest epoch that was heard of is in the superblock before anything is done in it.
//   - The superblock names a generation of the change map in which every change up to the checkpoint counts.
package volume
