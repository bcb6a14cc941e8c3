package disk

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"

	"lockstep/wal"
)

// directory is the state of one directory: names to inode numbers.
//
// Invariant: durable with all pending changes applied in order equals entries.
type directory struct {
	name    string
	entries map[string]int
	durable map[string]int
	pending []entryChange
}

// entryChange is a create, rename or remove that the disk may not have yet.
type entryChange struct {
	seq           int
	kind          OpKind
	name, newName string
	inode         int // created, renamed or removed
	fate          fate
}

func (d *directory) clone() *directory {
	return &directory{
		name:    d.name,
		entries: maps.Clone(d.entries),
		durable: maps.Clone(d.durable),
		pending: slices.Clone(d.pending),
	}
}

func (e *entryChange) apply(entries map[string]int) {
	switch e.kind {
	case OpCreate:
		entries[e.name] = e.inode
	case OpRename:
		if entries[e.name] == e.inode {
			delete(entries, e.name)
		}
		entries[e.newName] = e.inode
	case OpRemove:
		if entries[e.name] == e.inode {
			delete(entries, e.name)
		}
	}
}

func (d *directory) change(e entryChange) {
	e.apply(d.entries)
	d.pending = append(d.pending, e)
}

func (d *directory) sync() {
	d.durable, d.pending = maps.Clone(d.entries), nil
}

// powerCut applies what survives: a prefix, or any subset where unordered.
func (d *directory) powerCut(rng *rand.Rand, random, unordered bool) {
	prefix := rng.IntN(len(d.pending) + 1)
	if !random {
		prefix = slices.IndexFunc(d.pending, func(e entryChange) bool { return e.fate == gone })
		if prefix < 0 {
			prefix = len(d.pending)
		}
	}
	for i, e := range d.pending {
		survives := i < prefix
		if unordered {
			survives = e.fate == kept || e.fate == torn && rng.IntN(2) == 0
		}
		if survives {
			e.apply(d.durable)
		}
	}
	d.entries, d.pending = maps.Clone(d.durable), nil
}

// dir is one process's view of a directory.
type dir struct {
	disk *Disk
	life int
	name string
}

var _ wal.FS = (*dir)(nil)

func (v *dir) Create(name string) (wal.File, error) {
	a := action{Op: Op{Kind: OpCreate, File: v.name + "/" + name}, dir: v.name, name: name}
	if _, err := v.disk.do(v.life, &a); err != nil {
		return nil, err
	}
	return v.disk.handle(v.life, a.File, a.inode), nil
}

func (v *dir) Open(name string) (wal.File, error) {
	id, err := v.disk.find(v.life, v.name, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: v.name + "/" + name, Err: err}
	}
	return v.disk.handle(v.life, v.name+"/"+name, id), nil
}

func (v *dir) Rename(oldName, newName string) error {
	op := Op{Kind: OpRename, File: v.name + "/" + oldName, NewName: v.name + "/" + newName}
	_, err := v.disk.do(v.life, &action{Op: op, dir: v.name, name: oldName, newName: newName})
	return err
}

func (v *dir) Remove(name string) error {
	_, err := v.disk.do(v.life, &action{Op: Op{Kind: OpRemove, File: v.name + "/" + name}, dir: v.name, name: name})
	return err
}

func (v *dir) List() ([]string, error) { return v.disk.list(v.life, v.name) }

func (v *dir) Sync() error {
	_, err := v.disk.do(v.life, &action{Op: Op{Kind: OpSyncDir, File: v.name}, dir: v.name})
	return err
}
