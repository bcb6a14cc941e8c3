package engine

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// history is a log as what it is: for each LSN, from 1 on, the epoch its record was written in.
type history []block.EpochStart

// lineage returns the entries of a history.
func (h history) lineage() []block.EpochStart {
	var entries []block.EpochStart
	for i, e := range h {
		if i == 0 || h[i-1].ID != e.ID {
			entries = append(entries, e)
		}
	}
	return entries
}

// fork returns the last LSN up to which two histories are the same, record by record.
func (h history) fork(other history) block.LSN {
	n := 0
	for n < len(h) && n < len(other) && h[n] == other[n] {
		n++
	}
	return block.LSN(n)
}

// shareNumber tells whether two histories have an epoch of the same number that is not the same.
func (h history) shareNumber(other history) bool {
	for _, a := range h {
		for _, b := range other {
			if a.Epoch == b.Epoch && a.ID != b.ID {
				return true
			}
		}
	}
	return false
}

// randomHistories returns logs of one volume that went through promotions, forced ones included: each grows out of a
// prefix of an earlier one. Epoch numbers ascend within a log, and now and then two epochs have the same.
func randomHistories(r *rand.Rand) []history {
	histories := []history{nil}
	var ids byte
	for range 2 + r.IntN(7) {
		from := histories[r.IntN(len(histories))]
		h := append(history(nil), from[:r.IntN(len(from)+1)]...)
		var last block.Epoch
		if len(h) > 0 {
			last = h[len(h)-1].Epoch
		}
		ids++
		start := block.EpochStart{Epoch: last + 1 + block.Epoch(r.IntN(3)), ID: uuid.UUID{ids}, First: block.LSN(len(h) + 1)}
		for range 1 + r.IntN(5) {
			h = append(h, start)
		}
		histories = append(histories, h)
	}
	return histories
}

func TestS13ForkIsTheLastCommonRecord(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	forked, contradicted := 0, 0
	for range 4000 {
		all := randomHistories(r)
		a, b := all[r.IntN(len(all))], all[r.IntN(len(all))]
		fork, contradict := compareLineages(a.lineage(), block.LSN(len(a)), b.lineage(), block.LSN(len(b)))
		if want := a.fork(b); fork != want {
			t.Fatalf("fork of %v and %v is %d, want %d", a.lineage(), b.lineage(), fork, want)
		}
		if want := a.shareNumber(b); contradict != want {
			t.Fatalf("%v contradicts %v: %v, want %v", a.lineage(), b.lineage(), contradict, want)
		}
		if fork > 0 && int(fork) < min(len(a), len(b)) {
			forked++
		}
		if contradict {
			contradicted++
		}
	}
	if forked < 100 || contradicted < 100 {
		t.Errorf("%d pairs forked and %d contradicted each other: too few to tell", forked, contradicted)
	}
}

// Without its oldest entries a lineage gives the same fork, or 0 where nothing in common is left: never a later one.
func TestS13PrunedLineageNeverForksLater(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	same, zero := 0, 0
	for range 4000 {
		all := randomHistories(r)
		a, b := all[r.IntN(len(all))], all[r.IntN(len(all))]
		la, lb := a.lineage(), b.lineage()
		la, lb = la[r.IntN(len(la)+1):], lb[r.IntN(len(lb)+1):]
		if len(la) == 0 || len(lb) == 0 {
			continue
		}
		fork, _ := compareLineages(la, block.LSN(len(a)), lb, block.LSN(len(b)))
		switch want := a.fork(b); {
		case fork == want:
			same++
		case fork == 0:
			zero++
		default:
			t.Fatalf("fork of %v and %v is %d, want %d or 0", la, lb, fork, want)
		}
	}
	if same < 100 || zero < 100 {
		t.Errorf("%d forks were the same and %d were 0: too few to tell", same, zero)
	}
}

func TestCompareLineages(t *testing.T) {
	e := func(epoch block.Epoch, id byte, first block.LSN) block.EpochStart {
		return block.EpochStart{Epoch: epoch, ID: uuid.UUID{id}, First: first}
	}
	l := func(entries ...block.EpochStart) []block.EpochStart { return entries }
	for name, c := range map[string]struct {
		ours     []block.EpochStart
		ourEnd   block.LSN
		theirs   []block.EpochStart
		theirEnd block.LSN
		fork     block.LSN
		split    bool
	}{
		"no epochs at all":          {nil, 100, nil, 50, 50, false},
		"nothing there":             {l(e(1, 1, 1)), 100, nil, 0, 0, false},
		"no epochs there":           {l(e(1, 1, 1)), 100, nil, 50, 0, false},
		"shorter there":             {l(e(1, 1, 1)), 100, l(e(1, 1, 1)), 50, 50, false},
		"longer there":              {l(e(1, 1, 1)), 100, l(e(1, 1, 1)), 150, 100, false},
		"newer epoch here":          {l(e(1, 1, 1), e(2, 2, 101)), 150, l(e(1, 1, 1)), 120, 100, false},
		"newer epoch, not reached":  {l(e(1, 1, 1), e(2, 2, 101)), 150, l(e(1, 1, 1)), 80, 80, false},
		"newer epoch there":         {l(e(1, 1, 1)), 120, l(e(1, 1, 1), e(2, 2, 101)), 150, 100, false},
		"both went on":              {l(e(1, 1, 1), e(3, 3, 81)), 150, l(e(1, 1, 1), e(2, 2, 101)), 150, 80, false},
		"one number, two epochs":    {l(e(1, 1, 1), e(2, 2, 101)), 150, l(e(1, 1, 1), e(2, 3, 91)), 150, 90, true},
		"one number, later":         {l(e(1, 1, 1), e(2, 2, 51), e(4, 4, 60)), 70, l(e(1, 1, 1), e(3, 3, 81), e(4, 5, 90)), 99, 50, true},
		"one ID, two places":        {l(e(1, 1, 1), e(2, 2, 101)), 150, l(e(1, 1, 1), e(2, 2, 91)), 150, 90, true},
		"common again":              {l(e(1, 1, 1), e(2, 2, 50), e(4, 4, 90)), 99, l(e(1, 1, 1), e(3, 3, 40), e(4, 4, 90)), 99, 39, true},
		"different before":          {l(e(1, 1, 1), e(4, 4, 90)), 99, l(e(2, 2, 1), e(4, 4, 90)), 99, 99, true},
		"pruned here":               {l(e(4, 4, 90)), 99, l(e(1, 1, 1), e(4, 4, 90)), 120, 99, false},
		"pruned there":              {l(e(1, 1, 1), e(4, 4, 90)), 99, l(e(4, 4, 90)), 95, 95, false},
		"pruned beyond each other":  {l(e(4, 4, 90)), 99, l(e(1, 1, 1)), 50, 0, false},
		"an entry beyond the end":   {l(e(1, 1, 1)), 100, l(e(1, 1, 1), e(2, 2, 101)), 50, 50, false},
		"nothing in common, one No": {l(e(1, 1, 1)), 100, l(e(1, 2, 1)), 50, 0, true},
	} {
		fork, split := compareLineages(c.ours, c.ourEnd, c.theirs, c.theirEnd)
		if fork != c.fork || split != c.split {
			t.Errorf("%s: fork %d, split %v; want %d, %v", name, fork, split, c.fork, c.split)
		}
		fork, split = compareLineages(c.theirs, c.theirEnd, c.ours, c.ourEnd)
		if fork != c.fork || split != c.split {
			t.Errorf("%s, seen from there: fork %d, split %v; want %d, %v", name, fork, split, c.fork, c.split)
		}
	}
}

func TestAscends(t *testing.T) {
	for name, c := range map[string]struct {
		lineage []block.EpochStart
		want    bool
	}{
		"none":              {nil, true},
		"one":               {[]block.EpochStart{{Epoch: 3, First: 1}}, true},
		"two":               {[]block.EpochStart{{Epoch: 3, First: 1}, {Epoch: 5, First: 2}}, true},
		"epoch 0":           {[]block.EpochStart{{Epoch: 0, First: 1}}, false},
		"first 0":           {[]block.EpochStart{{Epoch: 1, First: 0}}, false},
		"an epoch twice":    {[]block.EpochStart{{Epoch: 3, First: 1}, {Epoch: 3, First: 2}}, false},
		"two at one place":  {[]block.EpochStart{{Epoch: 3, First: 1}, {Epoch: 4, First: 1}}, false},
		"epochs descending": {[]block.EpochStart{{Epoch: 3, First: 1}, {Epoch: 2, First: 2}}, false},
	} {
		if got := ascends(c.lineage); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestReaches(t *testing.T) {
	const largest = math.MaxUint64
	for _, c := range []struct {
		lsn, tail block.LSN
		want      bool
	}{
		{0, 0, true}, {0, 1, true}, {0, 2, false}, {49, 50, true}, {48, 50, false}, {50, 50, true}, {largest, 50, true},
		{largest, largest, true}, {largest - 2, largest, false},
	} {
		if got := reaches(c.lsn, c.tail); got != c.want {
			t.Errorf("a log from %d on can be sent after %d: %v", c.tail, c.lsn, got)
		}
	}
	if after(largest) != largest || after(7) != 8 {
		t.Error("after")
	}
}
