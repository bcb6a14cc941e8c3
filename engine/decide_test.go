package engine

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// The primary of the table: epoch 2 from 101 on, the log from 50 to 150, a checkpoint at 70.
func tableFacts() Facts {
	return Facts{
		Primary: PrimaryFacts{
			Epoch: 2, EpochID: uuid.UUID{2}, RoleApplied: true, TailLSN: 50, HeadLSN: 150, CheckpointLSN: 70,
			Lineage: []block.EpochStart{{Epoch: 1, ID: uuid.UUID{1}, First: 1}, {Epoch: 2, ID: uuid.UUID{2}, First: 101}},
		},
		Replica: SyncAck{
			AppliedLSN: 150, DurableLSN: 150, CommittedLSN: 100, SeenEpoch: 2,
			Lineage: []block.EpochStart{{Epoch: 1, ID: uuid.UUID{1}, First: 1}, {Epoch: 2, ID: uuid.UUID{2}, First: 101}},
		},
		Learning: true, CaughtUp: true,
	}
}

// stopAt makes the replica one whose log ends at an LSN, before epoch 2 began for it.
func stopAt(f *Facts, applied block.LSN) {
	r := &f.Replica
	r.AppliedLSN, r.DurableLSN, r.Lineage, r.CommittedLSN = applied, applied, r.Lineage[:1], min(applied, 100)
}

// inRebuild puts the replica inside a rebuild.
func inRebuild(f *Facts, applied block.LSN, mark RebuildMark) {
	stopAt(f, applied)
	f.Replica.Inconsistent, f.Replica.Rebuild = true, mark
}

func TestDecisionTable(t *testing.T) {
	hold := func(rule Rule, reason string, fork block.LSN) Choice {
		return Choice{Rule: rule, Action: ActionHold, Reason: reason, ForkLSN: fork}
	}
	catchUp := func(rule Rule, fork, since block.LSN) Choice {
		return Choice{Rule: rule, Action: ActionCatchUp, ForkLSN: fork, SinceLSN: since, TargetLSN: 150, PinLSN: since + 1}
	}
	rebuild := func(rule Rule, fork, since block.LSN) Choice {
		return Choice{Rule: rule, Action: ActionRebuild, ForkLSN: fork, SinceLSN: since, TargetLSN: 150, PinLSN: 71}
	}
	outOfSync := func(c Choice) Choice { c.OutOfSyncFirst = true; return c }
	truncate := func(c Choice) Choice { c.Truncate = true; return c }
	untrusted := func(c Choice) Choice { c.OwnMapUntrusted = true; return c }
	resume := func(c Choice, base block.LSN, cursor uint64) Choice {
		c.Resume, c.BaseLSN, c.Cursor = true, base, cursor
		return c
	}
	nothing := Choice{Rule: RuleTakeover, Action: ActionNothing}
	atHead := Choice{Rule: RuleAtHead, Action: ActionKeepUp, ForkLSN: 150, SinceLSN: 150}
	for _, c := range []struct {
		name string
		set  func(f *Facts)
		want Choice
	}{
		{"S9 the role is not applied", func(f *Facts) { f.Primary.RoleApplied = false }, nothing},
		{"S9 nor without epochs", func(f *Facts) { f.Primary.RoleApplied, f.Primary.Lineage, f.Primary.EpochID = false, nil, uuid.Nil }, nothing},
		{"S9 the epoch has not begun", func(f *Facts) { f.Primary.Lineage = f.Primary.Lineage[:1] }, nothing},
		{"S9 no epoch has", func(f *Facts) { f.Primary.Lineage = nil }, nothing},
		{"S9 another one of that number has", func(f *Facts) { f.Primary.EpochID = uuid.UUID{3} }, nothing},
		{"S9 a host that does not tell IDs", func(f *Facts) { f.Primary.EpochID = uuid.Nil }, atHead},
		{"S9 nor where it does not tell them", func(f *Facts) { f.Primary.EpochID, f.Primary.Lineage = uuid.Nil, f.Primary.Lineage[:1] }, nothing},
		{"S9 goes before damage", func(f *Facts) { f.Primary.RoleApplied, f.Replica.LogDamaged = false, true }, nothing},

		{"I11 it has seen a newer epoch", func(f *Facts) { f.Replica.SeenEpoch = 3 }, hold(RuleNewerEpoch, ReasonEpochMismatch, 150)},
		{"I11 it has records of one", func(f *Facts) {
			f.Replica.Lineage = append(slices.Clone(f.Replica.Lineage), block.EpochStart{Epoch: 3, ID: uuid.UUID{3}, First: 140})
		}, hold(RuleNewerEpoch, ReasonEpochMismatch, 139)},

		{"S7 one number, two epochs", func(f *Facts) {
			stopAt(f, 90)
			f.Replica.Lineage = append(slices.Clone(f.Replica.Lineage), block.EpochStart{Epoch: 2, ID: uuid.UUID{3}, First: 85})
			f.Replica.CommittedLSN = 0
		}, hold(RuleSplitEpoch, ReasonSplitBrain, 84)},
		{"S7 committed at the fork", func(f *Facts) { stopAt(f, 120) }, truncate(catchUp(RuleTruncate, 100, 100))},
		{"S7 committed beyond the fork", func(f *Facts) { stopAt(f, 120); f.Replica.CommittedLSN = 101 }, hold(RuleSplitCommitted, ReasonSplitBrain, 100)},
		{"S7 told of more than it has", func(f *Facts) { stopAt(f, 80); f.Replica.CommittedLSN = 101 }, catchUp(RuleWithinLog, 80, 80)},
		{"S7 goes before damage", func(f *Facts) { stopAt(f, 120); f.Replica.CommittedLSN, f.Replica.LogDamaged = 101, true }, hold(RuleSplitCommitted, ReasonSplitBrain, 100)},
		{"S7 damaged, and was told of more", func(f *Facts) { stopAt(f, 80); f.Replica.CommittedLSN, f.Replica.LogDamaged = 101, true }, hold(RuleSplitCommitted, ReasonSplitBrain, 100)},
		{"S7 goes before rule 1", func(f *Facts) { inRebuild(f, 120, RebuildMark{}); f.Replica.CommittedLSN = 101 }, hold(RuleSplitCommitted, ReasonSplitBrain, 100)},
		{"S7 in the base of a rebuild", func(f *Facts) {
			inRebuild(f, 90, RebuildMark{BaseLSN: 90, SourceHighLSN: 110})
			f.Replica.CommittedLSN = 110
		}, hold(RuleSplitCommitted, ReasonSplitBrain, 100)},
		{"S7 given up", func(f *Facts) {
			stopAt(f, 120)
			f.Replica.CommittedLSN = 110
			f.Discard = DiscardGrant{EpochID: uuid.UUID{1}, CommittedLSN: 110}
		}, truncate(catchUp(RuleTruncate, 100, 100))},

		{"the primary's log is damaged", func(f *Facts) { f.Primary.LogDamaged = true }, hold(RulePrimaryDamaged, ReasonLocalWALCorrupt, 150)},
		{"the primary's base is damaged", func(f *Facts) { f.Primary.BaseDamaged, f.Replica.BaseDamaged = true, true }, hold(RulePrimaryDamaged, ReasonLocalBaseCorrupt, 150)},
		{"S14 its log is damaged", func(f *Facts) { f.Replica.LogDamaged = true }, untrusted(rebuild(RuleReplicaDamaged, 150, 0))},
		{"S14 its base is damaged", func(f *Facts) { f.Replica.BaseDamaged, f.Learning = true, false }, outOfSync(untrusted(rebuild(RuleReplicaDamaged, 150, 0)))},
		{"S14 goes before rule 1", func(f *Facts) {
			inRebuild(f, 90, RebuildMark{80, 90, 90, 7})
			f.Replica.BaseDamaged = true
		}, untrusted(rebuild(RuleReplicaDamaged, 90, 0))},

		{"rule 1", func(f *Facts) { inRebuild(f, 90, RebuildMark{60, 80, 85, 7}) }, resume(rebuild(RuleUnfinishedRebuild, 90, 60), 80, 7)},
		{"rule 1 the base image is ahead of the log", func(f *Facts) {
			inRebuild(f, 90, RebuildMark{60, 80, 85, 7})
			f.Replica.BaseHighLSN = 95
		}, resume(rebuild(RuleUnfinishedRebuild, 95, 60), 80, 7)},
		{"rule 1 goes before keep-up", func(f *Facts) {
			f.Replica.Inconsistent, f.Replica.Rebuild, f.Learning = true, RebuildMark{60, 80, 85, 7}, false
		}, outOfSync(resume(rebuild(RuleUnfinishedRebuild, 150, 60), 80, 7))},
		{"S17 the mark at the fork", func(f *Facts) { inRebuild(f, 120, RebuildMark{60, 100, 100, 7}) }, resume(rebuild(RuleUnfinishedRebuild, 100, 60), 100, 7)},
		{"S17 the source was beyond the fork", func(f *Facts) { inRebuild(f, 120, RebuildMark{60, 80, 101, 7}) }, rebuild(RuleUnfinishedRebuild, 100, 60)},
		{"S17 the base is beyond the fork", func(f *Facts) { inRebuild(f, 101, RebuildMark{60, 101, 100, 7}) }, rebuild(RuleUnfinishedRebuild, 100, 60)},
		{"S17 what it came from is beyond the fork", func(f *Facts) { inRebuild(f, 120, RebuildMark{115, 118, 119, 7}) }, rebuild(RuleUnfinishedRebuild, 100, 100)},
		{"S17 the log lags the base", func(f *Facts) {
			inRebuild(f, 90, RebuildMark{60, 90, 140, 7})
			f.Replica.Lineage = f.Primary.Lineage
		}, resume(rebuild(RuleUnfinishedRebuild, 140, 60), 90, 7)},

		{"rule 2 the base at the fork", func(f *Facts) { stopAt(f, 101); f.Replica.BaseHighLSN = 100 }, truncate(catchUp(RuleTruncate, 100, 100))},
		{"rule 2 the log at the fork", func(f *Facts) { stopAt(f, 120); f.Primary.TailLSN = 101 }, truncate(catchUp(RuleTruncate, 100, 100))},
		{"rule 2 ahead of the primary", func(f *Facts) {
			f.Replica.AppliedLSN = 151
		}, truncate(Choice{Rule: RuleTruncate, Action: ActionCatchUp, ForkLSN: 150, SinceLSN: 150, TargetLSN: 150, PinLSN: 151})},
		{"S13 rule 2 in sync", func(f *Facts) { stopAt(f, 120); f.Learning = false }, outOfSync(truncate(catchUp(RuleTruncate, 100, 100)))},
		{"rule 3 the base is beyond", func(f *Facts) { stopAt(f, 120); f.Replica.BaseHighLSN = 101 }, rebuild(RuleDiverged, 100, 100)},
		{"rule 3 the log is too short", func(f *Facts) {
			stopAt(f, 120)
			f.Primary.TailLSN, f.Primary.CheckpointLSN = 102, 101
		}, Choice{Rule: RuleDiverged, Action: ActionRebuild, ForkLSN: 100, SinceLSN: 100, TargetLSN: 150, PinLSN: 102}},
		{"S13 rule 3 in sync", func(f *Facts) { stopAt(f, 120); f.Replica.BaseHighLSN, f.Learning = 101, false }, outOfSync(rebuild(RuleDiverged, 100, 100))},

		{"rule 4", func(*Facts) {}, atHead},
		{"S22 at the head, not in sync", func(f *Facts) { f.CaughtUp = false }, catchUp(RuleAdmit, 150, 150)},
		{"S22 nothing there at all", func(f *Facts) {
			*f = Facts{Primary: PrimaryFacts{Epoch: 2, RoleApplied: true, TailLSN: 1}}
		}, Choice{Rule: RuleAdmit, Action: ActionCatchUp, PinLSN: 1}},
		{"rule 5", func(f *Facts) { stopAt(f, 80); f.Learning = false }, catchUp(RuleWithinLog, 80, 80)},
		{"rule 5 one short of the head", func(f *Facts) { f.Replica.AppliedLSN, f.Replica.DurableLSN = 149, 149 }, catchUp(RuleWithinLog, 149, 149)},
		{"rule 5 at the tail", func(f *Facts) { stopAt(f, 49) }, catchUp(RuleWithinLog, 49, 49)},
		{"rule 5 fresh", func(f *Facts) {
			stopAt(f, 0)
			f.Replica.Lineage, f.Primary.TailLSN = nil, 1
		}, catchUp(RuleWithinLog, 0, 0)},
		{"rule 6 before the tail", func(f *Facts) { stopAt(f, 48) }, rebuild(RuleBeyondLog, 48, 48)},
		{"rule 6 in sync", func(f *Facts) { stopAt(f, 48); f.Learning = false }, outOfSync(rebuild(RuleBeyondLog, 48, 48))},
		{"rule 6 fresh", func(f *Facts) { stopAt(f, 0); f.Replica.Lineage = nil }, rebuild(RuleBeyondLog, 0, 0)},
		{"rule 6 the log begins after the checkpoint", func(f *Facts) {
			stopAt(f, 10)
			f.Primary.TailLSN = 80
		}, Choice{Rule: RuleBeyondLog, Action: ActionRebuild, ForkLSN: 10, SinceLSN: 10, TargetLSN: 150, PinLSN: 80}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := tableFacts()
			c.set(&f)
			if got := decide(f); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// What cannot be true is acted on by no rule, and touches nobody.
func TestContradictoryFactsAreNotActedOn(t *testing.T) {
	for name, set := range map[string]func(f *Facts){
		"more is durable than applied":                 func(f *Facts) { f.Replica.DurableLSN = 151 },
		"its base image is ahead of its log":           func(f *Facts) { f.Replica.BaseHighLSN = 151 },
		"its lineage does not ascend":                  func(f *Facts) { f.Replica.Lineage = append(f.Replica.Lineage, f.Replica.Lineage...) },
		"the primary's log begins after its end":       func(f *Facts) { f.Primary.TailLSN = 152 },
		"the primary's checkpoint is ahead of its log": func(f *Facts) { f.Primary.CheckpointLSN = 151 },
		"the primary's lineage does not ascend":        func(f *Facts) { f.Primary.Lineage = []block.EpochStart{{Epoch: 2, ID: uuid.UUID{2}}} },
	} {
		f := tableFacts()
		set(&f)
		want := Choice{Rule: RuleContradiction, Action: ActionHold, Reason: ReasonContradiction, Detail: name}
		if got := decide(f); got != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	f := tableFacts()
	f.Primary.TailLSN = 151 // nothing is retained
	if got := decide(f); got.Rule != RuleAtHead {
		t.Errorf("an empty log: %+v", got)
	}
	f = tableFacts()
	f.Replica.BaseHighLSN, f.Replica.BaseDamaged = 151, true
	if got := decide(f); got.Rule != RuleReplicaDamaged && got.Rule != RuleSplitCommitted {
		t.Errorf("a damaged copy may say anything of its base: %+v", got)
	}
}

func TestS7DiscardGrantIsForWhatWasShown(t *testing.T) {
	ack := SyncAck{CopyID: uuid.UUID{1}, CommittedLSN: 110, Lineage: []block.EpochStart{{Epoch: 1, ID: uuid.UUID{7}, First: 1}, {Epoch: 2, ID: uuid.UUID{9}, First: 5}}}
	shown := DiscardGrant{CopyID: uuid.UUID{1}, EpochID: uuid.UUID{9}, CommittedLSN: 110}
	for name, c := range map[string]struct {
		grant DiscardGrant
		want  bool
	}{
		"as shown":        {shown, true},
		"none":            {DiscardGrant{}, false},
		"another copy":    {DiscardGrant{uuid.UUID{2}, shown.EpochID, 110}, false},
		"an older epoch":  {DiscardGrant{shown.CopyID, uuid.UUID{7}, 110}, false},
		"flushed since":   {DiscardGrant{shown.CopyID, shown.EpochID, 109}, false},
		"less than shown": {DiscardGrant{shown.CopyID, shown.EpochID, 111}, true},
	} {
		if got := c.grant.covers(ack); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (DiscardGrant{}).covers(SyncAck{}) {
		t.Error("no grant covers a copy without a name")
	}
}
