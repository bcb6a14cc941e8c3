package node

import (
	"errors"
	"testing"
)

func TestLogBudget(t *testing.T) {
	const m, g = int64(1 << 20), int64(1 << 30)
	for _, c := range []struct {
		name                string
		asked, volume, free int64
		want                int64 // 0: refused
	}{
		{"large volume, large disk", 0, 1024 * g, 1024 * g, 4 * g},
		{"as large as the volume", 0, 1 * g, 100 * g, 1 * g},
		{"small volume", 0, 10 * m, 100 * g, 64 * m},
		{"64 MiB volume on a 200 MiB disk", 0, 64 * m, 200 * m, 50 * m},
		{"a quarter of the free space", 0, 100 * g, 10 * g, 2560 * m},
		{"rounded down to a MiB", 0, 100 * g, 4*(100*m) + 4*4095, 100 * m},
		{"least", 0, 1 * g, 64 * m, 16 * m},
		{"below the least", 0, 1 * g, 64*m - 4, 0},
		{"nothing free", 0, 1 * g, 0, 0},
		{"asked", 300 * m, 10 * m, 1 * g, 300 * m},
		{"asked for the least", 16 * m, 1 * g, 16 * m, 16 * m},
		{"asked for less than the least", 16*m - 1, 1 * g, 1 * g, 0},
		{"asked for more than is free", 1*g + 1, 1 * g, 1 * g, 0},
		{"asked for a negative size", -1, 1 * g, 1 * g, 0},
	} {
		got, err := LogBudget(c.asked, c.volume, c.free)
		if got != c.want {
			t.Errorf("%s: got %d, want %d (%v)", c.name, got, c.want, err)
		}
		if (c.want == 0) != errors.Is(err, ErrLogSize) {
			t.Errorf("%s: got error %v", c.name, err)
		}
	}
}
