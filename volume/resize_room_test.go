package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"lockstep/backend"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestI9ShrinkMakesRoom: a full file system: cutting the end off makes room as a trim of it does.
func TestI9ShrinkMakesRoom(t *testing.T) {
	for name, free := range map[string]func(d *driver) error{
		"trim":   func(d *driver) error { return d.trim(400, 112) },
		"shrink": func(d *driver) error { return d.resize(400) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCase(t, disk.Config{})
			d := mustOpen(t, c)
			d.logSegments(t, 4)
			d.must(t, func() error { return d.write(400, 112) }, d.checkpoint)
			d.must(t, func() error { return d.trim(0, 400) }, d.checkpoint)
			c.Disk.SetCapacity(c.Disk.Used())
			for i := range int64(300) {
				if err := d.write(i*8%64, 8); err != nil {
					t.Fatal(err)
				}
				if d.refused != nil {
					break
				}
			}
			if d.refused == nil {
				t.Fatal("never full")
			}
			d.refused = nil
			if err := free(d); err != nil || d.refused != nil {
				t.Fatalf("free: %v, refused %v", err, d.refused)
			}
			for round := range 5 {
				later(d)
				err := d.v.Checkpoint(t.Context())
				size, _ := d.v.cfg.Base.Size()
				t.Logf("round %d: checkpoint: %v; volume %d, base %d", round, err, d.v.Size(), size-DataOffset)
			}
			later(d)
			d.must(t, func() error { return d.write(0, 64) }, d.checkpoint, d.close)
		})
	}
}

// TestI9ShrinkNeedsNoRoom: a volume shrinks on a file system that has not a page left.
func TestI9ShrinkNeedsNoRoom(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	for at := int64(0); at < 512; at += 64 {
		d.must(t, func() error { return d.write(at, 64) })
	}
	d.must(t, d.checkpoint)
	c.Disk.SetCapacity(c.Disk.Used())
	if err := second(d.v.Resize(t.Context(), 100*testBlock, true)); err != nil {
		t.Errorf("shrink: %v", err)
	}
}

// TestI9FailedGrowthChangesNothing: a growth that finds no room gives back what it took.
func TestI9FailedGrowthChangesNothing(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	c.Disk.SetPlan(func(op disk.Op) error {
		if op.Kind == disk.OpAllocate && op.File == "meta/map.new" {
			return syscall.ENOSPC
		}
		return nil
	})
	err := second(d.v.Resize(t.Context(), testSize, true))
	size, _ := d.v.cfg.Base.Size()
	if !errors.Is(err, ErrNoRoom) || d.v.Size() != smallSize {
		t.Fatal(err)
	}
	if size != DataOffset+smallSize {
		t.Errorf("the base image of a volume of %d bytes has %d", smallSize, size-DataOffset)
	}
	c.Disk.SetPlan(nil)
	if err := second(d.v.Resize(t.Context(), smallSize, true)); err != nil {
		t.Error(err)
	}
	d.must(t, d.close)
	d = mustOpen(t, c)
	d.must(t, d.checkpoint, d.close)
	if size, _ := d.v.cfg.Base.Size(); size != DataOffset+smallSize {
		t.Errorf("after resize to the same size and a restart: %d", size-DataOffset)
	}
}

// TestL9ResizedOpensWithEitherSlotRotten: a volume that was resized opens, whichever superblock slot rots.
func TestL9ResizedOpensWithEitherSlotRotten(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, d *driver){
		"checkpointed, and closed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.write(1, 9) }, d.checkpoint, d.close)
		},
		"grown, and closed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.resize(512) }, d.close)
		},
		"shrunk, and closed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.resize(120) }, d.close)
		},
		"shrunk, written, flushed, killed": func(t *testing.T, d *driver) {
			d.must(t, func() error { return d.resize(120) }, func() error { return d.writeFUA(0, 3) })
		},
	} {
		for slot := range int64(superblockSlots) {
			c := newSmallCase(t)
			end(t, mustOpen(t, c))
			powerCut(c, disk.KeepNone())
			if err := c.Disk.Corrupt("base", slot*superblockSlotBytes+130, 4); err != nil {
				t.Fatal(err)
			}
			d, err := openTest(c)
			if err != nil {
				t.Errorf("%s, slot %d rotten: %v", name, slot, err)
				continue
			}
			if err := c.Model.CheckRecovered(d.padded); err != nil {
				t.Errorf("%s, slot %d rotten: %v", name, slot, err)
			}
			d.must(t, d.close)
		}
	}
}

// TestShrunkDeviceOpens: a shrink whose checkpoint did not come, and a device that was made smaller after it: the log says how large the volume is.
func TestShrunkDeviceOpens(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 128) }, d.checkpoint)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second(d.v.Resize(ctx, 64*testBlock, true)); err != nil {
		t.Fatal(err)
	}
	t.Logf("resize says done; volume %d", d.v.Size())
	c.Disk.Kill()
	in, err := Inspect(testConfig(c.Disk), wal.Visitor{})
	if err != nil || in.SizeBytes != 64*testBlock || len(in.Problems()) > 0 {
		t.Fatal(err, in.SizeBytes, in.Problems())
	}
	b := c.Disk.Base("base", 0)
	if err := b.Resize(DataOffset + 64*testBlock); err != nil { // lvreduce
		t.Fatal(err)
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(c.Disk)); err != nil {
		t.Error(err)
	}
}

// TestBaseIsCutLater: what a shrink cut off is given back by a later checkpoint, or by the same resize again.
func TestBaseIsCutLater(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 128) }, d.checkpoint)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second(d.v.Resize(ctx, 64*testBlock, true)); err != nil {
		t.Fatal(err)
	}
	d.must(t, d.checkpoint, d.close)
	d = mustOpen(t, c)
	d.must(t, func() error { return second(d.v.Resize(t.Context(), 64*testBlock, true)) }, func() error { return d.v.Checkpoint(t.Context()) }, d.close)
	size, _ := testConfig(c.Disk).Base.Size()
	p := make([]byte, testBlock)
	_, err := testConfig(c.Disk).Base.ReadAt(p, DataOffset+100*testBlock)
	if size != DataOffset+64*testBlock {
		t.Errorf("volume %d, base %d; block 100 of the base: %x… %v", d.v.Size(), size-DataOffset, p[:4], err)
	}
}

type blockedBase struct {
	*backend.Memory
	onResize func(size int64)
}

func (b *blockedBase) Resize(size int64) error {
	b.onResize(size)
	return b.Memory.Resize(size)
}

// TestL11GrowthHoldsUpNoCheckpoint: checkpoints go on while the base image grows.
func TestL11GrowthHoldsUpNoCheckpoint(t *testing.T) {
	base := &blockedBase{Memory: backend.NewMemory(DataOffset + 1<<20)}
	cfg := Config{Base: base, Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir()}
	v := openMemory(t, cfg, 1<<20, 512, testSegmentBytes)
	base.onResize = func(int64) {
		if !v.checkpointing.TryLock() {
			t.Error("checkpoints wait until the base image has grown")
			return
		}
		v.checkpointing.Unlock()
	}
	if err := second(v.Resize(t.Context(), 4<<20, true)); err != nil {
		t.Fatal(err)
	}
}

// TestCutOffChangeSpoilsNoOther: of a batch, only the change after the new end is refused.
func TestCutOffChangeSpoilsNoOther(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	changes := []Change{filled(0, testBlock, 1), filled(127*testBlock, testBlock, 2)}
	b := &batch{reign: d.v.reign.Load()}
	for i := range changes {
		b.add(&changes[i], testBlock) // both were checked
	}
	b.to = 2
	d.must(t, func() error { return d.resize(64) })
	d.v.applyBatch(b, changes)
	if changes[0].Err != nil || !errors.Is(changes[1].Err, ErrRange) {
		t.Errorf("write to block 0: %v; to block 127: %v", changes[0].Err, changes[1].Err)
	}
}

// TestChunkSizeIsTheLogs: the chunk size follows from the log, not from when it was checkpointed.
func TestChunkSizeIsTheLogs(t *testing.T) {
	const small, large = 1 << 20, 1 << 40
	open := func() *Volume {
		cfg := Config{Base: backend.NewMemory(DataOffset + large), Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir()}
		return openMemory(t, cfg, small, 512, testSegmentBytes)
	}
	primary, replica := open(), open()
	for _, size := range []int64{large, small} {
		if err := second(primary.Resize(t.Context(), size, true)); err != nil {
			t.Fatal(err)
		}
		if err := replica.logAll(replica.reign.Load(), []wal.Change{wal.ResizeChange(replica.sizeBlocks(), uint64(size/512))}, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := replica.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := primary.header.current.ChunkBytes, replica.header.current.ChunkBytes; a != b {
		t.Errorf("chunks of %d and of %d bytes at the same LSN", a, b)
	}
	t.Logf("primary: %d chunks of %d bytes for a volume of %d", primary.changes.Chunks(), primary.changes.ChunkBytes(), primary.Size())
}

// TestResizeAfterCloseTouchesNothing: after Close nothing is written.
func TestResizeAfterCloseTouchesNothing(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	d.must(t, d.close)
	before := c.Disk.Ops()
	err := d.v.makePlace(t.Context(), testSize) // where a Resize that saw no error before Close stands
	size, _ := d.v.cfg.Base.Size()
	if n := c.Disk.Ops() - before; n != 0 {
		t.Errorf("%d operations after Close; base %d, next map %v, err %v", n, size-DataOffset, d.v.nextChanges != nil, err)
	}
}

// TestI9TheNextMapOutlivesARestart: the place of a larger change map, taken before the resize was logged, is still there when
// the base image comes to have it, whatever else has filled the file system by then.
func TestI9TheNextMapOutlivesARestart(t *testing.T) {
	c := newSmallCase(t)
	d := mustOpen(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	c.Disk.SetPlan(func(op disk.Op) error {
		if op.Kind == disk.OpWrite && strings.HasPrefix(op.File, "log/") {
			cancel() // the record is logged, and no checkpoint follows
		}
		return nil
	})
	if _, err := d.v.Resize(ctx, testSize, false); err != nil {
		t.Fatal(err)
	}
	c.Disk.SetPlan(nil)
	b := d.v.cfg.Base.(*disk.Base)
	if err := errors.Join(b.Allocate(0, DataOffset+testSize), b.Sync()); err != nil { // as of a thick image
		t.Fatal(err)
	}
	d.logSegments(t, 4)
	c.Disk.Kill()
	c.Disk.SetCapacity(c.Disk.Used()) // not a page more
	cfg := testConfig(c.Disk)
	cfg.Base = thickBase{cfg.Base.(*disk.Base)}
	v, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err := applyOne(v, filled(0, 64*testBlock, 1)); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if err := errors.Join(v.Checkpoint(t.Context()), v.Close()); err != nil {
		t.Error(err)
	}
}

type thickBase struct{ *disk.Base }

func (b thickBase) ZeroAt(off, length int64, _ bool) error { return b.Base.ZeroAt(off, length, false) }

// TestI3ResizesBesideEverything: resizes beside writers, readers, checkpoints and zeroing lose nothing before the end.
func TestI3ResizesBesideEverything(t *testing.T) {
	const most = 4 << 20
	for _, kind := range []string{"memory", "slow"} {
		t.Run(kind, func(t *testing.T) {
			cfg := Config{Base: backend.NewMemory(DataOffset + most), Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir(), pendingFrom: 64 << 10, pendingSlice: 128 << 10}
			switch kind {
			case "slow":
				cfg.Base = struct{ slowMemory }{slowMemory{cfg.Base.(*backend.Memory)}}
			}
			v := openMemory(t, cfg, most, 512, 512<<10)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			bad := func(err error) {
				if err != nil && !errors.Is(err, ErrRange) && ctx.Err() == nil {
					t.Error(fmt.Errorf("%T %w", err, err))
				}
			}
			const keep = 256 << 10 // never cut off
			var model [4][keep / 4]byte
			wg.Go(func() { _ = v.Run(ctx) })
			for w := range 4 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 1))
					for i := 0; ctx.Err() == nil; i++ {
						n := 1 + r.Int64N(8000)
						if i%2 == 0 { // own part, checked
							off := r.Int64N(keep/4 - n)
							p := bytes.Repeat([]byte{byte(1 + i%250)}, int(n))
							c := []Change{{Kind: Write, Offset: int64(w)*keep/4 + off, Length: n, Data: p}}
							if i%10 == 0 {
								c[0].Kind, c[0].Data = Trim, nil
								clear(p)
							}
							v.Apply(c)
							if c[0].Err != nil {
								t.Error(c[0].Err)
								return
							}
							copy(model[w][off:], p)
							got := make([]byte, n)
							if err := v.Read(got, int64(w)*keep/4+off); err != nil || !bytes.Equal(got, p) {
								t.Error("read back", err)
							}
							continue
						}
						off := keep + r.Int64N(most-keep)
						c := Change{Kind: Kind(1 + r.IntN(3)), Offset: off, Length: n}
						if c.Kind == Write {
							c.Data = bytes.Repeat([]byte{9}, int(n))
						}
						bad(applyOne(v, c))
						bad(v.Read(make([]byte, n), off))
						_, err := v.Extents(off, n, 100)
						bad(err)
					}
				})
			}
			wg.Go(func() {
				for ctx.Err() == nil {
					bad(v.Checkpoint(ctx))
					_, err := v.zeroPending(ctx)
					bad(err)
				}
			})
			r := rand.New(rand.NewPCG(7, 7))
			for range 50 {
				size := keep + r.Int64N((most-keep)/512)*512 + 512
				if err := second(v.Resize(t.Context(), size, true)); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			wg.Wait()
			if err := v.Err(); err != nil {
				t.Fatal(err)
			}
			for w := range 4 {
				got := make([]byte, keep/4)
				if err := v.Read(got, int64(w)*keep/4); err != nil || !bytes.Equal(got, model[w][:]) {
					t.Error("content", w, err)
				}
			}
		})
	}
}

type slowMemory struct{ *backend.Memory }

func (slowMemory) ZeroesSlowly() bool { return true }

func second(_ int64, err error) error { return err }
