package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// TestDecideAgainstHistories decides for pairs of logs that are written out record by record, and checks what must hold
// of the decision whatever the rule: it is about records that are there or not, and knows neither rules nor lineages.
func TestDecideAgainstHistories(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	actions := map[Action]int{}
	truncated := 0
	for range 20000 {
		all := randomHistories(r)
		ours, theirs := all[r.IntN(len(all))], all[r.IntN(len(all))]
		if len(ours) == 0 {
			continue
		}
		head, applied, fork := block.LSN(len(ours)), block.LSN(len(theirs)), ours.fork(theirs)
		last := ours[head-1]
		f := Facts{
			Primary: PrimaryFacts{Epoch: last.Epoch, EpochID: last.ID, RoleApplied: true, HeadLSN: head,
				TailLSN: 1 + block.LSN(r.IntN(int(head)+1)), Lineage: ours.lineage()},
			Replica: SyncAck{AppliedLSN: applied, DurableLSN: applied, Lineage: theirs.lineage(),
				CommittedLSN: block.LSN(r.IntN(int(head) + 2)), BaseHighLSN: block.LSN(r.IntN(int(applied) + 1))},
			CaughtUp: r.IntN(2) == 0, Learning: r.IntN(2) == 0,
		}
		f.Primary.CheckpointLSN = f.Primary.TailLSN - 1
		c := decide(f)
		actions[c.Action]++
		bad := func(why string) {
			t.Helper()
			t.Fatalf("%s: %+v\nprimary %+v\nreplica %+v", why, c, f.Primary, f.Replica)
		}
		touches := c.Action == ActionCatchUp || c.Action == ActionRebuild
		discards := touches && applied > fork
		switch {
		case discards && f.Replica.CommittedLSN > fork:
			bad("a committed record is discarded (S7)")
		case discards && ours.shareNumber(theirs):
			bad("records are discarded though two epochs have one number (S7)")
		case discards && !f.Learning && !c.OutOfSyncFirst:
			bad("records of a replica in sync are discarded (S13)")
		case discards && c.Action == ActionCatchUp && (!c.Truncate || c.ForkLSN != fork || f.Replica.BaseHighLSN > fork):
			bad("after a catch-up it still has what the primary has not (S12)")
		case c.Truncate && !discards:
			bad("there is nothing to truncate")
		case c.Action == ActionCatchUp && (c.SinceLSN > fork || c.SinceLSN+1 < f.Primary.TailLSN || c.TargetLSN != head || c.PinLSN != c.SinceLSN+1):
			bad("the log does not join, or does not reach the head")
		case c.Action == ActionRebuild && (c.SinceLSN > fork || c.TargetLSN != head || c.PinLSN < f.Primary.TailLSN || c.PinLSN > f.Primary.CheckpointLSN+1):
			bad("the rebuild leaves something out")
		case c.Action == ActionRebuild && fork == applied && applied+1 >= f.Primary.TailLSN:
			bad("the log would have done")
		case c.Action == ActionKeepUp && (applied != head || fork != head || !f.CaughtUp):
			bad("it is not where the primary is")
		case c.Action == ActionHold && fork >= min(applied, f.Replica.CommittedLSN) && !ours.shareNumber(theirs) && theirs.newest() <= last.Epoch:
			bad("nothing stands against going on")
		case c.Action == ActionNothing:
			bad("it has begun its epoch")
		}
		if c.Truncate {
			truncated++
		}
	}
	if truncated < 100 || actions[ActionKeepUp] < 100 || actions[ActionHold] < 100 || actions[ActionRebuild] < 100 || actions[ActionCatchUp] < 100 {
		t.Errorf("%v, %d truncated: too few to tell", actions, truncated)
	}
}

func (h history) newest() block.Epoch {
	var newest block.Epoch
	for _, e := range h {
		newest = max(newest, e.Epoch)
	}
	return newest
}

// One rebuild mark at a time, with the fork moved over it: what is kept of it never comes from beyond the fork (S17).
func TestS17NothingFromBeyondTheForkIsKept(t *testing.T) {
	resumed, restarted := 0, 0
	for fork := range block.LSN(8) {
		for mark := range 8 * 8 * 8 {
			m := RebuildMark{block.LSN(mark % 8), block.LSN(mark / 8 % 8), block.LSN(mark / 64), 5}
			one := block.EpochStart{Epoch: 1, ID: uuid.UUID{1}, First: 1}
			f := Facts{
				Primary: PrimaryFacts{Epoch: 2, RoleApplied: true, TailLSN: 1, HeadLSN: 20,
					Lineage: []block.EpochStart{one, {Epoch: 2, ID: uuid.UUID{2}, First: fork + 1}}},
				Replica: SyncAck{AppliedLSN: 9, DurableLSN: 9, Inconsistent: true, Rebuild: m, Lineage: []block.EpochStart{one}},
			}
			if fork == 0 {
				f.Primary.Lineage = f.Primary.Lineage[1:]
			}
			c := decide(f)
			kept := m.BaseLSN <= fork && m.SourceHighLSN <= fork
			want := Choice{Rule: RuleUnfinishedRebuild, Action: ActionRebuild, ForkLSN: fork, TargetLSN: 20, PinLSN: 1, OutOfSyncFirst: true,
				SinceLSN: min(m.ConsistentLSN, fork)}
			if kept {
				want.Resume, want.BaseLSN, want.Cursor = true, m.BaseLSN, 5
				resumed++
			} else {
				restarted++
			}
			if c != want {
				t.Fatalf("fork %d, mark %+v: %+v, want %+v", fork, m, c, want)
			}
		}
	}
	if resumed < 100 || restarted < 100 {
		t.Errorf("%d resumed, %d began anew: too few to tell", resumed, restarted)
	}
}
