package disk_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"lockstep/test/disk"
	"lockstep/wal"
)

// fill returns n sectors of the byte b.
func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n*sector) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a durable file in directory "log".
func create(t testing.TB, d *disk.Disk, name string, content []byte) wal.File {
	t.Helper()
	f, err := d.Dir("log").Create(name)
	must(t, err)
	write(t, f, content, 0)
	must(t, f.Sync())
	must(t, d.Dir("log").Sync())
	return f
}

func write(t testing.TB, f io.WriterAt, p []byte, off int64) {
	t.Helper()
	n, err := f.WriteAt(p, off)
	must(t, err)
	if n != len(p) {
		t.Fatalf("wrote %d of %d", n, len(p))
	}
}

// content reads a whole file of directory "log".
func content(t testing.TB, d *disk.Disk, name string) []byte {
	t.Helper()
	f, err := d.Dir("log").Open(name)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	size, err := f.Size()
	must(t, err)
	p := make([]byte, size)
	if n, err := f.ReadAt(p, 0); err != nil || n != len(p) {
		t.Fatalf("read %d of %d: %v", n, len(p), err)
	}
	return p
}

func names(t testing.TB, d *disk.Disk) string {
	t.Helper()
	list, err := d.Dir("log").List()
	must(t, err)
	return strings.Join(list, " ")
}

func wantContent(t testing.TB, d *disk.Disk, name string, want []byte) {
	t.Helper()
	if got := content(t, d, name); !bytes.Equal(got, want) {
		t.Errorf("%s: got %s, want %s", name, runs(got), runs(want))
	}
}

// runs shows content as the first byte of each sector.
func runs(p []byte) string {
	var s []byte
	for i := 0; i < len(p); i += sector {
		if p[i] == 0 {
			s = append(s, '.')
			continue
		}
		s = append(s, p[i])
	}
	return string(s)
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func TestPlanSeesEveryOperation(t *testing.T) {
	d := disk.New(disk.Config{CountReads: true})
	var seen []string
	d.SetPlan(func(op disk.Op) error {
		seen = append(seen, op.String())
		d.Clone() // a plan may fork the disk
		return nil
	})
	dir := d.Dir("log")
	f, err := dir.Create("a")
	must(t, err)
	must(t, f.WriteVecAt([][]byte{fill('x', 1), fill('y', 1)}, 100))
	must(t, f.Allocate(0, 4096))
	_, err = f.ReadAt(make([]byte, 10), 5)
	must(t, err)
	must(t, f.Sync())
	must(t, dir.Rename("a", "b"))
	must(t, dir.Sync())
	must(t, dir.Remove("b"))
	must(t, d.Base("base", 8192).ZeroAt(0, 100, true))
	want := []string{"1: create log/a", "2: write log/a [100, +1024)", "3: allocate log/a [0, +4096)",
		"4: read log/a [5, +10)", "5: sync log/a", "6: rename log/a to log/b", "7: sync dir log", "8: remove log/b",
		"9: zero base [0, +100)"}
	if !slices.Equal(seen, want) {
		t.Errorf("got %q", seen)
	}
	if trace := strings.Join(want, "\n") + "\n"; d.Trace() != trace {
		t.Errorf("trace is\n%s", d.Trace())
	}
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 4))
	write(t, f, fill('p', 1), 3*sector) // pending in both
	c := d.Clone()
	write(t, f, fill('x', 1), 0)
	g, err := c.Dir("log").Open("a")
	must(t, err)
	write(t, g, fill('y', 1), sector)
	must(t, c.Dir("log").Rename("a", "b"))
	if got := runs(content(t, d, "a")); got != "xoop" {
		t.Errorf("original: %s", got)
	}
	if got := runs(content(t, c, "b")); got != "oyop" {
		t.Errorf("clone: %s", got)
	}
	must(t, d.Clone().Corrupt("log/a", 0, 4*sector))
	kept := d.Clone()
	kept.Recover(disk.KeepAll())
	if got := runs(content(t, kept, "a")); got != "xoop" {
		t.Errorf("corruption of a clone reached the original: %s", got)
	}
	must(t, f.Sync())
	c.Recover(disk.KeepNone())
	if got := runs(content(t, c, "a")); got != "oooo" {
		t.Errorf("a sync of the original reached the clone: %s", got)
	}
}

func TestManyGoroutines(t *testing.T) {
	d := disk.New(disk.Config{})
	b := d.Base("base", 16*4096)
	d.SetPlan(func(op disk.Op) error { return nil })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := fill(byte('a'+i), 8)
			for range 20 {
				_, err := b.WriteAt(p, int64(i)*4096)
				wantErr(t, err, nil)
				wantErr(t, b.Sync(), nil)
				got := make([]byte, 4096)
				_, err = b.ReadAt(got, int64(i)*4096)
				wantErr(t, err, nil)
				if !bytes.Equal(got, p) {
					t.Error("read something else")
				}
			}
		})
	}
	wg.Go(func() { d.Clone().Recover(disk.KeepSectors()) })
	wg.Wait()
	if d.Ops() != 8*20*2 {
		t.Errorf("%d operations", d.Ops())
	}
}

// BenchmarkSegment writes 4 MiB of zeroes, syncs and forks, as each life of a log does.
func BenchmarkSegment(b *testing.B) {
	zeroes := make([]byte, 4<<20)
	for b.Loop() {
		d := disk.New(disk.Config{})
		f := create(b, d, "a", zeroes)
		write(b, f, fill('x', 8), 0)
		must(b, f.Sync())
		d.Clone().Recover(disk.KeepSectors())
	}
}
