package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// baseWith returns a base with the bytes in its slots; nil leaves a slot zero.
func baseWith(slots ...[]byte) *sectorDisk {
	d := newSectorDisk(&opBudget{}, DataOffset)
	for i, b := range slots {
		copy(d.cache[i*superblockSlotBytes:], b)
	}
	return d
}

func TestReadSuperblockChoosesSlot(t *testing.T) {
	numbered := func(sequence uint64) []byte {
		sb := testSuperblock()
		sb.Sequence = sequence
		return mustEncode(t, sb)
	}
	changed := func(sequence uint64, change func(b []byte)) []byte {
		b := numbered(sequence)
		change(b)
		return b
	}
	torn := changed(9, func(b []byte) { clear(b[300:]) })
	corrupt := changed(9, func(b []byte) { b[220] ^= 4 })
	version := changed(9, func(b []byte) { b[sbVersionAt] = 2 })
	foreign := []byte("\xebsomebody else's boot sector")
	incompatible := func(sequence uint64) []byte {
		return changed(sequence, func(b []byte) { b[sbIncompatAt] = 4; sealed(b, sbCRCAt) })
	}
	otherVolume := testSuperblock()
	otherVolume.VolumeID = uuid.UUID{1}
	otherCopy := testSuperblock()
	otherCopy.CopyID = uuid.UUID{1}
	for _, c := range []struct {
		name     string
		a, b     []byte
		slot     int
		sequence uint64
		want     error
	}{
		{"first newer", numbered(5), numbered(4), 0, 5, nil},
		{"second newer", numbered(5), numbered(6), 1, 6, nil},
		{"only first", numbered(5), nil, 0, 5, nil},
		{"only second", nil, numbered(5), 1, 5, nil},
		{"second torn", numbered(8), torn, 0, 8, nil},
		{"first torn", torn, numbered(8), 1, 8, nil},
		{"first corrupt", corrupt, numbered(8), 1, 8, nil},
		{"first overwritten", foreign, numbered(8), 1, 8, nil},
		{"nothing", nil, nil, 0, 0, ErrNotFormatted},
		{"foreign", foreign, nil, 0, 0, ErrForeign},
		{"foreign further on", append(make([]byte, 1024), 0x53, 0xef), nil, 0, 0, ErrForeign},
		{"foreign in the second", nil, foreign, 0, 0, ErrForeign},
		{"version", version, nil, 0, 0, ErrVersion},
		{"version beside a valid one", numbered(99), version, 0, 0, ErrVersion},
		{"incompatible and newer", numbered(8), incompatible(9), 0, 0, ErrIncompatible},
		{"incompatible and older", numbered(8), incompatible(7), 0, 8, nil},
		{"incompatible beside a torn one", torn, incompatible(7), 0, 0, ErrIncompatible},
		{"same sequence", numbered(8), numbered(8), 0, 0, ErrCorrupt},
		{"another volume", numbered(8), mustEncode(t, otherVolume), 0, 0, ErrCorrupt},
		{"another copy", numbered(8), mustEncode(t, otherCopy), 0, 0, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			sb, slot, err := readSuperblock(baseWith(c.a, c.b))
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if sb.Sequence != c.sequence || slot != c.slot {
				t.Fatalf("got sequence %d of slot %d, want %d of %d", sb.Sequence, slot, c.sequence, c.slot)
			}
		})
	}
}

func TestL9NeitherSlotValidIsDamage(t *testing.T) {
	torn, corrupt := mustEncode(t, testSuperblock()), mustEncode(t, testSuperblock())
	clear(torn[300:])
	corrupt[220] ^= 4
	unreadable := baseWith(torn, nil)
	unreadable.bad[superblockSlotBytes] = true
	for _, c := range []struct {
		name   string
		base   *sectorDisk
		second error
	}{
		{"corrupt", baseWith(torn, corrupt), ErrCorrupt},
		{"foreign", baseWith(torn, []byte("else")), ErrForeign},
		{"never written", baseWith(torn), ErrNotFormatted},
		{"unreadable", unreadable, syscall.EIO},
	} {
		_, _, err := readSuperblock(c.base)
		var damage *SuperblockDamageError
		if !errors.As(err, &damage) {
			t.Fatalf("%s: got %v", c.name, err)
		}
		if !errors.Is(damage.Slots[0], ErrTorn) || !errors.Is(damage.Slots[1], c.second) {
			t.Fatalf("%s: slots %v", c.name, damage.Slots)
		}
		for _, slot := range damage.Slots {
			if !strings.Contains(err.Error(), slot.Error()) {
				t.Fatalf("%q does not name %q", err, slot)
			}
		}
	}
}

func TestReadSuperblockFailures(t *testing.T) {
	if _, _, err := readSuperblock(newSectorDisk(&opBudget{}, DataOffset-1)); !errors.Is(err, ErrForeign) {
		t.Fatalf("a base smaller than the header: %v", err)
	}
	base := baseWith(mustEncode(t, testSuperblock()))
	base.bad[superblockSlotBytes+8192] = true
	if _, slot, err := readSuperblock(base); err != nil || slot != 0 {
		t.Fatalf("one slot unreadable: %v", err)
	}
	base.bad[0] = true
	if _, _, err := readSuperblock(base); !errors.Is(err, syscall.EIO) {
		t.Fatalf("both unreadable: %v", err)
	}
}

// An older program keeps what a newer one has written, if the newer one says that it may.
func TestSuperblockKeepsUnknownCompatible(t *testing.T) {
	base := baseWith(mustEncode(t, testSuperblock()))
	for range 3 {
		f, err := openSuperblockFile(base)
		if err != nil {
			t.Fatal(err)
		}
		next := f.superblock()
		next.Checkpoint++
		if err := f.write(next); err != nil {
			t.Fatal(err)
		}
	}
	got, _, err := readSuperblock(base)
	want := testSuperblock()
	want.Sequence, want.Checkpoint = want.Sequence+3, want.Checkpoint+3
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
}

// A new volume on a used device is the new one, however often the old one was written; and cut short it is never the
// old one's slot beside the new one's.
func TestSuperblockCreateOverAnother(t *testing.T) {
	old := testSuperblock()
	old.VolumeID, old.Sequence = uuid.UUID{9}, 1000
	sb := testSuperblock()
	for cut := 1; ; cut++ {
		base := baseWith(mustEncode(t, old), mustEncode(t, old))
		base.stable = slices.Clone(base.cache)
		base.cache[superblockSlotBytes+sbSequenceAt] = 0xff // not equal, so that the old one is readable
		sealedSlot := base.cache[superblockSlotBytes:][:len(mustEncode(t, old))]
		binary.LittleEndian.PutUint64(sealedSlot[len(sealedSlot)-8:], binary.LittleEndian.Uint64(sealedSlot[sbSequenceAt:]))
		sealed(sealedSlot, sbCRCAt)
		base.stable = slices.Clone(base.cache)
		base.ops.cutAt = cut
		_, err := createSuperblockFile(base, sb)
		if err == nil {
			got, _, err := readSuperblock(base)
			if err != nil || got.VolumeID != sb.VolumeID || got.Sequence != 1 {
				t.Fatalf("got %v sequence %d, %v", got.VolumeID, got.Sequence, err)
			}
			if cut != 7 {
				t.Fatalf("creation took %d operations, want 3 writes and 3 syncs", cut-1)
			}
			return
		}
		for seed := range uint64(20) {
			got, _, err := readSuperblock(base.crash(rand.New(rand.NewPCG(seed, 0)), &opBudget{}))
			if err == nil && got.VolumeID == old.VolumeID && cut > 4 {
				t.Fatalf("cut at %d: the old volume came back", cut)
			}
		}
	}
}

// After a crash at any operation of any write, with any subset of its sectors on disk, the superblock is the last one
// acknowledged or the one being written.
func TestL9SuperblockSurvivesCrashAtEveryOperation(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		base := newSectorDisk(&opBudget{}, DataOffset)
		f, err := createSuperblockFile(base, fullSuperblock(5))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged := f.superblock()
		for round := range 6 {
			base.ops.done, base.ops.cutAt = 0, 1+r.IntN(12)
			var tried Superblock
			for {
				tried = f.superblock()
				tried.Durable++
				tried.Lineage = fullSuperblock(1 + r.IntN(600)).Lineage // of very different lengths
				if err := f.write(tried); err != nil {
					break
				}
				acknowledged = f.superblock()
			}
			base = base.crash(r, &opBudget{})
			f, err = openSuperblockFile(base)
			if err != nil {
				t.Fatalf("seed %d round %d: %v", seed, round, err)
			}
			got := f.superblock()
			tried.Sequence = acknowledged.Sequence + 1
			if !reflect.DeepEqual(got, acknowledged) && !reflect.DeepEqual(got, tried) {
				t.Fatalf("seed %d round %d: sequence %d durable %d, want %d durable %d or the next",
					seed, round, got.Sequence, got.Durable, acknowledged.Sequence, acknowledged.Durable)
			}
			acknowledged = got
		}
	}
}

// L4: what is read after a failed sync may be on no disk. The process opens again without a power cut, sees the
// superblock that never arrived, and writes the next one over the last that did.
func TestL4SuperblockIsRewrittenBeforeTheOtherSlot(t *testing.T) {
	for _, reopen := range []bool{true, false} {
		for cut := 1; cut <= 4; cut++ {
			for seed := range uint64(8) {
				err := failedSyncThenCut(reopen, cut, rand.New(rand.NewPCG(seed, uint64(cut))))
				if err != nil {
					t.Fatalf("reopen %v, cut at %d, seed %d: %v", reopen, cut, seed, err)
				}
			}
		}
	}
}

func failedSyncThenCut(reopen bool, cut int, r *rand.Rand) error {
	base := newSectorDisk(&opBudget{}, DataOffset)
	f, err := createSuperblockFile(base, fullSuperblock(600))
	for range 3 {
		if err == nil {
			err = f.write(f.superblock())
		}
	}
	if err != nil {
		return err
	}
	acknowledged := f.superblock().Sequence
	base.forgetSync = true
	if err := f.write(f.superblock()); !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("failed sync: got %v", err)
	}
	base.forgetSync = false
	if reopen {
		if f, err = openSuperblockFile(base); err != nil {
			return err
		}
	}
	base.ops.done, base.ops.cutAt = 0, cut
	if err := f.write(f.superblock()); !errors.Is(err, errPowerCut) {
		return fmt.Errorf("took fewer than %d operations: %v", cut, err)
	}
	got, _, err := readSuperblock(base.crash(r, &opBudget{}))
	if err != nil || got.Sequence < acknowledged {
		return fmt.Errorf("sequence %d was acknowledged, found %d, %w", acknowledged, got.Sequence, err)
	}
	return nil
}

func TestSuperblockRewriteIsTheSameBytes(t *testing.T) {
	base := newSectorDisk(&opBudget{}, DataOffset)
	f, err := createSuperblockFile(base, fullSuperblock(300))
	if err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(base.cache)
	for _, reopen := range []bool{false, true} {
		if reopen {
			if f, err = openSuperblockFile(base); err != nil {
				t.Fatal(err)
			}
		}
		base.writes = nil
		if err := f.rewrite(); err != nil {
			t.Fatal(err)
		}
		if len(base.writes) != 1 || base.writes[0].off != 0 || len(base.unsynced) != 0 {
			t.Fatalf("%d writes, %d of them not synced", len(base.writes), len(base.unsynced))
		}
		if !bytes.Equal(base.cache, before) || len(base.writes[0].data) < len(mustEncode(t, f.superblock())) {
			t.Fatal("other bytes, or not all of them")
		}
	}
}

// Writes leave the data alone, and are whole 4 KiB sectors of one slot each.
func TestSuperblockWritesStayInTheirSlots(t *testing.T) {
	base := newSectorDisk(&opBudget{}, DataOffset)
	f, err := createSuperblockFile(base, fullSuperblock(maxLineage))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := f.write(f.superblock()); err != nil {
			t.Fatal(err)
		}
	}
	for i, w := range base.writes {
		if w.off%superblockSlotBytes != 0 || w.off > superblockSlotBytes ||
			len(w.data)%4096 != 0 || len(w.data) > superblockMaxBytes {
			t.Fatalf("write %d: %d bytes at %d", i, len(w.data), w.off)
		}
	}
}

// The caller's slices are its own again after write.
func TestSuperblockFileKeepsItsOwnCopy(t *testing.T) {
	f, err := createSuperblockFile(newSectorDisk(&opBudget{}, DataOffset), testSuperblock())
	if err != nil {
		t.Fatal(err)
	}
	next := f.superblock()
	if err := f.write(next); err != nil {
		t.Fatal(err)
	}
	next.Lineage[0].First, next.Cuts[0].LSN, next.PendingZero[0].Start = 77, 77, 77
	want := testSuperblock()
	want.Sequence = 2
	if got := f.superblock(); !reflect.DeepEqual(got, want) || got.Lineage[0].First != block.LSN(1) {
		t.Fatalf("got %+v", got)
	}
}

func TestSuperblockFileSaysWhatIsWrongWithTheOther(t *testing.T) {
	torn := mustEncode(t, testSuperblock())
	clear(torn[300:])
	f, err := openSuperblockFile(baseWith(torn, mustEncode(t, testSuperblock())))
	if err != nil || !errors.Is(f.other, ErrTorn) {
		t.Fatalf("other %v, %v", f.other, err)
	}
}
