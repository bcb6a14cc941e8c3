package histogram

import (
	"math"
	"sync"
	"testing"
	"time"
)

// Each value is in the first bucket whose bound is not below it.
func TestBuckets(t *testing.T) {
	for _, c := range []struct {
		d      time.Duration
		bucket int
	}{
		{-1, 0}, {0, 0}, {1, 0}, {4096, 0}, {4097, 1}, {8192, 1}, {8193, 2}, {1 << 36, 24}, {1<<36 + 1, 25}, {1 << 60, 25},
	} {
		var l Latency
		l.Add(c.d, 3)
		s := l.Snapshot()
		if sum := 3 * max(c.d.Seconds(), 0); s.Counts[c.bucket] != 3 || s.Count != 3 || math.Abs(s.Sum-sum) > sum/1e9 {
			t.Errorf("%d ns: counts %v, sum %g; want 3 in bucket %d, sum %g", c.d, s.Counts, s.Sum, c.bucket, sum)
		}
		if c.bucket < len(s.Bounds) && c.d.Seconds() > s.Bounds[c.bucket] {
			t.Errorf("%d ns are in the bucket up to %g s", c.d, s.Bounds[c.bucket])
		}
		if c.bucket > 0 && c.d.Seconds() <= s.Bounds[c.bucket-1] {
			t.Errorf("%d ns are beyond the bucket up to %g s", c.d, s.Bounds[c.bucket-1])
		}
	}
	for n, bucket := range map[uint64]int{0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 32768: 15, 32769: 16} {
		var z Size
		z.Add(n)
		if s := z.Snapshot(); s.Counts[bucket] != 1 || s.Count != 1 || s.Sum != float64(n) {
			t.Errorf("%d: %+v, want bucket %d", n, s, bucket)
		}
	}
}

func TestMerge(t *testing.T) {
	var all, one Latency
	one.Add(time.Millisecond, 2)
	all.Add(time.Second, 1)
	all.Merge(&one)
	if s := all.Snapshot(); s.Count != 3 || s.Sum != 1.002 {
		t.Errorf("%+v", s)
	}
	var sizes, size Size
	size.Add(7)
	sizes.Add(2)
	sizes.Merge(&size)
	if s := sizes.Snapshot(); s.Count != 2 || s.Sum != 9 || s.Counts[3] != 1 {
		t.Errorf("%+v", s)
	}
}

// Nothing that many goroutines count is lost, and a snapshot meanwhile is whole.
func TestConcurrent(t *testing.T) {
	const goroutines, each = 8, 1000
	var l Latency
	var counting sync.WaitGroup
	for g := range goroutines {
		counting.Go(func() {
			for i := range each {
				l.Add(time.Duration(g*i), 1)
			}
		})
	}
	for last := uint64(0); last < goroutines*each; {
		s := l.Snapshot()
		if s.Count < last || s.Count > goroutines*each {
			t.Fatalf("%d after %d", s.Count, last)
		}
		last = s.Count
	}
	counting.Wait()
	if s := l.Snapshot(); s.Count != goroutines*each {
		t.Errorf("%d of %d", s.Count, goroutines*each)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	var l Latency
	var s Size
	if n := testing.AllocsPerRun(100, func() { l.Add(time.Millisecond, 1); s.Add(3) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLatency(b *testing.B) {
	var l Latency
	for i := range b.N {
		l.Add(time.Duration(i), 1)
	}
}
