package disk

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// action is an operation with what it takes to carry it out, on this disk or on a clone of it.
type action struct {
	Op
	inode         int // set by a create
	dir           string
	name, newName string
	bufs          [][]byte
	punch         bool
}

// parts is the number of parts an action can stop between: bytes where it has a range, otherwise it is done or not.
func (a *action) parts() int64 {
	switch a.Kind {
	case OpWrite, OpAllocate, OpZero, OpRead:
		return a.Length
	}
	return 1
}

// do numbers an action, asks the plan and carries it out: wholly, in part or not at all.
func (d *Disk) do(life int, a *action) (done int64, err error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	plan, err := d.admit(life, a)
	if err == nil && plan != nil {
		err = plan(a.Op)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.deadLocked(life) || errors.Is(err, ErrCrashed):
		err = ErrCrashed
		if a.Number > 0 && !d.deadLocked(life) {
			d.crashLocked(a)
		}
	case err != nil:
		done = d.failLocked(a)
	default:
		done, err = d.performLocked(a, a.parts())
	}
	if a.Number > 0 {
		d.trace.add(step{op: a.Op, err: err})
	}
	if err != nil && err != io.EOF {
		err = &fs.PathError{Op: a.Kind.String(), Path: a.File, Err: err}
	}
	return done, err
}

// admit gives the action its number, unless the process is dead.
func (d *Disk) admit(life int, a *action) (Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deadLocked(life) {
		return nil, ErrCrashed
	}
	d.ops++
	a.Number = d.ops
	return d.plan, nil
}

func (d *Disk) deadLocked(life int) bool { return d.crashed || life != d.life }

// crashLocked cuts the power in the middle of a. Recover or Kill decide how much of it has happened.
func (d *Disk) crashLocked(a *action) {
	d.crashed = true
	if a.Kind == OpSync || a.Kind == OpSyncDir || a.Kind == OpRead {
		return // a sync changes only what may be lost, and that is for Recover to choose
	}
	held := *a
	held.bufs = make([][]byte, len(a.bufs))
	for i, p := range a.bufs {
		held.bufs[i] = slices.Clone(p)
	}
	d.inflight = &held
}

// failLocked carries out what a failing action may have done: a part of a range, none of anything else.
func (d *Disk) failLocked(a *action) (done int64) {
	switch a.Kind {
	case OpSync:
		d.inodes[a.inode].failSync()
	case OpWrite, OpAllocate, OpZero:
		done, _ = d.performLocked(a, d.partLocked(a.Length))
	}
	return done
}

// partLocked returns some whole sectors of length bytes, fewer than all.
func (d *Disk) partLocked(length int64) int64 {
	if length == 0 {
		return 0
	}
	return d.rng.Int64N(length) / SectorSize * SectorSize
}

// performLocked carries out the first parts of a.
func (d *Disk) performLocked(a *action, parts int64) (done int64, err error) {
	switch a.Kind {
	case OpCreate, OpRename, OpRemove, OpSyncDir:
		if parts == 0 {
			return 0, nil
		}
		return 0, d.performDirLocked(a)
	}
	n := d.inodes[a.inode]
	switch a.Kind {
	case OpWrite:
		done = d.fitLocked(n, a.Offset, parts)
		n.write(a.Number, a.bufs, a.Offset, done)
	case OpAllocate:
		if d.fitLocked(n, a.Offset, parts) < parts {
			return 0, syscall.ENOSPC
		}
		n.reserve(a.Number, a.Offset, parts)
		return parts, nil
	case OpZero:
		done = parts
		if a.punch {
			n.zero(a.Number, a.Offset, parts, nil)
			break
		}
		done = d.fitLocked(n, a.Offset, parts)
		n.zero(a.Number, a.Offset, done, zeroPage)
	case OpResize:
		if parts > 0 {
			n.resize(a.Number, a.Length)
		}
		return 0, nil
	case OpSync:
		n.sync()
		return 0, nil
	case OpRead:
		return d.readLocked(a)
	}
	if done < parts {
		err = syscall.ENOSPC
	}
	return done, err
}

func (d *Disk) performDirLocked(a *action) error {
	dir := d.dirs[a.dir]
	if a.Kind == OpSyncDir {
		dir.sync()
		return nil
	}
	id, exists := dir.entries[a.name]
	change := entryChange{seq: a.Number, kind: a.Kind, name: a.name, newName: a.newName, inode: id}
	switch {
	case badName(a.name) || a.Kind == OpRename && badName(a.newName):
		return syscall.EINVAL
	case a.Kind == OpCreate && exists:
		return fs.ErrExist
	case a.Kind == OpCreate:
		a.inode = d.newInode().id
		change.inode = a.inode
	case !exists:
		return fs.ErrNotExist
	case a.Kind == OpRename && a.name == a.newName:
		return nil
	}
	dir.change(change)
	return nil
}

func badName(name string) bool { return name == "" || strings.Contains(name, "/") }

// fitLocked returns how many of length bytes from off on there is room for.
func (d *Disk) fitLocked(n *inode, off, length int64) int64 {
	if d.capacity == 0 || length == 0 {
		return length
	}
	room := max(0, (d.capacity-d.usedLocked())/pageSize)
	first, end := off/pageSize, (off+length+pageSize-1)/pageSize
	if n.cache.holes(first, end, room) <= room {
		return length
	}
	for i := first; i < end; i++ {
		if n.cache.page(i) == nil {
			room--
		}
		if room < 0 {
			return max(0, i*pageSize-off)
		}
	}
	return length
}

func (d *Disk) readLocked(a *action) (done int64, err error) {
	n := d.inodes[a.inode]
	p := a.bufs[0]
	length := max(0, min(int64(len(p)), n.size-a.Offset))
	if length < int64(len(p)) {
		err = io.EOF
	}
	if at, bad := n.readError(a.Offset, length); bad != nil {
		length, err = at-a.Offset, bad
	}
	n.cache.read(p[:length], a.Offset)
	return length, err
}
