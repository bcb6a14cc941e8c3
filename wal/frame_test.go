package wal

import (
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"lockstep/block"
)

var frameErrors = []error{ErrFrameMagic, ErrFrameVersion, ErrFrameTorn, ErrFrameCorrupt}

const testSeed = 0x1234

func decodeTestFrame(b []byte) (frame, []Record, error) {
	var records []Record
	f, err := decodeFrame(b, testSeed, testBlockBytes, true, func(r Record, _ int) { records = append(records, r) })
	return f, records, err
}

// TestFrameGolden: a frame with a record of each type, and a mark frame.
func TestFrameGolden(t *testing.T) {
	for name, records := range map[string][]Record{"frame_records": testRecords(), "frame_mark": nil} {
		b := encodeFrame(testFrame(), testSeed, records...)
		golden(t, name, b)
		f, got, err := decodeTestFrame(append(b, "what follows is not its own"...))
		if err != nil {
			t.Fatalf("decode %s: %v", name, err)
		}
		want := testFrame()
		want.crc, want.length, want.records = f.crc, len(b)-frameHeaderBytes, len(records)
		if f != want || f.size() != int64(len(b)) || f.next() != 7+block.LSN(len(records)) {
			t.Errorf("%s is %+v, want %+v", name, f, want)
		}
		if !slices.EqualFunc(got, records, func(a, b Record) bool { return string(encodeRecord(a)) == string(encodeRecord(b)) }) {
			t.Errorf("%s has the records %+v, want %+v", name, got, records)
		}
	}
}

// TestFrameAsAppended: L1: the bytes of Append are those of the format, with the record as it is on every node, at the
// position that Append named, and zeroes after it.
func TestFrameAsAppended(t *testing.T) {
	l, dir := newMemoryLog(t)
	l.SetCommitted(1)
	want := testRecords()[1:]
	changes := make([]Change, len(want))
	for i, r := range want {
		changes[i] = Change{Type: r.Type, Range: r.Range, Payload: r.Payload}
	}
	mark := l.Durable()
	previous := l.lastCRC
	at := l.chain[0].end
	if err := l.Append(changes, 99); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].LSN, want[i].Epoch, want[i].Time = block.LSN(2+i), 1, 99
	}
	b := encodeFrame(frame{previous: previous, incarnation: 1, segment: 1, first: 2, durable: mark, committed: 1}, l.seed, want...)
	b = append(b, make([]byte, alignUp(int64(len(b)), gridBytes)-int64(len(b)))...)
	got := make([]byte, len(b))
	if err := l.chain[0].ReadAt(got, at); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(b) {
		t.Errorf("appended\n%x\nwant\n%x", got, b)
	}
	for i, c := range changes {
		whole := make([]byte, RecordHeaderBytes+len(c.Payload))
		s := l.Pin(c.Position.Segment)
		if err := s.ReadAt(whole, c.Position.Offset-RecordHeaderBytes); err != nil {
			t.Fatal(err)
		}
		s.Unpin()
		if string(whole) != string(encodeRecord(want[i])) || c.LSN != want[i].LSN {
			t.Errorf("record %d (LSN %d) is not at its position", i, c.LSN)
		}
	}
	if names, _ := dir.List(); len(names) != 1 {
		t.Errorf("files %v, want one", names)
	}
}

// TestFrameFlips: no byte of a frame can change unseen.
func TestFrameFlips(t *testing.T) {
	for _, records := range [][]Record{testRecords(), nil} {
		b := encodeFrame(testFrame(), testSeed, records...)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				if _, _, err := decodeTestFrame(b); err == nil {
					t.Fatalf("a frame of %d records with bit %d of byte %d flipped decodes", len(records), bit, i)
				}
				b[i] ^= 1 << bit
			}
		}
	}
}

// TestFrameTorn: every prefix of a frame is torn, not corrupt.
func TestFrameTorn(t *testing.T) {
	b := encodeFrame(testFrame(), testSeed, testRecords()...)
	for n := range b {
		_, _, err := decodeTestFrame(b[:n])
		wantError(t, "prefix", err, ErrFrameTorn, frameErrors...)
	}
}

// TestFrameRefused: not ours, a future version and lengths that make no sense are told apart before anything is
// allocated or read for them.
func TestFrameRefused(t *testing.T) {
	records := testRecords()
	gap := testRecords()
	gap[2].LSN++
	for name, c := range map[string]struct {
		records []Record
		change  func(b []byte)
		want    error
	}{
		"not ours":       {records, func(b []byte) { b[3]++ }, ErrFrameMagic},
		"future version": {records, func(b []byte) { b[frameOffVersion] = 2 }, ErrFrameVersion},
		"future flag":    {records, func(b []byte) { b[frameOffFlags+1] = 1; sealTestFrame(b, records) }, ErrNewer},
		"flag by a flip": {records, func(b []byte) { b[frameOffFlags+1] = 1 }, ErrFrameCorrupt},
		"record of the future": {records, func(b []byte) {
			b[frameHeaderBytes+recordOffVersion] = 2
			sealRecord(b[frameHeaderBytes:])
			sealTestFrame(b, records)
		}, ErrNewer},
		"not ours, future version": {records, func(b []byte) { b[3]++; b[frameOffVersion] = 2 }, ErrFrameMagic},
		"4 GiB":                    {records, func(b []byte) { fill(b[frameOffLength:frameOffRecords]) }, ErrFrameCorrupt},
		"4 G records":              {records, func(b []byte) { fill(b[frameOffRecords:frameHeaderBytes]) }, ErrFrameCorrupt},
		"mark with bytes":          {records, func(b []byte) { clear(b[frameOffRecords:frameHeaderBytes]) }, ErrFrameCorrupt},
		"records without bytes":    {nil, func(b []byte) { b[frameOffRecords] = 1 }, ErrFrameCorrupt},
		"LSN 0":                    {records, func(b []byte) { clear(b[frameOffFirst:frameOffDurable]) }, ErrFrameCorrupt},
		"LSNs overflow":            {records, func(b []byte) { fill(b[frameOffFirst:frameOffDurable]) }, ErrFrameCorrupt},
		"a record fewer":           {records, func(b []byte) { b[frameOffRecords]-- }, ErrFrameCorrupt},
		"LSNs with a gap":          {gap, func([]byte) {}, ErrFrameCorrupt},
		"of another copy":          {records, func(b []byte) { copy(b, encodeFrame(testFrame(), testSeed+1, records...)) }, ErrFrameCorrupt},
	} {
		b := encodeFrame(testFrame(), testSeed, c.records...)
		c.change(b)
		_, _, err := decodeTestFrame(b)
		if c.want == ErrNewer {
			wantError(t, name, err, c.want, ErrFrameCorrupt, ErrFrameTorn, ErrFrameMagic)
			continue
		}
		wantError(t, name, err, c.want, append(frameErrors, ErrNewer)...)
	}
}

// sealTestFrame gives the bytes of a frame of these records the CRC that they should have.
func sealTestFrame(b []byte, records []Record) {
	crc := crc32.Update(testSeed, castagnoli, b[frameOffPrevious:frameHeaderBytes])
	off := frameHeaderBytes
	for _, r := range records {
		crc = crc32.Update(crc, castagnoli, b[off:off+RecordHeaderBytes])
		off += RecordHeaderBytes + len(r.Payload)
	}
	putCRC(b, frameOffCRC, crc)
}

// TestFrameSeed: the frames of two copies start from different CRCs, so a log inside a volume is not part of the log.
func TestFrameSeed(t *testing.T) {
	if frameSeed(testCopy) == frameSeed(testVolume) {
		t.Error("two copies have one seed")
	}
}

// FuzzDecodeFrame: whatever the bytes, decoding does not panic, and what decodes encodes to the same bytes.
func FuzzDecodeFrame(f *testing.F) {
	f.Add(encodeFrame(testFrame(), testSeed, testRecords()...))
	f.Add(encodeFrame(testFrame(), testSeed))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, records, err := decodeTestFrame(b)
		if err != nil {
			known := false
			for _, e := range append(frameErrors, ErrNewer) {
				known = known || errors.Is(err, e)
			}
			if !known || records != nil {
				t.Fatalf("%d records with the error %v", len(records), err)
			}
			return
		}
		if again := encodeFrame(h, testSeed, records...); string(again) != string(b[:h.size()]) {
			t.Fatalf("%+v is not what stands in % x", h, b)
		}
	})
}
