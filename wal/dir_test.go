package wal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func openTestDir(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func createTestFile(t testing.TB, d FS, name string) File {
	t.Helper()
	f, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// mountTest mounts an empty file system for the length of the test, or skips the test where that is not allowed.
func mountTest(t testing.TB, kind, options string) string {
	t.Helper()
	path := t.TempDir()
	if err := unix.Mount(kind, path, kind, 0, options); err != nil {
		t.Skipf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return path
}

// eachFS runs a test on a real directory and on one in memory: both keep the same promises while nothing crashes.
func eachFS(t *testing.T, test func(t *testing.T, d FS)) {
	t.Run("dir", func(t *testing.T) { test(t, openTestDir(t, t.TempDir())) })
	t.Run("memory", func(t *testing.T) { test(t, NewMemoryDir()) })
}

func wantNames(t *testing.T, d FS, want ...string) {
	t.Helper()
	got, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("List = %q, want %q", got, want)
	}
}

func wantContent(t *testing.T, f File, want string) {
	t.Helper()
	size, err := f.Size()
	if err != nil || size != int64(len(want)) {
		t.Fatalf("Size = %d, %v, want %d", size, err, len(want))
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func TestFSNames(t *testing.T) {
	eachFS(t, func(t *testing.T, d FS) {
		wantNames(t, d)
		b := createTestFile(t, d, "b")
		createTestFile(t, d, "a")
		wantNames(t, d, "a", "b")
		if _, err := d.Create("a"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create of an existing name: %v", err)
		}
		if _, err := d.Open("c"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of no file: %v", err)
		}
		if err := d.Remove("c"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove of no file: %v", err)
		}
		if err := d.Rename("c", "d"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Rename of no file: %v", err)
		}
		if _, err := b.WriteAt([]byte("from b"), 0); err != nil {
			t.Fatal(err)
		}
		if err := d.Rename("b", "a"); err != nil {
			t.Fatal(err)
		}
		wantNames(t, d, "a")
		a, err := d.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, a, "from b")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Remove("a"), d.Sync()); err != nil {
			t.Fatal(err)
		}
		wantNames(t, d)
		wantContent(t, b, "from b") // still open
		for _, name := range []string{"", ".", "..", "x/y", "../x", lockName, "x\x00"} {
			if _, err := d.Create(name); !errors.Is(err, ErrName) {
				t.Errorf("Create(%q): %v", name, err)
			}
			if err := d.Rename("a", name); err == nil {
				t.Errorf("Rename to %q went well", name)
			}
			if err := d.Remove(name); err == nil {
				t.Errorf("Remove(%q) went well", name)
			}
		}
	})
}

func TestFileEdges(t *testing.T) {
	eachFS(t, func(t *testing.T, d FS) {
		f := createTestFile(t, d, "f")
		if _, err := f.WriteAt([]byte("tail"), 8); err != nil {
			t.Fatal(err)
		}
		wantContent(t, f, "\x00\x00\x00\x00\x00\x00\x00\x00tail")
		p := make([]byte, 8)
		if n, err := f.ReadAt(p, 10); n != 2 || err != io.EOF || string(p[:n]) != "il" {
			t.Errorf("read across the end: %d %v %q", n, err, p[:n])
		}
		if n, err := f.ReadAt(p, 12); n != 0 || err != io.EOF {
			t.Errorf("read at the end: %d %v", n, err)
		}
		if err := f.Allocate(4096, 4096); err != nil {
			t.Fatal(err)
		}
		if size, err := f.Size(); size != 8192 || err != nil {
			t.Errorf("Size after Allocate: %d %v", size, err)
		}
		if err := f.Allocate(0, 10); err != nil {
			t.Fatal(err)
		}
		if size, err := f.Size(); size != 8192 || err != nil {
			t.Errorf("Size after Allocate within the file: %d %v", size, err)
		}
		if err := f.(NoWaitReader).ReadNoWait(p, 8190); err != syscall.EAGAIN {
			t.Errorf("ReadNoWait across the end: %v", err)
		}
		for name, err := range map[string]error{
			"read":  func() error { _, err := f.ReadAt(p, -1); return err }(),
			"write": func() error { _, err := f.WriteAt(p, -1); return err }(),
			"vec":   f.WriteVecAt([][]byte{p}, -1),
		} {
			if !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s at -1: %v", name, err)
			}
		}
		if err := errors.Join(f.Sync(), f.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(p, 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read of a closed file: %v", err)
		}
		if err := f.Sync(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("sync of a closed file: %v", err)
		}
	})
}

// TestFileModel compares random operations with a slice.
func TestFileModel(t *testing.T) {
	eachFS(t, func(t *testing.T, d FS) {
		const limit = 64 << 10
		rng := rand.New(rand.NewPCG(1, 2))
		f := createTestFile(t, d, "f")
		model := make([]byte, 0, limit)
		grow := func(n int) { model = model[:max(len(model), n)] }
		fill := func(p []byte) []byte {
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			return p
		}
		for step := range 2000 {
			off := rng.IntN(limit - 1)
			length := 1 + rng.IntN(min(limit-off, 9000))
			switch rng.IntN(4) {
			case 0:
				grow(off + length)
				p := fill(model[off : off+length])
				if n, err := f.WriteAt(p, int64(off)); n != length || err != nil {
					t.Fatalf("step %d: write: %d %v", step, n, err)
				}
			case 1:
				grow(off + length)
				p := fill(model[off : off+length])
				var bufs [][]byte
				for len(p) > 0 {
					n := rng.IntN(min(len(p), 900) + 1) // some are empty
					bufs, p = append(bufs, p[:n]), p[n:]
				}
				if err := f.WriteVecAt(bufs, int64(off)); err != nil {
					t.Fatalf("step %d: write of %d buffers: %v", step, len(bufs), err)
				}
			case 2:
				if err := f.Allocate(int64(off), int64(length)); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				grow(off + length)
			case 3:
				p := fill(make([]byte, length))
				n, err := f.ReadAt(p, int64(off))
				want := model[min(off, len(model)):min(off+length, len(model))]
				if (err == io.EOF) != (len(want) < length) || err != nil && err != io.EOF || !bytes.Equal(p[:n], want) {
					t.Fatalf("step %d: read %d at %d: %d bytes, %v", step, length, off, n, err)
				}
				if err := f.(NoWaitReader).ReadNoWait(fill(p), int64(off)); err == nil && !bytes.Equal(p, want) {
					t.Fatalf("step %d: ReadNoWait %d at %d differs", step, length, off)
				}
			}
		}
		if size, err := f.Size(); err != nil || size != int64(len(model)) {
			t.Fatalf("Size = %d, %v, want %d", size, err, len(model))
		}
	})
}

func TestFileManyBuffers(t *testing.T) {
	f := createTestFile(t, openTestDir(t, t.TempDir()), "f")
	var bufs [][]byte
	var want bytes.Buffer
	for i := range 3*vectorMax + 7 {
		b := fmt.Appendf(nil, "%d,", i)
		bufs = append(bufs, b)
		want.Write(b)
	}
	if err := f.WriteVecAt(bufs, 0); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, want.String())
}

// TestTransferVec: whatever a call does of what it is asked, all bytes arrive once, in order, at their place.
func TestTransferVec(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		bufs := make([][]byte, rng.IntN(20))
		var want []byte
		for i := range bufs {
			bufs[i] = make([]byte, rng.IntN(10))
			for j := range bufs[i] {
				bufs[i][j] = byte(rng.Uint32())
			}
			want = append(want, bufs[i]...)
		}
		before := slices.Clone(bufs)
		var got []byte
		n, err := transferVec(bufs, 100, func(bufs [][]byte, off int64) (int, error) {
			if off != 100+int64(len(got)) {
				t.Fatalf("call at %d with %d bytes done", off, len(got))
			}
			if rng.IntN(4) == 0 {
				return 0, unix.EINTR
			}
			all := slices.Concat(bufs...)
			n := 1 + rng.IntN(len(all))
			got = append(got, all[:n]...)
			return n, nil
		})
		if err != nil || n != int64(len(want)) || !bytes.Equal(got, want) {
			t.Fatalf("wrote %x, %d, %v, want %x", got, n, err, want)
		}
		for i := range bufs {
			if !bytes.Equal(bufs[i], before[i]) {
				t.Fatal("the caller's slice was changed")
			}
		}
	}
	n, err := transferVec([][]byte{{1, 2}}, 0, func([][]byte, int64) (int, error) { return 0, nil })
	if n != 0 || err != io.ErrShortWrite {
		t.Errorf("a call that does nothing: %d, %v", n, err)
	}
}

func TestTransfer(t *testing.T) {
	var calls []int64
	n, err := transfer(make([]byte, 10), 50, io.EOF, func(p []byte, off int64) (int, error) {
		calls = append(calls, off)
		switch len(calls) {
		case 1, 3:
			return 3, nil
		case 2:
			return 0, unix.EINTR
		}
		return 0, nil
	})
	if n != 6 || err != io.EOF || !slices.Equal(calls, []int64{50, 53, 53, 56}) {
		t.Errorf("transfer = %d, %v, calls at %v", n, err, calls)
	}
}

func TestFileNoSpace(t *testing.T) {
	d := openTestDir(t, mountTest(t, "tmpfs", "size=64k"))
	f := createTestFile(t, d, "f")
	if err := f.Allocate(0, 1<<20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Allocate: %v", err)
	}
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "/f at 6") {
		t.Errorf("WriteAt: %v", err)
	}
	if err := f.WriteVecAt([][]byte{make([]byte, 1<<16), make([]byte, 1<<20)}, 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteVecAt: %v", err)
	}
}

func TestFileAllocateByWriting(t *testing.T) {
	f := createTestFile(t, openTestDir(t, mountTest(t, "ramfs", "")), "f")
	if _, err := f.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(f.(*dirFile).fd, 0, 0, 1); err != unix.EOPNOTSUPP {
		t.Skipf("fallocate on ramfs: %v", err)
	}
	if err := f.Allocate(2, 3<<20); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, "kept"+strings.Repeat("\x00", 3<<20-2))
	var st unix.Stat_t
	if err := unix.Fstat(f.(*dirFile).fd, &st); err != nil || st.Blocks*512 < 3<<20 {
		t.Errorf("%d bytes are taken, %v", st.Blocks*512, err)
	}
}

// TestSyncFailsForEver: the kernel reports a failed writeback once; nobody may take the next answer for success (I7).
func TestSyncFailsForEver(t *testing.T) {
	var s syncOnce
	failed := syscall.EIO
	calls := 0
	first := s.do(func() error { calls++; return failed })
	second := s.do(func() error { calls++; return nil })
	if first != failed || second != failed || calls != 1 {
		t.Errorf("first %v, second %v, %d calls", first, second, calls)
	}
	d := openTestDir(t, t.TempDir())
	f := createTestFile(t, d, "f")
	if err := errors.Join(f.Sync(), d.Sync()); err != nil {
		t.Fatal(err)
	}
	f.(*dirFile).synced.err = failed
	d.synced.err = failed
	if err := f.Sync(); !errors.Is(err, failed) {
		t.Errorf("file: %v", err)
	}
	if err := d.Sync(); !errors.Is(err, failed) {
		t.Errorf("directory: %v", err)
	}
}

func TestDirLock(t *testing.T) {
	path := t.TempDir()
	d := openTestDir(t, path)
	wantNames(t, d)
	for name, open := range map[string]func(string) (*Dir, error){"OpenDir": OpenDir, "OpenDirReadOnly": OpenDirReadOnly} {
		_, err := open(path)
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Errorf("%s of a directory that is open: %v", name, err)
		}
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("List of a closed directory: %v", err)
	}
	first, err := OpenDirReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := OpenDirReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := OpenDir(path); !errors.Is(err, ErrLocked) {
		t.Errorf("OpenDir beside a reader: %v", err)
	}
}

// TestDirLockOfAnotherProcess: the lock is between processes, names its holder, and ends with it even by SIGKILL.
func TestDirLockOfAnotherProcess(t *testing.T) {
	if path := os.Getenv("WAL_TEST_LOCK_DIR"); path != "" {
		if _, err := OpenDir(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		select {} // until it is killed
	}
	path := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDirLockOfAnotherProcess$")
	cmd.Env = append(os.Environ(), "WAL_TEST_LOCK_DIR="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Errorf("the other process says %q, %v", line, err)
	}
	_, err = OpenDir(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("OpenDir while process %d holds it: %v", cmd.Process.Pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	openTestDir(t, path)
}

func TestDirReadOnly(t *testing.T) {
	path := t.TempDir()
	d := openTestDir(t, path)
	f := createTestFile(t, d, "f")
	if _, err := f.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := OpenDirReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err = r.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, createErr := r.Create("g")
	_, writeErr := f.WriteAt([]byte("x"), 0)
	for name, err := range map[string]error{
		"create":   createErr,
		"rename":   r.Rename("f", "g"),
		"remove":   r.Remove("f"),
		"write":    writeErr,
		"vec":      f.WriteVecAt([][]byte{{1}}, 0),
		"allocate": f.Allocate(0, 10),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantContent(t, f, "kept")
	wantNames(t, r, "f")
}

// TestDirReadOnlyMedium: what can't be written to at all can be looked at, with a lock file or without.
func TestDirReadOnlyMedium(t *testing.T) {
	path := mountTest(t, "tmpfs", "size=64k")
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	r, err := OpenDirReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(path); !errors.Is(err, syscall.EROFS) {
		t.Errorf("OpenDir: %v", err)
	}
}

func TestDirForeignEntries(t *testing.T) {
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := openTestDir(t, path)
	createTestFile(t, d, "f")
	wantNames(t, d, "f")
	wantNames(t, d, "f") // the position of the first listing is gone
	info, err := os.Stat(filepath.Join(path, "f"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestCreateDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	d, err := CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := CreateDir(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateDir of an existing one: %v", err)
	}
	if _, err := OpenDir(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenDir of none: %v", err)
	}
	createTestFile(t, d, "f")
	if _, err := OpenDir(filepath.Join(path, "f")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("OpenDir of a file: %v", err)
	}
	moved := path + ".moved"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	createTestFile(t, d, "g") // the directory, not its old path
	if _, err := os.Stat(filepath.Join(moved, "g")); err != nil {
		t.Error(err)
	}
}

func TestFSConcurrent(t *testing.T) {
	eachFS(t, func(t *testing.T, d FS) {
		shared := createTestFile(t, d, "shared")
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 0))
				name := fmt.Sprintf("own-%d", worker)
				for step := range 50 {
					p := bytes.Repeat([]byte{byte(step)}, 1+rng.IntN(5000))
					off := int64(worker) * 10000
					if err := errors.Join(shared.WriteVecAt([][]byte{p[:1], p[1:]}, off), shared.Sync()); err != nil {
						t.Error(err)
						return
					}
					got := make([]byte, len(p))
					if _, err := shared.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
						t.Errorf("worker %d reads back something else, %v", worker, err)
						return
					}
					f, err := d.Create(name)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := d.List(); err != nil {
						t.Error(err)
					}
					if err := errors.Join(f.Close(), d.Rename(name, name+".moved"), d.Remove(name+".moved")); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		wantNames(t, d, "shared")
	})
}

// TestFileCloseUnderWay: Close beside other calls makes them fail, and never lets one reach another file.
func TestFileCloseUnderWay(t *testing.T) {
	d := openTestDir(t, t.TempDir())
	for range 20 {
		f := createTestFile(t, d, "f")
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		for range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					_, err := f.WriteAt([]byte("mine"), 0)
					if i == 0 {
						started <- struct{}{}
					}
					if err != nil {
						if !errors.Is(err, fs.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		for range 4 {
			<-started
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		other := createTestFile(t, d, "other") // gets the number of f
		wg.Wait()
		wantContent(t, other, "")
		if err := errors.Join(other.Close(), d.Remove("f"), d.Remove("other")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadNoWaitCached(t *testing.T) {
	f := createTestFile(t, openTestDir(t, t.TempDir()), "f")
	want := bytes.Repeat([]byte("abcd"), 5000)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := f.(NoWaitReader).ReadNoWait(got, 0); err == syscall.EAGAIN {
		t.Skip("the file system can't tell what is in memory")
	} else if err != nil || !bytes.Equal(got, want) {
		t.Errorf("ReadNoWait of what was just written: %v", err)
	}
}
