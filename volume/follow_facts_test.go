package volume

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// TestFacts: a copy tells what it is, and tells the same when it is not open; with a damaged log it tells that.
func TestFacts(t *testing.T) {
	x := newPair(t, 256<<10, testSegmentBytes)
	for i := range 30 {
		x.fill(8, uint64(i))
		x.ship()
		x.commitAll()
		if i%5 == 4 {
			x.must(x.f.Checkpoint(t.Context()))
		}
	}
	x.fill(3, 99)
	x.ship()
	head := x.f.log.Head()
	x.must(x.f.Follow(4, epochID(4)))
	open := x.f.Facts()
	want := open
	want.SeenEpoch, want.SeenEpochID, want.Head, want.Durable, want.Committed = 4, epochID(4), head, head-3, head-3
	want.Checkpoint, want.BaseHigh = head-3, head-3
	want.VolumeID, want.CopyID = uuid.UUID{1}, uuid.UUID{0: 2, 15: 1}
	want.Lineage = x.p.Facts().Lineage
	if !reflect.DeepEqual(open, want) || open.Tail < 2 {
		t.Errorf("%+v\n%+v", open, want)
	}
	x.must(x.f.Close())
	in, err := Inspect(followConfig(x.fd, 2), wal.Visitor{})
	x.must(err)
	want.Durable = head
	if got := in.Facts(); !reflect.DeepEqual(got, want) {
		t.Errorf("not open:\n%+v\n%+v", got, want)
	}
	for _, s := range in.Log.Segments {
		if s.Last == head {
			x.must(x.fd.Corrupt("log/"+s.Name, s.EndBytes-1024, 512))
		}
	}
	if in, err = Inspect(followConfig(x.fd, 2), wal.Visitor{}); err != nil || !in.Facts().LogDamaged {
		t.Errorf("a damaged log: %v", err)
	}
	x.must(x.p.Close())
}

// TestChangedSince: it names the chunks of what was checkpointed after an LSN, cut at the volume's end, and stops when it is
// told to.
func TestChangedSince(t *testing.T) {
	d := disk.New(disk.Config{})
	size := int64(3*minChunkBytes + 4*testBlock)
	x := &pair{TB: t}
	x.must(createCopyOf(d, 1, 256<<10, size))
	v := x.open(d, 1)
	x.must(failure(v.Lead(1, epochID(1))))
	perChunk := int64(minChunkBytes / testBlock)
	mustApply(t, v, filled(0, testBlock, 1))
	x.must(v.Checkpoint(t.Context()))
	mustApply(t, v, filled(perChunk*testBlock, testBlock, 1), filled(3*minChunkBytes, testBlock, 1))
	x.must(v.Checkpoint(t.Context()))
	mustApply(t, v, filled(2*minChunkBytes, testBlock, 1)) // not in the base image
	type entry struct {
		block.Range
		lsn block.LSN
	}
	since := func(lsn block.LSN) (all []entry) {
		upTo, changed := v.ChangedSince(lsn)
		if upTo != 4 {
			t.Errorf("up to %d", upTo)
		}
		for r, lsn := range changed {
			all = append(all, entry{r, lsn})
		}
		return all
	}
	n := uint64(perChunk)
	chunks := []entry{{block.Range{Start: 0, Count: n}, 2}, {block.Range{Start: n, Count: n}, 3}, {block.Range{Start: 3 * n, Count: 4}, 4}}
	for lsn, want := range map[block.LSN][]entry{0: chunks, 1: chunks, 2: chunks[1:], 3: chunks[2:], 4: nil} {
		if got := since(lsn); !slices.Equal(got, want) {
			t.Errorf("since %d: %v", lsn, got)
		}
	}
	_, changed := v.ChangedSince(0)
	for r := range changed {
		if r.Start > 0 {
			t.Error("it did not stop")
		}
		break
	}
	if v.ChunkBytes() != minChunkBytes {
		t.Error(v.ChunkBytes())
	}
	x.must(v.Close())
}
