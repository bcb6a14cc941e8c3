package main

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// disk is a volume in memory that takes the changes of all connections in one order, as records.
type disk struct {
	history history
	found   [connections][]int
	acked   vector
}

func newDisk() *disk {
	d := &disk{}
	for c := range d.found {
		d.found[c] = make([]int, regionSectors)
	}
	return d
}

// send notes a change, as a workload does that waits for each answer.
func (d *disk) send(connection int, c change) {
	c.After = d.acked
	d.history[connection] = append(d.history[connection], c)
	d.acked[connection]++
}

// keep makes records of a change, all of them where there are no more.
func (d *disk) keep(connection, number, records int) {
	c := d.history[connection][number-1]
	stamp := 0
	if c.Kind == kindWrite {
		stamp = number
	}
	for i, p := range pieces(c) {
		if i == records {
			return
		}
		for s := p[0]; s < p[1]; s++ {
			d.found[connection][s] = stamp
		}
	}
}

const all = 3 // records: no change has more

func TestPieces(t *testing.T) {
	for _, c := range []struct {
		begin, size int
		want        [][2]int
	}{
		{8, 24, [][2]int{{8, 32}}},
		{5, 3, [][2]int{{5, 8}}},
		{1, 2, [][2]int{{1, 3}}},
		{5, 20, [][2]int{{5, 8}, {8, 24}, {24, 25}}},
		{5, 19, [][2]int{{5, 8}, {8, 24}}},
		{6, 4, [][2]int{{6, 8}, {8, 10}}},
		{16, 3, [][2]int{{16, 19}}},
		{0, 0, nil},
	} {
		if got := pieces(change{Begin: c.begin, Size: c.size}); !slices.Equal(got, c.want) {
			t.Errorf("%d sectors at %d: records of %v, want %v", c.size, c.begin, got, c.want)
		}
	}
}

// Whatever prefix of an order of changes a disk keeps, it is one that may be; and not, where less is kept than required.
func TestEveryPrefixIsAllowed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	whole := newDisk()
	var order []int
	for range 400 {
		connection := random.IntN(connections)
		c, _ := choose(random)
		whole.send(connection, c)
		order = append(order, connection)
	}
	for length := 0; length <= len(order); length += 1 + random.IntN(20) {
		d := newDisk()
		d.history = whole.history
		var has vector
		for _, connection := range order[:length] {
			has[connection]++
			d.keep(connection, has[connection], all)
		}
		got, err := d.history.check(d.found, has)
		if err != nil {
			t.Fatalf("%d changes in order: %v", length, err)
		}
		if got != has {
			t.Fatalf("%d changes in order: has %v, want %v", length, got, has)
		}
	}
}

func TestCheckFinds(t *testing.T) {
	write := func(begin, size int) change { return change{Kind: kindWrite, Begin: begin, Size: size} }
	build := func(keep func(*disk)) *disk {
		d := newDisk()
		d.send(0, write(0, 8))
		d.send(1, write(8, 8))
		d.send(0, write(3, 20))
		d.send(0, change{Kind: kindTrim, Begin: 0, Size: 8})
		d.send(0, change{Kind: kindFlush})
		d.send(1, write(0, 16))
		keep(d)
		return d
	}
	for _, c := range []struct {
		name     string
		keep     func(*disk)
		required vector
		has      vector
		why      string // of the error, or ""
	}{
		{"nothing", func(*disk) {}, vector{}, vector{}, ""},
		{"nothing, though flushed", func(*disk) {}, vector{1}, vector{}, "has to be there"},
		{"one", func(d *disk) { d.keep(0, 1, all) }, vector{1}, vector{1}, ""},
		{"one too few", func(d *disk) { d.keep(0, 1, all) }, vector{2}, vector{}, "only those up to 1"},
		{"a gap", func(d *disk) { d.keep(0, 2, all) }, vector{}, vector{}, "nearest"},
		{"the first records of one", func(d *disk) { d.keep(0, 1, all); d.keep(1, 1, all); d.keep(0, 2, 2) }, vector{1}, vector{1, 1}, ""},
		{"the first records of what is required", func(d *disk) { d.keep(0, 1, all); d.keep(1, 1, all); d.keep(0, 2, 2) },
			vector{2}, vector{}, "only those up to 1"},
		{"not what was acknowledged before", func(d *disk) { d.keep(0, 1, all); d.keep(0, 2, all) }, vector{}, vector{}, "connection 1: change 1 has to be there"},
		{"the first records, and not what was acknowledged before", func(d *disk) { d.keep(0, 1, all); d.keep(0, 2, 1) }, vector{}, vector{}, "connection 1: change 1 has to be there"},
		{"a trim", func(d *disk) { d.keep(0, 1, all); d.keep(1, 1, all); d.keep(0, 2, all); d.keep(0, 3, all) }, vector{3}, vector{3, 1}, ""},
		{"a flush, which leaves nothing to see", func(d *disk) { d.keep(0, 1, all); d.keep(1, 1, all); d.keep(0, 2, all); d.keep(0, 3, all) },
			vector{4}, vector{4, 1}, ""},
		{"a trim that came back", func(d *disk) { d.keep(0, 1, all); d.keep(1, 1, all); d.keep(0, 2, all) }, vector{3}, vector{}, "only those up to 2"},
		{"another's data", func(d *disk) { d.keep(0, 1, all); d.found[0][4000] = 1 }, vector{}, vector{}, "with 1 other sectors"},
		{"what was never sent", func(d *disk) { d.keep(0, 1, all); d.found[0][5] = 77 }, vector{}, vector{}, "nearest is change 1"},
	} {
		d := build(c.keep)
		has, err := d.history.check(d.found, c.required)
		if c.why == "" {
			if err != nil || has != c.has {
				t.Errorf("%s: has %v, error %v; want %v", c.name, has, err, c.has)
			}
			continue
		}
		var lost *errLost
		if !errors.As(err, &lost) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: has %v, error %v; want one with %q", c.name, has, err, c.why)
		}
	}
}

func TestStamps(t *testing.T) {
	p := make([]byte, 4*sectorBytes)
	stamp(p[sectorBytes:3*sectorBytes], 9, 101)
	got, err := stamps(p, 100)
	if err != nil || !slices.Equal(got, []int{0, 9, 9, 0}) {
		t.Fatalf("stamps %v, error %v", got, err)
	}
	if _, err := stamps(p, 99); err == nil || !strings.Contains(err.Error(), "sector 100 ") {
		t.Errorf("stamps of another sector: error %v", err)
	}
	p[2*sectorBytes-1]++
	if _, err := stamps(p, 100); err == nil || !strings.Contains(err.Error(), "sector 101 ") {
		t.Errorf("a changed byte: error %v", err)
	}
	p[3*sectorBytes+9] = 1
	if _, err := stamps(p[3*sectorBytes:], 103); err == nil {
		t.Error("a byte in a sector of zeroes: no error")
	}
}
