package volume

import (
	"errors"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

// TestI3ReadsAtAnyOffset: random changes, checkpoints and restarts, with reads of any bytes of it, waiting or not.
func TestI3ReadsAtAnyOffset(t *testing.T) {
	c := newCase(t, disk.Config{ColdEvery: 4})
	d := mustOpen(t, c)
	cold := 0
	for i := range 600 {
		if i%150 == 149 {
			d.must(t, d.close)
			powerCut(c, disk.KeepNone())
			d = mustRecover(t, c)
		}
		d.must(t, func() error { return randomRun(d, 1) })
		n := c.Rand.Int64N(9000)
		off := c.Rand.Int64N(testSize - n)
		d.must(t, func() error { return d.read(off, n) })
		p := make([]byte, n)
		done, err := d.v.ReadNoWait(p, off)
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			cold++
		} else if err := c.Model.CheckRead(off, p); err != nil {
			t.Fatal(err)
		}
	}
	if cold == 0 || cold == 600 {
		t.Errorf("%d of 600 reads would have had to wait", cold)
	}
	d.must(t, d.close)
}

// TestRanges: what is outside of the volume is refused, and does nothing.
func TestRanges(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	head := d.v.log.Head()
	const most = int64(^uint64(0) >> 1)
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {testSize, 1}, {testSize - 1, 2}, {most, most}, {1, most}, {testSize + 1, 0}} {
		var p []byte
		if r[1] >= 0 && r[1] <= testSize {
			p = make([]byte, r[1])
			if err := d.v.Read(p, r[0]); !errors.Is(err, ErrRange) || !errors.Is(err, syscall.EINVAL) {
				t.Errorf("read of %d at %d: %v", r[1], r[0], err)
			}
		}
		if _, err := d.v.Extents(r[0], r[1], 10); !errors.Is(err, ErrRange) {
			t.Errorf("extents of %d at %d: %v", r[1], r[0], err)
		}
		for _, kind := range []Kind{Write, Zero, Trim} {
			if err := applyOne(d.v, Change{Kind: kind, Offset: r[0], Length: r[1], Data: p}); !errors.Is(err, ErrRange) {
				t.Errorf("change of kind %d of %d at %d: %v", kind, r[1], r[0], err)
			}
		}
	}
	mustApply(t, d.v, Change{Kind: Write, Offset: testSize}, Change{Kind: Trim}, Change{Kind: Zero, Offset: 77})
	if err := d.v.Read(nil, testSize); err != nil {
		t.Errorf("read of nothing at the end: %v", err)
	}
	if d.v.log.Head() != head {
		t.Errorf("%d records were logged", d.v.log.Head()-head)
	}
	d.must(t, d.close)
}

// TestClosed: a closed volume says so, and can be closed again.
func TestClosed(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 3) }, d.close, d.close)
	v := d.v
	_, extentsErr := v.Extents(0, 512, 1)
	for name, err := range map[string]error{
		"read": v.Read(make([]byte, 1), 0), "flush": v.Flush(), "checkpoint": v.Checkpoint(t.Context()), "extents": extentsErr,
		"write": applyOne(v, filled(0, 512, 'x')), "partial write": applyOne(v, filled(0, 5, 'x')), "Err": v.Err(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	powerCut(c, disk.KeepNone())
	d = mustRecover(t, c)
	d.must(t, d.readAll, d.close)
}

// TestExtentsAgainstModel: extents lie side by side and end where they should, never call data a hole or zero, and
// call what was trimmed, while it is in the log, a hole.
func TestExtentsAgainstModel(t *testing.T) {
	const size = 1 << 20
	rng := rand.New(rand.NewPCG(3, 3))
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, 4096, 256<<10)
	state := make([]byte, size) // 0 never touched, 1 data, 2 zeroed, 3 trimmed
	for range 300 {
		n := 1 + rng.Int64N(20000)
		off := rng.Int64N(size - n)
		if rng.IntN(2) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		kind := Kind(1 + rng.IntN(3))
		ch := Change{Kind: kind, Offset: off, Length: min(n, size-off)}
		if kind == Write {
			ch = filled(ch.Offset, ch.Length, 'd')
		}
		mustApply(t, v, ch)
		for i := off; i < ch.Offset+ch.Length; i++ {
			state[i] = byte(kind)
		}
		if rng.IntN(20) == 0 {
			if err := v.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		n = 1 + rng.Int64N(200000)
		off = rng.Int64N(size - n)
		limit := 1 + rng.IntN(30)
		extents, err := v.Extents(off, n, limit)
		if err != nil || len(extents) == 0 || len(extents) > limit {
			t.Fatalf("%d extents of at most %d, %v", len(extents), limit, err)
		}
		at := off
		for i, e := range extents {
			if e.Length < 1 || e.Hole && !e.Zero || i > 0 && e.Hole == extents[i-1].Hole && e.Zero == extents[i-1].Zero {
				t.Fatalf("extent %d: %+v after %+v", i, e, extents[max(i, 1)-1])
			}
			for end := at + e.Length; at < end; at++ {
				if state[at] == byte(Write) && e.Zero {
					t.Fatalf("byte %d is data, in extent %+v", at, e)
				}
			}
		}
		if at > off+n || len(extents) < limit && at < off+n {
			t.Fatalf("%d extents of at most %d end at %d, asked for [%d, %d)", len(extents), limit, at, off, off+n)
		}
	}
	mustApply(t, v, Change{Kind: Zero, Length: size}, Change{Kind: Trim, Offset: 8192, Length: 8192}, filled(4096, 10, 'd'))
	want := []Extent{{4096, false, true}, {4096, false, false}, {8192, true, true}, {size - 16384, false, true}}
	got, err := v.Extents(0, size, 100)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
}
