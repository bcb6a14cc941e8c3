package wal_test

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// wantFailed checks that the log has failed for good: nothing is taken, nothing is synced, and nothing more is said to
// be durable.
func (m *machine) wantFailed() {
	m.Helper()
	durable, ops := m.log.Durable(), m.disk.Ops()
	for range 2 {
		_, syncErr := m.log.Sync()
		_, epochErr := m.log.StartEpoch(m.log.Epoch()+1, uuid.UUID{1}, uuid.UUID{2}, 1)
		for what, err := range map[string]error{
			"append": m.log.Append(m.writes(1), 1), "trim": m.log.Append(m.writes(0), 1),
			"sync": syncErr, "start epoch": epochErr, "mark": m.log.Mark(), "err": m.log.Err(),
		} {
			if !errors.Is(err, wal.ErrFailed) || !errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC) {
				m.Errorf("%s after a failure: %v", what, err)
			}
		}
		if err := m.log.Prepare(); err != nil {
			m.Errorf("prepare after a failure: %v", err)
		}
	}
	if n := m.disk.Ops() - ops; n != 0 {
		m.Errorf("a failed log did %d operations:\n%s", n, m.disk.Trace())
	}
	if got := m.log.Durable(); got != durable {
		m.Errorf("durable went from %d to %d after a failure", durable, got)
	}
}

// TestI7AfterAFailureNothingSucceeds: I7: after a write or sync that failed, whatever the error, everything fails until
// the log is opened again, though the disk works.
func TestI7AfterAFailureNothingSucceeds(t *testing.T) {
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
		for name, fail := range map[string]func(m *machine) error{
			"write": func(m *machine) error { return m.try(m.writes(5)) },
			"write of a mark": func(m *machine) error {
				m.disk.SetPlan(nil)
				m.sync()
				m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, fault))
				return m.log.Mark()
			},
			"sync": func(m *machine) error { _, err := m.log.Sync(); return err },
			"sync of a mark": func(m *machine) error {
				m.disk.SetPlan(nil)
				m.sync()
				m.disk.SetPlan(disk.FailAt(m.disk.Ops()+2, fault))
				return m.log.Mark()
			},
			"header of the next segment": func(m *machine) error {
				m.disk.SetPlan(nil)
				if err := m.log.Prepare(); err != nil {
					t.Fatal(err)
				}
				m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, fault))
				return m.try(m.writes(130))
			},
		} {
			t.Run(name+" "+fault.Error(), func(t *testing.T) {
				m := newMachine(t, disk.Config{Seed: 7})
				m.append(1)
				m.sync()
				flushed := m.append(1)
				m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, fault))
				if err := fail(m); !errors.Is(err, wal.ErrFailed) || !errors.Is(err, syscall.EIO) {
					t.Fatalf("the failure itself: %v", err)
				}
				m.wantFailed()
				m.kill()
				m.open()
				if m.log.Head() < flushed {
					t.Errorf("after a kill the log ends at %d, %d were acknowledged", m.log.Head(), flushed)
				}
				m.append(2)
				m.sync()
			})
		}
	}
}

// TestI7WaitersOfAFailedGroup: I7: those who wait for the sync of another fail with it. The disk would let their own
// succeed, without a byte written.
func TestI7WaitersOfAFailedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, disk.Config{})
		m.append(1)
		release, blocked, syncs := make(chan struct{}), make(chan struct{}), 0
		m.disk.SetPlan(func(op disk.Op) error {
			if op.Kind != disk.OpSync {
				return nil
			}
			if syncs++; syncs > 1 {
				return nil
			}
			close(blocked)
			<-release
			return syscall.EIO
		})
		errs := make(chan error, 9)
		go func() {
			_, err := m.log.Sync()
			errs <- err
		}()
		<-blocked
		for range 8 {
			go func() {
				_, err := m.log.Sync()
				errs <- err
			}()
		}
		synctest.Wait() // all wait for the leader
		close(release)
		for range 8 {
			if err := <-errs; err != nil && !errors.Is(err, wal.ErrFailed) {
				t.Errorf("a waiter got %v", err)
			} else if err == nil {
				t.Error("a sync succeeded after one that failed")
			}
		}
		<-errs
		if m.log.Durable() != 0 || syncs != 1 {
			t.Errorf("durable is %d after %d syncs, of which the first failed", m.log.Durable(), syncs)
		}
		m.disk.SetPlan(nil)
		m.wantFailed()
	})
}

// TestSyncIsShared: whoever comes while a sync runs waits for the next one, and all of them share it: what was appended
// after a sync was issued is not durable with it.
func TestSyncIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, disk.Config{})
		m.append(1)
		release, blocked, syncs := make(chan struct{}), make(chan struct{}), 0
		m.disk.SetPlan(func(op disk.Op) error {
			if op.Kind != disk.OpSync {
				return nil
			}
			if syncs++; syncs == 1 {
				close(blocked)
				<-release
			}
			return nil
		})
		var done sync.WaitGroup
		first := make(chan block.LSN, 1)
		done.Go(func() {
			lsn, err := m.log.Sync()
			if err != nil {
				t.Error(err)
			}
			first <- lsn
		})
		<-blocked
		done.Go(func() {
			for range 5 {
				done.Go(func() {
					if lsn, err := m.log.Sync(); err != nil || lsn < 1 {
						t.Errorf("sync up to %d: %v", lsn, err)
					}
				})
			}
		})
		synctest.Wait()
		close(release)
		done.Wait()
		if got := <-first; got != 1 || syncs > 2 {
			t.Errorf("the first sync was up to %d, want 1; %d syncs, want one or two", got, syncs)
		}
	})
}

// TestSyncCoversWhatWasAppendedBefore: what is appended while a sync runs is not durable when it returns.
func TestSyncCoversWhatWasAppendedBefore(t *testing.T) {
	m, dir := newGatedMachine(t)
	before := m.log.Head()
	m.startEpoch()
	dir.syncGate = func() { m.startEpoch() }
	if lsn, err := m.log.Sync(); err != nil || lsn != before+1 || m.log.Durable() != before+1 {
		t.Errorf("sync up to %d, durable %d, want %d: %v", lsn, m.log.Durable(), before+1, err)
	}
	m.sync()
	m.wantHead(before + 2)
}

// TestL4HardenRewritesWhatAFailedSyncLeft: L4: a failed sync leaves pages that read well, count as clean, and are not on
// the disk. The process that opens the log next must write them again before it calls them durable.
func TestL4HardenRewritesWhatAFailedSyncLeft(t *testing.T) {
	for name, c := range map[string]struct {
		before []int // appended and synced before
		fills  bool  // the tail reaches into another segment
	}{
		"from the first record on":   {nil, false},
		"after a mark":               {[]int{1, 1}, false},
		"across segments":            {[]int{30, 30}, true},
		"across segments, unflushed": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, disk.Config{})
			for _, n := range c.before {
				m.append(n)
				m.sync()
				m.mark()
			}
			m.append(1)
			if c.fills {
				for range 6 {
					m.append(40)
				}
			}
			last := m.append(0, 2)
			m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, syscall.EIO))
			if _, err := m.log.Sync(); !errors.Is(err, wal.ErrFailed) {
				t.Fatal(err)
			}
			m.kill()
			m.open()
			m.wantHead(last)
			if m.log.Durable() != last {
				t.Errorf("durable is %d after Harden, want %d", m.log.Durable(), last)
			}
			m.powerCut(disk.KeepNone())
			m.open()
			m.wantHead(last)
			if len(m.found) != int(last) {
				t.Errorf("found %d of %d records", len(m.found), last)
			}
			m.wantReadable()
			m.close()
		})
	}
}

// TestL4HardenReadsAgain: what Open found and is something else when Harden rewrites it, because the page cache dropped
// it since, is damage, and is not written over with itself as if it were sound.
func TestL4HardenReadsAgain(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	m.append(2)
	m.kill()
	if err := m.recover(); err != nil {
		t.Fatal(err)
	}
	if err := m.disk.Corrupt("log/"+firstName, m.sent[2].position.Offset, 1); err != nil {
		t.Fatal(err)
	}
	var damage *wal.CorruptError
	if err := m.log.Harden(); !errors.As(err, &damage) || damage.LSN != 2 || damage.Segment != firstName || damage.Offset != 4096+1024 {
		t.Errorf("Harden of a record that changed: %v", err)
	}
	m.close()
}

// TestCommittedIsCarried: frames carry the committed LSN, which never decreases.
func TestCommittedIsCarried(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	m.log.SetCommitted(1)
	m.append(1)
	m.log.SetCommitted(0)
	m.append(1)
	m.close()
	if in, frames := m.inspect(); in.Committed != 1 || frames[0].Committed != 0 || frames[2].Committed != 1 {
		t.Errorf("committed %d, frames %+v", in.Committed, frames)
	}
}

// TestL4HardenThatFails: a Harden that fails proves nothing; the log is opened again and it is done again.
func TestL4HardenThatFails(t *testing.T) {
	for fails := 1; ; fails++ {
		m := newMachine(t, disk.Config{})
		m.append(1)
		m.sync()
		for range 4 {
			m.append(40)
		}
		last := m.append(1)
		m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, syscall.EIO))
		if _, err := m.log.Sync(); !errors.Is(err, wal.ErrFailed) {
			t.Fatal(err)
		}
		m.kill()
		if err := m.recover(); err != nil {
			t.Fatal(err)
		}
		at := m.disk.Ops() + fails
		m.disk.SetPlan(disk.FailAt(at, syscall.EIO))
		err := m.log.Harden()
		if m.disk.Ops() < at {
			if fails < 6 {
				t.Fatalf("Harden did %d operations", fails-1)
			}
			break
		}
		if !errors.Is(err, wal.ErrFailed) {
			t.Fatalf("Harden with a failing operation %d: %v", fails, err)
		}
		if m.log.Durable() == last {
			t.Errorf("operation %d of Harden failed, and everything is durable", fails)
		}
		m.kill()
		m.open()
		m.powerCut(disk.KeepNone())
		m.open()
		m.wantHead(last)
		m.close()
	}
}
