package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// written is a log as the kernel would write it.
type written struct{ bytes.Buffer }

func (w *written) sector(fields ...uint64) []byte {
	b := make([]byte, 512)
	for i, f := range fields {
		binary.LittleEndian.PutUint64(b[8*i:], f)
	}
	return b
}

func (w *written) header(magic, version, entries, sectorBytes uint64) {
	w.Write(w.sector(magic, version, entries, sectorBytes))
}

// write adds an entry; its data are the same byte all over.
func (w *written) write(sector, sectors, flags uint64, fill byte) {
	w.Write(w.sector(sector, sectors, flags))
	if flags&entryDiscard == 0 {
		w.Write(bytes.Repeat([]byte{fill}, int(sectors)*512))
	}
}

func (w *written) mark(text string) {
	b := w.sector(0, 0, entryMark, uint64(len(text)))
	copy(b[entryHeaderBytes:], text)
	w.Write(b)
}

func (w *written) open(t *testing.T) *writeLog {
	t.Helper()
	l, err := openLog(bytes.NewReader(w.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// short is a log of ten entries.
func short(t *testing.T) *writeLog {
	var w written
	w.header(logMagic, logVersion, 10, 512)
	w.write(0, 2, 0, 'a')
	w.mark("0,0,0,0")
	w.write(1, 2, 0, 'b')
	w.write(0, 0, entryFlush, 0)
	w.mark("3,0,0,1")
	w.write(4, 4, 0, 'c')
	w.write(3, 1, entryFUA, 'd')
	w.mark("2,7,0,0")
	w.write(0, 2, entryDiscard, 0)
	w.mark("dm-log-writes-end")
	return w.open(t)
}

// image is a disk of eight sectors.
type image struct{ sectors [8]byte }

func (d *image) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += 512 {
		d.sectors[(int(off)+i)/512] = p[i]
	}
	return len(p), nil
}

func (d *image) String() string {
	return string(bytes.ReplaceAll(d.sectors[:], []byte{0}, []byte{'.'}))
}

func TestSettleReplaysUpToTheLastFlush(t *testing.T) {
	l := short(t)
	for _, c := range []struct {
		from, cut, next int
		want            string
	}{
		{0, 0, 0, "........"},
		{0, 3, 0, "........"},
		{0, 4, 3, "abb....."},
		{0, 10, 3, "abb....."},
		{2, 10, 3, ".bb....."},
		{3, 7, 3, "........"},
	} {
		d := &image{}
		r := replay{log: l, disk: d}
		next, err := r.settle(c.from, c.cut)
		if err != nil || next != c.next || d.String() != c.want {
			t.Errorf("%d to %d: %s, next is %d, error %v; want %s and %d", c.from, c.cut, d, next, err, c.want, c.next)
		}
	}
}

// FUA is always there, and nothing from behind the cut; the rest comes wholly, in parts and not at all.
func TestScatter(t *testing.T) {
	l := short(t)
	seen := map[string]bool{}
	for seed := range uint64(300) {
		d := &image{}
		r := replay{log: l, disk: d}
		kept, torn, lost, err := r.scatter(3, 8, rand.New(rand.NewPCG(seed, 0)))
		if err != nil {
			t.Fatal(err)
		}
		got := d.String()
		if got[:4] != "...d" || strings.Trim(got[4:], "c.") != "" || kept+torn+lost != 2 ||
			lost == 1 && got[4:] != "...." || kept == 2 && got[4:] != "cccc" {
			t.Fatalf("seed %d: %s, with %d kept, %d in parts, %d lost", seed, got, kept, torn, lost)
		}
		seen[got] = true
	}
	for _, want := range []string{"...dcccc", "...d....", "...d.c.c"} {
		if !seen[want] {
			t.Errorf("%s was never left", want)
		}
	}
	d := &image{sectors: [8]byte{'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'}}
	r := replay{log: l, disk: d}
	if err := r.apply(l.entries[8], whole); err != nil || d.String() != "..xxxxxx" {
		t.Errorf("after a discard: %s, error %v", d, err)
	}
}

func TestRequired(t *testing.T) {
	l := short(t)
	for _, c := range []struct {
		cut    int
		want   vector
		marked bool
	}{
		{1, vector{}, false},
		{2, vector{}, true},
		{4, vector{}, true},
		{5, vector{3, 0, 0, 1}, true},
		{10, vector{3, 7, 0, 1}, true},
	} {
		got, marked, err := l.required(c.cut)
		if err != nil || got != c.want || marked != c.marked {
			t.Errorf("cut %d: %v, marked is %v, error %v; want %v and %v", c.cut, got, marked, err, c.want, c.marked)
		}
	}
}

func TestChooseCuts(t *testing.T) {
	l := short(t)
	for seed := range uint64(50) {
		cuts, err := chooseCuts(l.entries, 3, rand.New(rand.NewPCG(seed, 0)))
		if err != nil {
			t.Fatal(err)
		}
		behind := 0
		for _, cut := range cuts {
			if slices.Contains([]int{2, 5, 8}, cut) {
				behind++
			}
		}
		if len(cuts) != 3 || !slices.IsSorted(cuts) || len(slices.Compact(slices.Clone(cuts))) != 3 || cuts[0] < 2 || cuts[2] > 10 || behind < 2 {
			t.Fatalf("seed %d: cuts %v", seed, cuts)
		}
	}
	if _, err := chooseCuts(l.entries, 4, rand.New(rand.NewPCG(1, 0))); err == nil {
		t.Error("more cuts than marks: no error")
	}
}

func TestOpenLogRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		fill func(*written)
		want error
	}{
		{"zeroes", func(w *written) { w.header(0, 0, 0, 0) }, errNoLog},
		{"another version", func(w *written) { w.header(logMagic, 2, 0, 512) }, errBadVersion},
		{"too many entries", func(w *written) { w.header(logMagic, 1, 1<<40, 512) }, errNoLog},
		{"sectors of nothing", func(w *written) { w.header(logMagic, 1, 0, 0) }, errNoLog},
		{"a long write", func(w *written) { w.header(logMagic, 1, 1, 512); w.Write(w.sector(0, 1<<40)) }, errBadEntry},
		{"a long mark", func(w *written) { w.header(logMagic, 1, 1, 512); w.Write(w.sector(0, 0, entryMark, 481)) }, errBadEntry},
		{"an entry too few", func(w *written) { w.header(logMagic, 1, 2, 512); w.mark("x") }, io.EOF},
		{"nothing", func(*written) {}, io.EOF},
	} {
		var w written
		c.fill(&w)
		if _, err := openLog(bytes.NewReader(w.Bytes())); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
}

func TestVectors(t *testing.T) {
	v := vector{1, 0, 22, 333}
	if got, err := parseVector(v.String()); err != nil || got != v {
		t.Errorf("%v becomes %v, error %v", v, got, err)
	}
	for _, bad := range []string{"", "1,2,3", "1,2,3,x", "1,2,3,4,5"} {
		if _, err := parseVector(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
