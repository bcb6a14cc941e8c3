package disk

import (
	"fmt"
	"math/rand/v2"
)

// Choice says which of the changes that were not synced survive a power cut. Changes are those of data, size and
// allocation of every file, and of the entries of every directory, in the order they were made; Disk.Pending counts
// them. The entries of a directory survive as a prefix of that order, unless Config.UnorderedDirs is set. The zero
// Choice keeps nothing.
type Choice struct {
	mode choiceMode
	bits uint64
}

type choiceMode uint8

const (
	keepNone choiceMode = iota
	keepAll
	keepWrites
	keepSectors
	keepLater
	keepSubset
)

// KeepNone loses everything that was not synced.
func KeepNone() Choice { return Choice{mode: keepNone} }

// KeepAll loses nothing: the disk was fast enough.
func KeepAll() Choice { return Choice{mode: keepAll} }

// KeepWrites keeps or loses each change as a whole, at random.
func KeepWrites() Choice { return Choice{mode: keepWrites} }

// KeepSectors keeps or loses each sector of each change, at random.
func KeepSectors() Choice { return Choice{mode: keepSectors} }

// KeepLater loses the earlier changes and keeps the later ones, from a random place on.
func KeepLater() Choice { return Choice{mode: keepLater} }

// KeepSubset keeps change i, counted from 0, if bit i is set; changes from the 64th on are lost. With all values below
// 1<<Disk.Pending() it goes through every subset.
func KeepSubset(bits uint64) Choice { return Choice{mode: keepSubset, bits: bits} }

// String names the choice in failure reports.
func (c Choice) String() string {
	switch c.mode {
	case keepNone:
		return "keep none"
	case keepAll:
		return "keep all"
	case keepWrites:
		return "keep random writes"
	case keepSectors:
		return "keep random sectors"
	case keepLater:
		return "keep later, lose earlier"
	}
	return fmt.Sprintf("keep subset %#b", c.bits)
}

// random tells whether the choice leaves to the seed what it could say for each change.
func (c Choice) random() bool {
	return c.mode == keepWrites || c.mode == keepSectors || c.mode == keepLater
}

// fates returns the fate of each of n changes. coin decides sectors of torn ones in the same spirit.
func (c Choice) fates(rng *rand.Rand, n int) (fates []fate, coin func() bool) {
	odds := []float64{0.1, 0.5, 0.9}[rng.IntN(3)]
	coin = func() bool { return rng.Float64() < odds }
	first := rng.IntN(n + 1) // keepLater: the first that survives
	fates = make([]fate, n)
	for i := range fates {
		fates[i] = c.fateOf(i, first, coin)
	}
	return fates, coin
}

func (c Choice) fateOf(i, first int, coin func() bool) fate {
	survives := false
	switch c.mode {
	case keepAll:
		survives = true
	case keepWrites:
		survives = coin()
	case keepSectors:
		return torn
	case keepLater:
		survives = i >= first
	case keepSubset:
		survives = i < 64 && c.bits&(1<<i) != 0
	}
	if survives {
		return kept
	}
	return gone
}
