// Package backend stores the base image of a volume: bytes at offsets, made durable by Sync.
//
// There are three kinds. A File is a regular file, thin (sparse, gives space back) or thick (all its space is taken
// when it is created). A Device is a raw block device. A Memory is for volumes that need not outlive the process.
//
// # Lifecycle
//
// CreateFile makes a file under its name only once it is complete and on stable storage; OpenFile and OpenDevice lock
// what they open against everybody else who does the same, until Close. Nothing here starts a goroutine: Fill, which
// writes a thick file once so that later syncs are cheap, is called from one of the caller's and stopped by its
// context or by Close. Close waits for the calls under way; calls after it fail with fs.ErrClosed.
//
// # Invariants
//
//   - The size never changes. Access beyond it, or at a negative offset, is ErrRange and changes nothing.
//   - A failed Sync stays failed: the kernel reports a lost write once and then forgets it, so after one failure every
//     later Sync of that opening returns the same error, and Syncs wait for each other so that none can succeed
//     beside the one that got the report.
//   - What a File notes as allocated is allocated: notes are made after the space was found or taken, and erased
//     before it is given back, under a lock that covers both.
//   - Fill never covers data. It writes zeroes only where the file system says that nothing was written, the bytes
//     read as zeroes, and no write can come between.
//
// # What it survives, and what not
//
// A crash may leave any part of what was not synced undone, also of a ZeroAt. Reads and writes go through the page
// cache. On a file system that copies on write (btrfs, zfs, files with reflinks) Allocate can't promise that an
// overwrite finds room; there a lack of space shows in WriteAt or Sync. The same holds where the file system can neither
// allocate nor tell what is a hole.
package backend
