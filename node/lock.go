package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockName = "LOCK"

// LockedError says that another process works on the data directory.
type LockedError struct {
	Dir   string
	PID   int    // 0 where the holder has not written it
	Admin string // path of the holder's admin socket; empty where it has none
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("data directory %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("data directory %s is in use by process %d", e.Dir, e.PID)
}

// holder is the content of the LOCK file while it is locked. The lock is the kernel's; the content is a courtesy.
type holder struct {
	PID   int    `json:"pid"`
	Admin string `json:"admin,omitempty"`
}

// lock takes the lock of a data directory and writes who took it. The lock ends with the process at the latest. A
// lock that is taken is a *LockedError.
func lock(dir, admin string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		h := readHolder(f)
		return nil, errors.Join(&LockedError{Dir: dir, PID: h.PID, Admin: h.Admin}, f.Close())
	}
	if err == nil {
		err = writeHolder(f, holder{PID: os.Getpid(), Admin: admin})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// readHolder returns what the holder wrote; the zero holder where it is only about to.
func readHolder(r io.Reader) holder {
	var h holder
	if json.NewDecoder(io.LimitReader(r, 4096)).Decode(&h) != nil {
		return holder{}
	}
	return h
}

func writeHolder(f *os.File, h holder) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(text, '\n'), 0)
	return err
}
