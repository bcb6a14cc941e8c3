package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
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

func TestUnsyncedWriteNeedsLuck(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 4))
	write(t, f, fill('n', 2), sector)
	wantContent(t, d, "a", []byte(string(fill('o', 1))+string(fill('n', 2))+string(fill('o', 1))))

	lost, kept := d.Clone(), d.Clone()
	lost.Recover(disk.KeepNone())
	wantContent(t, lost, "a", fill('o', 4))
	kept.Recover(disk.KeepAll())
	wantContent(t, kept, "a", content(t, d, "a"))

	must(t, f.Sync())
	d.Recover(disk.KeepNone())
	wantContent(t, d, "a", content(t, kept, "a"))
}

func TestKeepSubsetReachesEverySubset(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 3))
	write(t, f, fill('x', 2), 0)
	write(t, f, fill('y', 2), sector)
	write(t, f, fill('z', 1), 0)
	if n := d.Pending(); n != 3 {
		t.Fatalf("%d changes pending", n)
	}
	want := []string{"ooo", "xxo", "oyy", "xyy", "zoo", "zxo", "zyy", "zyy"}
	for bits, s := range want {
		c := d.Clone()
		c.Recover(disk.KeepSubset(uint64(bits)))
		if got := runs(content(t, c, "a")); got != s {
			t.Errorf("subset %03b: got %s, want %s", bits, got, s)
		}
	}
}

func TestChangesAreOrderedOverAllFiles(t *testing.T) {
	d := disk.New(disk.Config{})
	a, b := create(t, d, "a", fill('o', 1)), create(t, d, "b", fill('o', 1))
	write(t, b, fill('1', 1), 0)
	write(t, a, fill('2', 1), 0)
	write(t, b, fill('3', 1), 0)
	for bits, want := range []string{"oo", "o1", "2o", "21", "o3", "o3", "23", "23"} {
		c := d.Clone()
		c.Recover(disk.KeepSubset(uint64(bits)))
		if got := runs(content(t, c, "a")) + runs(content(t, c, "b")); got != want {
			t.Errorf("subset %03b: got %s, want %s", bits, got, want)
		}
	}
}

// outcomes collects what a choice leaves of file a, over many seeds.
func outcomes(t *testing.T, cfg disk.Config, c disk.Choice, history func(*disk.Disk)) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for seed := range uint64(400) {
		cfg.Seed = seed
		d := disk.New(cfg)
		history(d)
		d.Recover(c)
		if names(t, d) == "" {
			seen["no file"] = true
			continue
		}
		seen[runs(content(t, d, "a"))] = true
	}
	return seen
}

func wantOutcomes(t *testing.T, seen map[string]bool, want ...string) {
	t.Helper()
	var got []string
	for s := range seen {
		got = append(got, s)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRandomChoices(t *testing.T) {
	history := func(d *disk.Disk) {
		f := create(t, d, "a", fill('o', 3))
		write(t, f, fill('x', 2), 0)
		write(t, f, fill('y', 2), sector)
	}
	whole := []string{"ooo", "xxo", "oyy", "xyy"}
	later := []string{"ooo", "oyy", "xyy"}
	var torn []string
	for _, first := range "ox" {
		for _, second := range "oxy" {
			for _, third := range "oy" {
				torn = append(torn, string([]rune{first, second, third}))
			}
		}
	}
	wantOutcomes(t, outcomes(t, disk.Config{}, disk.KeepWrites(), history), whole...)
	wantOutcomes(t, outcomes(t, disk.Config{}, disk.KeepLater(), history), later...)
	wantOutcomes(t, outcomes(t, disk.Config{}, disk.KeepSectors(), history), torn...)
}

func TestUnsyncedGrowth(t *testing.T) {
	history := func(d *disk.Disk) {
		f := create(t, d, "a", fill('o', 1))
		write(t, f, fill('x', 1), 2*sector)
	}
	// Shorter, longer with zeroes, or all of it; data beyond a size that was lost is gone.
	wantOutcomes(t, outcomes(t, disk.Config{}, disk.KeepSectors(), history), "o", "o..", "o.x")

	history = func(d *disk.Disk) {
		f := create(t, d, "a", fill('o', 1))
		must(t, f.Allocate(0, 3*sector))
	}
	wantOutcomes(t, outcomes(t, disk.Config{}, disk.KeepWrites(), history), "o", "o..")
}

func TestGrowthAfterLostGrowthReadsZeroes(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 1))
	write(t, f, fill('x', 2), sector)
	d.Recover(disk.KeepSubset(0b10)) // the data, not the size
	wantContent(t, d, "a", fill('o', 1))
	f, err := d.Dir("log").Open("a")
	must(t, err)
	must(t, f.Allocate(0, 3*sector))
	if got := runs(content(t, d, "a")); got != "o.." {
		t.Errorf("got %s", got)
	}
}

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

func TestKillKeepsThePageCacheUndurable(t *testing.T) {
	d := disk.New(disk.Config{})
	f := create(t, d, "a", fill('o', 2))
	write(t, f, fill('n', 1), 0)
	_, err := d.Dir("log").Create("b")
	must(t, err)
	d.Kill()
	wantErr(t, f.Sync(), disk.ErrCrashed)
	if got := runs(content(t, d, "a")); got != "no" || names(t, d) != "a b" {
		t.Errorf("after kill: a holds %s, names are %s", got, names(t, d))
	}
	synced := d.Clone()
	d.Recover(disk.KeepNone())
	if got := runs(content(t, d, "a")); got != "oo" || names(t, d) != "a" {
		t.Errorf("after kill and power cut: a holds %s, names are %s", got, names(t, d))
	}
	f, err = synced.Dir("log").Open("a")
	must(t, err)
	must(t, f.Sync())
	synced.Recover(disk.KeepNone())
	if got := runs(content(t, synced, "a")); got != "no" {
		t.Errorf("after kill, sync and power cut: a holds %s", got)
	}
}

func TestCrashInTheMiddleOfAWrite(t *testing.T) {
	power, kill := map[string]bool{}, map[string]bool{}
	for seed := range uint64(200) {
		d := disk.New(disk.Config{Seed: seed})
		f := create(t, d, "a", fill('o', 2))
		d.SetPlan(disk.CrashAt(d.Ops() + 1))
		p := fill('n', 2)
		n, err := f.WriteAt(p, 0)
		wantErr(t, err, disk.ErrCrashed)
		if n != 0 || !d.Crashed() {
			t.Fatalf("wrote %d, crashed %t", n, d.Crashed())
		}
		clear(p) // the buffer is the caller's again
		if d.Pending() != 1 {
			t.Fatalf("%d pending", d.Pending())
		}
		wantErr(t, f.Sync(), disk.ErrCrashed)
		_, err = d.Dir("log").Open("a")
		wantErr(t, err, disk.ErrCrashed)
		c := d.Clone()
		c.Kill()
		kill[runs(content(t, c, "a"))] = true
		d.Recover(disk.KeepSectors())
		power[runs(content(t, d, "a"))] = true
	}
	wantOutcomes(t, power, "oo", "no", "on", "nn")
	wantOutcomes(t, kill, "oo", "no", "nn")
}

func TestCrashInTheMiddleOfASync(t *testing.T) {
	for choice, want := range map[disk.Choice]string{disk.KeepNone(): "o", disk.KeepAll(): "n"} {
		d := disk.New(disk.Config{})
		f := create(t, d, "a", fill('o', 1))
		write(t, f, fill('n', 1), 0)
		d.SetPlan(disk.CrashAt(d.Ops() + 1))
		wantErr(t, f.Sync(), disk.ErrCrashed)
		d.Recover(choice)
		if got := runs(content(t, d, "a")); got != want {
			t.Errorf("%v: got %s, want %s", choice, got, want)
		}
	}
}

func TestCrashInTheMiddleOfACreate(t *testing.T) {
	d := disk.New(disk.Config{})
	d.SetPlan(disk.CrashAt(1))
	_, err := d.Dir("log").Create("a")
	wantErr(t, err, disk.ErrCrashed)
	one, other := d.Clone(), d.Clone()
	one.Recover(disk.KeepNone())
	other.Recover(disk.KeepAll())
	if names(t, one) != "" || names(t, other) != "a" {
		t.Errorf("names are %q and %q", names(t, one), names(t, other))
	}
}

func TestFailedSyncLosesForGood(t *testing.T) {
	fail := func() (*disk.Disk, wal.File) {
		d := disk.New(disk.Config{})
		f := create(t, d, "a", fill('o', 3))
		write(t, f, fill('x', 2), 0)
		d.SetPlan(disk.FailAt(d.Ops()+1, syscall.EIO))
		wantErr(t, f.Sync(), syscall.EIO)
		if got := runs(content(t, d, "a")); got != "xxo" {
			t.Errorf("after the failed sync: %s", got)
		}
		return d, f
	}
	cut := func(d *disk.Disk, c disk.Choice, want string) {
		t.Helper()
		d.Recover(c)
		if got := runs(content(t, d, "a")); got != want {
			t.Errorf("%v: got %s, want %s", c, got, want)
		}
	}
	d, f := fail()
	must(t, f.Sync())
	cut(d.Clone(), disk.KeepAll(), "xxo")
	cut(d, disk.KeepNone(), "ooo")

	d, f = fail() // written again in part, and a later write beside it
	write(t, f, fill('y', 2), sector)
	must(t, f.Sync())
	cut(d.Clone(), disk.KeepNone(), "oyy")
	cut(d.Clone(), disk.KeepAll(), "xyy") // what was lost never covers what was synced after it
	must(t, f.Sync())
	d.Kill()
	cut(d, disk.KeepNone(), "oyy")

	d, f = fail() // the growth of a failed sync is tried again
	write(t, f, fill('z', 1), 3*sector)
	d.SetPlan(disk.FailAt(d.Ops()+1, syscall.EIO))
	wantErr(t, f.Sync(), syscall.EIO)
	write(t, f, fill('z', 1), 3*sector)
	must(t, f.Sync())
	cut(d, disk.KeepNone(), "oooz")
}

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

func TestPunchIsTornLikeAWrite(t *testing.T) {
	seen := map[int]bool{}
	for seed := range uint64(50) {
		d := disk.New(disk.Config{Seed: seed})
		b := d.Base("base", 8192)
		write(t, b, fill('x', 16), 0)
		must(t, b.Sync())
		must(t, b.ZeroAt(0, 8192, true))
		d.Recover(disk.KeepSectors())
		p := make([]byte, 8192)
		must(t, read(d.Base("base", 0), p))
		seen[strings.Count(runs(p), "x")] = true
	}
	if len(seen) < 5 {
		t.Errorf("only %v sectors survived", seen)
	}
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
