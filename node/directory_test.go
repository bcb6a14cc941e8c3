package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

func TestLeftoversAreRemoved(t *testing.T) {
	dir := emptyServerDir(t)
	logs := t.TempDir()
	volumes := filepath.Join(dir, volumesName)
	s := settings{Version: settingsVersion, Name: "half", ID: uuid.New(), Backend: KindFile, LogBytes: MinLogBytes, Created: time.Now()}
	s.LogDir = filepath.Join(logs, logDirName(s.Name, s.ID))
	neighbour := filepath.Join(logs, logDirName(s.Name, uuid.New()))
	creating, empty := filepath.Join(volumes, ".half.creating-1"), filepath.Join(volumes, ".bare.creating-2")
	deleting, hidden := filepath.Join(volumes, ".gone.deleting-3"), filepath.Join(volumes, ".snapshot")
	for _, d := range []string{s.LogDir, neighbour, filepath.Join(creating, metaName), empty, deleting, hidden} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeJSON(filepath.Join(creating, settingsName), s); err != nil {
		t.Fatal(err)
	}
	m, _ := manage(t, dir)
	for _, gone := range []string{creating, empty, deleting, s.LogDir} {
		if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	for _, kept := range []string{neighbour, hidden, filepath.Join(volumes, "first")} {
		if _, err := os.Lstat(kept); err != nil {
			t.Errorf("%s was removed: %v", kept, err)
		}
	}
	if got := names(t, m); got != "first stopped" {
		t.Errorf("volumes: %s", got)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	id := uuid.New()
	good := settings{Version: settingsVersion, Name: "a", ID: id, Backend: KindFile, LogBytes: MinLogBytes, Created: time.Now().UTC()}
	dir := t.TempDir()
	if err := writeJSON(filepath.Join(dir, settingsName), good); err != nil {
		t.Fatal(err)
	}
	if got, err := readSettings(dir); err != nil || got != good {
		t.Errorf("wrote %+v, read %+v, %v", good, got, err)
	}
	for name, change := range map[string]func(*settings){
		"version":         func(s *settings) { s.Version = 2 },
		"name":            func(s *settings) { s.Name = "../a" },
		"no UUID":         func(s *settings) { s.ID = uuid.Nil },
		"backend":         func(s *settings) { s.Backend = "tape" },
		"no device":       func(s *settings) { s.Backend = KindDevice },
		"relative device": func(s *settings) { s.Backend, s.Device = KindDevice, "sdb" },
		"idle device":     func(s *settings) { s.Device = "/dev/sdb" },
		"log not its own": func(s *settings) { s.LogDir = "/etc" },
		"relative log":    func(s *settings) { s.LogDir = logDirName("a", id) },
		"small log":       func(s *settings) { s.LogBytes = 1 },
	} {
		bad := good
		change(&bad)
		if err := writeJSON(filepath.Join(dir, settingsName), bad); err != nil {
			t.Fatal(err)
		}
		if _, err := readSettings(dir); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
	for _, text := range []string{"", "{", "[]", `{"version":1,"more":1}`, `{"version":1}{}`, `{"version":"1"}`} {
		if err := os.WriteFile(filepath.Join(dir, settingsName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSettings(dir); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v, want ErrFormat", text, err)
		}
	}
}

func TestLockIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		d, err := openDirectory(dir, "", true, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		var locked *LockedError
		if _, err := openDirectory(dir, "", true, zerolog.Nop()); !errors.As(err, &locked) {
			t.Errorf("locked twice: %v", err)
		}
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
}
