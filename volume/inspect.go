package volume

import (
	"errors"
	"fmt"
	"io/fs"

	"lockstep/block"
	"lockstep/wal"
)

// SlotInfo is what one superblock slot holds.
type SlotInfo struct {
	Offset     int64 // in the base image
	Superblock *Superblock
	Problem    error // why there is none
}

// Inspection is what a volume that is not open holds. Nothing of it was changed to find out.
type Inspection struct {
	Slots      [superblockSlots]SlotInfo
	Superblock Superblock // the newer valid one
	SizeBytes  int64      // of the volume, with the resizes that the log has
	Lineage    []block.EpochStart
	Log        *wal.Inspection
	// MapProblems are the parts of the change map that can not be read; MapChanged is how many of MapChunks were ever
	// changed.
	MapProblems []error
	MapChanged  uint64
	MapChunks   uint64
}

// Inspect reads a volume that is not open. visit, which may be empty, is told of every frame and record of the log.
// Damage of the log and the map is reported in the Inspection; the error says that superblock or log could not be
// read at all, or do not belong together. Slots is set in any case.
func Inspect(cfg Config, visit wal.Visitor) (*Inspection, error) {
	in := &Inspection{}
	slots, newest, err := readSlots(cfg.Base)
	for i := range slots {
		in.Slots[i] = SlotInfo{Offset: int64(i) * superblockSlotBytes, Problem: slots[i].err}
		if slots[i].err == nil {
			in.Slots[i].Superblock = &slots[i].sb
		}
	}
	if err != nil {
		return in, fmt.Errorf("inspect volume: %w", err)
	}
	in.Superblock = slots[newest].sb
	sb := &in.Superblock
	in.SizeBytes = sb.SizeBytes
	tell := visit.Record
	visit.Record = func(r wal.Record, at wal.Position) error {
		if err := in.resize(r); err != nil || tell == nil {
			return err
		}
		return tell(r, at)
	}
	if in.Log, err = wal.Inspect(cfg.logConfig(sb), visit); err != nil {
		return in, fmt.Errorf("inspect volume: %w", err)
	}
	in.Lineage = append(in.Lineage, sb.Lineage...)
	for _, e := range in.Log.Epochs {
		if n := len(in.Lineage); n == 0 || in.Lineage[n-1].First < e.First {
			in.Lineage = append(in.Lineage, e)
		}
	}
	m := newChangeMap(sb.VolumeID, sb.ChunkBytes, chunkCount(sb.SizeBytes, sb.ChunkBytes))
	in.MapProblems = m.inspectFile(cfg.Meta, sb.MapGeneration, in.Log.Head)
	in.MapChunks = m.Chunks()
	m.Scan(0, func(uint64, block.LSN) { in.MapChanged++ })
	return in, nil
}

// resize follows the resizes after the checkpoint.
func (in *Inspection) resize(r wal.Record) error {
	if r.Type != wal.RecordResize || r.LSN <= in.Superblock.Checkpoint {
		return nil
	}
	blockBytes := int64(in.Superblock.BlockBytes)
	blocks, err := resizedBlocks(uint64(in.SizeBytes/blockBytes), r)
	if err != nil {
		return err
	}
	in.SizeBytes = int64(blocks) * blockBytes
	return nil
}

// inspectFile reads the map without mending anything.
func (m *changeMap) inspectFile(dir wal.FS, generation uint64, head block.LSN) (problems []error) {
	name := mapName
	if next, err := m.isNext(dir, generation); err == nil && next {
		name = mapNextName
	}
	file, err := dir.Open(name)
	if err != nil {
		return []error{fmt.Errorf("change map: %w", err)}
	}
	h, problem, err := m.readHead(file, generation)
	if err = errors.Join(problem, err); err == nil && !m.suits(h) {
		err = m.misfit(h)
	}
	if err == nil {
		m.reshape(h.chunks)
		m.floor = h.floor
		m.adopt(file, *h)
		problems = m.readPages(head)
	} else {
		problems = append(problems, err)
	}
	if err := file.Close(); err != nil {
		problems = append(problems, fmt.Errorf("change map: %w", err))
	}
	return problems
}

// Problems lists what is wrong with the volume, in words, most serious first; empty where it is sound. A torn
// superblock slot beside a good one is what a power cut leaves, and no problem; a missing one in a volume that was
// never opened is none either.
func (in *Inspection) Problems() []error {
	var all []error
	if in.Log != nil && in.Log.Damage != nil {
		all = append(all, in.Log.Damage)
	}
	for i := range in.Slots {
		if err := in.Slots[i].Problem; err != nil && !errors.Is(err, ErrTorn) && !errors.Is(err, ErrNotFormatted) {
			all = append(all, fmt.Errorf("superblock slot %d at byte %d: %w", i, in.Slots[i].Offset, err))
		}
	}
	for _, p := range in.MapProblems {
		if errors.Is(p, fs.ErrNotExist) {
			p = fmt.Errorf("%w (the next start makes a new one, in which everything counts as changed)", p)
		}
		all = append(all, p)
	}
	return all
}
