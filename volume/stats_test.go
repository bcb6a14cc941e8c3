package volume

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/block"
	"lockstep/test/disk"
)

// TestStatsOfACheckpoint: what is dirty before is in the base image afterwards.
func TestStatsOfACheckpoint(t *testing.T) {
	c := newCase(t, disk.Config{})
	d := mustOpen(t, c)
	d.must(t, func() error { return d.write(0, 20) }, func() error { return d.trim(3, 4) }, d.flush)
	before := d.v.Stats()
	if before.DirtyBlocks != 20 || before.DirtyBytes != 16*testBlock || before.DirtyEntries != 3 {
		t.Errorf("20 blocks written, 4 of them trimmed: %d blocks, %d bytes, %d ranges are dirty", before.DirtyBlocks, before.DirtyBytes, before.DirtyEntries)
	}
	if before.Head != d.v.log.Head() || before.Durable != before.Head || before.Tail != d.v.log.Tail() || before.Log != d.v.log.Usage() {
		t.Errorf("log: %+v", before)
	}
	d.must(t, d.checkpoint)
	s := d.v.Stats()
	if s.DirtyBlocks != 0 || s.DirtyBytes != 0 || s.DirtyEntries != 0 || s.Checkpoint != s.Head {
		t.Errorf("after a checkpoint: %+v", s)
	}
	if written, zeroed := s.BaseWrittenBytes-before.BaseWrittenBytes, s.BaseZeroedBytes-before.BaseZeroedBytes; written != 16*testBlock || zeroed != 4*testBlock {
		t.Errorf("%d bytes written and %d zeroed in the base image, want 16 blocks and 4", written, zeroed)
	}
	if s.BaseSync.Count != before.BaseSync.Count+1 || s.CheckpointTook.Count != 1 || s.Checkpointing || s.CheckpointRuns != 0 {
		t.Errorf("%d syncs of the base image before, %d after; %d checkpoints measured", before.BaseSync.Count, s.BaseSync.Count, s.CheckpointTook.Count)
	}
	d.must(t, func() error { return d.write(1, 1) }, func() error { return d.write(5, 1) }, d.close)
	again := mustOpen(t, c)
	if s := again.v.Stats(); s.Replayed != 2 || s.OpenTook <= 0 || s.DirtyBlocks != 2 {
		t.Errorf("two records replayed: %d, in %v; %d blocks dirty", s.Replayed, s.OpenTook, s.DirtyBlocks)
	}
	again.must(t, again.close)
}

// TestStatsOfCheckpointOutcomes: each way a checkpoint can end is told from the others.
func TestStatsOfCheckpointOutcomes(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	gone := copies(func(context.Context, block.LSN) error { return errors.New("a replica is gone") })
	for want, c := range map[int]struct {
		ctx    context.Context
		plan   disk.Plan
		copies Committer
	}{
		outcomeDone:        {},
		outcomeNoSpace:     {plan: failFirst(disk.OpAllocate, "base", syscall.ENOSPC)},
		outcomeCancelled:   {ctx: cancelled},
		outcomeUncommitted: {copies: gone},
		outcomeFailed:      {plan: failFirst(disk.OpWrite, "base", syscall.EIO)},
	} {
		t.Run(CheckpointOutcomes()[want], func(t *testing.T) {
			fake := newCase(t, disk.Config{}).Disk
			v, err := Open(testConfig(fake))
			if err != nil {
				t.Fatal(err)
			}
			mustApply(t, v, filled(0, testBlock, 'a'))
			fake.SetPlan(c.plan)
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			v.cfg.Committer = c.copies
			v.checkpointing.Lock()
			_, _ = v.checkpointLocked(c.ctx)
			v.checkpointing.Unlock()
			counts := make([]uint64, checkpointOutcomes)
			counts[want] = 1
			if s := v.Stats(); !slices.Equal(s.Checkpoints, counts) || s.CheckpointTook.Count != counts[outcomeDone] {
				t.Errorf("%v, of %v; %d measured", s.Checkpoints, CheckpointOutcomes(), s.CheckpointTook.Count)
			}
			if err := v.Close(); err != nil && want != outcomeFailed {
				t.Error(err)
			}
		})
	}
}

// TestStatsWhileACheckpointRuns looks at each read of the log that a checkpoint copies from.
func TestStatsWhileACheckpointRuns(t *testing.T) {
	const ranges = 4
	cfg, _, log := memoryConfig(1 << 20)
	v := openMemory(t, cfg, 1<<20, 4096, 256<<10)
	for i := range int64(ranges) {
		mustApply(t, v, filled(i*8192, 4096, 'a'))
	}
	var seen []float64
	log.onRead = func(string, int64) {
		s := v.Stats()
		if !s.Checkpointing || s.CheckpointRuns <= 0 {
			t.Errorf("while it copies: %v, for %v", s.Checkpointing, s.CheckpointRuns)
		}
		seen = append(seen, s.CheckpointProgress)
	}
	if err := v.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	log.onRead = nil
	if seen = slices.Compact(seen); !slices.Equal(seen, []float64{0, 0.25, 0.5, 0.75}) {
		t.Errorf("progress %v", seen)
	}
}

// TestStatsOfWaits: changes that are slowed down, and those that find the log full, are counted with what they waited.
func TestStatsOfWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{fill: func() float64 { return 0.75 }}
		begun := time.Now()
		p.wait(paceDrain / 10) // a tenth of a second
		p.wait(1)              // too little to wait for
		if w := p.delays.stats(); w.Count != 1 || w.Total != time.Since(begun) || w.Total < 50*time.Millisecond {
			t.Errorf("%+v in %v", w, time.Since(begun))
		}
	})
	d := mustOpen(t, newCase(t, disk.Config{}))
	for i := range int64(3) {
		d.must(t, func() error { return d.write(i*100, 100) })
	}
	if n := d.v.Stats().FullWaits.Count; n != 0 {
		t.Errorf("%d changes waited for room where there was some", n)
	}
	for d.v.Stats().Checkpoints[outcomeDone] == 0 {
		d.must(t, func() error { return d.write(0, 100) })
	}
	if w := d.v.Stats().FullWaits; w.Count != 1 || w.Total <= 0 {
		t.Errorf("one change waited for room: %+v", w)
	}
	d.must(t, d.close)
}
