package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"

	"lockstep/block"
)

var recordErrors = []error{ErrRecordMagic, ErrRecordVersion, ErrRecordTorn, ErrRecordCorrupt}

// sealRecord gives bytes of a record the CRC that they should have.
func sealRecord(b []byte) {
	n := RecordHeaderBytes + int64(binary.LittleEndian.Uint32(b[recordOffLength:]))
	putCRC(b, recordOffCRC, crc32.Checksum(b[recordOffLSN:min(n, int64(len(b)))], castagnoli))
}

// TestRecordGolden: what was once written is read for ever, and what is written today could be read then.
func TestRecordGolden(t *testing.T) {
	for _, want := range allRecords() {
		b := encodeRecord(want)
		golden(t, "record_"+want.Type.String(), b)
		got, n, err := decodeRecord(b, testBlockBytes)
		if err != nil || n != len(b) {
			t.Fatalf("decode %s: %d of %d bytes, %v", want.Type, n, len(b), err)
		}
		if len(want.Payload) == 0 {
			want.Payload = []byte{}
		}
		want.CRC = binary.LittleEndian.Uint32(b[recordOffCRC:])
		want.CRC = binary.LittleEndian.Uint32(b[recordOffCRC:])
		if !reflect.DeepEqual(got, want) {
			t.Errorf("decoded %+v, want %+v", got, want)
		}
	}
}

// TestRecordEpochStart: an epoch-start record is a lineage entry.
func TestRecordEpochStart(t *testing.T) {
	r := testRecords()[0]
	want := block.EpochStart{Epoch: 3, ID: [16]byte{15: 3}, Primary: [16]byte{15: 4}, First: 7}
	if got := r.EpochStart(); got != want {
		t.Errorf("EpochStart = %+v, want %+v", got, want)
	}
}

// TestRecordResize: a resize record says where the volume ends, at either end of what it touches and nowhere else. A longer
// one of a later version is read by this one.
func TestRecordResize(t *testing.T) {
	for _, c := range []struct {
		from, to, said uint64
		want           error
	}{
		{10, 30, 30, nil}, {30, 10, 10, nil},
		{10, 30, 20, ErrRecordCorrupt}, {10, 30, 31, ErrRecordCorrupt}, {0, 30, 0, ErrRecordCorrupt},
	} {
		change := ResizeChange(c.from, c.to)
		payload := binary.LittleEndian.AppendUint64(nil, c.said)
		b := encodeRecord(Record{Type: RecordResize, LSN: 1, Range: change.Range, Payload: append(payload, 1, 2, 3)})
		r, _, err := decodeRecord(b, testBlockBytes)
		if !errors.Is(err, c.want) || err == nil && r.Range != change.Range {
			t.Errorf("from %d to %d, saying %d: %+v, %v", c.from, c.to, c.said, r, err)
		}
		if err != nil {
			continue
		}
		if got, err := r.Resize(); err != nil || got != c.to {
			t.Errorf("from %d to %d: %d, %v", c.from, c.to, got, err)
		}
	}
}

// TestRecordFlips: no byte of a record can change unseen.
func TestRecordFlips(t *testing.T) {
	for _, r := range allRecords() {
		whole := encodeRecord(r)
		for i := range whole {
			for bit := range 8 {
				whole[i] ^= 1 << bit
				_, _, err := decodeRecord(whole, testBlockBytes)
				whole[i] ^= 1 << bit
				if err == nil {
					t.Fatalf("%s with bit %d of byte %d flipped decodes", r.Type, bit, i)
				}
			}
		}
	}
}

// TestRecordTorn: every prefix of a record is torn, not corrupt.
func TestRecordTorn(t *testing.T) {
	for _, r := range allRecords() {
		whole := encodeRecord(r)
		for n := range whole {
			_, _, err := decodeRecord(whole[:n], testBlockBytes)
			wantError(t, r.Type.String(), err, ErrRecordTorn, recordErrors...)
		}
	}
}

// TestRecordRefused: not ours, a future version and a shape that makes no sense are different errors, also where the
// CRC is right.
func TestRecordRefused(t *testing.T) {
	for name, c := range map[string]struct {
		index  int // of allRecords
		change func(b []byte)
		want   error
	}{
		"not ours":                  {1, func(b []byte) { b[0]++ }, ErrRecordMagic},
		"zeroes":                    {1, func(b []byte) { clear(b) }, ErrRecordMagic},
		"future version":            {1, func(b []byte) { b[recordOffVersion] = 2 }, ErrRecordVersion},
		"not ours, future version":  {1, func(b []byte) { b[0]++; b[recordOffVersion] = 2 }, ErrRecordMagic},
		"future flag":               {1, func(b []byte) { b[recordOffFlags] = 1 }, ErrRecordVersion},
		"future field":              {1, func(b []byte) { b[recordOffSpare+7] = 1 }, ErrRecordVersion},
		"future type":               {2, func(b []byte) { b[recordOffType] = 6 }, ErrRecordVersion},
		"no LSN":                    {1, func(b []byte) { clear(b[recordOffLSN : recordOffLSN+8]) }, ErrRecordCorrupt},
		"range overflows":           {3, func(b []byte) { fill(b[recordOffBlock:recordOffCount]) }, ErrRecordCorrupt},
		"write of no blocks":        {1, func(b []byte) { b[recordOffCount] = 0 }, ErrRecordCorrupt},
		"write of 2^63 blocks":      {1, func(b []byte) { b[recordOffCount+7] = 0x80 }, ErrRecordCorrupt},
		"write of more than 1 MiB":  {1, func(b []byte) { b[recordOffCount+1] = 0x10 }, ErrRecordCorrupt},
		"payload too short":         {1, func(b []byte) { b[recordOffLength+1] = 2 }, ErrRecordCorrupt},
		"payload of 4 GiB":          {1, func(b []byte) { fill(b[recordOffLength:recordOffType]) }, ErrRecordCorrupt},
		"trim with payload":         {1, func(b []byte) { b[recordOffType] = byte(RecordTrim) }, ErrRecordCorrupt},
		"zero of no blocks":         {2, func(b []byte) { clear(b[recordOffCount:recordOffTime]) }, ErrRecordCorrupt},
		"epoch start with blocks":   {0, func(b []byte) { b[recordOffCount] = 1 }, ErrRecordCorrupt},
		"epoch start without IDs":   {0, func(b []byte) { b[recordOffLength] = 31 }, ErrRecordCorrupt},
		"resize over no blocks":     {4, func(b []byte) { clear(b[recordOffCount:recordOffTime]) }, ErrRecordCorrupt},
		"resize without the size":   {4, func(b []byte) { b[recordOffLength] = 7 }, ErrRecordCorrupt},
		"header's CRC is not right": {2, func(b []byte) { b[recordOffCRC] ^= 1 }, ErrRecordCorrupt},
	} {
		b := append(encodeRecord(allRecords()[c.index]), make([]byte, 8)...)
		c.change(b)
		if name != "header's CRC is not right" {
			sealRecord(b)
		}
		_, _, err := decodeRecord(b, testBlockBytes)
		wantError(t, name, err, c.want, recordErrors...)
	}
}

func fill(b []byte) {
	for i := range b {
		b[i] = 0xff
	}
}

// TestRecordLimit: L11: a payload of 1 MiB is a record, a block more is none, whatever the block size.
func TestRecordLimit(t *testing.T) {
	for _, blockBytes := range []int{512, 4096, 1 << 20} {
		r := Record{Type: RecordWrite, LSN: 1, Range: block.Range{Count: uint64(MaxPayloadBytes / blockBytes)}}
		if err := r.checkShape(MaxPayloadBytes, blockBytes); err != nil {
			t.Errorf("1 MiB in blocks of %d: %v", blockBytes, err)
		}
		r.Range.Count++
		err := r.checkShape(MaxPayloadBytes+blockBytes, blockBytes)
		wantError(t, "a block above 1 MiB", err, ErrRecordCorrupt, recordErrors...)
	}
}

// TestRecordTypeNames: every type has a word, and an unknown one is named by its number.
func TestRecordTypeNames(t *testing.T) {
	names := []string{}
	for _, r := range allRecords() {
		names = append(names, r.Type.String())
	}
	if got := strings.Join(append(names, RecordType(9).String()), ","); got != "epoch,write,zero,trim,resize,type 9" {
		t.Errorf("names are %s", got)
	}
}

// FuzzDecodeRecord: whatever the bytes, decoding does not panic; what decodes encodes to the same bytes.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range allRecords() {
		f.Add(encodeRecord(r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := decodeRecord(b, testBlockBytes)
		if err != nil {
			known := false
			for _, e := range recordErrors {
				known = known || errors.Is(err, e)
			}
			if !known {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if n > len(b) || string(encodeRecord(r)) != string(b[:n]) {
			t.Fatalf("%+v is not what stands in % x", r, b)
		}
	})
}
