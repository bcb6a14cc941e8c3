package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/wal"
)

// counters are the newest version of each block: begun is raised before it is written, acked after it was.
type counters struct{ begun, acked []atomic.Uint64 }

// version is a block all of which says version n.
func version(p []byte, n uint64) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n)
	}
}

// checkVersion checks that a block is of one version, from least on, and returns it.
func checkVersion(t *testing.T, p []byte, b int64, least uint64) uint64 {
	n := binary.LittleEndian.Uint64(p)
	for i := 0; i < len(p); i += 8 {
		if x := binary.LittleEndian.Uint64(p[i:]); x != n {
			t.Errorf("block %d is torn: version %d at byte 0, %d at %d", b, n, x, i)
			return n
		}
	}
	if n < least {
		t.Errorf("block %d is stale: version %d, %d was acknowledged before the read began", b, n, least)
	}
	return n
}

// TestI3NewestDataWhileCheckpointsRun: writers, each with blocks of its own, readers of all, flushes, ticks and
// checkpoints, on a log that is recycled all the time and a base image that writes in pieces: no block is ever read
// torn, or older than what was acknowledged before the read began.
func TestI3NewestDataWhileCheckpointsRun(t *testing.T) {
	const size, blockBytes, blocks, writers = 1 << 20, 4096, 256, 3
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, blockBytes, 256<<10)
	v.pacer.fill = func() float64 { return 0 } // nobody is slowed down
	c := counters{make([]atomic.Uint64, blocks), make([]atomic.Uint64, blocks)}
	stop := make(chan bool)
	var wg, background sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			for i := range int64(150) {
				const run = 4 // blocks of one write
				first := (w + writers*(i*7%(blocks/writers/run))) * run
				p := make([]byte, run*blockBytes)
				for j := range int64(run) {
					n := c.begun[first+j].Add(1)
					version(p[j*blockBytes:][:blockBytes], n)
				}
				if err := applyOne(v, Change{Kind: Write, Offset: first * blockBytes, Length: int64(len(p)), Data: p, FUA: i%16 == 0}); err != nil {
					t.Error(err)
					return
				}
				for j := range int64(run) {
					c.acked[first+j].Add(1)
				}
			}
		})
	}
	for r := range int64(3) {
		background.Go(func() {
			p := make([]byte, 3*blockBytes)
			for i := r; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				b := i * 5 % (blocks - 3)
				least := [3]uint64{c.acked[b].Load(), c.acked[b+1].Load(), c.acked[b+2].Load()}
				done, err := true, error(nil)
				if r == 0 {
					done, err = v.ReadNoWait(p, b*blockBytes)
				} else {
					err = v.Read(p, b*blockBytes)
				}
				if err != nil {
					t.Error(err)
					return
				}
				for j := range int64(3) {
					if !done {
						break
					}
					n := checkVersion(t, p[j*blockBytes:][:blockBytes], b+j, least[j])
					if most := c.begun[b+j].Load(); n > most {
						t.Errorf("block %d is of version %d, only %d were begun", b+j, n, most)
					}
				}
			}
		})
	}
	background.Go(func() {
		now := time.Unix(1, 0)
		for {
			select {
			case <-stop:
				return
			default:
			}
			now = now.Add(tickEvery)
			v.Tick(now)
			if err := errors.Join(v.Checkpoint(context.Background()), v.Flush()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	close(stop)
	background.Wait()
	p := make([]byte, blockBytes)
	for b := range int64(blocks) {
		if err := v.Read(p, b*blockBytes); err != nil {
			t.Fatal(err)
		}
		checkVersion(t, p, b, c.acked[b].Load())
	}
}

// TestI3BaseBlocksAreNotTorn: a read has found that a block is in the base image and has read half of it, when a
// checkpoint comes with a newer version. It waits.
func TestI3BaseBlocksAreNotTorn(t *testing.T) {
	const size, blockBytes = 1 << 20, 4096
	cfg, base, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, blockBytes, 256<<10)
	p := make([]byte, blockBytes)
	version(p, 1)
	write := func() { mustApply(t, v, Change{Kind: Write, Length: blockBytes, Data: p}) }
	write()
	if err := v.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	half, release, read := make(chan bool), make(chan bool), make(chan []byte, 1)
	base.between = func() {
		half <- true
		<-release
	}
	go func() {
		got := make([]byte, blockBytes)
		if err := v.Read(got, 0); err != nil {
			t.Error(err)
		}
		read <- got
	}()
	<-half
	base.between = nil
	version(p, 2)
	write()
	copying, done := make(chan bool, 1), make(chan error, 1)
	base.onAllocate = func() { copying <- true }
	go func() { done <- v.Checkpoint(context.Background()) }()
	<-copying
	for range 5000 { // a checkpoint that does not wait is done by then
		runtime.Gosched()
	}
	close(release)
	checkVersion(t, <-read, 0, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := checkVersion(t, mustRead(t, v, 0, blockBytes), 0, 2); n != 2 {
		t.Errorf("version %d in the end", n)
	}
}

// TestCloseWhileBusy: Close comes while everything runs, twice at once. What was acknowledged is there afterwards, and
// everything else ends with an error that says so.
func TestCloseWhileBusy(t *testing.T) {
	const size, blockBytes = 1 << 20, 4096
	for range 10 {
		cfg, _, _ := memoryConfig(size)
		g := Geometry{SizeBytes: size, BlockSize: blockBytes, LogBudgetBytes: 1 << 20}
		if err := create(cfg, g, 256<<10); err != nil {
			t.Fatal(err)
		}
		v, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		acked := make([]uint64, 4)
		var wg sync.WaitGroup
		busy := make(chan bool, len(acked))
		wg.Go(func() {
			if err := v.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for w := range acked {
			wg.Go(func() {
				p := make([]byte, blockBytes)
				for i := uint64(1); ; i++ {
					if i == 40 {
						busy <- true
					}
					version(p, i)
					change := Change{Kind: Write, Offset: int64(w) * blockBytes, Length: blockBytes, Data: p, FUA: i%8 == 0}
					if w == 3 {
						change.Offset, change.Data = change.Offset+8, p[8:]
						change.Length -= 8
					}
					err := applyOne(v, change)
					if err == nil {
						acked[w] = i
						err = v.Read(p, int64(w)*blockBytes)
					}
					if err != nil {
						if !errors.Is(err, ErrClosed) && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, fs.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Go(func() {
			for v.Checkpoint(ctx) == nil && v.Flush() == nil {
				v.Stats()
			}
		})
		for range acked {
			<-busy
		}
		var closing sync.WaitGroup
		for range 2 {
			closing.Go(func() {
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closing.Wait()
		cancel()
		wg.Wait()
		if v, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		for w, n := range acked {
			p := mustRead(t, v, int64(w)*blockBytes+8, blockBytes-8)
			if got := checkVersion(t, p, int64(w), n); got > n+1 {
				t.Errorf("block %d is of version %d after %d", w, got, n)
			}
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
