package wal

import "io"

// FS is one flat directory: of log segments, or of a volume's metadata. Names have no separators. Creating, renaming
// and removing become durable with Sync, not before. OpenDir gives the one on a real disk; test/disk has one that
// fails and crashes.
type FS interface {
	// Create makes a new empty file; a file of that name is an error that wraps fs.ErrExist.
	Create(name string) (File, error)
	// Open opens a file for reading and writing; fs.ErrNotExist where there is none.
	Open(name string) (File, error)
	// Rename replaces newName if it exists.
	Rename(oldName, newName string) error
	Remove(name string) error
	// List returns the names of all files, sorted.
	List() ([]string, error)
	// Sync makes the directory's entries durable.
	Sync() error
}

// File is one file of an FS. Reads and writes follow io.ReaderAt and io.WriterAt; a write beyond the end grows the
// file, and what lies between reads as zeroes.
type File interface {
	io.ReaderAt
	io.WriterAt
	// WriteVecAt writes the buffers one after the other from off on, in one system call where it can. On an error any
	// part of them may have been written.
	WriteVecAt(bufs [][]byte, off int64) error
	// Sync returns nil only once everything written to this file before it was called, and the file's size, are on
	// stable storage. After an error nothing may be assumed of any write since the last Sync that returned nil.
	Sync() error
	// Allocate reserves space for the range and grows the file to hold it; syscall.ENOSPC or EDQUOT where there is none.
	Allocate(off, length int64) error
	Size() (int64, error)
	Close() error
}

// NoWaitReader is a File that can read what is in memory without waiting for a disk. ReadNoWait returns
// syscall.EAGAIN, having read nothing of use, where the caller would have to wait.
type NoWaitReader interface {
	ReadNoWait(p []byte, off int64) error
}
