package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// latencyShift makes the first bucket of a Latency end at 2^12 ns.
	latencyShift = 12
	// latencyBounds makes the last bound 2^36 ns, 69 s.
	latencyBounds = 25
	// sizeBounds makes the last bound of a Size 2^15.
	sizeBounds = 16
)

// Latency counts durations. The first bucket has those up to 4.096 µs, each further one is up to twice as long, the
// last one has what took longer than 69 s. All methods may be called from many goroutines.
type Latency struct {
	counts [latencyBounds + 1]atomic.Uint64
	sumNs  atomic.Uint64
}

// Add counts a duration n times. One below zero counts as zero.
func (l *Latency) Add(d time.Duration, n int) {
	ns := uint64(max(d, 0))
	l.counts[bucket(ns, latencyShift, latencyBounds)].Add(uint64(n))
	l.sumNs.Add(ns * uint64(n))
}

// Merge counts all that other has counted, too.
func (l *Latency) Merge(other *Latency) {
	for i := range l.counts {
		l.counts[i].Add(other.counts[i].Load())
	}
	l.sumNs.Add(other.sumNs.Load())
}

// Snapshot returns what was counted, in seconds.
func (l *Latency) Snapshot() Snapshot {
	s := snapshot(l.counts[:], float64(1<<latencyShift)/float64(time.Second))
	s.Sum = float64(l.sumNs.Load()) / float64(time.Second)
	return s
}

// Size counts numbers of things. The first bucket has 0 and 1, each further one goes up to twice as many, the last one
// has what is above 32768. All methods may be called from many goroutines.
type Size struct {
	counts [sizeBounds + 1]atomic.Uint64
	sum    atomic.Uint64
}

// Add counts one occurrence of n things.
func (s *Size) Add(n uint64) {
	s.counts[bucket(n, 0, sizeBounds)].Add(1)
	s.sum.Add(n)
}

// Merge counts all that other has counted, too.
func (s *Size) Merge(other *Size) {
	for i := range s.counts {
		s.counts[i].Add(other.counts[i].Load())
	}
	s.sum.Add(other.sum.Load())
}

// Snapshot returns what was counted.
func (s *Size) Snapshot() Snapshot {
	shot := snapshot(s.counts[:], 1)
	shot.Sum = float64(s.sum.Load())
	return shot
}

// bucket is where a value belongs: the first bound is 2^shift, and there are so many bounds.
func bucket(value uint64, shift, bounds int) int {
	return min(bits.Len64((max(value, 1)-1)>>shift), bounds)
}

// Snapshot is what a histogram had counted at one moment.
type Snapshot struct {
	Bounds []float64 // the largest value of each bucket but the last, which has no bound
	Counts []uint64  // of each bucket by itself; one more than Bounds
	Count  uint64    // all of them
	Sum    float64   // of the values
}

func snapshot(counts []atomic.Uint64, first float64) Snapshot {
	s := Snapshot{Bounds: make([]float64, len(counts)-1), Counts: make([]uint64, len(counts))}
	for i := range s.Bounds {
		s.Bounds[i] = first
		first *= 2
	}
	for i := range counts {
		s.Counts[i] = counts[i].Load()
		s.Count += s.Counts[i]
	}
	return s
}
