// Package disk is a disk for tests: in memory, with a page cache that a power cut loses, and deterministic. It proves
// that a log or volume keeps its promises whatever operation the power cut, kill or error falls on.
//
// # The disk
//
// Disk holds directories (Dir, a wal.FS) and images (Base, a backend.Backend with all its extensions). Every operation
// that changes or syncs anything has a number, counted over the whole disk; a Plan says which of them fail, and how.
// What it models:
//
//   - Writes, zeroes, sizes and reserved space are durable after the file's Sync, names after the directory's. At a
//     power cut any part of the rest survives, as Choice says; a sector of 512 bytes is never torn.
//   - Kill keeps the page cache: the next process sees everything that was written, and none of it is more durable
//     than it was. A process that opens files must sync before it promises anything on what it has read.
//   - A failed Sync is Linux's: what was dirty stays readable, and no later Sync makes it durable; only writing it
//     again does. A power cut may lose or keep it. Size and reserved space are tried again. A failed directory Sync
//     leaves its changes to the next one.
//   - Space is limited in pages of 4 KiB, over all files and bases, and the limit may change at any time. A write takes
//     what fits; Allocate all or nothing. Space that a name or hole gave up counts as free at once, though a power cut
//     may bring it back.
//   - Nothing is ever zeroed but by ZeroAt and by growing: a renamed file has its old bytes.
//   - Reads can be made to fail (FailReads) and bytes to rot (Corrupt).
//
// Life cycle: New, work through Dir and Base, then Recover (power cut) or Kill, again Dir and Base, and so on. Handles
// of the life before fail with ErrCrashed for ever, so that a goroutine left over cannot write into the next. Clone
// forks the disk at any point.
//
// # The model
//
// Model knows what a volume may hold. It is told of every change, acknowledgement and flush, and judges what is read:
// CheckRead while the volume runs (I3, I8), CheckRecovered after a restart (I1, I2, I5). There one position in the log
// must explain every block at once, so lost, resurrected, reordered and skipped records all contradict; an error names
// the blocks and changes that do. Model.Write stamps data so that no two writes look alike. What the volume recovered
// counts as durable from there on (L4). A log is tested as a volume in which record i is block i.
//
// # How to write a crash test
//
// Write a History and hand it to the drivers:
//
//	func TestCrash(t *testing.T) {
//		disk.Exhaustive(t, disk.History{
//			Model: disk.ModelConfig{SizeBytes: 64 << 10},
//			Setup: func(c *disk.Case) error { return volume.Create(config(c.Disk), geometry) },
//			Run: func(c *disk.Case) error {
//				v, err := volume.Open(config(c.Disk)) // opens c.Disk.Dir("log"), c.Disk.Base("base", size), …
//				if err != nil {
//					return err
//				}
//				id := c.Model.Begin(change)
//				if err := apply(v, change); err != nil {
//					return err // neither acknowledged nor refused: it may survive
//				}
//				c.Model.Acked(id)
//				f := c.Model.FlushBegun()
//				if err := v.Flush(); err != nil {
//					return err
//				}
//				c.Model.FlushAcked(f)
//				return v.Close()
//			},
//			Recover: func(c *disk.Case) error {
//				v, err := volume.Open(config(c.Disk))
//				if err != nil {
//					return err // recovery never fails on a disk that only lost power
//				}
//				if err := c.Model.CheckRecovered(v.Read); err != nil {
//					return err
//				}
//				// … change something, flush, CheckRead …
//				return v.Close()
//			},
//		})
//	}
//
// Exhaustive stops at each operation in turn, Faults fails each, Random lives on over several crashes. A failure prints
// its seed, the endings that led to it and the last operations; LOCKSTEP_SEED replays it, LOCKSTEP_SEEDS makes Random
// go on for longer. A history must do the same each time it is run, so it runs on one goroutine and takes its random
// choices from c.Rand and its clock and identifiers from neither the machine nor the time of day. The example shows the
// same by hand, without drivers.
//
// Package wal is imported here, so its crash tests are in package wal_test.
package disk
