// Package histogram counts how often values of a certain size occurred, in buckets whose bounds double.
//
// It owns the counters that nbd, wal and volume keep of what they do, as plain arrays of atomics: they know nothing of
// who reads them, or in which format. The zero value of each type is ready for use; nothing has to be closed.
//
// Invariants:
//
//   - Counting neither allocates, nor locks, nor waits: it is two atomic additions.
//   - A counter never decreases, so that the difference of two snapshots is what happened between them.
//   - Count is the sum of Counts, also in a snapshot that is taken while others count. Its Sum may then lack values that
//     are in Count, or have some that are not.
package histogram
