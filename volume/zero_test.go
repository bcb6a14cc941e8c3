package volume

import (
	"fmt"
	"testing"

	"lockstep/test/disk"
	"lockstep/wal"
)

// TestI8ZeroesAreZeroes: trimmed and zeroed ranges, aligned or not, read as zeroes, and what is around them does not:
// at once, after a checkpoint, and after a power cut at each of these moments.
func TestI8ZeroesAreZeroes(t *testing.T) {
	for _, trim := range []bool{true, false} {
		for _, r := range [][2]int64{
			{0, testSize}, {512, 512}, {513, 510}, {0, 1}, {testSize - 1, 1}, {1000, 100}, {1000, 5000}, {4096, 5000}, {5000, 4096 * 5}, {100, 131000},
		} {
			t.Run(fmt.Sprintf("trim %v, %d bytes at %d", trim, r[1], r[0]), func(t *testing.T) {
				c := newCase(t, disk.Config{})
				d := mustOpen(t, c)
				for b := int64(0); b < testSize/testBlock; b += 128 {
					d.must(t, func() error { return d.write(b, 128) }, d.checkpoint)
				}
				zeroed := func() error {
					if p := mustRead(t, d.v, r[0], r[1]); !isZero(p) {
						return fmt.Errorf("%d bytes at %d do not read as zeroes", r[1], r[0])
					}
					return d.readAll()
				}
				d.must(t, func() error { return d.change(disk.Change{Offset: r[0], Length: r[1]}, trim) }, d.flush, zeroed)
				powerCut(c, disk.KeepNone())
				d = mustRecover(t, c)
				d.must(t, zeroed, d.checkpoint, zeroed)
				powerCut(c, disk.KeepNone())
				d = mustRecover(t, c)
				d.must(t, zeroed, d.close)
			})
		}
	}
}

// TestL10TrimsPunchAndZeroesStay: a checkpoint gives the space of trimmed blocks back, and keeps or makes that of
// zeroed ones; data of a block that is trimmed in part stay.
func TestL10TrimsPunchAndZeroesStay(t *testing.T) {
	cfg, base, _ := memoryConfig(1 << 20)
	v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
	mustApply(t, v, filled(0, 128<<10, 'd'))
	mustApply(t, v,
		Change{Kind: Trim, Offset: 4096, Length: 8192}, Change{Kind: Trim, Offset: 20000, Length: 20000},
		Change{Kind: Zero, Offset: 65536, Length: 4096}, Change{Kind: Zero, Offset: 512 << 10, Length: 8192},
	)
	if err := v.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		off, length int64
		hole        bool
	}{
		{4096, 8192, true},
		{16384, 4096, false}, // trimmed in part
		{20480, 16384, true},
		{36864, 4096, false}, // trimmed in part
		{65536, 4096, false},
		{512 << 10, 8192, false},
		{600 << 10, 4096, true}, // never written
	} {
		length, hole, err := base.NextExtent(DataOffset+x.off, x.length)
		if err != nil || hole != x.hole || length != x.length {
			t.Errorf("[%d, +%d): hole %v for %d bytes, %v; want hole %v", x.off, x.length, hole, length, err, x.hole)
		}
	}
	if p := mustRead(t, v, 16384, 4096); p[20000-16384-1] != 'd' || !isZero(p[20000-16384:]) {
		t.Error("the block that the trim begins in was not merged")
	}
}

// TestL10IndexIsBounded: where the index is full and can not be emptied, changes are refused, be they trims.
func TestL10IndexIsBounded(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 20) })
	for i := range uint64(maxDirtyEntries + 1) { // beyond the volume, so that nobody comes across them
		d.v.index.active.put(1<<30+2*i, dirty{count: 1, kind: wal.RecordTrim})
	}
	head := d.v.log.Head()
	v := d.v
	if err := v.refuse(ErrNoSpace); err != ErrNoSpace { // a checkpoint was tried just now
		t.Fatal(err)
	}
	for _, kind := range []Kind{Write, Trim, Zero} {
		if err := applyOne(v, Change{Kind: kind, Length: testBlock, Data: make([]byte, testBlock)}); err != ErrNoSpace {
			t.Errorf("change of kind %d with a full index: %v", kind, err)
		}
	}
	if v.log.Head() != head {
		t.Errorf("%d records were logged", v.log.Head()-head)
	}
}
