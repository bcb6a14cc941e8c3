package volume

import (
	"runtime"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/wal"
)

// hookedBase is a base image in memory that does nothing in one step: writes come in pieces, so that a reader that is
// let in between sees them torn.
type hookedBase struct {
	*backend.Memory

	// Called, if not nil, before each read, in the middle of it, and before space is allocated.
	onRead     func(off, length int64)
	between    func()
	onAllocate func()
}

func (b *hookedBase) Allocate(off, length int64) error {
	if b.onAllocate != nil {
		b.onAllocate()
	}
	return b.Memory.Allocate(off, length)
}

func (b *hookedBase) ReadAt(p []byte, off int64) (int, error) {
	if b.onRead != nil {
		b.onRead(off, int64(len(p)))
	}
	if b.between == nil {
		return b.Memory.ReadAt(p, off)
	}
	half := len(p) / 2
	if n, err := b.Memory.ReadAt(p[:half], off); err != nil {
		return n, err
	}
	b.between()
	n, err := b.Memory.ReadAt(p[half:], off+int64(half))
	return half + n, err
}

func (b *hookedBase) ReadNoWait(p []byte, off int64) error {
	_, err := b.ReadAt(p, off)
	return err
}

func (b *hookedBase) WriteAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		done := 0
		done, err = b.Memory.WriteAt(p[n:min(n+3000, len(p))], off+int64(n))
		n += done
		runtime.Gosched()
	}
	return n, err
}

// hookedDir is a directory in memory that calls onRead, if not nil, before each read of a file, and onSync before each
// sync of one.
type hookedDir struct {
	wal.FS
	onRead func(name string, off int64)
	onSync func(name string)
}

func (d *hookedDir) Create(name string) (wal.File, error) {
	f, err := d.FS.Create(name)
	return hookedFile{f, name, d}, err
}

func (d *hookedDir) Open(name string) (wal.File, error) {
	f, err := d.FS.Open(name)
	return hookedFile{f, name, d}, err
}

type hookedFile struct {
	wal.File
	name string
	dir  *hookedDir
}

func (f hookedFile) ReadAt(p []byte, off int64) (int, error) {
	if f.dir.onRead != nil {
		f.dir.onRead(f.name, off)
	}
	return f.File.ReadAt(p, off)
}

func (f hookedFile) Sync() error {
	if f.dir.onSync != nil {
		f.dir.onSync(f.name)
	}
	return f.File.Sync()
}

// memoryConfig is that of a volume of size bytes in memory, with hooks that do nothing yet.
func memoryConfig(size int64) (Config, *hookedBase, *hookedDir) {
	base := &hookedBase{Memory: backend.NewMemory(DataOffset + size)}
	log := &hookedDir{FS: wal.NewMemoryDir()}
	return Config{Base: base, Meta: wal.NewMemoryDir(), Log: log, Logger: zerolog.Nop()}, base, log
}

// openMemory makes and opens a volume of blocks of blockBytes with a log of four segments of segmentBytes.
func openMemory(t testing.TB, cfg Config, size int64, blockBytes int, segmentBytes int64) *Volume {
	t.Helper()
	g := Geometry{SizeBytes: size, BlockSize: blockBytes, LogBudgetBytes: 4 * segmentBytes}
	if err := create(cfg, g, segmentBytes); err != nil {
		t.Fatal(err)
	}
	v, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// applyOne applies one change.
func applyOne(v *Volume, c Change) error {
	one := []Change{c}
	v.Apply(one)
	return one[0].Err
}

// mustApply applies the changes at once, all of which must succeed.
func mustApply(t testing.TB, v *Volume, changes ...Change) {
	t.Helper()
	v.Apply(changes)
	for i := range changes {
		if err := changes[i].Err; err != nil {
			t.Fatalf("change %d, [%d, +%d): %v", i, changes[i].Offset, changes[i].Length, err)
		}
	}
}

// mustRead reads a range.
func mustRead(t testing.TB, v *Volume, off, length int64) []byte {
	t.Helper()
	p := make([]byte, length)
	if err := v.Read(p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

// filled is a write of n bytes b.
func filled(off, n int64, b byte) Change {
	p := make([]byte, n)
	for i := range p {
		p[i] = b
	}
	return Change{Kind: Write, Offset: off, Length: n, Data: p}
}
