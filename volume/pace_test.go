package volume

import (
	"math"
	"testing"
	"time"

	"lockstep/wal"
)

// TestL11AdmissionSlowsSmoothly: the delay of a byte grows from nothing at half the budget on, without a jump, and is
// what the checkpoints take to drain it at three quarters.
func TestL11AdmissionSlowsSmoothly(t *testing.T) {
	const rate, bytes = 100 << 20, 64 << 10
	perByte := func(fill float64) float64 {
		p := pacer{drainBytesPerSecond: rate}
		var sum time.Duration
		for range 1000 {
			sum += p.charge(fill, bytes)
		}
		return sum.Seconds() / 1000 / bytes
	}
	slow := perByte(1)
	if full := 1.0 / rate; slow < full || slow > 10*full {
		t.Errorf("a full log delays a byte by %g s, it drains in %g s", slow, full)
	}
	if at := perByte(0.75); math.Abs(at*rate-1) > 0.1 {
		t.Errorf("at three quarters a byte is delayed by %g of what it takes to drain", at*rate)
	}
	before := perByte(paceFrom)
	if before != 0 {
		t.Errorf("at half the budget a byte is delayed by %g s", before)
	}
	for fill := paceFrom; fill < 1; fill += 0.01 {
		at := perByte(fill)
		if at < before*0.95 || at-before > slow/10 {
			t.Errorf("from %.2f to %.2f of the budget the delay goes from %g to %g s", fill-0.01, fill, before, at)
		}
		before = at
	}
}

// TestL11NobodyRunsIntoAFullLog: clients that write as fast as they are let, in small changes and large, never fill a
// log that drains at whatever speed, and none waits for a second.
func TestL11NobodyRunsIntoAFullLog(t *testing.T) {
	for _, rate := range []float64{5 << 20, 50 << 20, 2 << 30} {
		for _, bytes := range []int64{4 << 10, 256 << 10, batchBytes} {
			p := pacer{drainBytesPerSecond: rate}
			const budget = 1 << 30
			used, longest := float64(budget)*0.4, time.Duration(0)
			for range 4 * budget / bytes {
				took := p.charge(used/budget, bytes)
				longest = max(longest, took)
				cost := time.Duration(float64(bytes) / (10 << 30) * 1e9) // of the append
				used = max(used+float64(bytes)-(took+cost).Seconds()*rate, 0)
				if used/budget > 0.95 {
					t.Errorf("drain %g MB/s, changes of %d: the log is full", rate/1e6, bytes)
					break
				}
			}
			if longest >= time.Second {
				t.Errorf("drain %g MB/s, changes of %d: one waits for %v", rate/1e6, bytes, longest)
			}
		}
	}
}

// TestL11DelayBelowHalfIsNone: below half the budget nobody waits; the speed of the base image is that of the last
// checkpoints.
func TestL11DelayBelowHalfIsNone(t *testing.T) {
	p := pacer{fill: func() float64 { return 0.49 }, drainBytesPerSecond: 1}
	p.wait(1 << 30)
	if p.owed != 0 {
		t.Errorf("below half the budget %v are owed", p.owed)
	}
	p.drainBytesPerSecond = 0
	p.drained(1, time.Second) // too little to tell
	p.drained(100<<20, time.Second)
	p.drained(300<<20, time.Second)
	if p.drainBytesPerSecond != 200<<20 {
		t.Errorf("checkpoints of 100 and 300 MiB/s make %g", p.drainBytesPerSecond)
	}
}

// TestL11LargeWritesAreSplit: a write of 32 MiB is logged in records of at most 1 MiB, in order, without gap or
// overlap, and reads back; a trim of all of it is one record.
func TestL11LargeWritesAreSplit(t *testing.T) {
	const size = 40 << 20
	cfg, _, _ := memoryConfig(size)
	v := openMemory(t, cfg, size, 4096, 16<<20)
	first := v.log.Head() + 1
	w := filled(4096, 32<<20, 0)
	for i := range w.Data {
		w.Data[i] = byte(i>>12 + i)
	}
	mustApply(t, v, w)
	last := v.log.Head()
	mustApply(t, v, Change{Kind: Trim, Length: size})
	if n := v.log.Head() - last; n != 1 {
		t.Errorf("a trim made %d records", n)
	}
	next := uint64(1)
	if _, err := Inspect(cfg, wal.Visitor{Record: func(r wal.Record, _ wal.Position) error {
		if r.LSN < first || r.LSN > last {
			return nil
		}
		if len(r.Payload) > 1<<20 || r.Range.Start != next {
			t.Errorf("record %d: %d bytes at block %d, want at most 1 MiB at %d", r.LSN, len(r.Payload), r.Range.Start, next)
		}
		next = r.Range.End()
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	if next != 1+32<<8 {
		t.Errorf("the records end at block %d", next)
	}
}
