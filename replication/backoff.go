package replication

import (
	"context"
	"time"
)

// Backoff says how long to wait between tries to connect: twice as long each time, of which up to half is left to chance, so
// that nodes that lost each other at once do not come back at once. Where Least and Most are 0 it waits
// 100 ms to 5 s.
type Backoff struct {
	Least, Most time.Duration
	// Random returns a number of [0, 1). Required.
	Random func() float64

	next time.Duration
}

// Next returns how long to wait now.
func (b *Backoff) Next() time.Duration {
	least, most := orElse(b.Least, 100*time.Millisecond), orElse(b.Most, 5*time.Second)
	wait := min(max(b.next, least), most)
	b.next = 2 * wait
	return wait - time.Duration(b.Random()*float64(wait/2))
}

// Reset begins anew: a connection was good for something.
func (b *Backoff) Reset() { b.next = 0 }

// pause waits, or until the context ends; it reports whether it did not.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
