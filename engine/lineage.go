package engine

import (
	"math"

	"lockstep/block"
)

// compareLineages returns the fork of two logs, the last LSN up to which they are the same, and whether the lineages
// contradict each other: one epoch number under two IDs, or a way of one that the other cannot have gone (S7). An end
// is the newest LSN of a log; entries beyond it are allowed.
//
// An epoch-start record is written by one primary, into one log. So whoever has it, the same at the same place, has all that
// was before it there: a lineage that lost its oldest entries can still be compared if any entry is left in both.
// Where none is, the fork is 0 (S13). Two logs that know of no epoch at all are one history.
func compareLineages(ours []block.EpochStart, ourEnd block.LSN, theirs []block.EpochStart, theirEnd block.LSN) (fork block.LSN,
	contradict bool) {
	if len(ours) == 0 && len(theirs) == 0 {
		return min(ourEnd, theirEnd), false
	}
	i, j, found := firstCommon(ours, theirs)
	if !found {
		return 0, sameNumber(ours, theirs)
	}
	before := i > 0 && j > 0 // both remember something older, and not the same
	for i < len(ours) && j < len(theirs) && ours[i] == theirs[j] {
		i, j = i+1, j+1
	}
	fork = min(lastBefore(ours[i:], ourEnd), lastBefore(theirs[j:], theirEnd))
	return fork, before || sameNumber(ours[i:], theirs[j:])
}

// firstCommon returns the places of the first entry that both have. Both ascend by epoch.
func firstCommon(ours, theirs []block.EpochStart) (i, j int, found bool) {
	for i < len(ours) && j < len(theirs) {
		switch a, b := ours[i], theirs[j]; {
		case a == b:
			return i, j, true
		case a.Epoch < b.Epoch:
			i++
		case a.Epoch > b.Epoch:
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return 0, 0, false
}

// sameNumber tells whether an epoch number is in both. Both ascend by epoch.
func sameNumber(ours, theirs []block.EpochStart) bool {
	for i, j := 0, 0; i < len(ours) && j < len(theirs); {
		switch a, b := ours[i].Epoch, theirs[j].Epoch; {
		case a == b:
			return true
		case a < b:
			i++
		default:
			j++
		}
	}
	return false
}

// lastBefore returns the last LSN of a log before the next epoch begins, or its end.
func lastBefore(next []block.EpochStart, end block.LSN) block.LSN {
	if len(next) == 0 {
		return end
	}
	return min(next[0].First-1, end)
}

// ascends tells whether a lineage can be one: epochs and first LSNs strictly ascend from 1 on.
func ascends(lineage []block.EpochStart) bool {
	var epoch block.Epoch
	var first block.LSN
	for _, e := range lineage {
		if e.Epoch <= epoch || e.First <= first {
			return false
		}
		epoch, first = e.Epoch, e.First
	}
	return true
}

// reaches tells whether a log that begins at tail can be sent after an LSN: lsn + 1 >= tail.
func reaches(lsn, tail block.LSN) bool { return tail == 0 || lsn >= tail-1 }

// after returns the next LSN; the largest stays, as it is never assigned.
func after(lsn block.LSN) block.LSN {
	if lsn == math.MaxUint64 {
		return lsn
	}
	return lsn + 1
}
