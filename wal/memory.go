package wal

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"syscall"
)

// memoryPageBytes is the unit in which a memory file takes memory.
const memoryPageBytes = 4096

// MemoryDir is an FS in memory, for volumes that need not outlive the process: its Sync and its files' do nothing.
// All methods may be called concurrently.
type MemoryDir struct {
	mu    sync.Mutex
	files map[string]*memoryData
}

// NewMemoryDir returns an empty directory.
func NewMemoryDir() *MemoryDir { return &MemoryDir{files: map[string]*memoryData{}} }

// Create makes a new empty file.
func (d *MemoryDir) Create(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !validName(name) {
		return nil, fmt.Errorf("create %q: %w", name, ErrName)
	}
	if d.files[name] != nil {
		return nil, fmt.Errorf("create %s: %w", name, fs.ErrExist)
	}
	d.files[name] = &memoryData{pages: map[int64]*[memoryPageBytes]byte{}}
	return &memoryFile{name: name, data: d.files[name]}, nil
}

// Open opens a file for reading and writing.
func (d *MemoryDir) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return &memoryFile{name: name, data: d.files[name]}, nil
}

// Rename replaces newName if it exists.
func (d *MemoryDir) Rename(oldName, newName string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	data := d.files[oldName]
	if data == nil {
		return fmt.Errorf("rename %s: %w", oldName, fs.ErrNotExist)
	}
	if !validName(newName) {
		return fmt.Errorf("rename %s to %q: %w", oldName, newName, ErrName)
	}
	delete(d.files, oldName)
	d.files[newName] = data
	return nil
}

// Remove forgets a file; those who have it open keep it until they close it.
func (d *MemoryDir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	delete(d.files, name)
	return nil
}

// List returns the names of all files, sorted.
func (d *MemoryDir) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make([]string, 0, len(d.files))
	for name := range d.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Sync does nothing: nothing here is ever durable.
func (d *MemoryDir) Sync() error { return nil }

// memoryData is what a file holds; every memoryFile open on it shares it.
type memoryData struct {
	mu    sync.RWMutex
	size  int64
	pages map[int64]*[memoryPageBytes]byte // by offset / memoryPageBytes; what is not here is zero
}

// memoryFile is one opening of a file of a MemoryDir.
type memoryFile struct {
	name string

	mu   sync.RWMutex
	data *memoryData // nil once closed
}

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	data, err := f.open("read", off, 0)
	if err != nil {
		return 0, err
	}
	data.mu.RLock()
	defer data.mu.RUnlock()
	n := int(min(int64(len(p)), max(data.size-off, 0)))
	for done := 0; done < n; {
		page, at := data.pages[(off+int64(done))/memoryPageBytes], (off+int64(done))%memoryPageBytes
		end := min(n, done+int(memoryPageBytes-at))
		if page == nil {
			clear(p[done:end])
		} else {
			copy(p[done:end], page[at:])
		}
		done = end
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	data, err := f.open("write", off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	data.mu.Lock()
	defer data.mu.Unlock()
	data.write(p, off)
	return len(p), nil
}

func (f *memoryFile) WriteVecAt(bufs [][]byte, off int64) error {
	var length int64
	for _, b := range bufs {
		length += int64(len(b))
	}
	data, err := f.open("write", off, length)
	if err != nil {
		return err
	}
	data.mu.Lock()
	defer data.mu.Unlock()
	for _, b := range bufs {
		data.write(b, off)
		off += int64(len(b))
	}
	return nil
}

// write is called with mu held.
func (m *memoryData) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	m.size = max(m.size, off+int64(len(p)))
	for len(p) > 0 {
		number, at := off/memoryPageBytes, off%memoryPageBytes
		page := m.pages[number]
		if page == nil {
			page = new([memoryPageBytes]byte)
			m.pages[number] = page
		}
		n := copy(page[at:], p)
		p, off = p[n:], off+int64(n)
	}
}

// ReadNoWait reads; memory never waits for a disk. syscall.EAGAIN where the file ends before p does.
func (f *memoryFile) ReadNoWait(p []byte, off int64) error {
	_, err := f.ReadAt(p, off)
	if err == io.EOF {
		return syscall.EAGAIN
	}
	return err
}

// Allocate grows the file; it takes no memory before data are written.
func (f *memoryFile) Allocate(off, length int64) error {
	data, err := f.open("allocate", off, length)
	if err != nil {
		return err
	}
	data.mu.Lock()
	defer data.mu.Unlock()
	data.size = max(data.size, off+length)
	return nil
}

// Sync does nothing: nothing here is ever durable.
func (f *memoryFile) Sync() error {
	_, err := f.open("sync", 0, 0)
	return err
}

func (f *memoryFile) Size() (int64, error) {
	data, err := f.open("measure", 0, 0)
	if err != nil {
		return 0, err
	}
	data.mu.RLock()
	defer data.mu.RUnlock()
	return data.size, nil
}

func (f *memoryFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = nil
	return nil
}

// open returns what the file holds, unless it is closed or no file can have such a range.
func (f *memoryFile) open(op string, off, length int64) (*memoryData, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.data == nil {
		return nil, fmt.Errorf("%s %s at %d: %w", op, f.name, off, fs.ErrClosed)
	}
	if off < 0 || length < 0 || off+length < off {
		return nil, fmt.Errorf("%s %s at %d, %d bytes: %w", op, f.name, off, length, syscall.EINVAL)
	}
	return f.data, nil
}

var (
	_ FS           = (*MemoryDir)(nil)
	_ File         = (*memoryFile)(nil)
	_ NoWaitReader = (*memoryFile)(nil)
)
