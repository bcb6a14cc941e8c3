package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lockName is the file in every Dir that carries its lock. List does not show it and no other method touches it.
const lockName = "LOCK"

var (
	// ErrLocked means that another process, or this one, has the directory open already.
	ErrLocked = errors.New("directory is in use")
	// ErrReadOnly means a change to a Dir that was opened with OpenDirReadOnly.
	ErrReadOnly = errors.New("directory is open for reading only")
	// ErrName means a file name that an FS can't hold: empty, with a separator, or kept for the directory itself.
	ErrName = errors.New("not a file name")
)

// Dir is an FS: one directory of a real disk. All methods may be called concurrently. Files opened through a Dir are
// closed before it, because closing it gives up the lock that keeps other processes away from them.
type Dir struct {
	path     string
	readOnly bool
	synced   syncOnce

	mu   sync.RWMutex // held shared during calls, so that Close can't give fd to somebody else under one of them
	fd   int          // the directory, -1 once closed
	lock int          // lockName with a flock on it, or -1 on a read-only file system that has none
}

// OpenDir opens an existing directory and locks it against every other OpenDir and OpenDirReadOnly, in this process
// or another; ErrLocked says who holds it, where that can be seen.
func OpenDir(path string) (*Dir, error) { return openDir(path, false) }

// OpenDirReadOnly opens a directory for looking at: any number of these may be open at once, but none beside an
// OpenDir. Files open for reading only, and every change is refused with ErrReadOnly.
func OpenDirReadOnly(path string) (*Dir, error) { return openDir(path, true) }

// CreateDir makes a directory, with its entry in the parent on stable storage, and opens it as OpenDir does. A
// directory or file that is there already is an error that wraps fs.ErrExist.
func CreateDir(path string) (*Dir, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("create directory %s: %w", path, err)
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return nil, fmt.Errorf("create directory %s: sync its parent: %w", path, err)
	}
	return OpenDir(path)
}

func openDir(path string, readOnly bool) (*Dir, error) {
	fd, err := retryInt(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", path, err)
	}
	lock, err := lockDir(fd, readOnly)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock directory %s: %w", path, err), unix.Close(fd))
	}
	return &Dir{path: path, readOnly: readOnly, fd: fd, lock: lock}, nil
}

// lockDir opens the lock file of the directory dirfd and takes a lock on it that ends with the descriptor.
func lockDir(dirfd int, shared bool) (int, error) {
	lock, err := openLock(dirfd, shared)
	if err != nil || lock < 0 {
		return lock, err
	}
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	err = retry(func() error { return unix.Flock(lock, how|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		err = fmt.Errorf("%w by %s", ErrLocked, lockHolder(lock))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(lock))
	}
	return lock, nil
}

// openLock opens the lock file, making it if need be. On a read-only file system without one nobody can be writing,
// and a reader goes on without a lock: -1.
func openLock(dirfd int, shared bool) (int, error) {
	flags := unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
	if shared {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	lock, err := retryInt(func() (int, error) { return unix.Openat(dirfd, lockName, flags, 0o600) })
	if shared && err == unix.ENOENT {
		lock, err = retryInt(func() (int, error) { return unix.Openat(dirfd, lockName, flags|unix.O_CREAT, 0o600) })
		if err == unix.EROFS {
			return -1, nil
		}
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", lockName, err)
	}
	return lock, nil
}

// lockHolder names a process that holds a flock on fd's file, from the kernel's table, where it can be seen.
func lockHolder(fd int) string {
	const unknown = "another process"
	var st unix.Stat_t
	table, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(fd, &st) != nil {
		return unknown
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(table)) {
		// "1: FLOCK  ADVISORY  WRITE 1234 fe:00:9977886 0 EOF"; waiters have "->" after the number
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != inode {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return fmt.Sprintf("process %d", pid)
		}
	}
	return unknown
}

// Close gives up the lock. It may be called twice.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	if d.lock >= 0 {
		err = errors.Join(err, unix.Close(d.lock))
	}
	d.fd, d.lock = -1, -1
	if err != nil {
		return fmt.Errorf("close directory %s: %w", d.path, err)
	}
	return nil
}

// Create makes a new empty file that only its owner may read.
func (d *Dir) Create(name string) (File, error) {
	if d.readOnly {
		return nil, d.failure("create", name, ErrReadOnly)
	}
	return d.open("create", name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// Open opens a file for reading and writing, or only for reading if that is how the Dir was opened.
func (d *Dir) Open(name string) (File, error) {
	if d.readOnly {
		return d.open("open", name, unix.O_RDONLY)
	}
	return d.open("open", name, unix.O_RDWR)
}

func (d *Dir) open(op, name string, flags int) (File, error) {
	fd := -1
	err := d.change(op, name, func() (err error) {
		fd, err = unix.Openat(d.fd, name, flags|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dirFile{name: filepath.Join(d.path, name), readOnly: d.readOnly, fd: fd}, nil
}

// Rename replaces newName if it exists.
func (d *Dir) Rename(oldName, newName string) error {
	if d.readOnly {
		return d.failure("rename", oldName, ErrReadOnly)
	}
	if !validName(newName) {
		return d.failure("rename to", newName, ErrName)
	}
	return d.change("rename", oldName, func() error { return unix.Renameat(d.fd, oldName, d.fd, newName) })
}

// Remove removes a file; fs.ErrNotExist where there is none.
func (d *Dir) Remove(name string) error {
	if d.readOnly {
		return d.failure("remove", name, ErrReadOnly)
	}
	return d.change("remove", name, func() error { return unix.Unlinkat(d.fd, name, 0) })
}

// List returns the names of all files, sorted; directories inside this one are not its files.
func (d *Dir) List() ([]string, error) {
	var entries []fs.DirEntry
	err := d.call("list", "", func() error {
		// A descriptor of its own, because reading a directory moves a position.
		fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), d.path)
		entries, err = f.ReadDir(-1)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !e.IsDir() && e.Name() != lockName {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Sync makes the directory's entries durable. Once it has failed it fails for ever, until the directory is opened
// again, because the kernel tells of each failure only once.
func (d *Dir) Sync() error {
	return d.call("sync", "", func() error {
		return d.synced.do(func() error { return unix.Fsync(d.fd) })
	})
}

// change is call for a name that must be valid.
func (d *Dir) change(op, name string, fn func() error) error {
	if !validName(name) {
		return d.failure(op, name, ErrName)
	}
	return d.call(op, name, fn)
}

// call runs fn, again after an interruption, while the directory can't be closed.
func (d *Dir) call(op, name string, fn func() error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.fd < 0 {
		return d.failure(op, name, fs.ErrClosed)
	}
	if err := retry(fn); err != nil {
		return d.failure(op, name, err)
	}
	return nil
}

func (d *Dir) failure(op, name string, err error) error {
	return fmt.Errorf("%s %s: %w", op, filepath.Join(d.path, name), err)
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && name != lockName && !strings.ContainsAny(name, "/\x00")
}

// syncOnce lets one sync fail at most: its error is the answer of every later one too. It also makes them wait for
// each other, so that none can succeed beside one that takes the kernel's single report of a failure.
type syncOnce struct {
	mu  sync.Mutex
	err error
}

func (s *syncOnce) do(sync func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = retry(sync)
	}
	return s.err
}

// retry calls fn until it is not interrupted by a signal.
func retry(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

func retryInt(fn func() (int, error)) (int, error) {
	for {
		if n, err := fn(); err != unix.EINTR {
			return n, err
		}
	}
}
