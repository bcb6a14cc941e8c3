package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"lockstep/backend"
)

// Where things lie in the base. The header holds two superblock slots and nothing else.
const (
	// DataOffset is where the volume's block 0 lies in the base, in bytes.
	DataOffset = 1 << 20

	superblockSlots     = 2
	superblockSlotBytes = 64 << 10 // from one slot's start to the next
	superblockAlign     = 4096     // writes are whole multiples, so that no device reads before it writes
)

// SuperblockDamageError says that neither slot holds a superblock that can be used, though one was there.
type SuperblockDamageError struct {
	Slots [superblockSlots]error // what is wrong with each
}

// Error names both slots' problems.
func (e *SuperblockDamageError) Error() string {
	return fmt.Sprintf("both superblocks are damaged: slot 0: %v; slot 1: %v", e.Slots[0], e.Slots[1])
}

// Unwrap returns the problems of the slots.
func (e *SuperblockDamageError) Unwrap() []error { return e.Slots[:] }

// slotContent is what was found in one slot.
type slotContent struct {
	raw []byte // as on disk, aligned; to be written again unchanged
	sb  Superblock
	err error // ErrNotFormatted where the slot is all zeroes
}

func readSlot(b backend.Backend, slot int) slotContent {
	raw := make([]byte, superblockMaxBytes)
	if _, err := b.ReadAt(raw, int64(slot)*superblockSlotBytes); err != nil {
		return slotContent{err: fmt.Errorf("read: %w", err)}
	}
	if !slices.ContainsFunc(raw, func(c byte) bool { return c != 0 }) {
		return slotContent{err: ErrNotFormatted}
	}
	sb, err := decodeSuperblock(raw)
	if err != nil {
		return slotContent{sb: sb, err: err}
	}
	length := binary.LittleEndian.Uint32(raw[sbLengthAt:])
	return slotContent{raw: raw[:(length+superblockAlign-1)&^(superblockAlign-1)], sb: sb}
}

// readSlots returns both slots and which of them counts. See readSuperblock for err.
func readSlots(b backend.Backend) (slots [superblockSlots]slotContent, newest int, err error) {
	size, err := b.Size()
	if err != nil {
		return slots, 0, fmt.Errorf("read superblock: %w", err)
	}
	if size < DataOffset {
		return slots, 0, fmt.Errorf("read superblock: %w: %d bytes cannot hold the header", ErrForeign, size)
	}
	for i := range slots {
		slots[i] = readSlot(b, i)
	}
	newest, err = chooseSlot(slots[0], slots[1])
	if err != nil {
		return slots, 0, fmt.Errorf("read superblock: %w", err)
	}
	return slots, newest, nil
}

// chooseSlot decides which slot counts, or why none does. A slot of a newer program is never passed over for an older
// one: that would undo what the newer program did.
func chooseSlot(a, b slotContent) (int, error) {
	for i, s := range []slotContent{a, b} {
		other := []slotContent{b, a}[i]
		overtaken := other.err == nil && other.sb.Sequence > s.sb.Sequence
		if errors.Is(s.err, ErrVersion) || errors.Is(s.err, ErrIncompatible) && !overtaken {
			return 0, fmt.Errorf("slot %d: %w", i, s.err)
		}
	}
	switch {
	case a.err == nil && b.err == nil:
		if a.sb.VolumeID != b.sb.VolumeID || a.sb.CopyID != b.sb.CopyID || a.sb.Sequence == b.sb.Sequence {
			err := fmt.Errorf("%w: slots of one header contradict each other: volume %v copy %v sequence %d; "+
				"volume %v copy %v sequence %d", ErrCorrupt,
				a.sb.VolumeID, a.sb.CopyID, a.sb.Sequence, b.sb.VolumeID, b.sb.CopyID, b.sb.Sequence)
			return 0, &SuperblockDamageError{Slots: [superblockSlots]error{err, err}}
		}
		if b.sb.Sequence > a.sb.Sequence {
			return 1, nil
		}
		return 0, nil
	case a.err == nil:
		return 0, nil
	case b.err == nil:
		return 1, nil
	case a.err == ErrNotFormatted && b.err == ErrNotFormatted:
		return 0, ErrNotFormatted
	case notOurs(a.err) && notOurs(b.err):
		return 0, ErrForeign
	}
	return 0, &SuperblockDamageError{Slots: [superblockSlots]error{a.err, b.err}}
}

func notOurs(err error) bool { return errors.Is(err, ErrNotFormatted) || errors.Is(err, ErrForeign) }

// readSuperblock returns the valid superblock with the larger sequence and the slot it was in. One bad slot beside a
// good one is what a power cut leaves behind, and no error. Otherwise err wraps ErrNotFormatted (both slots all
// zeroes), ErrForeign (something else is there), ErrVersion, ErrIncompatible, or is a *SuperblockDamageError.
func readSuperblock(b backend.Backend) (sb Superblock, slot int, err error) {
	slots, slot, err := readSlots(b)
	if err != nil {
		return Superblock{}, 0, err
	}
	return slots[slot].sb, slot, nil
}

// writeSuperblock writes sb to a slot and syncs. It prunes sb's lineage where it would not fit.
func writeSuperblock(b backend.Backend, sb *Superblock, slot int) error {
	_, err := putSuperblock(b, sb, slot)
	return err
}

// putSuperblock is writeSuperblock, and returns the bytes it wrote.
func putSuperblock(b backend.Backend, sb *Superblock, slot int) ([]byte, error) {
	sb.pruneLineage()
	raw, err := sb.encode()
	if err != nil {
		return nil, err
	}
	raw = append(raw, make([]byte, -len(raw)&(superblockAlign-1))...)
	return raw, putSlot(b, raw, slot)
}

func putSlot(b backend.Backend, raw []byte, slot int) error {
	if _, err := b.WriteAt(raw, int64(slot)*superblockSlotBytes); err != nil {
		return fmt.Errorf("write superblock slot %d: %w", slot, err)
	}
	if err := b.Sync(); err != nil {
		return fmt.Errorf("sync superblock slot %d: %w", slot, err)
	}
	return nil
}

// superblockFile is the pair of slots in a base's header. It is not safe for concurrent use.
//
// The two slots outlive a torn write, since nothing relies on a superblock before its sync. Against a slot that rots
// afterwards they help only in part: the other one is older. A fact that must outlive that too is written twice.
type superblockFile struct {
	base    backend.Backend
	current Superblock // newest one that is durable, or was read
	raw     []byte     // current's bytes as they are in its slot
	slot    int        // current's slot
	// proven: current is on stable storage. Not so after opening (what was read may have come from a page cache that
	// a failed sync left behind) and after a failed write or sync.
	proven bool
	// other is what was wrong with the slot that does not count, when opened; nil, or ErrNotFormatted where it had
	// never been written. For the operator: a torn one is normal after a power cut, a corrupt one is not.
	other error
}

// createSuperblockFile formats the header of base with sb, whatever is there now, and syncs. Sequence starts at 1.
func createSuperblockFile(base backend.Backend, sb Superblock) (*superblockFile, error) {
	// An older volume's slots go first: their sequence may be larger.
	zeroes := make([]byte, superblockMaxBytes)
	for slot := range superblockSlots {
		if err := putSlot(base, zeroes, slot); err != nil {
			return nil, fmt.Errorf("erase header: %w", err)
		}
	}
	f := &superblockFile{base: base, slot: 1, proven: true}
	if err := f.write(sb); err != nil {
		return nil, err
	}
	return f, nil
}

// openSuperblockFile reads the header of base. Errors are those of readSuperblock.
func openSuperblockFile(base backend.Backend) (*superblockFile, error) {
	slots, slot, err := readSlots(base)
	if err != nil {
		return nil, err
	}
	return &superblockFile{
		base: base, current: slots[slot].sb, raw: slots[slot].raw, slot: slot, other: slots[1-slot].err,
	}, nil
}

// superblock returns a copy of the current superblock.
func (f *superblockFile) superblock() Superblock { return f.current.clone() }

// rewrite writes the bytes of the current superblock again in place and syncs (L4). Torn in between they are still
// the same bytes.
func (f *superblockFile) rewrite() error {
	f.proven = false
	if err := putSlot(f.base, f.raw, f.slot); err != nil {
		return err
	}
	f.proven = true
	return nil
}

// write makes next durable, in the slot that is not current, with the next sequence, and makes it the current one.
// Where the current one is not proven to be on stable storage it is rewritten first, since it is what a crash falls
// back to. After an error the current one is unchanged; a crash may still show next.
func (f *superblockFile) write(next Superblock) error {
	if !f.proven {
		if err := f.rewrite(); err != nil {
			return err
		}
	}
	next = next.clone()
	next.Sequence = f.current.Sequence + 1
	f.proven = false
	raw, err := putSuperblock(f.base, &next, 1-f.slot)
	if err != nil {
		return err
	}
	f.current, f.raw, f.slot, f.proven = next, raw, 1-f.slot, true
	return nil
}

// writeBoth is write into both slots, one after the other, for facts that outlive the rot of either.
func (f *superblockFile) writeBoth(next Superblock) error {
	if err := f.write(next); err != nil {
		return err
	}
	return f.write(f.current)
}
