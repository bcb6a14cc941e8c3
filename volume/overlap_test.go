package volume

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"lockstep/block"
)

// TestL7PartialWriteExcludesOverlaps: a write of a part of a block has read the old block; then a change of the whole
// block comes, of any kind, or of another part. It is acknowledged after the merge is logged, and its bytes stay.
func TestL7PartialWriteExcludesOverlaps(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		partial, other Change
	}{
		"write":             {filled(100, 50, 'p'), filled(0, 4096, 'w')},
		"zero":              {filled(100, 50, 'p'), Change{Kind: Zero, Length: 4096}},
		"trim":              {filled(100, 50, 'p'), Change{Kind: Trim, Length: 4096}},
		"large trim":        {filled(100, 50, 'p'), Change{Kind: Trim, Length: size}},
		"partial write":     {filled(100, 50, 'p'), filled(120, 3000, 'w')},
		"edge of a zero":    {Change{Kind: Zero, Offset: 100, Length: 5000}, filled(0, 512, 'w')},
		"end of a zero":     {Change{Kind: Zero, Offset: 100, Length: 5000}, filled(4096, 4096, 'w')},
		"middle of a write": {filled(100, 9000, 'p'), filled(4096, 4096, 'w')},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, base, _ := memoryConfig(size)
				v := openMemory(t, cfg, size, 4096, 256<<10)
				mustApply(t, v, filled(0, 16384, 'o'))
				if err := v.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
				reading, release := make(chan bool, 1), make(chan bool)
				var once sync.Once
				base.onRead = func(int64, int64) {
					once.Do(func() {
						reading <- true
						<-release
					})
				}
				var order []string
				var mu sync.Mutex
				apply := func(name string, change Change) {
					if err := applyOne(v, change); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					mu.Lock()
					defer mu.Unlock()
					order = append(order, name)
				}
				go apply("partial", c.partial)
				synctest.Wait()
				<-reading
				go apply("other", c.other)
				synctest.Wait()
				if len(order) != 0 {
					t.Errorf("%v was acknowledged while the old block was being merged", order)
				}
				close(release)
				synctest.Wait()
				want := bytes.Repeat([]byte{'o'}, 16384)
				overlay(want, c.partial)
				overlay(want, c.other)
				if got := mustRead(t, v, 0, 16384); !bytes.Equal(got, want) {
					t.Errorf("%v: %s", order, firstDifference(got, want))
				}
			})
		})
	}
}

// overlay applies the change to p, which begins at byte 0.
func overlay(p []byte, c Change) {
	if c.Offset >= int64(len(p)) {
		return
	}
	part := p[c.Offset:min(c.Offset+c.Length, int64(len(p)))]
	if c.Kind == Write {
		copy(part, c.Data)
		return
	}
	clear(part)
}

func firstDifference(got, want []byte) string {
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %q, want %q", i, got[i], want[i])
		}
	}
	return "no difference"
}

// TestL7OtherBlocksAreNotHeldUp: while the old block is being read, changes that do not overlap go on.
func TestL7OtherBlocksAreNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, base, _ := memoryConfig(1 << 20)
		v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
		reading, release := make(chan bool, 1), make(chan bool)
		var once sync.Once
		base.onRead = func(int64, int64) {
			once.Do(func() {
				reading <- true
				<-release
			})
		}
		done := make(chan error, 1)
		go func() { done <- applyOne(v, filled(5000, 10, 'p')) }()
		<-reading
		mustApply(t, v, filled(0, 4096, 'a'), filled(8192, 4096, 'b'), Change{Kind: Trim, Offset: 12288, Length: 4096})
		mustApply(t, v, filled(8200, 10, 'c'))
		if err := v.Flush(); err != nil {
			t.Error(err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestL7OverlapsInOneApplyKeepTheirOrder: of overlapping changes in one Apply the later one counts, whole or partial.
func TestL7OverlapsInOneApplyKeepTheirOrder(t *testing.T) {
	const size = 64 << 10
	whole := func(b byte) Change { return filled(4096, 4096, b) }
	part := func(b byte) Change { return filled(5000, 1000, b) }
	for i, changes := range [][]Change{
		{whole('a'), whole('b')},
		{whole('a'), part('b')},
		{part('a'), whole('b')},
		{part('a'), part('b'), filled(5500, 4000, 'c')},
		{whole('a'), {Kind: Trim, Offset: 0, Length: size}, part('b')},
		{{Kind: Trim, Offset: 0, Length: size}, whole('a')},
		{whole('a'), {Kind: Zero, Offset: 5000, Length: 100}, filled(5050, 10, 'b'), {Kind: Trim, Offset: 8000, Length: 500}},
	} {
		cfg, _, _ := memoryConfig(size)
		v := openMemory(t, cfg, size, 4096, 256<<10)
		mustApply(t, v, filled(0, size, 'o'))
		want := bytes.Repeat([]byte{'o'}, size)
		for _, c := range changes {
			overlay(want, c)
		}
		mustApply(t, v, changes...)
		if got := mustRead(t, v, 0, size); !bytes.Equal(got, want) {
			t.Errorf("%d: %s", i, firstDifference(got, want))
		}
	}
}

// TestL7IndexIsInLogOrder: however many write the same block at once, the index ends with the last record of the log,
// as a restart would.
func TestL7IndexIsInLogOrder(t *testing.T) {
	const size, blockBytes = 64 << 10, 512
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, blockBytes, 1<<20)
	for round := range 200 {
		var wg sync.WaitGroup
		for w := range int64(4) {
			wg.Go(func() {
				if err := applyOne(v, filled(0, (w+1)*blockBytes, byte(round))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		v.index.active.visit(block.Range{Count: 1}, func(_ uint64, d dirty) {
			if head := v.log.Head(); d.lsn != head {
				t.Fatalf("round %d: the index has record %d, the log's last is %d", round, d.lsn, head)
			}
		}, func(r block.Range) { t.Fatalf("block %d is not in the index", r.Start) })
	}
}
