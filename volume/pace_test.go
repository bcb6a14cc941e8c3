package volume

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/wal"
)

// TestL11AdmissionSlowsSmoothly: the delay of a byte grows from nothing at half the budget on, without a jump, and is
// what the checkpoints take to drain it at three quarters.
func TestL11AdmissionSlowsSmoothly(t *testing.T) {
	const rate, bytes = 100 << 20, 64 << 10
	perByte := func(fill float64) float64 {
		p := pacer{drainBytesPerSecond: rate}
		begin := time.Unix(1, 0)
		now := begin
		for range 1000 {
			now = now.Add(p.charge(now, fill, bytes))
		}
		return now.Sub(begin).Seconds() / 1000 / bytes
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
			used, longest, now := float64(budget)*0.4, time.Duration(0), time.Unix(1, 0)
			for range 4 * budget / bytes {
				took := p.charge(now, max(used/budget, paceFrom), bytes)
				longest = max(longest, took)
				cost := time.Duration(float64(bytes) / (10 << 30) * 1e9) // of the append
				now = now.Add(took + cost)
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

// TestL11CallersShareTheDelay: however many clients there are, together they get what the log drains to; none sleeps for
// longer than paceSleepMax at a time, and none is left behind.
func TestL11CallersShareTheDelay(t *testing.T) {
	const rate, bytes, seconds = 100 << 20, 16 << 10, 10
	for _, callers := range []int{1, 4, 64, 256} {
		synctest.Test(t, func(t *testing.T) {
			p := pacer{fill: func() float64 { return 0.75 }, drainBytesPerSecond: rate}
			var admitted atomic.Int64
			least := int64(math.MaxInt64)
			var mu sync.Mutex
			var wg sync.WaitGroup
			end := time.Now().Add(seconds * time.Second)
			for range callers {
				wg.Go(func() {
					own := int64(0)
					for {
						begin := time.Now()
						p.wait(bytes)
						if took := time.Since(begin); took > paceSleepMax {
							t.Errorf("%d callers: one slept for %v", callers, took)
						}
						if time.Now().After(end) {
							break
						}
						own += bytes
						time.Sleep(20 * time.Microsecond) // the change itself
					}
					admitted.Add(own)
					mu.Lock()
					defer mu.Unlock()
					least = min(least, own)
				})
			}
			wg.Wait()
			if got := float64(admitted.Load()) / (rate * seconds); got < 0.9 || got > 1.05 {
				t.Errorf("%d callers get %.2f of what the log drains", callers, got)
			}
			if fair := admitted.Load() / int64(callers); least < fair/2 {
				t.Errorf("%d callers: one got %d bytes of %d", callers, least, fair)
			}
		})
	}
}

// TestL11NoDelayIsAHardStop: not even of a huge change on a slow disk; what it owes beyond a bound is forgiven.
func TestL11NoDelayIsAHardStop(t *testing.T) {
	p := pacer{drainBytesPerSecond: 1 << 20}
	now := time.Unix(1, 0)
	for range 3 {
		if d := p.charge(now, 1, 1<<30); d != paceSleepMax {
			t.Errorf("a delay of %v", d)
		}
	}
	if d := p.charge(now.Add(paceOwedMax), 0.75, 1); d != 0 {
		t.Errorf("%v after the changes, one still waits %v", paceOwedMax, d)
	}
}

// TestL11DelayBelowHalfIsNone: below half the budget nobody waits; the speed of the base image is that of the last
// checkpoints.
func TestL11DelayBelowHalfIsNone(t *testing.T) {
	p := pacer{fill: func() float64 { return 0.49 }, drainBytesPerSecond: 1}
	p.wait(1 << 30)
	if !p.next.IsZero() {
		t.Errorf("below half the budget something is owed until %v", p.next)
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
