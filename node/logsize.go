package node

import (
	"errors"
	"fmt"

	"github.com/docker/go-units"
)

// ErrLogSize is returned where the log of a volume cannot be as large as it must be.
var ErrLogSize = errors.New("no room for the log")

const (
	// MinLogBytes is the least a volume's log may take.
	MinLogBytes = 16 << 20
	// A log of this size is made for the smallest volume, where there is room.
	smallLogBytes = 64 << 20
	// A larger log than this gains nothing that was measurable.
	maxDefaultLogBytes = 4 << 30
	// By default the log takes at most this share of the space that is free.
	defaultLogShare = 4
)

// LogBudget returns how many bytes the log of a volume of volumeBytes may take, where freeBytes are free on the file
// system it will be on. asked is what the operator wants, 0 for the default: as much as the volume, but at least
// 64 MiB and at most 4 GiB, and never more than a quarter of the free space. Below MinLogBytes, and where more than
// the free space is asked for, it returns an error that wraps ErrLogSize and has the numbers.
func LogBudget(asked, volumeBytes, freeBytes int64) (int64, error) {
	if asked != 0 {
		return askedLogBudget(asked, freeBytes)
	}
	budget := min(max(volumeBytes, smallLogBytes), maxDefaultLogBytes, freeBytes/defaultLogShare)
	budget -= budget % (1 << 20)
	if budget < MinLogBytes {
		return 0, fmt.Errorf("%w: a quarter of the %s that are free would be less than %s, the least a log may take; "+
			"make room, or put the log elsewhere with --wal-dir, or ask for a size with --wal-size",
			ErrLogSize, humanBytes(freeBytes), humanBytes(MinLogBytes))
	}
	return budget, nil
}

func askedLogBudget(asked, freeBytes int64) (int64, error) {
	if asked < MinLogBytes {
		return 0, fmt.Errorf("%w: --wal-size %s is less than %s, the least a log may take",
			ErrLogSize, humanBytes(asked), humanBytes(MinLogBytes))
	}
	if asked > freeBytes {
		return 0, fmt.Errorf("%w: --wal-size %s is more than the %s that are free", ErrLogSize, humanBytes(asked), humanBytes(freeBytes))
	}
	return asked, nil
}

// humanBytes writes a number of bytes as people do: 64MiB.
func humanBytes(bytes int64) string { return units.BytesSize(float64(bytes)) }
