package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"lockstep/block"
)

// testSuperblock has a value in every field.
func testSuperblock() Superblock {
	id := func(b byte) uuid.UUID { return uuid.UUID(bytes.Repeat([]byte{b}, 16)) }
	return Superblock{
		Sequence: 7, VolumeID: id(0xa1), CopyID: id(0xb2), NodeID: id(0xc3),
		CompatFlags: 1<<5 | 1<<63,
		SizeBytes:   1 << 30, BlockBytes: 4096, ChunkBytes: 64 << 10, SegmentBytes: 64 << 20, LogBudgetBytes: 2 << 30,
		Incarnation: 9, Epoch: 4, Checkpoint: 100, BaseHigh: 120, Durable: 130, Committed: 125,
		MapGeneration: 11, State: SyncFailed | LineagePruned, CreatedAt: time.Unix(1700000000, 123456789).UTC(),
		Lineage: []block.EpochStart{
			{Epoch: 1, ID: id(1), Primary: id(0xc3), First: 1}, {Epoch: 4, ID: id(2), Primary: id(0xc4), First: 90}},
		Cuts:        []Cut{{LSN: 80, Incarnation: 3}, {LSN: 130, Incarnation: 8}},
		PendingZero: []block.Range{{Start: 16, Count: 4096}, {Start: 262143, Count: 1}},
		unknown: []section{
			{kind: 77, flags: 2, payload: []byte("kept as it is")}, {kind: 900, payload: []byte{}}},
	}
}

func mustEncode(t testing.TB, sb Superblock) []byte {
	t.Helper()
	b, err := sb.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sealed returns b with a right checksum.
func sealed(b []byte, crcAt int) []byte {
	binary.LittleEndian.PutUint32(b[crcAt:], checksum(b, crcAt))
	return b
}

func TestSuperblockGolden(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "superblock_v1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if got := mustEncode(t, testSuperblock()); !bytes.Equal(got, want) {
		t.Fatalf("the format has changed: %d bytes, want %d\n%x\n%x", len(got), len(want), got, want)
	}
	got, err := decodeSuperblock(want)
	if err != nil || !reflect.DeepEqual(got, testSuperblock()) {
		t.Fatalf("decoded %+v, %v", got, err)
	}
}

func TestSuperblockDecodeErrors(t *testing.T) {
	le := binary.LittleEndian
	u64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint64(b[at:], v); return sealed(b, sbCRCAt) }
	}
	u32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint32(b[at:], v); return sealed(b, sbCRCAt) }
	}
	firstSection := sbFixedBytes
	cuts := firstSection + sectionHeadBytes + 2*lineageBytes
	zeroes := cuts + sectionHeadBytes + 2*cutBytes
	unknown := zeroes + sectionHeadBytes + 2*rangeBytes
	for _, c := range []struct {
		name    string
		change  func([]byte) []byte
		want    error
		mention string
	}{
		{"foreign magic", func(b []byte) []byte { copy(b, "LUKS\xba\xbe"); return b }, ErrForeign, ""},
		{"too short for a magic", func(b []byte) []byte { return b[:4] }, ErrForeign, ""},
		{"newer version", u32(sbVersionAt, 2), ErrVersion, "2"},
		{"version zero", u32(sbVersionAt, 0), ErrVersion, "0"},
		{"newer version, other checksum", func(b []byte) []byte { b[sbVersionAt] = 9; return b }, ErrVersion, "9"},
		{"incompatible flags", u64(sbIncompatAt, 1<<3|1<<17), ErrIncompatible, "flag bit 3, flag bit 17"},
		{"incompatible section", func(b []byte) []byte {
			b[unknown+2] |= sectionIncompatible
			return sealed(b, sbCRCAt)
		}, ErrIncompatible, "section type 77"},
		{"torn at the end", func(b []byte) []byte { clear(b[200:]); return b }, ErrTorn, ""},
		{"torn at the begin", func(b []byte) []byte { b[sbSequenceAt]--; return b }, ErrTorn, "sequence 6"},
		{"bit in the middle", func(b []byte) []byte { b[210] ^= 1; return b }, ErrCorrupt, "checksum"},
		{"checksum", func(b []byte) []byte { b[sbCRCAt] ^= 1; return b }, ErrCorrupt, "checksum"},
		{"ends differ, sealed", u64(sbSequenceAt, 1), ErrCorrupt, "sequence"},
		{"length small", func(b []byte) []byte { le.PutUint32(b[sbLengthAt:], 207); return b }, ErrCorrupt, "length"},
		{"length huge", func(b []byte) []byte { le.PutUint32(b[sbLengthAt:], 1<<31); return b }, ErrCorrupt, "length"},
		{"length beyond the bytes", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt, "length"},
		{"fewer sections than said", u32(sbSectionsAt, 6), ErrCorrupt, "sections"},
		{"more sections than said", u32(sbSectionsAt, 4), ErrCorrupt, "sections"},
		{"section longer than all", u32(firstSection+4, 1<<31), ErrCorrupt, "does not fit"},
		{"section of half an entry", func(b []byte) []byte {
			le.PutUint16(b[unknown:], sectionPendingZero)
			le.PutUint16(b[unknown+2:], sectionIncompatible)
			le.PutUint16(b[zeroes:], 500)
			le.PutUint16(b[zeroes+2:], 0)
			return sealed(b, sbCRCAt)
		}, ErrCorrupt, "of 13 bytes"},
		{"section twice", func(b []byte) []byte {
			le.PutUint16(b[zeroes:], sectionCuts)
			return sealed(b, sbCRCAt)
		}, ErrCorrupt, "twice"},
		{"known section, other flags", func(b []byte) []byte { b[cuts+2] = 0; return sealed(b, sbCRCAt) }, ErrCorrupt, "flags"},
		{"no volume ID", func(b []byte) []byte { clear(b[sbVolumeAt:sbCopyAt]); return sealed(b, sbCRCAt) }, ErrCorrupt, "volume ID"},
		{"block size 0", u32(sbBlockAt, 0), ErrCorrupt, "block size"},
		{"block size 256", u32(sbBlockAt, 256), ErrCorrupt, "block size"},
		{"block size 3000", u32(sbBlockAt, 3000), ErrCorrupt, "block size"},
		{"block size 128K", u32(sbBlockAt, 128<<10), ErrCorrupt, "block size"},
		{"size 0", u64(sbSizeAt, 0), ErrCorrupt, "volume size"},
		{"size odd", u64(sbSizeAt, 1<<30+512), ErrCorrupt, "volume size"},
		{"size negative", u64(sbSizeAt, 1<<63), ErrCorrupt, "volume size"},
		{"size that overflows with the header", u64(sbSizeAt, 1<<63-4096), ErrCorrupt, "volume size"},
		{"chunk size 0", u64(sbChunkAt, 0), ErrCorrupt, "chunk size"},
		{"chunk size small", u64(sbChunkAt, 32<<10), ErrCorrupt, "chunk size"},
		{"chunk size no power", u64(sbChunkAt, 96<<10), ErrCorrupt, "chunk size"},
		{"too many chunks", u64(sbSizeAt, 1<<40), ErrCorrupt, "chunk size"},
		{"segment size 0", u64(sbSegmentAt, 0), ErrCorrupt, "segment size"},
		{"segment size odd", u64(sbSegmentAt, 1<<20+512), ErrCorrupt, "segment size"},
		{"budget below a segment", u64(sbBudgetAt, 1<<20), ErrCorrupt, "log budget"},
		{"budget negative", u64(sbBudgetAt, 1<<63), ErrCorrupt, "log budget"},
		{"checkpoint above base high", u64(sbCheckpointAt, 121), ErrCorrupt, "checkpoint"},
		{"base high above durable", u64(sbBaseHighAt, 131), ErrCorrupt, "base high"},
		{"epoch below lineage", u64(sbEpochAt, 3), ErrCorrupt, "epoch"},
		{"lineage epoch repeated", u64(firstSection+8+lineageBytes, 1), ErrCorrupt, "lineage"},
		{"lineage LSN repeated", u64(firstSection+8+2*lineageBytes-8, 1), ErrCorrupt, "lineage"},
		{"cut of the future", u64(cuts+8+8, 10), ErrCorrupt, "cut"},
		{"pending zero of nothing", u64(zeroes+8+8, 0), ErrCorrupt, "pending zero"},
		{"pending zero past the end", u64(zeroes+8, 262144), ErrCorrupt, "pending zero"},
		{"pending zero that wraps", u64(zeroes+8+8, 1<<64-1), ErrCorrupt, "pending zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(mustEncode(t, testSuperblock()))
			_, err := decodeSuperblock(b)
			for _, e := range []error{ErrForeign, ErrVersion, ErrIncompatible, ErrTorn, ErrCorrupt} {
				if errors.Is(err, e) != (e == c.want) {
					t.Fatalf("got %v, want %v", err, c.want)
				}
			}
			if !strings.Contains(err.Error(), c.mention) {
				t.Fatalf("%q does not mention %q", err, c.mention)
			}
		})
	}
}

func TestSuperblockAnyBitFlipIsNoticed(t *testing.T) {
	good := mustEncode(t, testSuperblock())
	for i := range len(good) * 8 {
		b := slices.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if sb, err := decodeSuperblock(b); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted %+v", i%8, i/8, sb)
		}
	}
}

func TestSuperblockInconsistentMayHoldUnloggedData(t *testing.T) {
	sb := testSuperblock()
	sb.BaseHigh = sb.Durable + 50
	if _, err := sb.encode(); err == nil {
		t.Fatal("a consistent copy's base above its durable log was written")
	}
	sb.State |= Inconsistent
	got, err := decodeSuperblock(mustEncode(t, sb))
	if err != nil || !reflect.DeepEqual(got, sb) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// What would be refused when read is refused when written.
func TestSuperblockEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*Superblock){
		"cuts":          func(sb *Superblock) { sb.Cuts = make([]Cut, maxCuts+1) },
		"pending zero":  func(sb *Superblock) { sb.PendingZero = slices.Repeat(sb.PendingZero[:1], maxPendingZero+1) },
		"unknown":       func(sb *Superblock) { sb.unknown = []section{{kind: 9, payload: make([]byte, maxUnknownBytes-7)}} },
		"incompatible":  func(sb *Superblock) { sb.IncompatFlags = 1 },
		"creation time": func(sb *Superblock) { sb.CreatedAt = time.Time{} },
	} {
		sb := testSuperblock()
		change(&sb)
		if _, err := sb.encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// fullSuperblock is as large as one can be, and its lineage is longer still.
func fullSuperblock(lineage int) Superblock {
	sb := testSuperblock()
	sb.State, sb.Epoch, sb.EpochID, sb.Lineage = 0, 1<<20, uuid.UUID{1}, nil
	for i := range lineage {
		n := uint64(i + 1)
		sb.Lineage = append(sb.Lineage, block.EpochStart{
			Epoch: block.Epoch(n), ID: uuid.UUID{1, byte(n), byte(n >> 8)}, First: block.LSN(n * 10)})
	}
	sb.Cuts = slices.Repeat(sb.Cuts[:1], maxCuts)
	sb.PendingZero = slices.Repeat(sb.PendingZero[:1], maxPendingZero)
	sb.unknown = []section{{kind: 9, payload: make([]byte, maxUnknownBytes-sectionHeadBytes)}}
	return sb
}

func TestSuperblockLineageIsPruned(t *testing.T) {
	base := newSectorDisk(&opBudget{}, DataOffset)
	for _, c := range []struct {
		entries, kept int
		pruned        bool
	}{{maxLineage, maxLineage, false}, {maxLineage + 1, maxLineage, true}, {5000, maxLineage, true}} {
		sb := fullSuperblock(c.entries)
		all := sb.Lineage
		if err := writeSuperblock(base, &sb, 1); err != nil {
			t.Fatal(err)
		}
		got, slot, err := readSuperblock(base)
		if err != nil || slot != 1 || !reflect.DeepEqual(got, sb) {
			t.Fatalf("%d entries: slot %d, %v", c.entries, slot, err)
		}
		if !slices.Equal(got.Lineage, all[c.entries-c.kept:]) || (got.State&LineagePruned != 0) != c.pruned {
			t.Fatalf("%d entries: kept %d from %d, state %b",
				c.entries, len(got.Lineage), got.Lineage[0].Epoch, got.State)
		}
	}
	if maxLineage < 600 {
		t.Fatal("600 epochs must fit")
	}
}

// A random superblock comes back as it was.
func TestSuperblockRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		sb := testSuperblock()
		sb.Sequence, sb.MapGeneration, sb.CompatFlags = r.Uint64(), r.Uint64(), r.Uint64()
		sb.State = StateFlags(r.Uint32())
		sb.BlockBytes = 512 << r.IntN(8)
		sb.SizeBytes = int64(sb.BlockBytes) * (1 + r.Int64N(1<<uint(1+r.IntN(40))))
		sb.ChunkBytes = ChunkBytesFor(sb.SizeBytes)
		sb.Incarnation = r.Uint64()
		sb.Lineage, sb.Cuts, sb.PendingZero, sb.unknown = nil, nil, nil, nil
		var epoch, first uint64
		for range r.IntN(20) {
			epoch, first = epoch+1+r.Uint64N(1<<40), first+1+r.Uint64N(1<<40)
			sb.Lineage = append(sb.Lineage, block.EpochStart{
				Epoch: block.Epoch(epoch), ID: uuid.New(), Primary: uuid.New(), First: block.LSN(first)})
		}
		sb.Epoch = block.Epoch(epoch)
		if r.IntN(2) == 0 {
			sb.EpochID = uuid.New()
		}
		for range r.IntN(5) {
			sb.Cuts = append(sb.Cuts, Cut{LSN: block.LSN(r.Uint64()), Incarnation: sb.Incarnation / 2})
		}
		for range r.IntN(5) {
			blocks := uint64(sb.SizeBytes) / uint64(sb.BlockBytes)
			start := r.Uint64N(blocks)
			sb.PendingZero = append(sb.PendingZero, block.Range{Start: start, Count: 1 + r.Uint64N(blocks-start)})
		}
		for i := range r.IntN(3) {
			sb.unknown = append(sb.unknown, section{kind: uint16(100 + i), flags: 4, payload: []byte{1, 2, 3}})
		}
		got, err := decodeSuperblock(mustEncode(t, sb))
		if err != nil || !reflect.DeepEqual(got, sb) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, sb)
		}
	}
}

func FuzzDecodeSuperblock(f *testing.F) {
	sb := testSuperblock()
	good, err := sb.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(good[:sbFixedBytes+sbEndBytes], true)
	f.Add([]byte("LOCKSTEP"), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= sbFixedBytes+sbEndBytes && len(b) <= superblockMaxBytes { // get past the checksum
			b = slices.Clone(b)
			binary.LittleEndian.PutUint32(b[sbLengthAt:], uint32(len(b)))
			copy(b[len(b)-sbEndBytes:], b[sbSequenceAt:sbSequenceAt+8])
			sealed(b, sbCRCAt)
		}
		sb, err := decodeSuperblock(b)
		if err != nil {
			return
		}
		again, err := sb.encode()
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		sb2, err := decodeSuperblock(again)
		if err != nil || !reflect.DeepEqual(sb, sb2) {
			t.Fatalf("%+v became %+v, %v", sb, sb2, err)
		}
	})
}
