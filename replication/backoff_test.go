package replication

import (
	"slices"
	"testing"
	"time"
)

// TestBackoff: it waits twice as long each time up to the most, at least half of it, and begins anew after Reset.
func TestBackoff(t *testing.T) {
	chance := 0.0
	b := Backoff{Least: 100, Most: 1000, Random: func() float64 { return chance }}
	var got []time.Duration
	for i := range 7 {
		if i == 5 {
			chance = 0.5
		}
		got = append(got, b.Next())
	}
	b.Reset()
	chance = 0.999999
	got = append(got, b.Next(), b.Next())
	if want := []time.Duration{100, 200, 400, 800, 1000, 750, 750, 51, 101}; !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
}
