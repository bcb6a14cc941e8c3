package wal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

// golden compares bytes with testdata, where they stand in hex, 32 bytes a line.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var b strings.Builder
		for rest := got; len(rest) > 0; rest = rest[min(32, len(rest)):] {
			b.WriteString(hex.EncodeToString(rest[:min(32, len(rest))]) + "\n")
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%s: %d bytes differ from the golden %d at byte %d", name, len(got), len(want), i)
		}
	}
}

const testBlockBytes = 512

var (
	testVolume = uuid.UUID{15: 1}
	testCopy   = uuid.UUID{15: 2}
)

// testRecords is one record of each type, with LSNs from 7 on.
func testRecords() []Record {
	return []Record{
		{Type: RecordEpochStart, LSN: 7, Epoch: 3, Time: 1, Payload: epochStartPayload(uuid.UUID{15: 3}, uuid.UUID{15: 4})},
		{Type: RecordWrite, LSN: 8, Epoch: 3, Range: block.Range{Start: 5, Count: 2}, Time: 1 << 60, Payload: bytes.Repeat([]byte("written."), 128)},
		{Type: RecordZero, LSN: 9, Epoch: 3, Range: block.Range{Start: 1 << 40, Count: 3}, Time: -1},
		{Type: RecordTrim, LSN: 10, Epoch: 3, Range: block.Range{Start: 0, Count: 1 << 41}, Time: 2},
	}
}

// allRecords has one of each type; a frame's golden bytes are of those that there were at first.
func allRecords() []Record {
	c := ResizeChange(1<<30, 1<<31)
	return append(testRecords(), Record{Type: c.Type, LSN: 11, Epoch: 3, Range: c.Range, Time: 3, Payload: c.Payload})
}

func encodeRecord(r Record) []byte {
	b := make([]byte, RecordHeaderBytes, RecordHeaderBytes+len(r.Payload))
	r.encodeHeader(b)
	return append(b, r.Payload...)
}

// encodeFrame builds a whole frame, without padding, by itself: not as Append does.
func encodeFrame(f frame, seed uint32, records ...Record) []byte {
	b := make([]byte, frameHeaderBytes)
	for _, r := range records {
		b = append(b, encodeRecord(r)...)
	}
	f.length, f.records = len(b)-frameHeaderBytes, len(records)
	f.encode(b)
	crc := crc32.Update(seed, castagnoli, b[frameOffPrevious:frameHeaderBytes])
	off := frameHeaderBytes
	for _, r := range records {
		crc = crc32.Update(crc, castagnoli, b[off:off+RecordHeaderBytes])
		off += RecordHeaderBytes + len(r.Payload)
	}
	putCRC(b, frameOffCRC, crc)
	return b
}

func putCRC(b []byte, off int, crc uint32) {
	b[off], b[off+1], b[off+2], b[off+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
}

func testFrame() frame {
	return frame{previous: 0xfeedbeef, incarnation: 4, segment: 6, first: 7, durable: 5, committed: 4}
}

func testHeader() segmentHeader {
	return segmentHeader{
		volume: testVolume, copy: testCopy, sequence: 6, previous: 5, incarnation: 4, first: 7,
		size: 72 << 10, previousCRC: 0xfeedbeef, blockBytes: testBlockBytes, grid: gridBytes,
		previousRecord: 0xabad1dea,
	}
}

// wantError checks that err wraps one sentinel, and none of the others.
func wantError(t *testing.T, what string, err, want error, others ...error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	for _, o := range others {
		if o != want && errors.Is(err, o) {
			t.Errorf("%s: %v is also %v", what, err, o)
		}
	}
}
