package disk_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"lockstep/test/disk"
	"lockstep/wal"
)

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
