package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// readAll returns the bytes of all records from one on.
func (m *machine) readAll(from block.LSN) []byte {
	m.Helper()
	r, err := m.log.NewReader(from)
	if err != nil {
		m.Fatal(err)
	}
	b, first, last, err := r.Read(nil, 1<<30)
	if err != nil || first != from || last != m.log.Head() {
		m.Fatalf("read records %d to %d of %d to %d: %v", first, last, from, m.log.Head(), err)
	}
	return b
}

// filled is a machine whose log has many segments with frames of several records, marks, and an epoch in the middle.
func filled(t *testing.T) *machine {
	m := newMachine(t, disk.Config{})
	for i := range 12 {
		m.append(30, 0, 7)
		m.append(1)
		if i%3 == 0 {
			m.sync()
			m.mark()
		}
		if i == 5 {
			if _, err := m.log.StartEpoch(m.log.Epoch()+1, uuid.UUID{1}, uuid.UUID{2}, 7); err != nil {
				t.Fatal(err)
			}
			m.sent[m.log.Head()] = entry{kind: wal.RecordEpochStart, payload: append(bytes.Clone(id16(1)), id16(2)...)}
		}
	}
	return m
}

func id16(first byte) []byte {
	id := uuid.UUID{first}
	return id[:]
}

// TestReaderFromEveryRecord: from whatever record it begins, a reader returns that one and all after it, and knows the one
// before it.
func TestReaderFromEveryRecord(t *testing.T) {
	m := filled(t)
	all := m.readAll(1)
	crc := uint32(0)
	for lsn, off := block.LSN(1), 0; lsn <= m.log.Head()+1; lsn++ {
		r, err := m.log.NewReader(lsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Before(); got != crc {
			t.Errorf("the record before %d is %08x, want %08x", lsn, got, crc)
		}
		if got := m.readAll(lsn); !bytes.Equal(got, all[off:]) {
			t.Fatalf("from record %d it reads something else than from the beginning", lsn)
		}
		if off < len(all) {
			crc = binary.LittleEndian.Uint32(all[off+4:])
			off += wal.RecordHeaderBytes + int(binary.LittleEndian.Uint32(all[off+48:]))
		}
	}
	if _, err := m.log.NewReader(m.log.Head() + 2); err == nil {
		t.Error("a reader begins after the end")
	}
}

// TestReaderFollowsAppends: a reader that has come to the end is told of what is appended, marks and rotations included.
func TestReaderFollowsAppends(t *testing.T) {
	m := newMachine(t, disk.Config{})
	r, err := m.log.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	appended, cancel := m.log.Subscribe()
	var got []byte
	for range 20 {
		m.append(17, 3)
		m.sync()
		m.mark()
		<-appended
		if got, _, _, err = r.Read(got, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, m.readAll(1)) {
		t.Error("what was read piece by piece is not the log")
	}
	cancel()
	m.append(1)
	select {
	case <-appended:
		t.Error("told after the end of the subscription")
	default:
	}
}

// TestReaderBesideAppends: readers beside an appender read what was appended, with segments recycled under them.
func TestReaderBesideAppends(t *testing.T) {
	m := newMachine(t, disk.Config{})
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		readers.Go(func() {
			for lost := false; ; lost = false {
				r, err := m.log.NewReader(m.log.Tail())
				for err == nil && !lost {
					var b []byte
					b, _, _, err = r.Read(nil, 1<<10)
					if _, err := wal.DecodeRecords(b, testBlock); err != nil {
						t.Error(err)
					}
					select {
					case <-done:
						return
					default:
					}
				}
				if !errors.Is(err, wal.ErrNotRetained) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 300 {
		if err := m.try(m.writes(20, 9)); err != nil && !errors.Is(err, wal.ErrPinned) {
			t.Error(err)
		}
		m.log.Reclaim(m.log.Head() - 1)
	}
	close(done)
	readers.Wait()
}

// TestI10RetentionNeverTakesRoom: what is retained stays while the budget has room for it, also where there are segments
// that could be used again; when it has none, appends go on and the retention is lost.
func TestI10RetentionNeverTakesRoom(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(100)
	kept, err := m.log.Retain(1)
	if err != nil {
		t.Fatal(err)
	}
	for m.log.Usage().Segments < testBudget/testSegment {
		m.append(100)
		m.checkpoint(m.log.Head())
		if kept.Lost() {
			t.Fatalf("lost with %d segments of %d", m.log.Usage().Segments, testBudget/testSegment)
		}
		m.readAll(1)
	}
	for range 20 {
		m.append(100)
		m.checkpoint(m.log.Head())
	}
	if !kept.Lost() {
		t.Error("the retention is not lost, though the log went round")
	}
	if _, err := m.log.NewReader(1); !errors.Is(err, wal.ErrNotRetained) {
		t.Errorf("read what is gone: %v", err)
	}
	if _, err := m.log.Retain(1); !errors.Is(err, wal.ErrNotRetained) {
		t.Errorf("retain what is gone: %v", err)
	}
	kept.Release()

	later, err := m.log.Retain(m.log.Head())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		m.append(100)
		m.checkpoint(m.log.Head())
		later.Advance(m.log.Head())
	}
	if later.Lost() {
		t.Error("lost, though it moves with the head")
	}
	later.Release()
	later.Release()
}

// TestRetainedAcrossRestarts: a log that is opened again still has what lies before its checkpoint; a segment there that
// can not be read is no damage.
func TestRetainedAcrossRestarts(t *testing.T) {
	m := filled(t)
	all := m.readAll(1)
	m.sync()
	m.checkpoint(m.log.Head() - 1)
	for range 2 {
		m.close()
		m.open()
		if tail := m.log.Tail(); tail != 1 {
			t.Fatalf("after a restart the log begins with record %d", tail)
		}
		if got := m.readAll(1); !bytes.Equal(got, all) {
			t.Error("after a restart it reads something else")
		}
	}
	m.close()
	in, _ := m.inspect()
	second := slices.IndexFunc(in.Segments, func(s wal.SegmentInfo) bool { return s.Sequence == 2 })
	if in.Segments[second].State != wal.SegmentRetained {
		t.Errorf("segment before the checkpoint: %+v", in.Segments[second])
	}
	if err := m.disk.Corrupt("log/"+in.Segments[second].Name, 4300, 1); err != nil {
		t.Fatal(err)
	}
	m.open()
	last, err := m.readFrom(1)
	if !errors.Is(err, wal.ErrNotRetained) || last == 0 || last >= m.log.Head() {
		t.Errorf("read up to %d of %d with a bad segment in between: %v", last, m.log.Head(), err)
	}
	m.close()
}

// TestRetainedHonoursCuts: records that a cut made void are not read, and those that took their place are.
func TestRetainedHonoursCuts(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1, 2, 3, 4)
	m.sync()
	m.close()
	m.super.Cuts = []wal.Cut{{LSN: 2, Incarnation: m.super.Incarnation}}
	m.super.Durable = 2
	m.super.Incarnation++
	if err := m.super.write(m.disk); err != nil {
		t.Fatal(err)
	}
	m.open()
	m.append(5, 6, 7)
	for range 5 {
		m.append(60)
	}
	m.sync()
	if last := m.readRetained(); last != m.log.Head() {
		t.Errorf("read up to %d of %d", last, m.log.Head())
	}
	m.checkpoint(m.log.Head())
	m.close()
	m.open()
	if last, err := m.readFrom(1); err != nil || last != m.log.Head() {
		t.Errorf("after a restart: up to %d of %d, %v", last, m.log.Head(), err)
	}
	m.close()
}

// TestReceivedRecordsAreTheSame: a copy's log that was sent all of another one's reads as that one does, byte for byte,
// also after a restart, and goes on from there.
func TestReceivedRecordsAreTheSame(t *testing.T) {
	from, to := filled(t), newMachine(t, disk.Config{})
	all := from.readAll(1)
	to.sent = from.sent
	r, err := from.log.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	for to.log.Head() < from.log.Head() {
		b, _, _, err := r.Read(nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		changes, err := wal.DecodeRecords(b, testBlock)
		if err != nil {
			t.Fatal(err)
		}
		if err := to.log.AppendReceived(changes); err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			e := entry{payload: c.Payload, position: c.Position}
			if err := readAt(to.log, e); err != nil {
				t.Errorf("record %d: %v", c.LSN, err)
			}
		}
	}
	if to.log.Epoch() != from.log.Epoch() {
		t.Errorf("epoch %d, want %d", to.log.Epoch(), from.log.Epoch())
	}
	for range 2 {
		if got := to.readAll(1); !bytes.Equal(got, all) {
			t.Error("the copy's log is not the same")
		}
		to.sync()
		to.close()
		to.open()
	}
	to.append(1)
}

// TestReceivedRecordsMustFollow: a gap, a repetition and another epoch are refused, and nothing is appended.
func TestReceivedRecordsMustFollow(t *testing.T) {
	from, to := filled(t), newMachine(t, disk.Config{})
	all, err := wal.DecodeRecords(from.readAll(1), testBlock)
	if err != nil {
		t.Fatal(err)
	}
	start := slices.IndexFunc(all, func(c wal.Change) bool { return c.Type == wal.RecordEpochStart })
	if all[start].EpochStart().Epoch != from.log.Epoch() || all[start].EpochStart().First != all[start].LSN {
		t.Errorf("lineage entry %+v of record %d", all[start].EpochStart(), all[start].LSN)
	}
	for name, c := range map[string]struct {
		changes []wal.Change
		want    error
	}{
		"gap at the beginning": {all[1:3], wal.ErrGap},
		"gap in the middle":    {append(slices.Clone(all[:2]), all[3]), wal.ErrGap},
		"repetition":           {append(slices.Clone(all[:2]), all[1]), wal.ErrGap},
		"epoch without start":  {append(slices.Clone(all[:start]), renumbered(t, all[start+1], all[start].LSN)), wal.ErrOldEpoch},
	} {
		if err := to.log.AppendReceived(c.changes); !errors.Is(err, c.want) || to.log.Head() != 0 {
			t.Errorf("%s: %v, head %d", name, err, to.log.Head())
		}
	}
	if err := to.log.AppendReceived(all); err != nil {
		t.Fatal(err)
	}
	old := renumbered(t, all[0], to.log.Head()+1)
	if err := to.log.AppendReceived([]wal.Change{old}); !errors.Is(err, wal.ErrOldEpoch) {
		t.Errorf("older epoch: %v", err)
	}
	b := from.readAll(1)
	if _, err := wal.DecodeRecords(b[:len(b)-1], testBlock); !errors.Is(err, wal.ErrRecordTorn) {
		t.Errorf("cut short: %v", err)
	}
	b[len(b)-1] ^= 1
	if _, err := wal.DecodeRecords(b, testBlock); !errors.Is(err, wal.ErrRecordCorrupt) {
		t.Errorf("flipped: %v", err)
	}
	if _, err := wal.DecodeRecords(append(bytes.Clone(from.readAll(2)), from.readAll(1)...), testBlock); !errors.Is(err, wal.ErrGap) {
		t.Errorf("joined the wrong way round: %v", err)
	}
}

// renumbered is the record of a change under another LSN, as another log would have it.
func renumbered(t *testing.T, c wal.Change, lsn block.LSN) wal.Change {
	t.Helper()
	b := wal.EncodeRecord(wal.Record{Type: c.Type, LSN: lsn, Epoch: c.Epoch(), Range: c.Range, Payload: c.Payload})
	changes, err := wal.DecodeRecords(b, testBlock)
	if err != nil {
		t.Fatal(err)
	}
	return changes[0]
}
