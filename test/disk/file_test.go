package disk_test

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

func TestFailedWriteMayWriteAPart(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(100) {
		d := disk.New(disk.Config{Seed: seed})
		f := create(t, d, "a", fill('o', 3))
		d.SetPlan(disk.FailAt(d.Ops()+1, syscall.EIO))
		n, err := f.WriteAt(fill('n', 3), 0)
		wantErr(t, err, syscall.EIO)
		got := runs(content(t, d, "a"))
		if want := strings.Repeat("n", n/sector) + strings.Repeat("o", 3-n/sector); got != want {
			t.Errorf("wrote %d: %s", n, got)
		}
		seen[got] = true
	}
	wantOutcomes(t, seen, "ooo", "noo", "nno")
}

func TestCapacity(t *testing.T) {
	const page = 4096
	d := disk.New(disk.Config{CapacityBytes: 4 * page})
	f := create(t, d, "a", fill('o', 8))
	base := d.Base("base", 16*page)
	must(t, base.Allocate(0, 2*page))
	if d.Used() != 3*page {
		t.Fatalf("used %d", d.Used())
	}
	n, err := base.WriteAt(fill('x', 24), page) // one page reserved, one free, one too many
	wantErr(t, err, syscall.ENOSPC)
	if n != 2*page || d.Used() != 4*page {
		t.Errorf("wrote %d, used %d", n, d.Used())
	}
	wantErr(t, base.Allocate(0, 4*page), syscall.ENOSPC)
	wantErr(t, f.Allocate(0, 2*page), syscall.ENOSPC)
	if size, _ := f.Size(); size != 8*sector {
		t.Errorf("a failed Allocate grew the file to %d", size)
	}
	write(t, f, fill('p', 8), 0) // in place
	must(t, base.ZeroAt(0, page, true))
	must(t, f.Allocate(0, 2*page)) // room again
	wantErr(t, base.Allocate(0, page), syscall.ENOSPC)
	d.SetCapacity(5 * page)
	must(t, base.Allocate(0, page))
	must(t, d.Dir("log").Remove("a"))
	if d.Used() != 3*page {
		t.Errorf("used %d after remove", d.Used())
	}
}

func TestBase(t *testing.T) {
	const page = 4096
	d := disk.New(disk.Config{ColdEvery: 2})
	b := d.Base("base", 4*page)
	extents := func(d *disk.Disk) string {
		var s []byte
		for off := int64(0); off < 4*page; {
			length, hole, err := d.Base("base", 0).NextExtent(off, 4*page)
			must(t, err)
			s = append(s, map[bool]byte{true: 'h', false: 'd'}[hole], byte('0'+length/page))
			off += length
		}
		return string(s)
	}
	write(t, b, fill('x', 24), page/2)
	if got := extents(d); got != "d4" {
		t.Errorf("extents %s", got)
	}
	must(t, b.Sync())
	must(t, b.ZeroAt(page/2, 2*page, true))
	must(t, b.ZeroAt(3*page, page, false))
	if got := extents(d); got != "d1h1d2" {
		t.Errorf("extents %s", got)
	}
	p := make([]byte, 4*page)
	wantErr(t, read(b, p), nil)
	if got := runs(p); got != "....................xxxx........" {
		t.Errorf("content %s", got)
	}
	lost := d.Clone()
	lost.Recover(disk.KeepNone())
	must(t, read(lost.Base("base", 0), p))
	if got := runs(p); got != "....xxxxxxxxxxxxxxxxxxxxxxxx...." || extents(lost) != "d4" {
		t.Errorf("content %s, extents %s", got, extents(lost))
	}
	must(t, b.ReadNoWait(p[:1], 0))
	wantErr(t, b.ReadNoWait(p[:1], 0), syscall.EAGAIN)
	_, err := b.WriteAt(p, 1)
	wantErr(t, err, syscall.EINVAL)
	wantErr(t, b.ZeroAt(-1, 1, true), syscall.EINVAL)
	_, err = b.ReadAt(p, 1)
	wantErr(t, err, io.EOF)
	d.Kill()
	wantErr(t, b.Sync(), disk.ErrCrashed)
	wantErr(t, read(b, p), disk.ErrCrashed)
}

func read(r io.ReaderAt, p []byte) error {
	_, err := r.ReadAt(p, 0)
	return err
}

func TestFailReadsAndCorrupt(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 4))
	write(t, f, fill('n', 1), sector) // not durable
	must(t, d.FailReads("log/a", 2*sector, 1, syscall.EIO))
	n, err := f.ReadAt(make([]byte, 4*sector), 0)
	wantErr(t, err, syscall.EIO)
	if n != 2*sector {
		t.Errorf("read %d before the bad range", n)
	}
	must(t, read(f, make([]byte, 2*sector)))
	must(t, d.FailReads("log/a", 0, 0, nil))
	must(t, read(f, make([]byte, 4*sector)))

	must(t, d.Corrupt("log/a", sector, sector))
	for _, c := range []disk.Choice{disk.KeepNone(), disk.KeepAll()} {
		was := map[disk.Choice]byte{disk.KeepNone(): 'o', disk.KeepAll(): 'n'}[c]
		fork := d.Clone()
		fork.Recover(c)
		p := content(t, fork, "a")
		if p[sector] == was || p[2*sector-1] == was || p[0] != 'o' || p[2*sector] != 'o' {
			t.Errorf("%v: %q %q", c, p[sector], p[2*sector])
		}
	}
	wantErr(t, d.Corrupt("log/b", 0, 1), fs.ErrNotExist)
	if d.Corrupt("log/a", 4*sector, 1) == nil {
		t.Error("corrupted beyond the end")
	}
}

func TestHandles(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 1))
	g, err := d.Dir("log").Open("a")
	must(t, err)
	write(t, g, fill('n', 1), 0)
	if got := content(t, d, "a"); got[0] != 'n' {
		t.Error("two handles, two contents")
	}
	if open := d.OpenHandles(); !slices.Equal(open, []string{"log/a", "log/a"}) {
		t.Errorf("open: %v", open)
	}
	must(t, f.Close())
	wantErr(t, f.Close(), fs.ErrClosed)
	_, err = f.WriteAt(nil, 0)
	wantErr(t, err, fs.ErrClosed)
	wantErr(t, read(f, nil), fs.ErrClosed)
	_, err = f.Size()
	wantErr(t, err, fs.ErrClosed)
	must(t, g.Sync())
	must(t, d.Dir("log").Remove("a"))
	p := make([]byte, 1)
	if must(t, read(g, p)); p[0] != 'n' {
		t.Error("a removed file lost its content while open")
	}
	d.Kill()
	if open := d.OpenHandles(); len(open) != 0 {
		t.Errorf("open after kill: %v", open)
	}
	wantErr(t, read(g, p), disk.ErrCrashed)
}
