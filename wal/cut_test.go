package wal_test

import (
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// cut cuts the log, which is not open, after lsn, as a volume does: with one write of the superblock.
func (m *machine) cut(lsn block.LSN) {
	m.Helper()
	s, err := readSuper(m.disk)
	if err != nil {
		m.Fatal(err)
	}
	s.Cuts = append(s.Cuts, wal.Cut{LSN: lsn, Incarnation: s.Incarnation})
	s.Incarnation++
	s.Durable = lsn
	if err := s.write(m.disk); err != nil {
		m.Fatal(err)
	}
	for sent := range m.sent {
		if sent > lsn {
			delete(m.sent, sent)
		}
	}
}

// TestCutIsForEver: records above a cut are void, wherever it falls, and never come back, across crashes, reopening and
// appends of the same lengths in the same places.
func TestCutIsForEver(t *testing.T) {
	build := func(t *testing.T) *machine {
		m := newMachine(t, disk.Config{})
		for range 10 {
			m.append(10, 10, 10)
			m.sync()
		}
		m.mark()
		return m
	}
	whole := build(t)
	boundary := block.LSN(0)
	for lsn := block.LSN(1); lsn < 29; lsn++ {
		if whole.sent[lsn].position.Segment != whole.sent[lsn+1].position.Segment {
			boundary = lsn
		}
	}
	if boundary == 0 {
		t.Fatal("all is in one segment")
	}
	for name, at := range map[string]block.LSN{
		"between frames": 6, "in a frame": 7, "at a frame's last record but one": 8, "at the boundary of segments": boundary,
		"before it": boundary - 3, "behind it": boundary + 1, "everything": 0, "first record": 1, "nothing": 30,
	} {
		for _, end := range []string{"kill", "keep all", "keep none"} {
			t.Run(name+", "+end, func(t *testing.T) {
				m := build(t)
				m.close()
				m.cut(at)
				stop := func() {
					switch end {
					case "kill":
						m.kill()
					case "keep all":
						m.powerCut(disk.KeepAll())
					default:
						m.sync()
						m.powerCut(disk.KeepNone())
					}
				}
				m.open()
				m.wantHead(at)
				stop()
				m.open()
				m.wantHead(at)
				for round := range 6 {
					m.append(10, 10, 10)
					m.wantReadable()
					stop()
					m.open()
					m.wantHead(at + 3*block.LSN(round+1))
				}
				m.wantReadable()
				m.close()
			})
		}
	}
}

// TestCutsOneAfterTheOther: each cut voids what was there when it was made, and not what was appended after it; a later
// cut may be above or below an earlier one.
func TestCutsOneAfterTheOther(t *testing.T) {
	for _, cuts := range [][]block.LSN{{20, 10}, {10, 12}, {10, 10}, {7, 20, 8, 19, 3}, {0, 0, 5}} {
		m := newMachine(t, disk.Config{})
		for i, at := range cuts {
			for m.log.Head() < 24 {
				m.append(3, 3)
				m.sync()
			}
			m.mark()
			m.close()
			m.cut(at)
			m.open()
			m.wantHead(at)
			if i%2 == 0 {
				m.powerCut(disk.KeepAll())
				m.open()
				m.wantHead(at)
			}
		}
		last := cuts[len(cuts)-1]
		for range 8 {
			m.append(3)
			m.sync()
			m.powerCut(disk.KeepAll())
			m.open()
		}
		m.wantHead(last + 8)
		m.wantReadable()
		m.close()
	}
}

// TestCutHidesOldMarks: marks of what was cut are no evidence against the log that is left, but those written since are.
func TestCutHidesOldMarks(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 8 {
		m.append(1)
		m.sync()
	}
	m.mark()
	m.close()
	m.cut(3)
	m.open()
	m.append(1) // 4
	at := m.sent[4].position.Offset
	m.powerCut(disk.KeepAll())
	if got, err := m.flip(firstName, at); err != nil || got != 3 {
		t.Errorf("a torn record after a cut: ends at %d, %v", got, err)
	}
	m.open()
	m.append(1) // 5
	m.sync()
	m.mark()
	m.powerCut(disk.KeepNone())
	_, err := m.flip(firstName, at)
	var want = wal.CorruptError{Segment: firstName, Offset: at - 128, LSN: 4, Durable: 5}
	wantCorrupt(t, "loss after a cut", err, want)
}

// TestCutOfADamagedLog: L6: a log that is damaged opens again once it is cut before the damage; what could be read
// behind it is kept aside first, and listed.
func TestCutOfADamagedLog(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 6 {
		m.append(30, 30)
		m.sync()
	}
	m.mark()
	m.close()
	if err := m.disk.Corrupt("log/"+firstName, m.sent[3].position.Offset, 1); err != nil {
		t.Fatal(err)
	}
	in, _ := m.inspect()
	if in.Damage == nil || in.Head != 2 || in.Durable != 12 {
		t.Fatalf("inspection %+v", in)
	}
	if n := len(in.Stranded); n != 8 || in.Stranded[0].LSN != 5 || in.Stranded[7].LSN != 12 {
		t.Errorf("%d records are stranded: %+v", n, in.Stranded)
	}
	names, err := wal.SetAside(logConfig(m.disk, m.super), 2)
	if err != nil || len(names) != 3 || names[0] != "cut-2-00000001.aside" {
		t.Fatalf("set aside %v, %v", names, err)
	}
	m.cut(2)
	m.open()
	m.wantHead(2)
	m.append(30, 30)
	m.sync()
	m.powerCut(disk.KeepNone())
	m.open()
	m.wantHead(4)
	m.wantReadable()
	for _, name := range names {
		f, err := m.disk.Dir("log").Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := f.Size(); err != nil || size != testSegment {
			t.Errorf("%s has %d bytes, %v", name, size, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	m.close()
}
