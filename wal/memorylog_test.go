package wal

import (
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

const testSegmentBytes = 72 << 10

func memoryConfig(fs FS) Config {
	return Config{
		FS: fs, VolumeID: testVolume, CopyID: testCopy, BlockBytes: testBlockBytes,
		SegmentBytes: testSegmentBytes, BudgetBytes: 8 * testSegmentBytes, Logger: zerolog.Nop(),
	}
}

// newMemoryLog is a log in memory in its first epoch, which is durable and marked.
func newMemoryLog(t testing.TB) (*Log, *MemoryDir) {
	t.Helper()
	dir := NewMemoryDir()
	if err := Create(memoryConfig(dir)); err != nil {
		t.Fatal(err)
	}
	l, err := Open(memoryConfig(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Harden(); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.StartEpoch(1, uuid.UUID{15: 3}, uuid.UUID{15: 4}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	return l, dir
}
