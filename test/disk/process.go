package disk

import (
	"io"
	"io/fs"
	"slices"
)

// What a process sees without a numbered operation: opening, closing, names, sizes and reads.

func (d *Disk) handle(life int, name string, inode int) *file {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &file{handle{disk: d, life: life, name: name, inode: inode}}
	if life == d.life {
		d.handles[&f.handle] = struct{}{}
	}
	return f
}

func (d *Disk) usable(h *handle) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.usableLocked(h)
}

func (d *Disk) usableLocked(h *handle) error {
	switch {
	case h.closed:
		return fs.ErrClosed
	case d.deadLocked(h.life):
		return ErrCrashed
	}
	return nil
}

func (d *Disk) close(h *handle) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.closed {
		return &fs.PathError{Op: "close", Path: h.name, Err: fs.ErrClosed}
	}
	h.closed = true
	delete(d.handles, h)
	if d.deadLocked(h.life) {
		return &fs.PathError{Op: "close", Path: h.name, Err: ErrCrashed}
	}
	return nil
}

func (d *Disk) find(life int, dirName, name string) (inode int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deadLocked(life) {
		return 0, ErrCrashed
	}
	id, ok := d.dirs[dirName].entries[name]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return id, nil
}

func (d *Disk) list(life int, dirName string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deadLocked(life) {
		return nil, &fs.PathError{Op: "list", Path: dirName, Err: ErrCrashed}
	}
	names := make([]string, 0, len(d.dirs[dirName].entries))
	for name := range d.dirs[dirName].entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (d *Disk) size(h *handle) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(h); err != nil {
		return 0, &fs.PathError{Op: "size", Path: h.name, Err: err}
	}
	return d.inodes[h.inode].size, nil
}

// read reads without a number.
func (d *Disk) read(h *handle, a *action) (done int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err = d.usableLocked(h); err == nil {
		done, err = d.readLocked(a)
	}
	if err != nil && err != io.EOF {
		err = &fs.PathError{Op: "read", Path: a.File, Err: err}
	}
	return done, err
}

// cold reports whether this read without waiting is one that would have to wait.
func (d *Disk) cold() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.coldRead++
	return d.coldEvery > 0 && d.coldRead%d.coldEvery == 0
}

func (d *Disk) extent(h *handle, off, max int64) (length int64, hole bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(h); err != nil {
		return 0, false, &fs.PathError{Op: "extent", Path: h.name, Err: err}
	}
	n := d.inodes[h.inode]
	end := min(off+max, n.size)
	i := off / pageSize
	hole = n.cache.page(i) == nil
	for i++; i*pageSize < end && (n.cache.page(i) == nil) == hole; i++ {
	}
	return min(i*pageSize, end) - off, hole, nil
}
