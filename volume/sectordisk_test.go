package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"syscall"

	"lockstep/wal"
)

var errPowerCut = errors.New("power cut")

// opBudget counts the operations that change something; from operation cutAt on they fail. 0 means never.
type opBudget struct{ done, cutAt int }

func (b *opBudget) spend() error {
	b.done++
	if b.cutAt != 0 && b.done >= b.cutAt {
		return fmt.Errorf("operation %d: %w", b.done, errPowerCut)
	}
	return nil
}

// sectorDisk is a base, or a file, of which a crash keeps any subset of the 512-byte sectors written since the last
// sync.
type sectorDisk struct {
	ops      *opBudget
	cache    []byte // what reads see
	stable   []byte // what a crash is sure to leave
	unsynced []sectorWrite
	writes   []sectorWrite // all of them
	bad      map[int64]bool
	// forgetSync makes syncs fail, and what was written counts as clean though it never arrived (L4).
	forgetSync bool
	onWrite    func() // called once, before the next write
}

type sectorWrite struct {
	off  int64
	data []byte
}

func newSectorDisk(ops *opBudget, size int64) *sectorDisk {
	return &sectorDisk{ops: ops, cache: make([]byte, size), stable: make([]byte, size), bad: map[int64]bool{}}
}

func (d *sectorDisk) ReadAt(p []byte, off int64) (int, error) {
	for at := range d.bad { // a bad 4 KiB unit
		if at < off+int64(len(p)) && off < at+4096 {
			return 0, fmt.Errorf("read at %d: %w", at, syscall.EIO)
		}
	}
	if off >= int64(len(d.cache)) {
		return 0, io.EOF
	}
	n := copy(p, d.cache[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *sectorDisk) WriteAt(p []byte, off int64) (int, error) {
	if f := d.onWrite; f != nil {
		d.onWrite = nil
		f()
	}
	err := d.ops.spend()
	if grow := off + int64(len(p)) - int64(len(d.cache)); grow > 0 {
		d.cache = append(d.cache, make([]byte, grow)...)
		d.stable = append(d.stable, make([]byte, grow)...)
	}
	w := sectorWrite{off, slices.Clone(p)}
	d.unsynced, d.writes = append(d.unsynced, w), append(d.writes, w)
	copy(d.cache[off:], p)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *sectorDisk) WriteVecAt(bufs [][]byte, off int64) error {
	_, err := d.WriteAt(slices.Concat(bufs...), off)
	return err
}

func (d *sectorDisk) Sync() error {
	if d.forgetSync {
		d.unsynced = nil
		return syscall.EIO
	}
	if err := d.ops.spend(); err != nil {
		return err
	}
	for _, w := range d.unsynced {
		copy(d.stable[w.off:], w.data)
	}
	d.unsynced = nil
	return nil
}

func (d *sectorDisk) Allocate(off, length int64) error {
	if grow := off + length - int64(len(d.cache)); grow > 0 {
		d.cache = append(d.cache, make([]byte, grow)...)
		d.stable = append(d.stable, make([]byte, grow)...)
	}
	return d.ops.spend()
}

func (d *sectorDisk) Size() (int64, error) { return int64(len(d.cache)), nil }
func (d *sectorDisk) Close() error         { return nil }

// crash returns what is found after the power comes back: of the unsynced sectors none, all, or any.
func (d *sectorDisk) crash(r *rand.Rand, ops *opBudget) *sectorDisk {
	keep := []float64{0, 1, 0.5, 0.9, 0.1}[r.IntN(5)]
	out := &sectorDisk{ops: ops, stable: slices.Clone(d.stable), bad: map[int64]bool{}}
	for _, w := range d.unsynced {
		for at := 0; at < len(w.data); at += 512 {
			if r.Float64() < keep {
				copy(out.stable[w.off+int64(at):], w.data[at:min(at+512, len(w.data))])
			}
		}
	}
	out.cache = slices.Clone(out.stable)
	return out
}

// sectorDir is a directory of sectorDisks. A crash shows its entries as of the last Sync, or as they were.
type sectorDir struct {
	ops    *opBudget
	files  map[string]*sectorDisk
	stable map[string]*sectorDisk
}

func newSectorDir() *sectorDir {
	return &sectorDir{ops: &opBudget{}, files: map[string]*sectorDisk{}, stable: map[string]*sectorDisk{}}
}

func (d *sectorDir) Create(name string) (wal.File, error) {
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	d.files[name] = newSectorDisk(d.ops, 0)
	return d.files[name], d.ops.spend()
}

func (d *sectorDir) Open(name string) (wal.File, error) {
	if d.files[name] == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return d.files[name], nil
}

func (d *sectorDir) Rename(oldName, newName string) error {
	if err := d.ops.spend(); err != nil {
		return err
	}
	d.files[newName] = d.files[oldName]
	delete(d.files, oldName)
	return nil
}

func (d *sectorDir) Remove(name string) error {
	if d.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	return d.ops.spend()
}

func (d *sectorDir) List() ([]string, error) {
	var names []string
	for name := range d.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (d *sectorDir) Sync() error {
	if err := d.ops.spend(); err != nil {
		return err
	}
	d.stable = map[string]*sectorDisk{}
	for name, file := range d.files {
		d.stable[name] = file
	}
	return nil
}

func (d *sectorDir) crash(r *rand.Rand) *sectorDir {
	out := newSectorDir()
	names := d.stable
	if r.IntN(2) == 0 {
		names = d.files
	}
	for _, name := range []string{mapName, mapTempName} {
		if file := names[name]; file != nil {
			out.files[name] = file.crash(r, out.ops)
			out.stable[name] = out.files[name]
		}
	}
	return out
}
