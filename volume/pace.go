package volume

import (
	"cmp"
	"sync"
	"time"
)

// pacer slows changes down as the log fills, so that they never run into a full log at speed: from half the budget on
// each byte is delayed, at three quarters by as much as the checkpoints take to drain it, beyond by more (L11). The
// delay is the volume's: callers take turns, however many there are.
type pacer struct {
	fill   func() float64 // share of the budget that is taken, 0 to 1
	delays waits

	mu sync.Mutex
	// drainBytesPerSecond is what the last checkpoints moved; 0 before the first, when it is taken for paceDrain.
	drainBytesPerSecond float64
	// next is when the delays of all changes so far are over. What lies between now and then is owed: callers sleep
	// until their own change's delay is over, but for what is too short or too long to sleep.
	next time.Time
}

const (
	paceFrom     = 0.5
	paceDrain    = 200 << 20              // bytes per second
	paceSleepMin = time.Millisecond       // shorter sleeps take longer than they say
	paceSleepMax = 500 * time.Millisecond // of one change
	paceOwedMax  = 4 * paceSleepMax
)

// wait delays the caller for a change of so many bytes.
func (p *pacer) wait(bytes int64) {
	fill := p.fill()
	if fill < paceFrom {
		return
	}
	if d := p.charge(time.Now(), fill, bytes); d > 0 {
		p.delays.add(d)
		time.Sleep(d)
	}
}

// charge adds the delay for the bytes to what is owed, and returns what to sleep from now on.
func (p *pacer) charge(now time.Time, fill float64, bytes int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	drain := cmp.Or(p.drainBytesPerSecond, paceDrain)
	over := (min(fill, 1) - paceFrom) / (1 - paceFrom)
	factor := 4 * over * over // 1 at three quarters, 4 when full
	owed := max(p.next.Sub(now), 0) + time.Duration(factor*float64(bytes)/drain*float64(time.Second))
	p.next = now.Add(min(owed, paceOwedMax))
	if owed < paceSleepMin {
		return 0
	}
	return min(owed, paceSleepMax)
}

// drained tells the pacer what a checkpoint moved.
func (p *pacer) drained(bytes int64, took time.Duration) {
	if bytes < 1<<20 || took <= 0 {
		return // says nothing about speed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	rate := float64(bytes) / took.Seconds()
	if p.drainBytesPerSecond > 0 {
		rate = (rate + p.drainBytesPerSecond) / 2
	}
	p.drainBytesPerSecond = rate
}
