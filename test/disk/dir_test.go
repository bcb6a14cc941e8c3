package disk_test

import (
	"io/fs"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

func TestDirectoryEntries(t *testing.T) {
	start := func() *disk.Disk {
		d := disk.New(disk.Config{})
		create(t, d, "a", fill('a', 1))
		create(t, d, "b", fill('b', 1))
		f, err := d.Dir("log").Create("c")
		must(t, err)
		write(t, f, fill('c', 1), 0)
		must(t, f.Sync()) // the data are durable, the name is not
		must(t, d.Dir("log").Rename("a", "b"))
		must(t, d.Dir("log").Remove("c"))
		return d
	}
	for bits, want := range []string{"a b", "a b c", "a b", "b c", "a b", "a b c", "a b", "b"} {
		d := start()
		d.Recover(disk.KeepSubset(uint64(bits)))
		if got := names(t, d); got != want {
			t.Errorf("prefix of subset %03b: %q, want %q", bits, got, want)
		}
		replaced := bits&0b011 == 0b011
		if b := string(content(t, d, "b")[:1]); b == "a" != replaced {
			t.Errorf("subset %03b: b holds %s", bits, b)
		}
	}
	d := start()
	must(t, d.Dir("log").Sync())
	d.Recover(disk.KeepNone())
	if got := names(t, d); got != "b" {
		t.Errorf("after sync: %q", got)
	}
	wantContent(t, d, "b", fill('a', 1))
}

func TestUnorderedDirectoryEntries(t *testing.T) {
	two := func(d *disk.Disk) map[string]bool {
		for _, name := range []string{"a", "b"} {
			_, err := d.Dir("log").Create(name)
			must(t, err)
		}
		seen := map[string]bool{}
		for bits := range uint64(4) {
			c := d.Clone()
			c.Recover(disk.KeepSubset(bits))
			seen[names(t, c)] = true
		}
		return seen
	}
	wantOutcomes(t, two(disk.New(disk.Config{})), "", "a", "a b")
	wantOutcomes(t, two(disk.New(disk.Config{UnorderedDirs: true})), "", "a", "b", "a b")
}

func TestRenamedFileKeepsOldBytes(t *testing.T) {
	d := disk.New(disk.Config{})
	create(t, d, "a", fill('o', 2))
	must(t, d.Dir("log").Rename("a", "b"))
	f, err := d.Dir("log").Open("b")
	must(t, err)
	write(t, f, fill('n', 1), 0)
	if got := runs(content(t, d, "b")); got != "no" {
		t.Errorf("got %s", got)
	}
}

func TestDirErrors(t *testing.T) {
	d := disk.New(disk.Config{})
	dir := d.Dir("log")
	create(t, d, "a", nil)
	_, err := dir.Create("a")
	wantErr(t, err, fs.ErrExist)
	_, err = dir.Open("b")
	wantErr(t, err, fs.ErrNotExist)
	wantErr(t, dir.Rename("b", "c"), fs.ErrNotExist)
	wantErr(t, dir.Remove("b"), fs.ErrNotExist)
	_, err = dir.Create("b/c")
	wantErr(t, err, syscall.EINVAL)
	d.SetPlan(func(disk.Op) error { return syscall.EIO })
	_, err = dir.Create("b")
	wantErr(t, err, syscall.EIO)
	wantErr(t, dir.Rename("a", "b"), syscall.EIO)
	wantErr(t, dir.Remove("a"), syscall.EIO)
	wantErr(t, dir.Sync(), syscall.EIO)
	if names(t, d) != "a" {
		t.Errorf("failed operations left %s", names(t, d))
	}
	d.Kill()
	_, err = dir.List()
	wantErr(t, err, disk.ErrCrashed)
}
