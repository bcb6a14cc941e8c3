package volume

import (
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// Facts are what a copy knows of itself: what it answers to a primary that asks how to make it whole.
type Facts struct {
	VolumeID, CopyID uuid.UUID
	SizeBytes        int64
	State            StateFlags

	SeenEpoch   block.Epoch // newest one heard of; durable, but while Follow or Lead runs
	SeenEpochID uuid.UUID   // nil where it is not known
	Leading     bool
	Lineage     []block.EpochStart // of superblock and log together, oldest first; see LineagePruned in State

	// Tail <= Checkpoint + 1; Checkpoint <= BaseHigh <= Durable <= Head.
	Tail       block.LSN // oldest record in the log; Head + 1 where there is none
	Checkpoint block.LSN // every record up to it is in the base image, durably
	BaseHigh   block.LSN // never below any change in the base image (S12)
	Durable    block.LSN // every record up to it is on stable storage here
	Head       block.LSN // newest record, visible to reads: applied
	// Committed is the newest LSN that a primary said is committed, of what the log then had of that primary's; on a primary,
	// of a flush, or checkpoint, that ended (S7). What of it outlives a power cut: see Volume.KeepCommitted.
	Committed block.LSN

	LogDamaged bool  // durable records are missing or bad: the volume does not open
	Failed     error // why it takes nothing more until it is opened again; nil where it does
}

// Facts returns how the copy stands, as of one moment as far as role, lineage and head go. It waits for no other copy, and no
// checkpoint.
func (v *Volume) Facts() Facts {
	f := Facts{
		VolumeID: v.id, CopyID: v.copyID, SizeBytes: v.Size(), State: StateFlags(v.state.Load()),
		Tail:       v.log.Stats().Tail,
		Checkpoint: block.LSN(v.checkpoint.Load()), // each before what is never below it
		BaseHigh:   block.LSN(v.baseHigh.Load()),
		Durable:    v.log.Durable(),
		Committed:  v.log.Committed(),
		Failed:     v.Err(),
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f.SeenEpoch, f.SeenEpochID = v.follow.seen, v.idOfSeenLocked()
	f.Leading = v.reign.Load() != nil
	f.Lineage = slices.Clone(v.lineage)
	f.Head = v.log.Head()
	return f
}

// Facts returns what is known of a copy that is not open, such as one whose log is damaged.
func (in *Inspection) Facts() Facts {
	sb := &in.Superblock
	f := Facts{
		VolumeID: sb.VolumeID, CopyID: sb.CopyID, SizeBytes: in.SizeBytes, State: sb.State,
		SeenEpoch: sb.Epoch, SeenEpochID: sb.EpochID, Lineage: slices.Clone(in.Lineage),
		Checkpoint: sb.Checkpoint, BaseHigh: sb.BaseHigh, Committed: sb.Committed,
	}
	if n := len(f.Lineage); n > 0 && f.Lineage[n-1].Epoch == f.SeenEpoch {
		f.SeenEpochID = f.Lineage[n-1].ID
	}
	if in.Log == nil {
		return f
	}
	f.Head = in.Log.Head
	f.Durable = min(max(in.Log.Durable, sb.Durable), f.Head)
	f.Committed = max(f.Committed, in.Log.Committed)
	f.LogDamaged = in.Log.Damage != nil
	f.Tail = f.Head + 1
	for _, s := range in.Log.Segments {
		if (s.State == wal.SegmentInLog || s.State == wal.SegmentRetained) && s.First <= s.Last {
			f.Tail = min(f.Tail, s.First)
		}
	}
	return f
}
