package engine

import (
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
)

// PrimaryFacts is what the primary knows of itself when it decides.
type PrimaryFacts struct {
	Epoch                   block.Epoch
	EpochID                 uuid.UUID
	RoleApplied             bool
	TailLSN                 block.LSN
	HeadLSN                 block.LSN
	CheckpointLSN           block.LSN
	Lineage                 []block.EpochStart
	LogDamaged, BaseDamaged bool
}

// Facts is everything that a decision depends on.
type Facts struct {
	Primary  PrimaryFacts
	Replica  SyncAck
	Learning bool         // the configuration does not have it in sync
	CaughtUp bool         // it had everything, for all that was known until now
	Discard  DiscardGrant // what an operator gave up
}

// Action is what a decision leads to.
type Action string

// The actions.
const (
	ActionNothing Action = "nothing" // as if the replica had not answered
	ActionHold    Action = "hold"    // the replica is touched by nobody; its session is failed with the reason
	ActionKeepUp  Action = "keep_up"
	ActionCatchUp Action = "catch_up"
	ActionRebuild Action = "rebuild"
)

// Rule is a row of the decision table. The number is the one in the package comment.
type Rule string

// The rules, in the order in which they are tried.
const (
	RuleTakeover          Rule = "takeover"          // S9
	RuleContradiction     Rule = "0.contradiction"   // facts that cannot be true together
	RuleNewerEpoch        Rule = "0.newer_epoch"     // I11: the replica knows a newer primary than us
	RuleSplitEpoch        Rule = "0.split_epoch"     // S7: one epoch number, two epochs
	RuleSplitCommitted    Rule = "0.split_committed" // S7: what would be discarded was committed there
	RulePrimaryDamaged    Rule = "0.primary_damaged" // nothing is copied from a damaged source
	RuleReplicaDamaged    Rule = "0.replica_damaged" // S14
	RuleUnfinishedRebuild Rule = "1.unfinished_rebuild"
	RuleTruncate          Rule = "2.truncate"
	RuleDiverged          Rule = "3.diverged"
	RuleAtHead            Rule = "4.at_head"
	RuleAdmit             Rule = "4.admit" // S22
	RuleWithinLog         Rule = "5.within_log"
	RuleBeyondLog         Rule = "6.beyond_log"
)

// Choice is what was decided. Fields that its action has no use for are zero.
type Choice struct {
	Rule      Rule
	Action    Action
	Reason    string    // hold: one of the Reason words
	Detail    string    // hold: what is contradictory, in words
	ForkLSN   block.LSN // the logs are the same up to here
	TargetLSN block.LSN
	PinLSN    block.LSN
	SinceLSN  block.LSN // the replica has what changed up to here

	Truncate        bool // catch-up
	Resume          bool // rebuild; BaseLSN and Cursor hold
	BaseLSN         block.LSN
	Cursor          uint64
	OwnMapUntrusted bool // rebuild
	OutOfSyncFirst  bool // truncating catch-up, and any rebuild
}

// decide chooses what happens to a replica: the first rule that holds.
func decide(f Facts) Choice {
	p, r := &f.Primary, &f.Replica
	contradiction := f.contradiction()
	var fork block.LSN
	var split bool
	if contradiction == "" {
		fork, split = compareLineages(p.Lineage, p.HeadLSN, r.Lineage, r.extent())
	}
	given := f.Discard.covers(*r)
	switch {
	case !p.begun():
		return Choice{Rule: RuleTakeover, Action: ActionNothing}
	case contradiction != "":
		return Choice{Rule: RuleContradiction, Action: ActionHold, Reason: ReasonContradiction, Detail: contradiction}
	case r.newestEpoch() > p.Epoch:
		return Choice{Rule: RuleNewerEpoch, Action: ActionHold, Reason: ReasonEpochMismatch, ForkLSN: fork}
	case split && !given:
		return Choice{Rule: RuleSplitEpoch, Action: ActionHold, Reason: ReasonSplitBrain, ForkLSN: fork}
	case r.extent() > fork && r.CommittedLSN > fork && !given:
		return Choice{Rule: RuleSplitCommitted, Action: ActionHold, Reason: ReasonSplitBrain, ForkLSN: fork}
	case p.LogDamaged:
		return Choice{Rule: RulePrimaryDamaged, Action: ActionHold, Reason: ReasonLocalWALCorrupt, ForkLSN: fork}
	case p.BaseDamaged:
		return Choice{Rule: RulePrimaryDamaged, Action: ActionHold, Reason: ReasonLocalBaseCorrupt, ForkLSN: fork}
	case r.damaged():
		c := f.rebuild(RuleReplicaDamaged, fork, 0)
		c.OwnMapUntrusted = true
		return c
	case r.Inconsistent:
		return f.resume(fork)
	case r.AppliedLSN > fork && r.BaseHighLSN <= fork && reaches(fork, p.TailLSN):
		c := f.catchUp(RuleTruncate, fork, fork)
		c.Truncate, c.OutOfSyncFirst = true, !f.Learning
		return c
	case r.AppliedLSN > fork:
		return f.rebuild(RuleDiverged, fork, fork)
	case r.AppliedLSN == p.HeadLSN && f.CaughtUp:
		return Choice{Rule: RuleAtHead, Action: ActionKeepUp, ForkLSN: fork, SinceLSN: r.AppliedLSN}
	case r.AppliedLSN == p.HeadLSN:
		return f.catchUp(RuleAdmit, fork, r.AppliedLSN)
	case reaches(r.AppliedLSN, p.TailLSN):
		return f.catchUp(RuleWithinLog, fork, r.AppliedLSN)
	default:
		return f.rebuild(RuleBeyondLog, fork, r.AppliedLSN)
	}
}

// begun tells whether the primary's own epoch has begun: before, what its log is to become is not known (S9).
func (p *PrimaryFacts) begun() bool {
	if !p.RoleApplied || len(p.Lineage) == 0 {
		return p.RoleApplied && p.EpochID == uuid.Nil
	}
	last := p.Lineage[len(p.Lineage)-1]
	return last.Epoch == p.Epoch && (p.EpochID == uuid.Nil || last.ID == p.EpochID)
}

// contradiction returns which facts cannot be true together, or "".
func (f *Facts) contradiction() string {
	switch p := f.Primary; {
	case p.TailLSN > after(p.HeadLSN):
		return "the primary's log begins after its end"
	case p.CheckpointLSN > p.HeadLSN:
		return "the primary's checkpoint is ahead of its log"
	case !ascends(p.Lineage):
		return "the primary's lineage does not ascend"
	default:
		return f.Replica.contradiction()
	}
}

// catchUp returns the choice to send the log after since.
func (f *Facts) catchUp(rule Rule, fork, since block.LSN) Choice {
	return Choice{Rule: rule, Action: ActionCatchUp, ForkLSN: fork, SinceLSN: since,
		TargetLSN: f.Primary.HeadLSN, PinLSN: after(since)}
}

// rebuild returns the choice to copy what changed after since. The log lane begins after the checkpoint.
func (f *Facts) rebuild(rule Rule, fork, since block.LSN) Choice {
	return Choice{Rule: rule, Action: ActionRebuild, ForkLSN: fork, SinceLSN: since,
		TargetLSN: f.Primary.HeadLSN, PinLSN: max(after(f.Primary.CheckpointLSN), f.Primary.TailLSN),
		OutOfSyncFirst: !f.Learning}
}

// resume returns the choice to go on with a rebuild. What it copied holds only if all that it was copied from is in
// the primary's log (S17).
func (f *Facts) resume(fork block.LSN) Choice {
	mark := f.Replica.Rebuild
	c := f.rebuild(RuleUnfinishedRebuild, fork, min(mark.ConsistentLSN, fork))
	if mark.BaseLSN <= fork && mark.SourceHighLSN <= fork {
		c.Resume, c.BaseLSN, c.Cursor = true, mark.BaseLSN, mark.Cursor
	}
	return c
}

// clone returns a copy that shares nothing with f.
func (f Facts) clone() Facts {
	f.Primary.Lineage = slices.Clone(f.Primary.Lineage)
	f.Replica = f.Replica.clone()
	return f
}
