package wal_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// flip damages one byte of the log and tries to open it: it returns where the log ends, or the error.
func (m *machine) flip(segment string, off int64) (block.LSN, error) {
	m.Helper()
	f := m.fork()
	if err := f.disk.Corrupt("log/"+segment, off, 1); err != nil {
		m.Fatal(err)
	}
	if err := f.recover(); err != nil {
		return 0, err
	}
	defer f.close()
	return f.log.Head(), nil
}

// wantCorrupt checks that the error names the place of the damage.
func wantCorrupt(t testing.TB, what string, err error, want wal.CorruptError) {
	t.Helper()
	var got *wal.CorruptError
	if !errors.As(err, &got) {
		t.Fatalf("%s: %v, want damage at %+v", what, err, want)
	}
	if got.Segment != want.Segment || got.Offset != want.Offset || got.LSN != want.LSN || got.Durable != want.Durable {
		t.Fatalf("%s: damage at %+v, want %+v", what, *got, want)
	}
	if got.Reason == nil || !strings.Contains(got.Error(), got.Segment) {
		t.Fatalf("%s: %v does not say what is wrong where", what, err)
	}
}

// TestI6DamageIsNotATornTail: I6, L3: a flip of any byte of any durable frame is damage, with its place; of any byte
// behind it, a torn tail, which ends there; of padding, nothing.
func TestI6DamageIsNotATornTail(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	m.append(3, 0, 1)
	m.sync()
	m.append(0)
	m.append(1)
	m.sync()
	m.mark() // up to 6
	m.append(1)
	m.append(1)
	m.powerCut(disk.KeepAll())
	_, frames := m.inspect()
	if len(frames) != 7 {
		t.Fatalf("%d frames, want 6 of records and a mark", len(frames))
	}
	const durable, head = 6, 8
	for i, f := range frames {
		end := int64(testSegment)
		if i+1 < len(frames) {
			end = frames[i+1].Offset
		}
		for off := f.Offset; off < min(end, f.Offset+f.Bytes+testBlock); off++ {
			if in := off - f.Offset; in > 256 && in%7 != 0 {
				continue // of the payload a few will do here: that the CRC covers each byte has its own test
			}
			got, err := m.flip(f.Segment, off)
			switch {
			case off >= f.Offset+f.Bytes: // padding
				if err != nil || got != head {
					t.Fatalf("flip of padding at %d: ends at %d, %v", off, got, err)
				}
			case f.First <= durable && f.Records > 0:
				wantCorrupt(t, "flip of a durable byte", err, wal.CorruptError{Segment: f.Segment, Offset: f.Offset, LSN: f.First, Durable: durable})
			default:
				if err != nil || got != f.First-1 {
					t.Fatalf("flip of byte %d of the tail: ends at %d, %v, want %d", off, got, err, f.First-1)
				}
			}
		}
	}
}

// TestI6DamageInAnySegment: the same over several segments, whose headers are part of the log too.
func TestI6DamageInAnySegment(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for range 12 {
		m.append(20, 5)
		m.sync()
	}
	m.mark()
	m.close()
	head := m.log.Head()
	in, frames := m.inspect()
	if len(in.Segments) < 3 {
		t.Fatalf("%d segments, want several", len(in.Segments))
	}
	for _, f := range frames {
		for off := f.Offset; off < f.Offset+f.Bytes; off += 331 {
			got, err := m.flip(f.Segment, off)
			if f.Records == 0 {
				if err != nil || got != head {
					t.Fatalf("flip in the last mark: ends at %d, %v", got, err)
				}
				continue
			}
			wantCorrupt(t, "flip", err, wal.CorruptError{Segment: f.Segment, Offset: f.Offset, LSN: f.First, Durable: head})
		}
	}
	for i, s := range in.Segments {
		for off := int64(0); off < testBlock; off += 1 + off/120*8 {
			got, err := m.flip(s.Name, off)
			var damage *wal.CorruptError
			switch {
			case s.State == wal.SegmentUnused && err == nil && got == head:
			case s.State == wal.SegmentInLog && errors.As(err, &damage):
				if damage.LSN != max(s.First, 1) || damage.Durable != head || !strings.Contains(err.Error(), s.Name) {
					t.Fatalf("flip of byte %d of header %d: %v", off, i, err)
				}
			case !errors.Is(err, wal.ErrSegmentVersion) || off < 8 || off >= 12 || !strings.Contains(err.Error(), s.Name):
				t.Fatalf("flip of byte %d of header %d: %v", off, i, err)
			}
		}
		if got, err := m.flip(s.Name, 2000); err != nil || got != head {
			t.Fatalf("flip between header and frames: ends at %d, %v", got, err)
		}
	}
}

// TestI6DurableAsTheSuperblockSays: where no frame follows the loss, the superblock's mark proves it; without any, a
// loss of the last flush is a torn tail, which is why Mark follows soon.
func TestI6DurableAsTheSuperblockSays(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	at := m.sent[m.append(2)].position.Offset
	m.sync()
	m.powerCut(disk.KeepNone())
	if got, err := m.flip(firstName, at); err != nil || got != 1 {
		t.Errorf("unmarked loss: ends at %d, %v", got, err)
	}
	m.super.Durable = 2
	if err := m.super.write(m.disk); err != nil {
		t.Fatal(err)
	}
	_, err := m.flip(firstName, at)
	wantCorrupt(t, "loss below the superblock's mark", err, wal.CorruptError{Segment: firstName, Offset: 4096 + 1024, LSN: 2, Durable: 2})
}

// TestL3MarkMakesLossDetectable: after a flush and Mark, the loss of the last record is damage even to a log whose
// superblock is old, whatever was reopened in between.
func TestL3MarkMakesLossDetectable(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	lsn := m.append(2)
	e := m.sent[lsn]
	m.sync()
	if m.log.Marked() {
		t.Fatal("marked before Mark")
	}
	m.mark()
	ops := m.disk.Ops()
	m.mark()
	if n := m.disk.Ops() - ops; n != 0 {
		t.Errorf("a mark of a marked log took %d operations", n)
	}
	m.powerCut(disk.KeepNone())
	_, err := m.flip(firstName, e.position.Offset)
	wantCorrupt(t, "loss below a mark", err, wal.CorruptError{Segment: firstName, Offset: 4096 + 1024, LSN: 2, Durable: 2})
}

// TestL3MarksAreFoundOnTheGrid: every frame starts on a sector, so a mark behind a frame whose length can not be
// believed is found, and one in the middle of a payload is none.
func TestL3MarksAreFoundOnTheGrid(t *testing.T) {
	m := newMachine(t, disk.Config{})
	for i := range 40 {
		m.append([]int{i % 7, i % 3}...)
		if i%4 == 0 {
			m.sync()
		}
		if i%9 == 0 {
			m.mark()
		}
	}
	m.sync()
	m.mark()
	m.close()
	_, frames := m.inspect()
	marks := 0
	for _, f := range frames {
		if f.Offset%512 != 0 {
			t.Errorf("frame at %d is not on the grid", f.Offset)
		}
		if f.Records == 0 {
			marks++
		}
	}
	if marks < 5 {
		t.Fatalf("%d marks", marks)
	}
	length := frames[2].Offset + 56 + 3 // the highest byte of its length
	_, err := m.flip(frames[2].Segment, length)
	wantCorrupt(t, "flip of a length", err,
		wal.CorruptError{Segment: frames[2].Segment, Offset: frames[2].Offset, LSN: frames[2].First, Durable: m.log.Head()})
}

// TestL1MarksAreLocal: S11: the marks of another copy's log prove nothing here, not even where a client wrote them
// into this volume, and so into this log, at a place of the grid.
func TestL1MarksAreLocal(t *testing.T) {
	for name, copyByte := range map[string]byte{"another copy": 3, "this copy": 2} {
		mark := foreignMark(t, copyByte, 40)
		m := newMachine(t, disk.Config{})
		m.append(1)
		m.sync()
		c := m.writes(2)
		copy(c[0].Payload[512-128:], mark) // the payload begins 128 bytes into the frame
		if err := m.try(c); err != nil {
			t.Fatal(err)
		}
		m.powerCut(disk.KeepAll())
		got, err := m.flip(firstName, c[0].Position.Offset)
		if name == "another copy" {
			if err != nil || got != 1 {
				t.Errorf("a torn record with a mark of %s in it: ends at %d, %v", name, got, err)
			}
			continue
		}
		// That this is seen shows that it is the copy that makes the difference.
		wantCorrupt(t, name, err, wal.CorruptError{Segment: firstName, Offset: 4096 + 1024, LSN: 2, Durable: 40})
	}
}

// foreignMark returns the sector of a mark frame for that LSN in a log of the test's volume.
func foreignMark(t *testing.T, copyByte byte, durable int) []byte {
	d := disk.New(disk.Config{})
	cfg := logConfig(d, superblock{})
	cfg.CopyID[15] = copyByte
	if err := wal.Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{TB: t, disk: d, log: l, sent: map[block.LSN]entry{}}
	if err := startLog(d, l, &m.super); err != nil {
		t.Fatal(err)
	}
	for range durable {
		m.append(0)
	}
	m.sync()
	m.mark()
	mark := make([]byte, 512)
	s := l.Pin(1)
	if err := s.ReadAt(mark, 4096+int64(durable)*512); err != nil {
		t.Fatal(err)
	}
	s.Unpin()
	m.close()
	return mark
}

// TestI6UnreadableIsNotTorn: a disk that can not read the log is neither a torn tail nor damage to it.
func TestI6UnreadableIsNotTorn(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	m.append(1)
	m.powerCut(disk.KeepAll())
	for _, off := range []int64{0, 4096, 4096 + 1024} {
		f := m.fork()
		if err := f.disk.FailReads("log/"+firstName, off, 512, syscall.EIO); err != nil {
			t.Fatal(err)
		}
		var damage *wal.CorruptError
		if err := f.recover(); !errors.Is(err, syscall.EIO) || errors.As(err, &damage) {
			t.Errorf("unreadable at %d: %v", off, err)
		}
	}
}
