package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// printCuts prints places to cut a log, in order: half of them right behind a mark, where the least may be missing, the rest
// anywhere after the first mark.
func printCuts(a arguments, out io.Writer) error {
	in, err := os.Open(a.log)
	if err != nil {
		return err
	}
	defer in.Close()
	l, err := openLog(in)
	if err != nil {
		return fmt.Errorf("%s: %w", a.log, err)
	}
	cuts, err := chooseCuts(l.entries, a.count, rand.New(rand.NewPCG(a.seed, 0)))
	for _, cut := range cuts {
		fmt.Fprintln(out, cut)
	}
	return err
}

func chooseCuts(entries []entry, count int, random *rand.Rand) ([]int, error) {
	var marks []int
	for i, e := range entries {
		if ours(e) {
			marks = append(marks, i+1)
		}
	}
	if len(marks) < count {
		return nil, fmt.Errorf("a log of %d entries and %d marks is too short for %d cuts", len(entries), len(marks), count)
	}
	first := marks[0]
	var cuts []int
	for len(cuts) < count {
		cut := first + random.IntN(len(entries)-first+1)
		if len(cuts) < (count+1)/2 {
			cut = marks[random.IntN(len(marks))]
		}
		if !slices.Contains(cuts, cut) {
			cuts = append(cuts, cut)
		}
	}
	slices.Sort(cuts)
	return cuts, nil
}
