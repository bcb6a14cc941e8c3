package wal_test

import (
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
)

// TestL2TheOld101IsNotReplayed: L2, the history itself: power cut, 100 lost, 101 kept; recovery ends at 99; a new 100 of
// equal length; crash; the old 101 follows with valid CRC and LSN, and must not be replayed.
func TestL2TheOld101IsNotReplayed(t *testing.T) {
	for name, c := range map[string]struct {
		reopened int  // times before the new 100
		epoch    bool // the new 100 is preceded by nothing, or is an epoch start
		flushed  bool
		after    disk.Choice // what the second power cut keeps
		want     block.LSN
	}{
		"as told":                   {0, false, false, disk.KeepAll(), 100},
		"new 100 flushed":           {0, false, true, disk.KeepNone(), 100},
		"new 100 lost too":          {0, false, false, disk.KeepNone(), 99},
		"reopened between":          {5, false, false, disk.KeepAll(), 100},
		"reopened, new 100 lost":    {5, false, false, disk.KeepNone(), 99},
		"new 100 is an epoch":       {0, true, true, disk.KeepNone(), 100},
		"reopened, 100 is an epoch": {2, true, false, disk.KeepAll(), 100},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, disk.Config{})
			m.append(make([]int, 99)...)
			m.sync()
			m.append(3) // 100
			m.append(3) // 101
			if n := m.disk.Pending(); n != 2 {
				t.Fatalf("%d writes are pending, want those of 100 and 101", n)
			}
			m.powerCut(disk.KeepSubset(0b10))
			m.open()
			m.wantHead(99)
			for i := range c.reopened {
				if i%2 == 0 {
					m.kill()
				} else {
					m.powerCut(disk.KeepNone())
				}
				m.open()
				m.wantHead(99)
			}
			if c.epoch {
				m.startEpoch()
			} else {
				m.append(3)
			}
			if c.flushed {
				m.sync()
			}
			m.powerCut(c.after)
			m.open()
			m.wantHead(c.want)
			for range 3 { // and it stays away
				m.append(3)
				m.sync()
				m.powerCut(disk.KeepNone())
				m.open()
			}
			m.wantHead(c.want + 3)
			m.wantReadable()
			m.close()
		})
	}
}

// TestL2StaleSuccessors: the same where the old 101 begins the next segment, whose header survived as well, in a file
// that is new or recycled: after the new 100 of equal length the old segment is not the log's.
func TestL2StaleSuccessors(t *testing.T) {
	for name, laps := range map[string]int{"new file": 0, "recycled file": 2} {
		for _, keep := range []disk.Choice{disk.KeepAll(), disk.KeepNone()} {
			t.Run(name+", "+keep.String(), func(t *testing.T) {
				m := newMachine(t, disk.Config{})
				for range laps {
					for range 4 {
						m.append(120)
					}
					m.sync()
					m.checkpoint(m.log.Head())
				}
				m.append(100)
				m.sync()
				for m.sent[m.log.Head()].position.Offset < testSegment-24<<9 {
					m.append(1)
					m.sync()
				}
				segment := m.sent[m.log.Head()].position.Segment
				last := m.log.Head()
				m.append(10)
				lost := m.disk.Pending()
				if lost != 1 || m.sent[last+1].position.Segment != segment {
					t.Fatalf("%d writes pending after the one to be lost", lost)
				}
				m.append(30)
				m.append(30)
				if m.sent[last+2].position.Segment == segment {
					t.Fatal("the next record is not in the next segment")
				}
				m.powerCut(disk.KeepSubset(^uint64(1)))
				m.open()
				m.wantHead(last)
				m.append(10)
				if keep == disk.KeepNone() {
					m.sync()
				}
				m.powerCut(keep)
				m.open()
				m.wantHead(last + 1)
				for range 4 {
					m.append(1)
				}
				m.sync()
				if m.sent[m.log.Head()].position.Segment != segment {
					t.Fatal("the records that are checkpointed are not in the old segment")
				}
				m.checkpoint(last + 2) // where the stale segment would begin
				m.powerCut(disk.KeepNone())
				m.open()
				m.wantHead(last + 5)
				if n := len(m.found); n != 3 {
					t.Errorf("%d records after the checkpoint, want 3", n)
				}
				for range 5 { // and beyond
					m.append(30)
					m.kill()
					m.open()
				}
				m.wantHead(last + 10)
				m.wantReadable()
				m.close()
			})
		}
	}
}

// TestL2RecycledBytesStay: L2, S14: a recycled segment holds a whole lap's frames behind what it is given now, of the
// same incarnation, and none of them is ever the log's, wherever the power is cut.
func TestL2RecycledBytesStay(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 30 {
		for range 5 {
			m.append(25)
		}
		m.sync()
		m.checkpoint(m.log.Head())
		m.append(24)
		m.append(24)
		head := m.log.Head()
		f := m.fork()
		f.powerCut(disk.KeepAll())
		f.open()
		f.wantHead(head)
		f.wantReadable()
		f.close()
		g := m.fork()
		g.powerCut(disk.KeepNone())
		g.open()
		g.wantHead(head - 2)
		g.append(24)
		g.kill()
		g.open()
		g.wantHead(head - 1)
		g.close()
	}
	if n := m.log.Usage().Segments; n > testBudget/testSegment {
		t.Errorf("%d segments", n)
	}
}
