package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestReadRegular: what is not there, not a file, or too long is an error at once, and is named; a pipe is not waited for.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("good"), []byte("x"), 0o600), syscall.Mkfifo(path("pipe"), 0o600),
		os.WriteFile(path("long"), nil, 0o600), os.Truncate(path("long"), maxRegularBytes+1)); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadRegular(path("good")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]error{"pipe": ErrNotRegular, ".": syscall.EISDIR, "none": fs.ErrNotExist, "long": nil} {
		if _, err := ReadRegular(path(name)); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := Config{TLSCert: path("pipe"), TLSKey: path("good")}
	if _, err := loadCertificates(cfg); !errors.Is(err, ErrNotRegular) {
		t.Errorf("certificate: %v", err)
	}
}
