package wal_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
	"lockstep/wal"
)

// benchConfig is a log of 4 KiB blocks on a real disk.
func benchConfig(b *testing.B, budget int64) wal.Config {
	dir, err := wal.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := dir.Close(); err != nil {
			b.Error(err)
		}
	})
	return wal.Config{
		FS: dir, VolumeID: uuid.UUID{1}, CopyID: uuid.UUID{2}, BlockBytes: 4096,
		SegmentBytes: wal.SegmentBytesFor(budget), BudgetBytes: budget, Logger: zerolog.Nop(),
	}
}

func benchLog(b *testing.B, cfg wal.Config) *wal.Log {
	if err := wal.Create(cfg); err != nil {
		b.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Harden(); err != nil {
		b.Fatal(err)
	}
	if err := l.Start(1); err != nil {
		b.Fatal(err)
	}
	return l
}

func benchChanges(n int) []wal.Change {
	changes := make([]wal.Change, n)
	for i := range changes {
		changes[i] = wal.Change{Type: wal.RecordWrite, Range: block.Range{Start: uint64(i), Count: 1}, Payload: make([]byte, 4096)}
	}
	return changes
}

func closeLog(b *testing.B, l *wal.Log) {
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppend appends records of 4 KiB in batches, with everything reclaimed at once.
func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			l := benchLog(b, benchConfig(b, 128<<20))
			changes := benchChanges(batch)
			b.SetBytes(int64(batch) * 4096)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := l.Append(changes, 1); err != nil {
					b.Fatal(err)
				}
				l.Reclaim(l.Head())
			}
			b.StopTimer()
			closeLog(b, l)
		})
	}
}

// BenchmarkSync appends one record of 4 KiB and syncs it.
func BenchmarkSync(b *testing.B) {
	l := benchLog(b, benchConfig(b, 64<<20))
	changes := benchChanges(1)
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := l.Append(changes, 1); err != nil {
			b.Fatal(err)
		}
		if _, err := l.Sync(); err != nil {
			b.Fatal(err)
		}
		l.Reclaim(l.Head())
	}
	b.StopTimer()
	closeLog(b, l)
}

// BenchmarkOpen opens a log of 1 GiB of 4 KiB records. The bar is 2 s.
func BenchmarkOpen(b *testing.B) {
	const records = 1 << 30 / 4096
	cfg := benchConfig(b, 1536<<20)
	l := benchLog(b, cfg)
	changes := benchChanges(32)
	for l.Head() < records {
		if err := l.Append(changes, 1); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := l.Sync(); err != nil {
		b.Fatal(err)
	}
	closeLog(b, l)
	cfg.Incarnation = 1
	b.SetBytes(1 << 30)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		found := 0
		l, err := wal.Open(cfg, func(wal.Record, wal.Position) error { found++; return nil })
		if err != nil || found != records {
			b.Fatalf("%d records, %v", found, err)
		}
		closeLog(b, l)
	}
}
