package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wantOnly checks which names a directory has.
func wantOnly(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Fatalf("the directory has %q, want %q", got, names)
	}
}

func TestCreateFile(t *testing.T) {
	const size = 40<<20 + 100
	for _, kind := range []Kind{Thin, Thick} {
		dir := t.TempDir()
		f := createTestFile(t, dir, size, kind)
		info, err := os.Stat(filepath.Join(dir, "base"))
		if err != nil || info.Size() != size || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", kind, info, err)
		}
		if taken := takenBytes(t, f); kind == Thick && taken < size || kind == Thin && taken > 1<<20 {
			t.Errorf("%s: %d bytes are taken", kind, taken)
		}
		if f.Kind() != kind {
			t.Errorf("Kind = %s", f.Kind())
		}
		wantOnly(t, dir, "base")
		wantContent(t, f, make([]byte, size))
	}
}

// TestCreateThickByWriting: a thick file has its space also where the file system can't allocate.
func TestCreateThickByWriting(t *testing.T) {
	f := createTestFile(t, mountExt3(t, 32<<20), 8<<20, Thick)
	if taken := takenBytes(t, f); taken < 8<<20 {
		t.Errorf("%d bytes are taken", taken)
	}
}

func TestCreateFileNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "base")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(f *File, err error) {
		t.Helper()
		if f != nil || !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v, %v", f, err)
		}
		if got, err := os.ReadFile(path); string(got) != "precious" {
			t.Errorf("there is now %q, %v", got, err)
		}
		wantOnly(t, dir, "base")
	}
	check(CreateFile(path, 1<<20, Thin))

	// as if it had appeared after CreateFile looked
	temp, err := os.CreateTemp(dir, "temp")
	if err != nil {
		t.Fatal(err)
	}
	f, err := buildFile(temp, path, 1<<20, Thin)
	closeTest(t, temp)
	closeTest(t, f)
	if err := os.Remove(temp.Name()); err != nil {
		t.Error(err)
	}
	check(nil, err)
}

func TestCreateFileFailures(t *testing.T) {
	for _, c := range []struct {
		size int64
		kind Kind
	}{{0, Thin}, {-1, Thick}, {4096, 0}, {4096, 7}} {
		dir := t.TempDir()
		if f, err := CreateFile(filepath.Join(dir, "base"), c.size, c.kind); f != nil || !errors.Is(err, syscall.EINVAL) {
			t.Errorf("size %d, %s: %v", c.size, c.kind, err)
		}
		wantOnly(t, dir)
	}
	dir := mountTest(t, "tmpfs", "size=1m")
	if f, err := CreateFile(filepath.Join(dir, "base"), 2<<20, Thick); f != nil || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without space: %v", err)
	}
	wantOnly(t, dir)
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "base")
	f := createTestFile(t, dir, 1<<20, Thin)
	if _, err := f.WriteAt([]byte("kept"), 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path, Thin); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("a file just created by another: %v", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, Thin)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, f)
	want := make([]byte, 1<<20)
	copy(want[1000:], "kept")
	wantContent(t, f, want)
	if _, err := OpenFile(path, Thin); !errors.Is(err, ErrLocked) {
		t.Errorf("a file opened by another: %v", err)
	}

	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"empty": syscall.EINVAL, "fifo": ErrNotFile, "none": fs.ErrNotExist, ".": syscall.EISDIR,
	} {
		if f, err := OpenFile(filepath.Join(dir, name), Thin); f != nil || !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f, err := OpenFile(path, 0); f != nil || !errors.Is(err, syscall.EINVAL) {
		t.Errorf("kind 0: %v", err)
	}
}

// TestOpenThickTakesSpace: a thick file whose space was lost by copying has it again once it is open.
func TestOpenThickTakesSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	const size = 36 << 20
	if err := errors.Join(os.WriteFile(path, []byte("copied"), 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, Thick)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, f)
	if taken := takenBytes(t, f); taken < size {
		t.Errorf("%d bytes are taken", taken)
	}
	want := make([]byte, size)
	copy(want, "copied")
	wantContent(t, f, want)
}

func TestNoSpace(t *testing.T) {
	f := createTestFile(t, mountTest(t, "tmpfs", "size=1m"), 8<<20, Thin)
	if err := f.Allocate(4096, 2<<20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Allocate: %v", err)
	}
	n, err := f.WriteAt(make([]byte, 2<<20), 4096)
	if !errors.Is(err, syscall.ENOSPC) || n <= 0 || !strings.Contains(err.Error(), fmt.Sprintf("base at %d", 4096+n)) {
		t.Errorf("WriteAt: %d, %v", n, err)
	}
	if err := f.ZeroAt(0, 8<<20, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("ZeroAt: %v", err)
	}
	if err := f.ZeroAt(0, 8<<20, true); err != nil {
		t.Errorf("punching makes room: %v", err)
	}
	if err := f.Allocate(4096, 500<<10); err != nil {
		t.Errorf("Allocate with room: %v", err)
	}
}

func TestQuotaIsNoSpace(t *testing.T) {
	d := &descriptor{name: "base"}
	err := d.failure("write", 4096, unix.EDQUOT)
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, syscall.EDQUOT) {
		t.Error(err)
	}
	if err := d.failure("write", 4096, unix.EIO); errors.Is(err, syscall.ENOSPC) || !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
}

func TestThinGivesBack(t *testing.T) {
	const size = 4 << 20
	for _, c := range []struct {
		kind  Kind
		punch bool
		least int64
		most  int64
	}{{Thin, true, 0, 1 << 20}, {Thin, false, size, 2 * size}, {Thick, true, size, 2 * size}, {Thick, false, size, 2 * size}} {
		f := createTestFile(t, t.TempDir(), size, c.kind)
		p := make([]byte, size)
		for i := range p {
			p[i] = 7
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.ZeroAt(0, size, c.punch), f.Sync()); err != nil {
			t.Fatal(err)
		}
		if taken := takenBytes(t, f); taken < c.least || taken > c.most {
			t.Errorf("%s, punch %v: %d bytes are taken", c.kind, c.punch, taken)
		}
		wantContent(t, f, make([]byte, size))
	}
}

// TestTruncatedUnderUs: bytes that are gone are an error, never zeroes.
func TestTruncatedUnderUs(t *testing.T) {
	dir := t.TempDir()
	f := createTestFile(t, dir, 1<<20, Thin)
	if err := os.Truncate(filepath.Join(dir, "base"), 5000); err != nil {
		t.Fatal(err)
	}
	n, err := f.ReadAt(make([]byte, 8192), 0)
	if n != 5000 || err == nil || !strings.Contains(err.Error(), "at 5000: unexpected EOF") {
		t.Errorf("%d, %v", n, err)
	}
}

func TestReadNoWait(t *testing.T) {
	dir := t.TempDir()
	f := createTestFile(t, dir, 1<<20, Thin)
	if _, err := f.WriteAt([]byte("in memory"), 4090); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 9)
	if err := f.ReadNoWait(p, 4090); err == syscall.EAGAIN {
		t.Skip("the file system can't tell what is in memory")
	} else if err != nil || string(p) != "in memory" {
		t.Errorf("%q, %v", p, err)
	}
	if err := os.Truncate(filepath.Join(dir, "base"), 4094); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadNoWait(p, 4090); err != syscall.EAGAIN {
		t.Errorf("of what is only in part there: %v", err)
	}
}
