package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
)

// openThree has a log in memory with three synced records, each in a frame of its own.
func openThree(t *testing.T) (Config, *Log) {
	t.Helper()
	cfg := Config{
		FS: NewMemoryDir(), VolumeID: uuid.UUID{15: 1}, CopyID: uuid.UUID{15: 2}, BlockBytes: 512,
		SegmentBytes: 72 << 10, BudgetBytes: 6 * 72 << 10, Logger: zerolog.Nop(),
	}
	if err := Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Harden(), l.Start(1)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Append([]Change{{Type: RecordTrim, Range: block.Range{Count: 1}}}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	cfg.Incarnation = 1
	return cfg, l
}

// TestI6RecordsOfANewerProgram: what is sound and unknown was written by a newer program, and is an error; it is not a
// torn tail, which would be cut.
func TestI6RecordsOfANewerProgram(t *testing.T) {
	for name, patch := range map[string]func(frame, record []byte){
		"type":         func(_, r []byte) { r[recordOffType] = 9 },
		"version":      func(_, r []byte) { r[recordOffVersion] = 2 },
		"flags":        func(_, r []byte) { r[recordOffFlags] = 1 },
		"frame's flag": func(f, _ []byte) { f[frameOffFlags] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, l := openThree(t)
			at := int64(segmentDataOffset + gridBytes) // the second frame
			b := make([]byte, frameHeaderBytes+RecordHeaderBytes)
			if err := l.chain[0].ReadAt(b, at); err != nil {
				t.Fatal(err)
			}
			r := b[frameHeaderBytes:]
			patch(b, r)
			binary.LittleEndian.PutUint32(r[recordOffCRC:], crc32.Checksum(r[recordOffLSN:], castagnoli))
			sealFrame(b, l.seed)
			if _, err := l.chain[0].file.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(cfg, nil); !errors.Is(err, ErrNewer) {
				t.Errorf("open: %v", err)
			}
			if _, err := Inspect(cfg, Visitor{}); !errors.Is(err, ErrNewer) {
				t.Errorf("inspect: %v", err)
			}
		})
	}
}

// TestEpochStartMayGrow: a longer epoch-start record of a later version is read by this one.
func TestEpochStartMayGrow(t *testing.T) {
	want := block.EpochStart{Epoch: 3, ID: uuid.UUID{1}, Primary: uuid.UUID{2}, First: 7}
	r := Record{Type: RecordEpochStart, LSN: 7, Epoch: 3, Payload: append(epochStartPayload(want.ID, want.Primary), make([]byte, 40)...)}
	b := make([]byte, RecordHeaderBytes, 256)
	r.encodeHeader(b)
	got, _, err := decodeRecord(append(b, r.Payload...), 512)
	if err != nil || got.EpochStart() != want {
		t.Fatalf("%+v, %v", got.EpochStart(), err)
	}
}

// TestSegmentNamesTheRecordBefore: a segment's header has the CRC of the record before its first one, also after the log
// was opened again, so that a session can name that record when the log begins there.
func TestSegmentNamesTheRecordBefore(t *testing.T) {
	cfg, l := openThree(t)
	write := []Change{{Type: RecordWrite, Range: block.Range{Count: 64}, Payload: make([]byte, 64*512)}}
	for i := range 5 {
		if i == 2 { // reopened in the middle of a segment
			if err := errors.Join(l.Mark(), l.Close()); err != nil {
				t.Fatal(err)
			}
			cfg.Durable = l.Head()
			var err error
			if l, err = Open(cfg, nil); err != nil {
				t.Fatal(err)
			}
			cfg.Incarnation++
			if err := errors.Join(l.Harden(), l.Start(cfg.Incarnation)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Append(write, 1); err != nil {
			t.Fatal(err)
		}
	}
	crc := make(map[block.LSN]uint32)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Inspect(cfg, Visitor{Record: func(r Record, _ Position) error {
		crc[r.LSN] = r.CRC
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.chain) < 3 {
		t.Fatalf("%d segments", len(l.chain))
	}
	for _, s := range l.chain[1:] {
		h, err := decodeSegmentHeader(s.header)
		if err != nil || h.previousRecord != crc[s.first-1] || h.previousRecord == 0 {
			t.Errorf("segment %s, first LSN %d: CRC %08x, %v, want %08x", s.name, s.first, h.previousRecord, err, crc[s.first-1])
		}
	}
}
