package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// Errors of the data directory.
var (
	ErrNoDirectory = errors.New("no lockstep data directory")
	ErrNotFound    = errors.New("no such volume")
	ErrExists      = errors.New("volume exists")
)

const (
	identityName    = "node.json"
	identityVersion = 1
	volumesName     = "volumes"
	creatingMark    = ".creating-"
	deletingMark    = ".deleting-"
)

// identity is the file node.json.
type identity struct {
	Version int       `json:"version"`
	ID      uuid.UUID `json:"node"`
}

// directory is a data directory that this process has locked.
type directory struct {
	path   string // absolute
	nodeID uuid.UUID
	locked *os.File
	log    zerolog.Logger
}

// openDirectory locks a data directory, makes what is missing in it if it may, and removes what an interrupted creation
// or deletion left there. admin is the path of the admin socket this process will answer on, empty for none. Errors:
// ErrNoDirectory, a *LockedError, ErrFormat, and those of the file system.
func openDirectory(path, admin string, mayCreate bool, log zerolog.Logger) (*directory, error) {
	path, err := absolute(path)
	if err != nil {
		return nil, err
	}
	if err := prepareDirectory(path, mayCreate); err != nil {
		return nil, err
	}
	locked, err := lock(path, admin)
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, locked: locked, log: log}
	if err := d.load(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// prepareDirectory makes the directory if it may, and refuses one that is somebody else's.
func prepareDirectory(path string, mayCreate bool) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) && mayCreate {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
		return syncDir(filepath.Dir(path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w at %s; --data-dir says where it is, and `lockstep serve` makes one", ErrNoDirectory, path)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read data directory: %w; it is another user's: be that user, or root", err)
	}
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	ours := len(entries) == 0 && mayCreate
	for _, e := range entries {
		// The lock is the first file that is ever made.
		ours = ours || e.Name() == identityName || e.Name() == lockName
	}
	if !ours {
		if len(entries) == 0 {
			return fmt.Errorf("%w at %s, which is empty; --data-dir says where it is, and `lockstep serve` makes one", ErrNoDirectory, path)
		}
		return fmt.Errorf("%w at %s: other files are there, %s for one; give --data-dir a directory that is new or empty", ErrNoDirectory,
			path, entries[0].Name())
	}
	return nil
}

func (d *directory) load() error {
	if err := d.loadIdentity(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.path, volumesName), 0o700); err != nil {
		return fmt.Errorf("make directory of volumes: %w", err)
	}
	if err := syncDir(d.path); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return d.removeLeftovers()
}

func (d *directory) loadIdentity() error {
	path := filepath.Join(d.path, identityName)
	var id identity
	err := readJSON(path, identityVersion, &id)
	if errors.Is(err, fs.ErrNotExist) {
		id = identity{Version: identityVersion, ID: uuid.New()}
		err = writeJSON(path, id)
	}
	if err != nil {
		return fmt.Errorf("node identity: %w", err)
	}
	if id.ID == uuid.Nil {
		return fmt.Errorf("%s: %w: no node ID", path, ErrFormat)
	}
	d.nodeID = id.ID
	return nil
}

// close gives the lock back.
func (d *directory) close() error { return d.locked.Close() }

// volume returns the directory of a volume.
func (d *directory) volume(name string) string { return filepath.Join(d.path, volumesName, name) }

// names returns the names of all volumes, sorted.
func (d *directory) names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, volumesName))
	if err != nil {
		return nil, fmt.Errorf("read directory of volumes: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// has returns nil where there is a volume of that name, and otherwise an error that wraps ErrName or ErrNotFound.
func (d *directory) has(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	_, err := os.Lstat(d.volume(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return err
}

// absent returns nil where the name is valid and free, and otherwise an error that wraps ErrName or ErrExists.
func (d *directory) absent(name string) error {
	err := d.has(name)
	if err == nil {
		return fmt.Errorf("%w: %s", ErrExists, name)
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// aside makes up a directory name for a volume that is being created or deleted, as the mark says.
func (d *directory) aside(name, mark string) string {
	return filepath.Join(d.path, volumesName, "."+name+mark+uuid.NewString())
}

// removeLeftovers finishes the creations and deletions that a crash cut short, by removing what they left. One that
// cannot be removed stays for the next start: it keeps nothing else from working.
func (d *directory) removeLeftovers() error {
	entries, err := os.ReadDir(filepath.Join(d.path, volumesName))
	if err != nil {
		return fmt.Errorf("read directory of volumes: %w", err)
	}
	for _, e := range entries {
		hidden := strings.HasPrefix(e.Name(), ".")
		if !hidden || !strings.Contains(e.Name(), creatingMark) && !strings.Contains(e.Name(), deletingMark) {
			continue
		}
		path := filepath.Join(d.path, volumesName, e.Name())
		if err := d.discard(path); err != nil {
			d.log.Warn().Err(err).Str("path", path).Msg("leftover of an interrupted command cannot be removed")
			continue
		}
		d.log.Info().Str("path", path).Msg("removed leftover of an interrupted command")
	}
	return nil
}
