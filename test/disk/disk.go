package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"lockstep/wal"
)

// ErrCrashed is what every call returns after a power cut until Recover or Kill, and what handles of a process that
// died return for ever.
var ErrCrashed = errors.New("disk: power cut")

// Config describes a new disk. The zero value is an endless disk with seed 0.
type Config struct {
	Seed          uint64 // of everything left to chance
	CapacityBytes int64  // of all files together, counted in pages of 4 KiB that are not holes; 0 is no limit
	CountReads    bool   // give reads a number too, so that a Plan can fail them
	ColdEvery     int    // every nth ReadNoWait returns syscall.EAGAIN; 0 is never
	UnorderedDirs bool   // a power cut keeps any subset of unsynced entries, not a prefix
}

// Disk is a disk with a page cache, in memory. Its methods, and those of the files on it, may be called from many
// goroutines; only from one is it deterministic.
type Disk struct {
	unordered  bool
	countReads bool
	coldEvery  int

	turn sync.Mutex // held during a numbered operation, so that a Plan is called for one at a time

	mu       sync.Mutex
	plan     Plan
	capacity int64 // bytes; 0 is no limit
	source   rand.PCG
	rng      *rand.Rand // reads source
	ops      int
	coldRead int
	life     int // of the process: one more with each Recover and Kill
	handles  map[*handle]struct{}
	crashed  bool
	inflight *action // the operation that the crash fell into; nil where it has no effect
	inodes   []*inode
	dirs     map[string]*directory
	bases    map[string]int
	trace    trace
}

// New makes an empty disk.
func New(cfg Config) *Disk {
	d := &Disk{
		unordered:  cfg.UnorderedDirs,
		countReads: cfg.CountReads,
		coldEvery:  cfg.ColdEvery,
		capacity:   cfg.CapacityBytes,
		source:     *rand.NewPCG(cfg.Seed, 0),
		handles:    map[*handle]struct{}{},
		dirs:       map[string]*directory{},
		bases:      map[string]int{},
	}
	d.rng = rand.New(&d.source)
	return d
}

// Dir opens the directory of that name, making it (durably) the first time. Like a file, what it returns fails with
// ErrCrashed after the next Recover or Kill.
func (d *Disk) Dir(name string) wal.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirs[name] == nil {
		d.dirs[name] = &directory{name: name, entries: map[string]int{}, durable: map[string]int{}}
	}
	return &dir{disk: d, life: d.life, name: name}
}

// Base opens the image of that name, making it (durably, all hole) the first time; size in bytes matters only then.
// Like a file, what it returns fails with ErrCrashed after the next Recover or Kill.
func (d *Disk) Base(name string, size int64) *Base {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.bases[name]
	if !ok {
		n := d.newInode()
		n.fixed, n.size, n.durableSize = true, size, size
		id = n.id
		d.bases[name] = id
	}
	return &Base{handle{disk: d, life: d.life, name: name, inode: id}}
}

func (d *Disk) newInode() *inode {
	n := &inode{id: len(d.inodes), cache: newContent(), durable: newContent()}
	d.inodes = append(d.inodes, n)
	return n
}

// SetPlan decides the fate of operations from now on; nil lets all succeed. A plan stays over Recover and Kill.
func (d *Disk) SetPlan(p Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan = p
}

// SetCapacity changes the limit of space in bytes, 0 for none. What is already there stays.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Used returns the bytes that files and bases take, in pages of 4 KiB.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.usedLocked()
}

func (d *Disk) usedLocked() int64 {
	var pages int64
	for _, id := range d.bases {
		pages += d.inodes[id].cache.allocated
	}
	for _, dir := range d.dirs {
		for _, id := range dir.entries {
			pages += d.inodes[id].cache.allocated
		}
	}
	return pages * pageSize
}

// Ops returns the number of the last operation that has begun.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Crashed reports whether the power is cut.
func (d *Disk) Crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}

// OpenHandles returns the names of the files opened and not closed by the present process, sorted.
func (d *Disk) OpenHandles() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make([]string, 0, len(d.handles))
	for h := range d.handles {
		names = append(names, h.name)
	}
	slices.Sort(names)
	return names
}

// Trace lists the last operations, one a line, with the error of each that failed.
func (d *Disk) Trace() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trace.String()
}

// FailReads makes reads of the range fail with err, across restarts, until called with a nil error, which mends every
// range of the file. File is "log/000001" or the name of a base.
func (d *Disk) FailReads(file string, off, length int64, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, findErr := d.lookupLocked(file)
	switch {
	case findErr != nil:
		return fmt.Errorf("fail reads of %s: %w", file, findErr)
	case err == nil:
		n.bad = nil
	default:
		n.bad = append(n.bad, badRange{off, length, err})
	}
	return nil
}

// Corrupt flips one bit in each byte of the range, in the page cache and on stable storage. File is "log/000001" or
// the name of a base.
func (d *Disk) Corrupt(file string, off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookupLocked(file)
	if err != nil {
		return fmt.Errorf("corrupt %s: %w", file, err)
	}
	if off < 0 || length <= 0 || off+length > n.size {
		return fmt.Errorf("corrupt %s [%d, +%d): the file ends at %d", file, off, length, n.size)
	}
	n.flip(off, length, 1<<d.rng.IntN(8))
	d.trace.add(step{note: fmt.Sprintf("corrupt %s [%d, +%d)", file, off, length)})
	return nil
}

func (d *Disk) lookupLocked(file string) (*inode, error) {
	if id, ok := d.bases[file]; ok {
		return d.inodes[id], nil
	}
	dirName, name, _ := strings.Cut(file, "/")
	if dir := d.dirs[dirName]; dir != nil {
		if id, ok := dir.entries[name]; ok {
			return d.inodes[id], nil
		}
	}
	return nil, fs.ErrNotExist
}

// Clone returns a copy of the disk with nothing open: what is written is in its page cache, and where the power is cut
// here, it is cut there. Both go on with the same random numbers. It costs little, as contents are shared.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cloneLocked()
}

func (d *Disk) cloneLocked() *Disk {
	c := New(Config{
		CapacityBytes: d.capacity,
		CountReads:    d.countReads,
		ColdEvery:     d.coldEvery,
		UnorderedDirs: d.unordered,
	})
	c.source, c.plan, c.ops, c.coldRead = d.source, d.plan, d.ops, d.coldRead
	c.life, c.crashed, c.trace = d.life+1, d.crashed, d.trace
	if d.inflight != nil {
		a := *d.inflight
		c.inflight = &a
	}
	c.inodes = make([]*inode, len(d.inodes))
	for i, n := range d.inodes {
		if n != nil {
			c.inodes[i] = n.clone()
		}
	}
	for name, dir := range d.dirs {
		c.dirs[name] = dir.clone()
	}
	c.bases = maps.Clone(d.bases)
	return c
}
