package wal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// fuzzImage is a log of two segments, as files, and the records in it.
func fuzzImage(t testing.TB) (files map[string][]byte, records map[block.LSN]Record) {
	t.Helper()
	l, dir := newMemoryLog(t)
	for i := range 9 {
		if err := l.Append([]Change{
			{Type: RecordTrim, Range: block.Range{Start: uint64(i), Count: 2}},
			{Type: RecordWrite, Range: block.Range{Start: uint64(i), Count: 20}, Payload: bytes.Repeat([]byte{byte(i + 1)}, 20*testBlockBytes)},
		}, int64(i)); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if _, err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := l.Mark(); err != nil {
				t.Fatal(err)
			}
		}
	}
	names, err := dir.List()
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	for _, name := range names {
		b := make([]byte, testSegmentBytes)
		f, err := dir.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return files, replayed(t, dir)
}

func fuzzConfig(dir FS) Config {
	cfg := memoryConfig(dir)
	cfg.Incarnation = 1
	return cfg
}

// replayed opens the log and returns its records.
func replayed(t testing.TB, dir FS) map[block.LSN]Record {
	t.Helper()
	records := map[block.LSN]Record{}
	l, err := Open(fuzzConfig(dir), func(r Record, _ Position) error {
		r.Payload = bytes.Clone(r.Payload)
		records[r.LSN] = r
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return records
}

// FuzzOpen: whatever stands in a segment's file, or in a part of it, opening does not panic, replays nothing but records
// that were written, in order and without a gap, and the log that it opens goes on.
func FuzzOpen(f *testing.F) {
	files, written := fuzzImage(f)
	if len(written) != 19 || len(files) < 2 {
		f.Fatalf("%d records in %d files", len(written), len(files))
	}
	h := testHeader()
	f.Add(uint32(0), []byte{}, false)
	f.Add(uint32(0), h.encode(), true)
	f.Add(uint32(segmentDataOffset), make([]byte, 64), false)
	f.Add(uint32(segmentDataOffset+1024), files[segmentName(1)][segmentDataOffset:segmentDataOffset+1024], false)
	f.Add(uint32(0), files[segmentName(2)][:segmentDataOffset+20000], true)
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, whole bool) {
		dir := NewMemoryDir()
		for name, b := range files {
			if name == segmentName(1) {
				if whole {
					b = patch
				} else {
					b = bytes.Clone(b)
					copy(b[at%testSegmentBytes:], patch)
				}
			}
			writeFile(t, dir, name, b)
		}
		next := block.LSN(1)
		l, err := Open(fuzzConfig(dir), func(r Record, _ Position) error {
			if w, ok := written[r.LSN]; !ok || r.LSN != next || string(encodeRecord(w)) != string(encodeRecord(r)) {
				t.Fatalf("record %d was not written so, or does not follow record %d", r.LSN, next-1)
			}
			next++
			return nil
		})
		if err != nil {
			var damage *CorruptError
			if !errors.As(err, &damage) && !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrSegmentVersion) && !errors.Is(err, ErrSegmentFeature) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if l.Head() != next-1 {
			t.Fatalf("head is %d after record %d", l.Head(), next-1)
		}
		if err := errors.Join(l.Harden(), l.Start(2)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.StartEpoch(l.Epoch()+1, uuid.UUID{1}, uuid.UUID{2}, 1); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		cfg := fuzzConfig(dir)
		cfg.Incarnation = 2
		if l, err = Open(cfg, nil); err != nil || l.Head() != next {
			t.Fatalf("opened again: %v, want head %d", err, next)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func writeFile(t testing.TB, dir FS, name string, b []byte) {
	t.Helper()
	file, err := dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}
