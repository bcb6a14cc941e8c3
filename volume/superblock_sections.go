package volume

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
)

// Section types, flags and sizes; their bytes are in the table in superblock.go.
const (
	sectionLineage     = 1
	sectionCuts        = 2
	sectionPendingZero = 3
	sectionEpochID     = 4

	sectionIncompatible = 1 << 0

	sectionHeadBytes = 8
	lineageBytes     = 48
	cutBytes         = 16
	rangeBytes       = 16
	epochIDBytes     = 16
)

// section is one type-length-value part of a superblock.
type section struct {
	kind, flags uint16
	payload     []byte
}

func (s section) known() bool { return s.kind >= sectionLineage && s.kind <= sectionEpochID }

func (s section) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, s.kind)
	b = binary.LittleEndian.AppendUint16(b, s.flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.payload)))
	return append(b, s.payload...)
}

// splitSections finds count sections that fill b exactly. Their payloads are slices of b.
func splitSections(b []byte, count uint32) ([]section, error) {
	var all []section
	for len(b) >= sectionHeadBytes && uint32(len(all)) < count {
		le := binary.LittleEndian
		s := section{kind: le.Uint16(b), flags: le.Uint16(b[2:])}
		length := le.Uint32(b[4:])
		b = b[sectionHeadBytes:]
		if int64(length) > int64(len(b)) {
			return nil, fmt.Errorf("%w: section %d of %d bytes does not fit", ErrCorrupt, len(all), length)
		}
		s.payload, b = b[:length], b[length:]
		all = append(all, s)
	}
	if uint32(len(all)) != count || len(b) != 0 {
		return nil, fmt.Errorf("%w: %d of %d sections, %d bytes left over", ErrCorrupt, len(all), count, len(b))
	}
	return all, nil
}

// sections encodes what is not in the fixed part: the known sections in order of type, then the unknown ones.
func (sb *Superblock) sections() []section {
	le := binary.LittleEndian
	var lineage, cuts, zeroes, epochID []byte
	for _, e := range sb.Lineage {
		lineage = le.AppendUint64(lineage, uint64(e.Epoch))
		lineage = append(lineage, e.ID[:]...)
		lineage = append(lineage, e.Primary[:]...)
		lineage = le.AppendUint64(lineage, uint64(e.First))
	}
	for _, c := range sb.Cuts {
		cuts = le.AppendUint64(cuts, uint64(c.LSN))
		cuts = le.AppendUint64(cuts, c.Incarnation)
	}
	for _, r := range sb.PendingZero {
		zeroes = le.AppendUint64(zeroes, r.Start)
		zeroes = le.AppendUint64(zeroes, r.Count)
	}
	if sb.EpochID != uuid.Nil {
		epochID = sb.EpochID[:]
	}
	var all []section
	for kind, payload := range [][]byte{
		sectionLineage: lineage, sectionCuts: cuts, sectionPendingZero: zeroes, sectionEpochID: epochID,
	} {
		if len(payload) > 0 {
			all = append(all, section{kind: uint16(kind), flags: sectionIncompatible, payload: payload})
		}
	}
	return append(all, sb.unknown...)
}

// takeSections decodes sections into sb. The entries' meaning is tested by validate.
func (sb *Superblock) takeSections(sections []section) error {
	seen := [sectionEpochID + 1]bool{}
	for _, s := range sections {
		if !s.known() {
			sb.unknown = append(sb.unknown, section{s.kind, s.flags, append([]byte{}, s.payload...)})
			continue
		}
		if seen[s.kind] || s.flags != sectionIncompatible || len(s.payload) == 0 {
			return fmt.Errorf("%w: section type %d twice, empty, or with flags %x", ErrCorrupt, s.kind, s.flags)
		}
		seen[s.kind] = true
		if err := sb.takeSection(s); err != nil {
			return err
		}
	}
	return nil
}

func (sb *Superblock) takeSection(s section) error {
	size, limit := sectionShape(s.kind)
	if len(s.payload)%size != 0 || len(s.payload)/size > limit {
		return fmt.Errorf("%w: section type %d of %d bytes", ErrCorrupt, s.kind, len(s.payload))
	}
	le := binary.LittleEndian
	for p := s.payload; len(p) > 0; p = p[size:] {
		switch s.kind {
		case sectionLineage:
			sb.Lineage = append(sb.Lineage, block.EpochStart{
				Epoch:   block.Epoch(le.Uint64(p)),
				ID:      uuid.UUID(p[8:24]),
				Primary: uuid.UUID(p[24:40]),
				First:   block.LSN(le.Uint64(p[40:])),
			})
		case sectionCuts:
			sb.Cuts = append(sb.Cuts, Cut{LSN: block.LSN(le.Uint64(p)), Incarnation: le.Uint64(p[8:])})
		case sectionPendingZero:
			sb.PendingZero = append(sb.PendingZero, block.Range{Start: le.Uint64(p), Count: le.Uint64(p[8:])})
		case sectionEpochID:
			sb.EpochID = uuid.UUID(p)
		}
	}
	return nil
}

// sectionShape returns the size in bytes and the largest number of entries of a known section.
func sectionShape(kind uint16) (size, limit int) {
	switch kind {
	case sectionLineage:
		return lineageBytes, maxLineage
	case sectionCuts:
		return cutBytes, maxCuts
	case sectionPendingZero:
		return rangeBytes, maxPendingZero
	case sectionEpochID:
		return epochIDBytes, 1
	}
	panic(fmt.Sprintf("volume: section type %d has no shape", kind))
}

// validateSections is the part of validate that looks at lists.
func (sb *Superblock) validateSections() error {
	if len(sb.Lineage) > maxLineage || len(sb.Cuts) > maxCuts || len(sb.PendingZero) > maxPendingZero {
		return fmt.Errorf("%d lineage entries, %d cuts, %d pending zeroes: at most %d, %d, %d",
			len(sb.Lineage), len(sb.Cuts), len(sb.PendingZero), maxLineage, maxCuts, maxPendingZero)
	}
	var last block.EpochStart
	for i, e := range sb.Lineage {
		if e.Epoch <= last.Epoch || e.First <= last.First {
			return fmt.Errorf("lineage entry %d: epoch %d from %d after epoch %d from %d",
				i, e.Epoch, e.First, last.Epoch, last.First)
		}
		last = e
	}
	if last.Epoch > sb.Epoch {
		return fmt.Errorf("epoch %d below the lineage's %d", sb.Epoch, last.Epoch)
	}
	for _, c := range sb.Cuts {
		if c.Incarnation > sb.Incarnation {
			return fmt.Errorf("cut of incarnation %d in incarnation %d", c.Incarnation, sb.Incarnation)
		}
	}
	blocks := uint64(sb.SizeBytes) / uint64(sb.BlockBytes)
	for _, r := range sb.PendingZero {
		if r.Count == 0 || r.Start >= blocks || r.Count > blocks-r.Start {
			return fmt.Errorf("pending zero of %d blocks at %d in a volume of %d", r.Count, r.Start, blocks)
		}
	}
	unknown := 0
	for _, s := range sb.unknown {
		unknown += sectionHeadBytes + len(s.payload)
	}
	if unknown > maxUnknownBytes {
		return fmt.Errorf("%d bytes of unknown sections, at most %d", unknown, maxUnknownBytes)
	}
	return nil
}

// pruneLineage drops the oldest entries of a lineage that would not fit, and says so in State.
func (sb *Superblock) pruneLineage() {
	if over := len(sb.Lineage) - maxLineage; over > 0 {
		sb.Lineage = append([]block.EpochStart(nil), sb.Lineage[over:]...)
		sb.State |= LineagePruned
	}
}
