package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lock is the right to supervise a device. It ends with the process at the latest.
type lock struct{ file *os.File }

// takeLock takes the lock of a device without waiting, and leaves this process's ID in it. Where another process has
// it, holder is that process, and the error wraps ErrInUse.
func takeLock(runDir string, index int) (l lock, holder int, err error) {
	path := lockPath(runDir, index)
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return lock{}, 0, fmt.Errorf("make the directory of locks: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return lock{}, 0, fmt.Errorf("open the lock of %s: %w", DevicePath(index), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return lock{}, 0, fmt.Errorf("lock %s: %w", path, err)
		}
		holder = readHolder(path)
		return lock{}, holder, fmt.Errorf("%w: process %d supervises %s already", ErrInUse, holder, DevicePath(index))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return lock{}, 0, fmt.Errorf("write %s: %w", path, err)
	}
	return lock{f}, 0, nil
}

func lockPath(runDir string, index int) string {
	return filepath.Join(runDir, filepath.Base(DevicePath(index))+".lock")
}

// readHolder is the process that a lock file names; 0 where it does not.
func readHolder(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

func (l lock) release() {
	if l.file != nil {
		_ = l.file.Close() // nothing is kept in it
	}
}
