package volume

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/wal"
)

// openBench makes and opens a volume on the disk of the temporary directory, with its background work.
func openBench(b *testing.B, size int64) *Volume {
	dir := b.TempDir()
	base, err := backend.CreateFile(filepath.Join(dir, "base"), DataOffset+size, backend.Thin)
	if err != nil {
		b.Fatal(err)
	}
	cfg := Config{Base: base, Meta: openBenchDir(b, filepath.Join(dir, "meta")), Log: openBenchDir(b, filepath.Join(dir, "log")), Logger: zerolog.Nop()}
	if err := Create(cfg, Geometry{SizeBytes: size, BlockSize: 4096, LogBudgetBytes: 1 << 30}); err != nil {
		b.Fatal(err)
	}
	v, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = v.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		run.Wait()
		if err := v.Close(); err != nil {
			b.Error(err)
		}
		if err := base.Close(); err != nil {
			b.Error(err)
		}
	})
	return v
}

func openBenchDir(b *testing.B, path string) wal.FS {
	d, err := wal.CreateDir(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

// BenchmarkApply writes 4 KiB blocks at random, in batches.
func BenchmarkApply(b *testing.B) {
	for name, batch := range map[string]int{"1": 1, "32": 32} {
		b.Run(name, func(b *testing.B) {
			const size = 1 << 30
			v := openBench(b, size)
			data := make([]byte, 4096)
			changes := make([]Change, batch)
			b.SetBytes(4096)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				for j := range changes {
					changes[j] = Change{Kind: Write, Offset: rand.Int64N(size/4096) * 4096, Length: 4096, Data: data}
				}
				v.Apply(changes)
				if changes[0].Err != nil {
					b.Fatal(changes[0].Err)
				}
			}
		})
	}
}

// BenchmarkRead reads 4 KiB blocks at random, from the log and from the base image.
func BenchmarkRead(b *testing.B) {
	const size = 128 << 20
	for _, from := range []string{"log", "base"} {
		b.Run(from, func(b *testing.B) {
			v := openBench(b, size)
			data := make([]byte, 1<<20)
			for off := int64(0); off < size; off += 1 << 20 {
				one := []Change{{Kind: Write, Offset: off, Length: 1 << 20, Data: data}}
				if v.Apply(one); one[0].Err != nil {
					b.Fatal(one[0].Err)
				}
			}
			if from == "base" {
				if err := v.Checkpoint(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			p := make([]byte, 4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if ok, err := v.ReadNoWait(p, rand.Int64N(size/4096)*4096); err != nil || !ok {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
