package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var (
	// ErrLocked means that somebody else, maybe in this process, has the file or device open.
	ErrLocked = errors.New("in use")
	// ErrNotFile means that what should be a regular file is something else.
	ErrNotFile = errors.New("not a regular file")
)

// createSliceBytes is how much of a thick file is allocated by one call.
const createSliceBytes = 1 << 30

// CreateFile makes a file of size bytes, all zero, and opens it as OpenFile does. Under its name it appears only when
// it is complete and on stable storage, and never in place of another file: that is an error that wraps fs.ErrExist.
// A thick file's space is taken here, or the error wraps syscall.ENOSPC; Fill writes it.
func CreateFile(path string, size int64, kind Kind) (*File, error) {
	f, err := createFile(path, size, kind)
	if err != nil {
		return nil, fmt.Errorf("create %s file %s: %w", kind, path, err)
	}
	return f, nil
}

func createFile(path string, size int64, kind Kind) (*File, error) {
	if kind != Thin && kind != Thick {
		return nil, unix.EINVAL
	}
	if size <= 0 {
		return nil, fmt.Errorf("size %d: %w", size, unix.EINVAL)
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fs.ErrExist // rename asks again; this spares us filling a disk first
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return nil, err
	}
	f, err := buildFile(temp, path, size, kind)
	if err := errors.Join(err, temp.Close()); err != nil {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, errors.Join(err, removeIfThere(temp.Name()))
	}
	return f, nil
}

// buildFile gives the file at temp its size, space and name. The File has a descriptor of its own on the same lock.
func buildFile(temp *os.File, path string, size int64, kind Kind) (*File, error) {
	fd, err := unix.FcntlInt(temp.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := newFile(newDescriptor(path, fd, size), kind)
	if err := lockFile(fd); err != nil {
		return f, err
	}
	if err := retry(func() error { return unix.Ftruncate(fd, size) }); err != nil {
		return f, err
	}
	if kind == Thick {
		if err := f.take(0, size); err != nil {
			return f, err
		}
	}
	// The size is metadata that must be there, so this is a full sync.
	if err := retry(func() error { return unix.Fsync(fd) }); err != nil {
		return f, err
	}
	err = retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, temp.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	})
	if err != nil {
		return f, err
	}
	return f, syncDirectory(filepath.Dir(path))
}

// take takes space that nothing was written to, by writing zeroes where the file system knows no other way.
func (f *File) take(off, end int64) error {
	for ; off < end; off += createSliceBytes {
		length := min(createSliceBytes, end-off)
		err := f.d.fallocate("allocate", unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err == unix.EOPNOTSUPP {
			err = f.d.writeZeroes(off, length)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// OpenFile opens a file for reading and writing and locks it: ErrLocked where somebody else has. Of a thick file,
// space that has gone missing (by copying it, say) is taken again.
func OpenFile(path string, kind Kind) (*File, error) {
	f, err := openFile(path, kind)
	if err != nil {
		return nil, fmt.Errorf("open %s file %s: %w", kind, path, err)
	}
	return f, nil
}

func openFile(path string, kind Kind) (*File, error) {
	if kind != Thin && kind != Thick {
		return nil, unix.EINVAL
	}
	fd, st, err := openPath(path, 0)
	if err != nil {
		return nil, err
	}
	f := newFile(newDescriptor(path, fd, st.Size), kind)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = ErrNotFile
	case st.Size == 0:
		err = fmt.Errorf("empty file: %w", unix.EINVAL)
	default:
		err = lockFile(fd)
	}
	if err == nil && kind == Thick {
		err = f.Allocate(0, st.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openPath opens what is there for reading and writing, with further flags, and describes it.
func openPath(path string, flags int) (fd int, st unix.Stat_t, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
		return err
	})
	if err != nil {
		return -1, st, err
	}
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return -1, st, errors.Join(err, unix.Close(fd))
	}
	return fd, st, nil
}

// lockFile takes a lock that ends with the descriptor.
func lockFile(fd int) error {
	err := retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return fmt.Errorf("%w by another process, or another volume of this one", ErrLocked)
	}
	return err
}
