package main

import "fmt"

// hint returns a question after the known name that is most like the wrong one, or "" where none is.
func hint(wrong string, known []string) string {
	if name := nearest(wrong, known); name != "" {
		return fmt.Sprintf("; did you mean %s?", name)
	}
	return ""
}

// nearest returns the known name that differs least from the wrong one, by a third of its letters at most; else "".
func nearest(wrong string, known []string) string {
	best, least := "", max(1, len(wrong)/3)+1
	for _, k := range known {
		if d := distance(wrong, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters must be added, removed or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // distances of a[:i] to each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
