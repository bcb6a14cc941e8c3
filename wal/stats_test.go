package wal_test

import (
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"lockstep/test/disk"
)

// TestStatsCountFrames: what is appended is counted once it is in the log, padding not.
func TestStatsCountFrames(t *testing.T) {
	const frameHeader, recordHeader = 64, 64
	m := newMachine(t, disk.Config{})
	before := m.log.Stats()
	m.append(1, 2)
	m.append(0)
	m.sync()
	m.mark()
	s := m.log.Stats()
	if frames, records := s.Frames-before.Frames, s.Records-before.Records; frames != 3 || records != 3 {
		t.Errorf("%d frames and %d records, want two frames and a mark with 3 records", frames, records)
	}
	if got, want := s.AppendedBytes-before.AppendedBytes, uint64(3*frameHeader+3*recordHeader+3*testBlock); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if got := s.Sync.Count - before.Sync.Count; got != 2 || s.Group.Count-before.Group.Count != 2 {
		t.Errorf("%d syncs of segments, %d of the log, want one and the mark's", got, s.Group.Count-before.Group.Count)
	}
	if s.Head != m.log.Head() || s.Durable != m.log.Durable() || s.Tail != m.log.Tail() || s.Epoch != m.log.Epoch() || s.Usage != m.log.Usage() {
		t.Errorf("the log stands as %+v", s)
	}
}

// TestStatsOfASyncThatFails: it answers nobody, and is not counted.
func TestStatsOfASyncThatFails(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	before := m.log.Stats()
	m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, syscall.EIO))
	if _, err := m.log.Sync(); err == nil {
		t.Fatal("sync succeeded")
	}
	if s := m.log.Stats(); s.Sync.Count != before.Sync.Count || s.Group.Count != before.Group.Count {
		t.Errorf("%d syncs of segments and %d of the log more", s.Sync.Count-before.Sync.Count, s.Group.Count-before.Group.Count)
	}
}

// TestStatsOfAGroup: a sync is counted with all the calls that it answers, and none of those that came too late for it.
func TestStatsOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, dir := newGatedMachine(t)
		m.append(1)
		before := m.log.Stats()
		release, blocked := make(chan struct{}), make(chan struct{})
		dir.syncGate = func() {
			close(blocked)
			<-release
		}
		var done sync.WaitGroup
		flush := func(n int) {
			for range n {
				done.Go(func() {
					if _, err := m.log.Sync(); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		flush(1)
		<-blocked
		flush(4) // answered by the first one, at the latest
		m.append(1)
		flush(3) // answered by the second one
		close(release)
		done.Wait()
		s := m.log.Stats()
		if n, sum := s.Group.Count-before.Group.Count, s.Group.Sum-before.Group.Sum; n != 2 || sum != 8 || s.Sync.Count != before.Sync.Count+2 {
			t.Errorf("%d groups with %g calls together, %d syncs; want 2 groups with 8", n, sum, s.Sync.Count-before.Sync.Count)
		}
		if s.Group.Counts[3]-before.Group.Counts[3] != 1 || s.Group.Counts[2]-before.Group.Counts[2] != 1 {
			t.Errorf("groups of %v, want one of 5 and one of 3", s.Group.Counts)
		}
	})
}

// TestStatsDoNotWaitForADisk: while an append is stuck in its disk the log stands as it stood before.
func TestStatsDoNotWaitForADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, disk.Config{})
		m.append(1)
		before := m.log.Stats()
		release, blocked := make(chan struct{}), make(chan struct{})
		m.disk.SetPlan(func(op disk.Op) error {
			if op.Kind == disk.OpWrite {
				close(blocked)
				<-release
			}
			return nil
		})
		var done sync.WaitGroup
		done.Go(func() { m.append(1) })
		<-blocked
		stuck := m.log.Stats()
		if stuck.Head != before.Head || stuck.Usage != before.Usage || stuck.Tail != before.Tail || stuck.Epoch != before.Epoch {
			t.Errorf("while an append is stuck: %+v, before: %+v", stuck, before)
		}
		close(release)
		done.Wait()
		if s := m.log.Stats(); s.Head != before.Head+1 || s.Usage.UsedBytes <= before.Usage.UsedBytes {
			t.Errorf("after the append: %+v, before: %+v", s, before)
		}
	})
}
