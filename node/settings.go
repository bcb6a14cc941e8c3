package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
)

// What a volume's base image is kept in.
const (
	KindFile   = "file"   // a sparse file in the data directory: takes the space that is written
	KindThick  = "thick"  // a file whose space is all allocated and written ahead
	KindDevice = "device" // a block device, taken as a whole
	KindMemory = "memory" // the server's memory: not durable, empty at each start
)

// ErrFormat is returned for a file of ours that is of another format version, or not understood.
var ErrFormat = errors.New("not understood")

const (
	settingsName    = "volume.json"
	settingsVersion = 1
	// No file of ours of this kind comes near to it.
	maxJSONFileBytes = 1 << 20
)

// settings is the file volume.json: where the parts of a volume are. What a volume is (size, block size, lineage), its
// own superblock says.
type settings struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	ID       uuid.UUID `json:"uuid"`
	Backend  string    `json:"backend"`           // one of the kinds above
	Device   string    `json:"device,omitempty"`  // KindDevice: its path, absolute
	LogDir   string    `json:"wal_dir,omitempty"` // absolute, made by logDirName; empty: the directory wal beside this file
	LogBytes int64     `json:"wal_bytes"`
	Created  time.Time `json:"created"`
	// Of KindMemory, which has no superblock to say it.
	SizeBytes int64 `json:"size_bytes,omitempty"`
	BlockSize int   `json:"block_size,omitempty"`
}

// check returns an error that wraps ErrFormat where the settings contradict themselves.
func (s settings) check() error {
	switch {
	case s.Version != settingsVersion:
		return fmt.Errorf("%w: format version %d, this program knows version %d", ErrFormat, s.Version, settingsVersion)
	case CheckName(s.Name) != nil:
		return fmt.Errorf("%w: volume name %q", ErrFormat, s.Name)
	case s.ID == uuid.Nil:
		return fmt.Errorf("%w: no volume UUID", ErrFormat)
	case !slices.Contains([]string{KindFile, KindThick, KindDevice, KindMemory}, s.Backend):
		return fmt.Errorf("%w: backend %q", ErrFormat, s.Backend)
	case (s.Backend == KindDevice) != filepath.IsAbs(s.Device):
		return fmt.Errorf("%w: backend %q with device path %q", ErrFormat, s.Backend, s.Device)
	case s.LogDir != "" && (!filepath.IsAbs(s.LogDir) || filepath.Base(s.LogDir) != logDirName(s.Name, s.ID)):
		return fmt.Errorf("%w: log directory %q", ErrFormat, s.LogDir)
	case (s.Backend == KindMemory) != (s.SizeBytes > 0 && s.BlockSize > 0) || s.Backend == KindMemory && s.LogDir != "":
		return fmt.Errorf("%w: backend %q with size %d, block size %d, log directory %q", ErrFormat, s.Backend, s.SizeBytes, s.BlockSize, s.LogDir)
	case s.LogBytes < MinLogBytes:
		return fmt.Errorf("%w: log of %d bytes", ErrFormat, s.LogBytes)
	}
	return nil
}

// logDirName names the directory of a log that is not kept in the data directory. Nobody else's log can have this
// name, so it may be removed with the volume.
func logDirName(name string, id uuid.UUID) string { return name + "-" + id.String() }

// logDir returns the directory of the log of the volume whose own directory is dir.
func (s settings) logDir(dir string) string {
	if s.LogDir != "" {
		return s.LogDir
	}
	return filepath.Join(dir, "wal")
}

func readSettings(dir string) (settings, error) {
	var s settings
	path := filepath.Join(dir, settingsName)
	if err := readJSON(path, settingsVersion, &s); err != nil {
		return settings{}, err
	}
	if err := s.check(); err != nil {
		return settings{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// readJSON decodes a file of ours strictly: of this version, with known fields only, and nothing after them. The
// version is looked at first, so that a newer file is called newer and not broken.
func readJSON(path string, version int, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxJSONFileBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > maxJSONFileBytes {
		return fmt.Errorf("%s: %w: more than %d bytes", path, ErrFormat, maxJSONFileBytes)
	}
	var v struct{ Version int }
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	if v.Version != version {
		return fmt.Errorf("%s: %w: format version %d, this program knows version %d", path, ErrFormat, v.Version, version)
	}
	if err := decodeStrict(bytes.NewReader(text), into); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	return nil
}

// decodeStrict decodes one JSON value that has no unknown fields, and after which nothing comes.
func decodeStrict(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after the JSON value")
	}
	return nil
}

// writeJSON makes a file of ours, whole or not at all, and durable with its directory's entry.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := writeSynced(temp, append(text, '\n')); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
