package wal

import (
	"errors"
	"hash/crc32"
	"testing"

	"lockstep/block"
)

// craft puts segments together by hand, so that each thing that ties a frame to the log can be wrong alone.
type craft struct {
	dir *MemoryDir
	cfg Config
}

func newCraft() *craft {
	dir := NewMemoryDir()
	cfg := memoryConfig(dir)
	cfg.Incarnation = 9
	return &craft{dir, cfg}
}

// segment writes a segment file with these frames, 4 KiB apart where they are apart at all.
func (c *craft) segment(t testing.TB, name string, h segmentHeader, frames ...[]byte) {
	t.Helper()
	f, err := c.dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(0, h.size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		t.Fatal(err)
	}
	off := int64(segmentDataOffset)
	for _, b := range frames {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		off += alignUp(int64(len(b)), gridBytes)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// head opens the log and returns where it ends.
func (c *craft) head(t testing.TB) (block.LSN, error) {
	t.Helper()
	l, err := Open(c.cfg, nil)
	if err != nil {
		return 0, err
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Head(), nil
}

func craftHeader() segmentHeader {
	h := testHeader()
	h.sequence, h.previous, h.previousCRC, h.first, h.incarnation = 3, 2, 77, 1, 4
	return h
}

func craftRecord(lsn block.LSN) Record {
	return Record{Type: RecordTrim, LSN: lsn, Epoch: 1, Range: block.Range{Start: 1, Count: 1}}
}

// crcOf is the CRC that stands in a frame.
func crcOf(b []byte) uint32 {
	f, err := decodeFrameHeader(b)
	if err != nil {
		panic(err)
	}
	return f.crc
}

// TestL2FrameOfTheLog: L1, L2: a frame that is whole belongs to the log only if its segment, its predecessor's CRC, its
// LSN, its incarnation and its copy are right, each by itself.
func TestL2FrameOfTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *frame)
		seed   uint32 // added
		want   block.LSN
	}{
		"right":                          {func(*frame) {}, 0, 2},
		"later incarnation":              {func(f *frame) { f.incarnation = 9 }, 0, 2},
		"of another segment sequence":    {func(f *frame) { f.segment = 2 }, 0, 1},
		"after another frame":            {func(f *frame) { f.previous++ }, 0, 1},
		"another LSN":                    {func(f *frame) { f.first++ }, 0, 1},
		"an older incarnation":           {func(f *frame) { f.incarnation = 4 }, 0, 1},
		"of another copy":                {func(*frame) {}, 1, 1},
		"of an incarnation that was cut": {func(f *frame) { f.incarnation = 6 }, 0, 1},
	} {
		k := newCraft()
		k.cfg.Cuts = []Cut{{LSN: 1, Incarnation: 6}}
		seed := frameSeed(testCopy)
		one := encodeFrame(frame{previous: 77, incarnation: 5, segment: 3, first: 1}, seed, craftRecord(1))
		f := frame{previous: crcOf(one), incarnation: 7, segment: 3, first: 2}
		if name == "an older incarnation" {
			k.cfg.Cuts = nil
		}
		c.change(&f)
		k.segment(t, segmentName(1), craftHeader(), one, encodeFrame(f, seed+c.seed, craftRecord(f.first)))
		if got, err := k.head(t); err != nil || got != c.want {
			t.Errorf("%s: the log ends at %d, %v, want %d", name, got, err, c.want)
		}
	}
}

// TestL2OlderThanItsSegment: a frame that a segment had from before it was begun again is not of the log, even where
// sequence and predecessor are the same.
func TestL2OlderThanItsSegment(t *testing.T) {
	for incarnation, want := range map[uint64]block.LSN{3: 0, 4: 1} {
		k := newCraft()
		k.segment(t, segmentName(1), craftHeader(),
			encodeFrame(frame{previous: 77, incarnation: incarnation, segment: 3, first: 1}, frameSeed(testCopy), craftRecord(1)))
		if got, err := k.head(t); err != nil || got != want {
			t.Errorf("frame of incarnation %d in a segment of 4: the log ends at %d, %v, want %d", incarnation, got, err, want)
		}
	}
}

// TestL2SuccessorOfTheLog: L2: a segment continues the log only if its header names its predecessor, the CRC of that
// one's last frame, the LSN that follows, and an incarnation that is not older.
func TestL2SuccessorOfTheLog(t *testing.T) {
	seed := frameSeed(testCopy)
	one := encodeFrame(frame{previous: 77, incarnation: 5, segment: 3, first: 1}, seed, craftRecord(1))
	for name, c := range map[string]struct {
		change func(h *segmentHeader)
		want   block.LSN
	}{
		"right":                  {func(*segmentHeader) {}, 2},
		"sequence with a gap":    {func(h *segmentHeader) { h.sequence = 8 }, 2},
		"a lower sequence":       {func(h *segmentHeader) { h.sequence = 1; h.first = 2 }, 1},
		"after another segment":  {func(h *segmentHeader) { h.previous = 2 }, 1},
		"after another frame":    {func(h *segmentHeader) { h.previousCRC++ }, 1},
		"a higher LSN":           {func(h *segmentHeader) { h.first = 3 }, 1},
		"an older incarnation":   {func(h *segmentHeader) { h.incarnation = 4 }, 1},
		"one that holds nothing": {func(h *segmentHeader) { h.sequence = 0 }, 1},
	} {
		k := newCraft()
		h := craftHeader()
		h.sequence, h.previous, h.previousCRC, h.first, h.incarnation = 4, 3, crcOf(one), 2, 5
		c.change(&h)
		two := encodeFrame(frame{previous: crcOf(one), incarnation: 5, segment: h.sequence, first: 2}, seed, craftRecord(2))
		k.segment(t, segmentName(1), craftHeader(), one)
		k.segment(t, segmentName(2), h, two)
		if got, err := k.head(t); err != nil || got != c.want {
			t.Errorf("%s: the log ends at %d, %v, want %d", name, got, err, c.want)
		}
	}
}

// TestL3WhichMarksCount: L3: behind the end of the chain a mark counts if this incarnation wrote it, wherever on the
// grid, whole or not, in whichever segment the log may go on to; marks of older incarnations do not, for the log may
// have been cut since.
func TestL3WhichMarksCount(t *testing.T) {
	seed := frameSeed(testCopy)
	for name, c := range map[string]struct {
		change  func(f *frame)
		sector  int // of the mark, after the torn frame
		torn    bool
		damaged bool
	}{
		"right behind":              {func(*frame) {}, 0, false, true},
		"far behind":                {func(*frame) {}, 100, false, true},
		"its payload torn":          {func(*frame) {}, 3, true, true},
		"of an older incarnation":   {func(f *frame) { f.incarnation = 8 }, 0, false, false},
		"below what is missing":     {func(f *frame) { f.durable = 1 }, 0, false, false},
		"exactly what is missing":   {func(f *frame) { f.durable = 2 }, 0, false, true},
		"for records yet to follow": {func(f *frame) { f.durable, f.segment = 2, 50 }, 5, false, true},
	} {
		k := newCraft()
		one := encodeFrame(frame{previous: 77, incarnation: 9, segment: 3, first: 1}, seed, craftRecord(1))
		gap := make([]byte, 512*(1+c.sector))
		f := frame{previous: 1, incarnation: 9, segment: 3, first: 9, durable: 5}
		c.change(&f)
		r := Record{Type: RecordWrite, LSN: f.first, Epoch: 1, Range: block.Range{Start: 1, Count: 1}, Payload: make([]byte, 512)}
		b := encodeFrame(f, seed, r)
		if c.torn {
			b[len(b)-1]++
		}
		k.segment(t, segmentName(1), craftHeader(), one, gap, b)
		got, err := k.head(t)
		var damage *CorruptError
		if errors.As(err, &damage) != c.damaged || (!c.damaged && (err != nil || got != 1)) {
			t.Errorf("%s: the log ends at %d, %v; damaged should be %v", name, got, err, c.damaged)
		}
		if damage != nil && (damage.LSN != 2 || damage.Durable != f.durable || damage.Offset != segmentDataOffset+512) {
			t.Errorf("%s: damage at %+v", name, damage)
		}
	}
}

// TestL12NewerThanBase: L12: frames of an incarnation that the base image does not know mean an old copy of it, in the
// chain and behind its end.
func TestL12NewerThanBase(t *testing.T) {
	seed := frameSeed(testCopy)
	one := encodeFrame(frame{previous: 77, incarnation: 10, segment: 3, first: 1}, seed, craftRecord(1))
	stray := encodeFrame(frame{previous: 5, incarnation: 10, segment: 3, first: 4, durable: 3}, seed, craftRecord(4))
	for name, frames := range map[string][][]byte{"in the chain": {one}, "behind its end": {make([]byte, 512), stray}} {
		k := newCraft()
		k.segment(t, segmentName(1), craftHeader(), frames...)
		if got, err := k.head(t); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: the log ends at %d, %v, want ErrMismatch", name, got, err)
		}
		k.cfg.Incarnation = 10
		if _, err := k.head(t); errors.Is(err, ErrMismatch) {
			t.Errorf("%s, with a base that knows of it: %v", name, err)
		}
	}
}

// TestNewerIsNeverTheEnd: a sound frame, or record in one, that only a newer program understands is neither a torn tail
// nor damage, in the chain and behind its end.
func TestNewerIsNeverTheEnd(t *testing.T) {
	seed := frameSeed(testCopy)
	flagged := func(f frame) []byte {
		b := encodeFrame(f, seed, craftRecord(f.first))
		b[frameOffFlags] = 1
		crc := crc32.Update(seed, castagnoli, b[frameOffPrevious:])
		putCRC(b, frameOffCRC, crc)
		return b
	}
	in := flagged(frame{previous: 77, incarnation: 9, segment: 3, first: 1})
	behind := flagged(frame{previous: 5, incarnation: 9, segment: 3, first: 4, durable: 3})
	for name, frames := range map[string][][]byte{"in the chain": {in}, "behind its end": {make([]byte, 512), behind}} {
		k := newCraft()
		k.segment(t, segmentName(1), craftHeader(), frames...)
		got, err := k.head(t)
		var damage *CorruptError
		if !errors.Is(err, ErrNewer) || errors.As(err, &damage) {
			t.Errorf("%s: the log ends at %d, %v, want ErrNewer", name, got, err)
		}
	}
}

// TestL12Mismatch: L12: segments that are not of this volume, this copy, this layout or this time are refused, and so
// are two that claim one place, and none at all. The error names the file.
func TestL12Mismatch(t *testing.T) {
	for name, change := range map[string]func(h *segmentHeader){
		"volume":      func(h *segmentHeader) { h.volume[3]++ },
		"copy":        func(h *segmentHeader) { h.copy[3]++ },
		"incarnation": func(h *segmentHeader) { h.incarnation = 10 },
		"block size":  func(h *segmentHeader) { h.blockBytes = 4096 },
		"size":        func(h *segmentHeader) { h.size += 4096 },
		"sequence":    func(h *segmentHeader) { h.sequence = 3; h.first = 5 },
	} {
		k := newCraft()
		k.segment(t, segmentName(1), craftHeader())
		h := craftHeader()
		h.sequence = 4
		change(&h)
		k.segment(t, segmentName(2), h)
		_, err := k.head(t)
		wantError(t, name, err, ErrMismatch)
		if in, err := Inspect(k.cfg, Visitor{}); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: inspect: %+v, %v", name, in, err)
		}
	}
	k := newCraft()
	_, err := k.head(t)
	wantError(t, "an empty directory", err, ErrMismatch)
}

// TestSegmentOfTheFutureRefusesToOpen: L9: a version or an incompatible feature that is not known is never taken for
// damage, nor for space that is free.
func TestSegmentOfTheFutureRefusesToOpen(t *testing.T) {
	for want, change := range map[error]func(b []byte){
		ErrSegmentVersion: func(b []byte) { b[segmentOffVersion]++ },
		ErrSegmentFeature: func(b []byte) { b[segmentOffIncompat] = 2 },
	} {
		k := newCraft()
		h := craftHeader()
		k.segment(t, segmentName(1), h)
		f, err := k.dir.Open(segmentName(1))
		if err != nil {
			t.Fatal(err)
		}
		b := h.encode()
		change(b)
		sealSegment(b)
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		_, err = k.head(t)
		wantError(t, "open", err, want)
	}
	// A compatible one is ignored.
	k := newCraft()
	h := craftHeader()
	h.compat = 1 << 40
	k.segment(t, segmentName(1), h)
	if _, err := k.head(t); err != nil {
		t.Errorf("unknown compatible feature: %v", err)
	}
}
