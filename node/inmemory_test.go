package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestMemoryVolume: a volume in memory works, is called memory, and is empty after a restart of the server.
func TestMemoryVolume(t *testing.T) {
	dir := emptyServerDir(t)
	m, done := manage(t, dir)
	if s := create(t, m, CreateRequest{Name: "scratch", Backend: KindMemory}); s.Backend != "memory" || s.SizeBytes != testVolumeBytes {
		t.Fatalf("made %+v", s)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []CreateRequest{
		{Name: "filled", Backend: KindMemory, SizeBytes: testVolumeBytes},
		{Name: "logged", Backend: KindMemory, SizeBytes: testVolumeBytes, LogDir: t.TempDir()},
	} {
		var from Source
		if r.LogDir == "" {
			from = fileSource(t, image)
		}
		if _, err := m.Import(t.Context(), r, from); !errors.Is(err, ErrRequest) {
			t.Errorf("making %s: %v", r.Name, err)
		}
	}
	done()
	data := pattern(8192, 1)
	for range 2 {
		s := start(t, dir, nil)
		c, err := attach(t, s.endpoints.Unix, "scratch")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.read(t, 4096, len(data)); !bytes.Equal(got, make([]byte, len(data))) {
			t.Fatal("a new start has old content")
		}
		c.write(t, 4096, data)
		if got := c.read(t, 4096, len(data)); !bytes.Equal(got, data) {
			t.Fatal("what was written is not there")
		}
		c.conn.Close()
		s.end(t)
	}
}
