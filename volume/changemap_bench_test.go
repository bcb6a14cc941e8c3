package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"lockstep/block"
	"lockstep/wal"
)

// realDir is a directory of the file system the benchmarks run on.
type realDir struct {
	wal.FS
	path string
}

type realFile struct{ *os.File }

func (d realDir) Create(name string) (wal.File, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return realFile{f}, err
}

func (d realDir) Open(name string) (wal.File, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR, 0)
	return realFile{f}, err
}

func (d realDir) Remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }
func (d realDir) Rename(oldName, newName string) error {
	return os.Rename(filepath.Join(d.path, oldName), filepath.Join(d.path, newName))
}
func (d realDir) Sync() error { return nil }

func (f realFile) Allocate(off, length int64) error { return f.Truncate(off + length) }
func (f realFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f realFile) WriteVecAt(bufs [][]byte, off int64) error {
	_, err := f.WriteAt(bytes.Join(bufs, nil), off)
	return err
}

func BenchmarkChangeMapCreateAndOpen(b *testing.B) {
	for b.Loop() {
		dir := realDir{path: b.TempDir()}
		if err := mustCreateMap(b, dir, maxChunks).Close(); err != nil {
			b.Fatal(err)
		}
		if err := reopenMap(b, dir, maxChunks, 1).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChangeMapWriteAll(b *testing.B) {
	m := mustCreateMap(b, realDir{path: b.TempDir()}, maxChunks)
	generation := uint64(1)
	for b.Loop() {
		generation++
		m.Raise(0, maxChunks-1, block.LSN(generation))
		m.save(b, generation)
	}
}

func BenchmarkChangeMapOpenFull(b *testing.B) {
	dir := realDir{path: b.TempDir()}
	m := mustCreateMap(b, dir, maxChunks)
	m.Raise(0, maxChunks-1, 2)
	m.save(b, 2)
	for b.Loop() {
		if err := reopenMap(b, dir, maxChunks, 2).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChangeMapRaise(b *testing.B) {
	m := newChangeMap(testMapID, minChunkBytes, maxChunks)
	lsn := block.LSN(0)
	for b.Loop() {
		lsn++
		m.Raise(uint64(lsn)*7919%maxChunks, 1, lsn)
	}
}
