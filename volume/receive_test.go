package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestReceive: whatever the primary wrote, its follower reads the same, has the same log byte for byte, and the same lineage;
// also after it was opened again, with checkpoints or without.
func TestReceive(t *testing.T) {
	for name, atLeast := range map[string]int{"frame by frame": 1, "all at once": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			x := newPair(t, 256<<10, 256<<10)
			for i := range 6 {
				x.fill(10, uint64(i))
				x.must(ship(x.p, x.f, x.epoch, atLeast))
				x.same()
				if i == 2 {
					x.commitAll()
					x.must(x.f.Checkpoint(t.Context()))
				}
				if i == 3 {
					x.reopenFollower(func(*disk.Disk) { x.must(x.f.Close()) })
					x.must(x.f.Follow(x.epoch, epochID(x.epoch)))
					x.same()
				}
			}
			if !bytes.Equal(records(t, x.p, 1), records(t, x.f, 1)) {
				t.Error("the logs are not the same bytes")
			}
			x.commitAll()
			x.must(x.f.Checkpoint(t.Context()), x.p.Checkpoint(t.Context()))
			if f := x.f.Facts(); f.Checkpoint != f.Head || f.BaseHigh != f.Head || f.Committed != f.Head {
				t.Errorf("after a checkpoint of all: %+v", f)
			}
			x.same()
			x.close()
		})
	}
}

// TestReceiveResizes: growths and shrinks get their place, which a checkpoint cuts again.
func TestReceiveResizes(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	for i, size := range []int64{testSize / 2, 4 * testSize, 8 * testSize, testSize} {
		x.write(x.p.Size()/testBlock/2-10, 20, byte(i+1))
		x.must(second(x.p.Resize(t.Context(), size, true)))
		x.write(size/testBlock-9, 9, byte(i+100))
		x.ship()
		if x.f.Size() != size {
			t.Fatalf("size %d, want %d", x.f.Size(), size)
		}
		x.same()
		if i%2 == 1 {
			x.commitAll()
			x.must(x.f.Checkpoint(t.Context()))
			x.same()
		}
	}
	x.reopenFollower((*disk.Disk).Kill)
	x.same()
	if has, err := x.f.cfg.Base.Size(); err != nil || has != DataOffset+testSize {
		t.Errorf("the base image has %d bytes, %v", has, err)
	}
	x.close()
}

// TestS6ReceivedAgain: what a follower has already must be the same byte for byte, and is not logged again.
func TestS6ReceivedAgain(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(10, 1)
	x.ship()
	head := x.f.log.Head()
	all := records(t, x.p, 1)
	appended := x.f.Stats().LogStats.Records
	x.fill(3, 2)
	if applied, err := x.f.Receive(x.epoch, records(t, x.p, 1)); err != nil || applied != head+3 && applied <= head {
		t.Fatalf("applied %d after %d: %v", applied, head, err)
	}
	if n := x.f.Stats().LogStats.Records - appended; n != uint64(x.p.log.Head()-head) {
		t.Errorf("%d records appended, %d are new", n, x.p.log.Head()-head)
	}
	for lsn := block.LSN(1); lsn <= head; lsn++ {
		other := resealed(all, lsn, func(r []byte) { r[40]++ })
		if _, err := x.f.Receive(x.epoch, other); !errors.Is(err, ErrDiverged) {
			t.Errorf("another record %d: %v", lsn, err)
		}
	}
	x.same()
	x.close()
}

// TestS6ReceivedAgainAfterReclaim: what the log let go of can be compared by its epochs, and no more.
func TestS6ReceivedAgainAfterReclaim(t *testing.T) {
	x := newPair(t, 1<<20, testSegmentBytes)
	x.fill(20, 1)
	all := records(t, x.p, 1)
	for i := range 40 {
		x.fill(10, uint64(i))
		x.ship()
		x.commitAll()
		x.must(x.f.Checkpoint(t.Context()))
	}
	if tail := x.f.Facts().Tail; tail < 25 {
		t.Fatalf("tail %d", tail)
	}
	if _, err := x.f.Receive(x.epoch, all); err != nil {
		t.Error(err)
	}
	wrong := resealed(all, 9, func(r []byte) { r[16] = 0 }) // its epoch
	if _, err := x.f.Receive(x.epoch, wrong); !errors.Is(err, ErrDiverged) {
		t.Errorf("of another epoch: %v", err)
	}
	x.must(join(x.p, x.f, x.epoch, 7))
	x.close()
}

// resealed returns records with one of them changed, and its checksum right.
func resealed(raw []byte, lsn block.LSN, change func(r []byte)) []byte {
	raw = bytes.Clone(raw)
	for off := 0; off < len(raw); {
		n := wal.RecordHeaderBytes + int(binary.LittleEndian.Uint32(raw[off+48:]))
		if block.LSN(binary.LittleEndian.Uint64(raw[off+8:])) == lsn {
			r := raw[off : off+n]
			change(r)
			binary.LittleEndian.PutUint32(r[4:], crc32.Checksum(r[8:], crc32.MakeTable(crc32.Castagnoli)))
		}
		off += n
	}
	return raw
}

// TestReceiveRefuses: what is not the next of the primary's records is refused with a word of its own, changes nothing, and
// does not keep what is right from being received after.
func TestReceiveRefuses(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(5, 1)
	x.ship()
	head := x.f.log.Head()
	x.write(1, 4, 7)
	mustApply(t, x.p, Change{Kind: Trim, Length: 8 * testBlock})
	next := records(t, x.p, head+1)
	write := next[:wal.RecordHeaderBytes+4*testBlock]
	le := binary.LittleEndian
	start := func(epoch block.Epoch, id uuid.UUID) []byte {
		r := make([]byte, wal.RecordHeaderBytes+32)
		copy(r, "LSRC")
		le.PutUint64(r[8:], uint64(head+1))
		le.PutUint64(r[16:], uint64(epoch))
		le.PutUint32(r[48:], 32)
		r[52], r[53] = byte(wal.RecordEpochStart), 1
		copy(r[wal.RecordHeaderBytes:], id[:])
		return resealed(r, head+1, func([]byte) {})
	}
	resize := func(from, to uint64, say uint64) []byte {
		r := make([]byte, wal.RecordHeaderBytes+8)
		copy(r, write[:wal.RecordHeaderBytes])
		le.PutUint64(r[24:], min(from, to))
		le.PutUint64(r[32:], max(from, to)-min(from, to))
		le.PutUint32(r[48:], 8)
		r[52] = byte(wal.RecordResize)
		le.PutUint64(r[wal.RecordHeaderBytes:], say)
		return resealed(r, head+1, func([]byte) {})
	}
	blocks := uint64(testSize / testBlock)
	x.must(x.f.Follow(2, epochID(2)), join(x.p, x.f, 2, head))
	for _, c := range []struct {
		name  string
		epoch block.Epoch
		raw   []byte
		want  error
	}{
		{"an older epoch", 1, next, ErrOldEpoch},
		{"an epoch that is not followed", 3, next, ErrNotFollowed},
		{"a gap", 2, next[len(write):], wal.ErrGap},
		{"half a record", 2, next[:len(write)-1], wal.ErrRecordTorn},
		{"a flipped bit", 2, append([]byte{next[0] ^ 1}, next[1:]...), wal.ErrRecordMagic},
		{"beyond the volume", 2, resealed(write, head+1, func(r []byte) { le.PutUint64(r[24:], blocks-3) }), ErrRange},
		{"a record of a newer epoch than the primary's", 2, resealed(write, head+1, func(r []byte) { r[16] = 3 }), wal.ErrOldEpoch},
		{"a record of an epoch that did not begin", 2, resealed(write, head+1, func(r []byte) { r[16] = 2 }), wal.ErrOldEpoch},
		{"an epoch that begins twice", 2, start(1, uuid.UUID{9}), wal.ErrOldEpoch},
		{"the primary's epoch under another ID", 2, start(2, uuid.UUID{9}), ErrEpochTaken},
		{"an epoch after the primary's", 2, start(3, epochID(3)), wal.ErrOldEpoch},
		{"a resize from another size", 2, resize(blocks-1, blocks+9, blocks+9), ErrRange},
		{"a resize that contradicts itself", 2, resize(blocks, blocks+9, 3), wal.ErrRecordCorrupt},
		{"a resize beyond all sizes", 2, resize(blocks, 1<<60, 1<<60), ErrSize},
	} {
		applied, err := x.f.Receive(c.epoch, c.raw)
		if !errors.Is(err, c.want) || applied != head {
			t.Errorf("%s: applied %d of %d: %v", c.name, applied, head, err)
		}
	}
	if has, err := x.f.cfg.Base.Size(); err != nil || has != DataOffset+testSize {
		t.Errorf("the base image has %d bytes, %v", has, err)
	}
	if _, err := x.f.Receive(2, next); err != nil {
		t.Fatal(err)
	}
	x.same()
	x.reopenFollower((*disk.Disk).Kill) // what was taken can be replayed
	x.same()
	x.close()
}

// TestReceiveRecordTooLongForASegment is no panic: a log of small segments can not take what a large one can.
func TestReceiveRecordTooLongForASegment(t *testing.T) {
	x := newPair(t, 256<<10, testSegmentBytes)
	x.write(0, 120, 1)
	x.ship()
	x.write(0, 140, 2)
	if err := ship(x.p, x.f, x.epoch, 1); err == nil {
		t.Error("received")
	}
	x.close()
}

// TestS6Join: logs are joined only where both have the same record; records that follow on nothing that was joined are a gap.
func TestS6Join(t *testing.T) {
	x := newPair(t, 256<<10, 256<<10)
	x.fill(10, 1)
	x.ship()
	x.must(x.p.Close())
	x.p = x.open(x.pd, 1)
	x.epoch = 2
	x.lead(x.p)
	x.fill(3, 2)
	x.must(x.f.Follow(2, epochID(2)))
	head := x.f.log.Head()
	if _, err := x.f.Receive(2, records(t, x.p, head+1)); !errors.Is(err, wal.ErrGap) {
		t.Errorf("records before the logs were joined: %v", err)
	}
	r, err := x.p.log.NewReader(head + 1)
	x.must(err)
	for name, c := range map[string]struct {
		before block.LSN
		id     uuid.UUID
		crc    uint32
		want   error
	}{
		"other epoch":  {head, epochID(2), r.Before(), ErrDiverged},
		"other record": {head, epochID(1), r.Before() + 1, ErrDiverged},
		"gap":          {head + 1, epochID(1), r.Before(), wal.ErrGap},
	} {
		if err := x.f.Join(2, c.before, c.id, c.crc); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := x.f.Join(1, head, epochID(1), r.Before()); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("an older epoch: %v", err)
	}
	if f := x.f.Facts(); f.Head != head {
		t.Fatalf("head %d, was %d", f.Head, head)
	}
	x.ship()
	x.same()
	x.close()
}

// FuzzReceive: no bytes of a peer are a panic, and whatever was taken can be replayed.
func FuzzReceive(f *testing.F) {
	x := newPair(f, 256<<10, 256<<10)
	x.fill(5, 1)
	x.must(second(x.p.Resize(f.Context(), 2*testSize, true)))
	f.Add(records(f, x.p, 1), uint16(30), byte(1), uint16(0))
	f.Add(records(f, x.p, 1), uint16(52), byte(5), uint16(1))
	f.Add(records(f, x.p, 3), uint16(8), byte(0), uint16(3))
	x.close()
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, b byte, lsn uint16) {
		if len(raw) > 1<<16 {
			return
		}
		if at >= 8 && int(at) < wal.RecordHeaderBytes && sized(raw) {
			raw = resealed(raw, block.LSN(lsn), func(r []byte) { r[at] = b })
		}
		d := disk.New(disk.Config{})
		x := &pair{TB: t}
		x.must(createCopy(d, 2, 256<<10))
		v := x.open(d, 2)
		x.must(v.Follow(1, epochID(1)))
		applied, err := v.Receive(1, raw)
		if err == nil && len(raw) > 0 && applied == 0 {
			t.Error("neither taken nor refused")
		}
		d.Kill()
		v = x.open(d, 2)
		if v.log.Head() != applied {
			t.Errorf("head %d, applied %d", v.log.Head(), applied)
		}
		x.must(v.Close())
	})
}

// sized tells whether raw splits into records by their lengths.
func sized(raw []byte) bool {
	for len(raw) > 0 {
		if len(raw) < wal.RecordHeaderBytes {
			return false
		}
		n := uint64(wal.RecordHeaderBytes) + uint64(binary.LittleEndian.Uint32(raw[48:]))
		if uint64(len(raw)) < n {
			return false
		}
		raw = raw[n:]
	}
	return true
}
