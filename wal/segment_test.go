package wal

import (
	"hash/crc32"
	"strings"
	"testing"
)

var segmentErrors = []error{ErrSegmentMagic, ErrSegmentVersion, ErrSegmentFeature, ErrSegmentTorn, ErrSegmentCorrupt}

// sealSegment gives bytes of a segment header the CRC that they should have.
func sealSegment(b []byte) {
	putCRC(b, segmentOffCRC, 0)
	putCRC(b, segmentOffCRC, crc32.Checksum(b, castagnoli))
}

// TestSegmentGolden: a header in use, and one of a segment that holds nothing.
func TestSegmentGolden(t *testing.T) {
	used, empty := testHeader(), testHeader()
	used.compat = 1 << 63
	empty.sequence, empty.first = 0, 0
	for name, h := range map[string]segmentHeader{"segment": used, "segment_empty": empty} {
		b := h.encode()
		golden(t, name, b)
		got, err := decodeSegmentHeader(append(b, "frames"...))
		if err != nil || got != h {
			t.Errorf("decoded %+v, %v, want %+v", got, err, h)
		}
	}
}

// TestSegmentFlips: no byte of the header can change unseen.
func TestSegmentFlips(t *testing.T) {
	h := testHeader()
	b := h.encode()
	if len(b) != segmentHeaderBytes {
		t.Fatalf("a header of %d bytes", len(b))
	}
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, err := decodeSegmentHeader(b); err == nil {
				t.Fatalf("a header with bit %d of byte %d flipped decodes", bit, i)
			}
			b[i] ^= 1 << bit
		}
	}
}

// TestSegmentRefused: not ours, torn, corrupt, a future version and an unknown feature are five errors, also where the
// CRC is right.
func TestSegmentRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"not ours":       {func(b []byte) []byte { b[0]++; return b }, ErrSegmentMagic},
		"zeroes":         {func(b []byte) []byte { clear(b); return b }, ErrSegmentMagic},
		"future version": {func(b []byte) []byte { b[segmentOffVersion] = 2; return b }, ErrSegmentVersion},
		"torn":           {func(b []byte) []byte { return b[:511] }, ErrSegmentTorn},
		"nothing":        {func(b []byte) []byte { return nil }, ErrSegmentTorn},
		"another grid":   {func(b []byte) []byte { b[segmentOffGrid+1] = 8; return b }, ErrSegmentCorrupt},
		"no size":        {func(b []byte) []byte { clear(b[segmentOffSize:segmentOffPreviousCRC]); return b }, ErrSegmentCorrupt},
		"no first LSN":   {func(b []byte) []byte { clear(b[segmentOffFirst:segmentOffSize]); return b }, ErrSegmentCorrupt},
		"feature":        {func(b []byte) []byte { b[segmentOffIncompat+1] = 0x82; return b }, ErrSegmentFeature},
	} {
		h := testHeader()
		b := c.change(h.encode())
		if len(b) == segmentHeaderBytes {
			sealSegment(b)
		}
		_, err := decodeSegmentHeader(b)
		wantError(t, name, err, c.want, segmentErrors...)
		if c.want == ErrSegmentFeature && !strings.Contains(err.Error(), "0x8200") {
			t.Errorf("%s: %v does not name the bits 0x8200", name, err)
		}
	}
}

// FuzzDecodeSegmentHeader: whatever the bytes, decoding does not panic, and what decodes encodes to the same bytes.
func FuzzDecodeSegmentHeader(f *testing.F) {
	h := testHeader()
	f.Add(h.encode())
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeSegmentHeader(b)
		if err != nil {
			return
		}
		// What the fields do not cover is reserved, and may be set by versions to come that are compatible.
		again := h.encode()
		got := append([]byte(nil), b[:segmentHeaderBytes]...)
		clear(got[segmentOffRecordCRC+4:])
		sealSegment(got)
		if string(again) != string(got) {
			t.Fatalf("%+v is not what stands in % x", h, b[:segmentHeaderBytes])
		}
	})
}
