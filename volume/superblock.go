package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"lockstep/block"
)

// Errors of the decoders of this package's on-disk formats: superblock and change map. Each is wrapped with the place.
var (
	ErrNotFormatted = errors.New("not formatted")                   // nothing but zeroes where a superblock would be
	ErrForeign      = errors.New("not a lockstep volume")           // something is there, and it is not ours
	ErrVersion      = errors.New("unknown format version")          // ours, of a program newer than this
	ErrIncompatible = errors.New("unknown incompatible features")   // ours, with features that must not be ignored
	ErrTorn         = errors.New("torn: begin and end do not meet") // a write that was cut off
	ErrCorrupt      = errors.New("corrupt")                         // checksum wrong, or the content contradicts itself
)

// StateFlags are facts about a copy that outlive the process. Bits that this program does not know are preserved.
type StateFlags uint32

const (
	// SyncFailed: a write or sync failed since the copy was last recovered; the page cache proves nothing (L4).
	SyncFailed StateFlags = 1 << iota
	// Inconsistent: inside a rebuild; not readable, not counted, never promoted (I13).
	Inconsistent
	// LineagePruned: entries older than Lineage[0] are gone; a fork before it is taken as 0 (S13).
	LineagePruned
)

// Cut voids part of the log: records above LSN in frames of Incarnation or an older one are not part of it (L2, S13).
type Cut struct {
	LSN         block.LSN
	Incarnation uint64
}

// subsumes tells whether c voids all that other does.
func (c Cut) subsumes(other Cut) bool {
	return other.LSN >= c.LSN && other.Incarnation <= c.Incarnation
}

// Limits of a superblock. Together with the fixed part they always fit a slot.
const (
	maxLineage      = 640  // entries; older ones are pruned
	maxCuts         = 256  // entries; more cannot be written
	maxPendingZero  = 1024 // ranges; more cannot be written
	maxUnknownBytes = 8192 // of sections this version does not know, with their heads
)

// Superblock is the durable state of one copy of a volume. It is small, and written whole.
type Superblock struct {
	Sequence uint64 // raised by every write; the valid slot with the larger one counts
	VolumeID uuid.UUID
	CopyID   uuid.UUID // random identity of this copy (S2)
	NodeID   uuid.UUID // node that made this copy

	CompatFlags   uint64 // features an older program may ignore; unknown ones are preserved
	IncompatFlags uint64 // features it may not; an unknown one refuses to open

	SizeBytes      int64  // multiple of BlockBytes
	BlockBytes     uint32 // power of two, 512 to 65536
	ChunkBytes     int64  // power of two, at least 64 KiB; the volume has at most 2^22 chunks
	SegmentBytes   int64  // multiple of 4096
	LogBudgetBytes int64  // at least one segment

	Incarnation uint64      // raised, and durable, at every open before the first append (L2)
	Epoch       block.Epoch // newest seen; never below the last of Lineage
	EpochID     uuid.UUID   // of Epoch, where this copy follows its primary; nil where it is its own, or not known

	// Invariant: Checkpoint <= BaseHigh, and BaseHigh <= Durable unless Inconsistent: the base never holds a record
	// that is not durable in the log (I4), save what a rebuild put there.
	Checkpoint block.LSN // every record up to it is in the base, durably
	BaseHigh   block.LSN // never below any change in the base (S12)
	Durable    block.LSN // a lower bound of what is durable in this copy's log
	Committed  block.LSN // newest known committed (S7, S10); may be above Durable in a learner

	MapGeneration uint64     // the change map's generation that belongs to Checkpoint
	State         StateFlags // see above
	CreatedAt     time.Time  // ns resolution, UTC when decoded

	Lineage     []block.EpochStart // oldest first; Epoch and First strictly ascend
	Cuts        []Cut              // at most maxCuts
	PendingZero []block.Range      // read as zero though the base has not been zeroed yet; at most maxPendingZero

	unknown []section // compatible sections of a newer program, in order, written back as they were
}

// A superblock on disk. Little endian. The fixed part never grows: a new fact is a new section.
//
//	offset size field
//	     0    8 magic "LOCKSTEP"
//	     8    4 version, 1
//	    12    4 length of all, in bytes, at most 60 KiB
//	    16    4 CRC32C of all, with this field zero
//	    20    4 block size, in bytes
//	    24    8 compatible feature flags
//	    32    8 incompatible feature flags
//	    40    8 sequence
//	    48   16 volume ID
//	    64   16 copy ID
//	    80   16 node ID
//	    96    8 volume size, in bytes
//	   104    8 chunk size, in bytes
//	   112    8 segment size, in bytes
//	   120    8 log budget, in bytes
//	   128    8 incarnation
//	   136    8 epoch
//	   144    8 checkpoint LSN
//	   152    8 base high LSN
//	   160    8 durable LSN
//	   168    8 committed LSN
//	   176    8 map generation
//	   184    8 created at, Unix time in ns, signed
//	   192    4 state flags
//	   196    4 number of sections
//	   200      sections, one after the other
//	 end-8    8 sequence again: where it differs, the write was torn
//
// A section:
//
//	offset size field
//	     0    2 type: 1 lineage, 2 cuts, 3 pending zeroes, 4 epoch ID
//	     2    2 flags: bit 0 = refuse to open if the type is unknown
//	     4    4 length of the payload, in bytes
//	     8      payload: an array of entries; empty arrays are left out
//
//	lineage entry, 48 bytes:  epoch 8, epoch ID 16, primary's node ID 16, first LSN 8
//	cut, 16 bytes:            LSN 8, incarnation 8
//	pending zero, 16 bytes:   first block 8, blocks 8
//	epoch ID, 16 bytes:       of the epoch in the fixed part; one entry
const (
	superblockMagic   = "LOCKSTEP"
	superblockVersion = 1

	sbVersionAt    = 8
	sbLengthAt     = 12
	sbCRCAt        = 16
	sbBlockAt      = 20
	sbCompatAt     = 24
	sbIncompatAt   = 32
	sbSequenceAt   = 40
	sbVolumeAt     = 48
	sbCopyAt       = 64
	sbNodeAt       = 80
	sbSizeAt       = 96
	sbChunkAt      = 104
	sbSegmentAt    = 112
	sbBudgetAt     = 120
	sbIncarnAt     = 128
	sbEpochAt      = 136
	sbCheckpointAt = 144
	sbBaseHighAt   = 152
	sbDurableAt    = 160
	sbCommittedAt  = 168
	sbMapAt        = 176
	sbCreatedAt    = 184
	sbStateAt      = 192
	sbSectionsAt   = 196
	sbFixedBytes   = 200
	sbEndBytes     = 8

	superblockMaxBytes = 60 << 10

	// The fullest superblock fits: a negative constant would not compile.
	_ = uint(superblockMaxBytes - sbFixedBytes - sbEndBytes - 4*sectionHeadBytes - maxUnknownBytes -
		maxLineage*lineageBytes - maxCuts*cutBytes - maxPendingZero*rangeBytes - epochIDBytes)
)

// knownIncompat has the bits of the incompatible feature flags that this program knows: none yet.
const knownIncompat uint64 = 0

// clone returns a copy that shares no memory with sb.
func (sb *Superblock) clone() Superblock {
	c := *sb
	c.Lineage = slices.Clone(sb.Lineage)
	c.Cuts = slices.Clone(sb.Cuts)
	c.PendingZero = slices.Clone(sb.PendingZero)
	return c
}

// encode returns the bytes of sb, or an error where they could not be decoded again.
func (sb *Superblock) encode() ([]byte, error) {
	if err := sb.validate(); err != nil {
		return nil, fmt.Errorf("encode superblock: %w", err)
	}
	sections := sb.sections()
	b := make([]byte, sbFixedBytes, 4096)
	copy(b, superblockMagic)
	le := binary.LittleEndian
	le.PutUint32(b[sbVersionAt:], superblockVersion)
	le.PutUint32(b[sbBlockAt:], sb.BlockBytes)
	copy(b[sbVolumeAt:], sb.VolumeID[:])
	copy(b[sbCopyAt:], sb.CopyID[:])
	copy(b[sbNodeAt:], sb.NodeID[:])
	for _, f := range []struct {
		at    int
		value uint64
	}{
		{sbCompatAt, sb.CompatFlags}, {sbIncompatAt, sb.IncompatFlags}, {sbSequenceAt, sb.Sequence},
		{sbSizeAt, uint64(sb.SizeBytes)}, {sbChunkAt, uint64(sb.ChunkBytes)},
		{sbSegmentAt, uint64(sb.SegmentBytes)}, {sbBudgetAt, uint64(sb.LogBudgetBytes)},
		{sbIncarnAt, sb.Incarnation}, {sbEpochAt, uint64(sb.Epoch)},
		{sbCheckpointAt, uint64(sb.Checkpoint)}, {sbBaseHighAt, uint64(sb.BaseHigh)},
		{sbDurableAt, uint64(sb.Durable)}, {sbCommittedAt, uint64(sb.Committed)},
		{sbMapAt, sb.MapGeneration}, {sbCreatedAt, uint64(sb.CreatedAt.UnixNano())},
	} {
		le.PutUint64(b[f.at:], f.value)
	}
	le.PutUint32(b[sbStateAt:], uint32(sb.State))
	le.PutUint32(b[sbSectionsAt:], uint32(len(sections)))
	for _, s := range sections {
		b = s.append(b)
	}
	b = le.AppendUint64(b, sb.Sequence)
	le.PutUint32(b[sbLengthAt:], uint32(len(b)))
	le.PutUint32(b[sbCRCAt:], checksum(b, sbCRCAt))
	return b, nil
}

// decodeSuperblock reads the superblock at the start of b; what follows it is ignored. The error wraps ErrForeign,
// ErrVersion, ErrTorn, ErrCorrupt or ErrIncompatible. With ErrIncompatible sb.Sequence is set, and nothing else.
func decodeSuperblock(b []byte) (sb Superblock, err error) {
	if len(b) < sbFixedBytes+sbEndBytes || string(b[:len(superblockMagic)]) != superblockMagic {
		return sb, fmt.Errorf("%w: no magic", ErrForeign)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[sbVersionAt:]); v != superblockVersion {
		return sb, fmt.Errorf("%w %d, this program knows %d", ErrVersion, v, superblockVersion)
	}
	length := le.Uint32(b[sbLengthAt:])
	if length < sbFixedBytes+sbEndBytes || length > superblockMaxBytes || int64(length) > int64(len(b)) {
		return sb, fmt.Errorf("%w: length %d", ErrCorrupt, length)
	}
	b = b[:length]
	begin, end := le.Uint64(b[sbSequenceAt:]), le.Uint64(b[length-sbEndBytes:])
	if want, got := le.Uint32(b[sbCRCAt:]), checksum(b, sbCRCAt); got != want {
		if begin != end {
			return sb, fmt.Errorf("%w: sequence %d at the begin, %d at the end", ErrTorn, begin, end)
		}
		return sb, fmt.Errorf("%w: checksum %08x, want %08x", ErrCorrupt, got, want)
	}
	if begin != end {
		return sb, fmt.Errorf("%w: sequence %d at the begin, %d at the end", ErrCorrupt, begin, end)
	}
	sections, splitErr := splitSections(b[sbFixedBytes:length-sbEndBytes], le.Uint32(b[sbSectionsAt:]))
	incompat := le.Uint64(b[sbIncompatAt:])
	if err := refuseUnknown(incompat, sections); err != nil {
		return Superblock{Sequence: begin}, err
	}
	if splitErr != nil {
		return sb, splitErr
	}
	sb = Superblock{
		Sequence:       begin,
		VolumeID:       uuid.UUID(b[sbVolumeAt:sbCopyAt]),
		CopyID:         uuid.UUID(b[sbCopyAt:sbNodeAt]),
		NodeID:         uuid.UUID(b[sbNodeAt:sbSizeAt]),
		CompatFlags:    le.Uint64(b[sbCompatAt:]),
		IncompatFlags:  incompat,
		SizeBytes:      int64(le.Uint64(b[sbSizeAt:])),
		BlockBytes:     le.Uint32(b[sbBlockAt:]),
		ChunkBytes:     int64(le.Uint64(b[sbChunkAt:])),
		SegmentBytes:   int64(le.Uint64(b[sbSegmentAt:])),
		LogBudgetBytes: int64(le.Uint64(b[sbBudgetAt:])),
		Incarnation:    le.Uint64(b[sbIncarnAt:]),
		Epoch:          block.Epoch(le.Uint64(b[sbEpochAt:])),
		Checkpoint:     block.LSN(le.Uint64(b[sbCheckpointAt:])),
		BaseHigh:       block.LSN(le.Uint64(b[sbBaseHighAt:])),
		Durable:        block.LSN(le.Uint64(b[sbDurableAt:])),
		Committed:      block.LSN(le.Uint64(b[sbCommittedAt:])),
		MapGeneration:  le.Uint64(b[sbMapAt:]),
		State:          StateFlags(le.Uint32(b[sbStateAt:])),
		CreatedAt:      time.Unix(0, int64(le.Uint64(b[sbCreatedAt:]))).UTC(),
	}
	if err := sb.takeSections(sections); err != nil {
		return Superblock{}, err
	}
	if err := sb.validate(); err != nil {
		return Superblock{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return sb, nil
}

// refuseUnknown returns an error wrapping ErrIncompatible that lists the flag bits and section types which this
// program may not ignore and does not know.
func refuseUnknown(incompat uint64, sections []section) error {
	var what []string
	for rest := incompat &^ knownIncompat; rest != 0; rest &= rest - 1 {
		what = append(what, fmt.Sprintf("flag bit %d", bits.TrailingZeros64(rest)))
	}
	for _, s := range sections {
		if !s.known() && s.flags&sectionIncompatible != 0 {
			what = append(what, fmt.Sprintf("section type %d", s.kind))
		}
	}
	if what == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrIncompatible, strings.Join(what, ", "))
}

// validate says what contradicts itself in sb. It is the same test before writing and after reading, so that nothing
// is written that would be refused later.
func (sb *Superblock) validate() error {
	blockBytes := int64(sb.BlockBytes)
	switch {
	case sb.VolumeID == uuid.Nil:
		return errors.New("no volume ID")
	case sb.IncompatFlags&^knownIncompat != 0:
		return fmt.Errorf("incompatible flags %x", sb.IncompatFlags)
	case blockBytes < 512 || blockBytes > 65536 || blockBytes&(blockBytes-1) != 0:
		return fmt.Errorf("block size %d", blockBytes)
	case sb.SizeBytes <= 0 || sb.SizeBytes%blockBytes != 0 || sb.SizeBytes > math.MaxInt64-DataOffset:
		return fmt.Errorf("volume size %d", sb.SizeBytes)
	case !validChunks(sb.ChunkBytes, chunkCount(sb.SizeBytes, sb.ChunkBytes)):
		return fmt.Errorf("chunk size %d for volume size %d", sb.ChunkBytes, sb.SizeBytes)
	case sb.SegmentBytes <= 0 || sb.SegmentBytes%4096 != 0:
		return fmt.Errorf("segment size %d", sb.SegmentBytes)
	case sb.LogBudgetBytes < sb.SegmentBytes:
		return fmt.Errorf("log budget %d below segment size %d", sb.LogBudgetBytes, sb.SegmentBytes)
	case sb.Checkpoint > sb.BaseHigh:
		return fmt.Errorf("checkpoint %d above base high %d", sb.Checkpoint, sb.BaseHigh)
	case sb.BaseHigh > sb.Durable && sb.State&Inconsistent == 0:
		return fmt.Errorf("base high %d above durable %d", sb.BaseHigh, sb.Durable)
	case !time.Unix(0, sb.CreatedAt.UnixNano()).Equal(sb.CreatedAt):
		return fmt.Errorf("creation time %v", sb.CreatedAt)
	}
	return sb.validateSections()
}

// checksum is the CRC32C of b with the four bytes at zeroAt taken as zero.
func checksum(b []byte, zeroAt int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Checksum(b[:zeroAt], table)
	crc = crc32.Update(crc, table, make([]byte, 4))
	return crc32.Update(crc, table, b[zeroAt+4:])
}
