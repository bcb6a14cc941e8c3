package engine

import (
	"fmt"
	"strings"

	"lockstep/block"
)

// maxDecisions is how many decisions are kept of each replica.
const maxDecisions = 16

// Decision is what was decided for a replica once, and everything that it was decided by: decide of Facts is Choice.
type Decision struct {
	Sequence  uint64 // 1, 2, 3 … within the epoch, over all replicas
	VolumeID  string
	Version   uint64 // of the configuration
	ReplicaID string
	SessionID SessionID // issued by it; 0 for none
	Facts     Facts
	Choice    Choice
	Repeats   int // how often the same followed, without a session of its own; Sequence and Facts are the newest
}

// remember keeps a decision. One that only says again what the last one said takes its place.
func (r *ReplicaView) remember(d Decision) {
	n := len(r.Decisions)
	if n > 0 && d.SessionID == 0 && r.Decisions[n-1].Choice.same(d.Choice) {
		d.Repeats = r.Decisions[n-1].Repeats + 1
		r.Decisions[n-1] = d
		return
	}
	if n == maxDecisions {
		copy(r.Decisions, r.Decisions[1:])
		r.Decisions = r.Decisions[:n-1]
	}
	r.Decisions = append(r.Decisions, d)
}

func (c Choice) same(other Choice) bool {
	return c.Rule == other.Rule && c.Reason == other.Reason && c.Detail == other.Detail
}

// String says the decision in words: what, why by which rule, and what was known.
func (d Decision) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d. %s: %s, because %s (%s)", d.Sequence, d.ReplicaID, d.Choice.what(), d.why(), d.Choice.Rule)
	if d.SessionID != 0 {
		fmt.Fprintf(&b, "; session %d", d.SessionID)
	}
	if d.Repeats > 0 {
		fmt.Fprintf(&b, "; %d times in a row", d.Repeats+1)
	}
	fmt.Fprintf(&b, "\n   primary: %s\n   replica: %s", d.Facts.Primary, d.Facts.replica())
	return b.String()
}

// what returns what is done.
func (c Choice) what() string {
	var parts []string
	switch c.Action {
	case ActionNothing:
		return "nothing is decided"
	case ActionHold:
		return "nothing is touched, " + c.Reason
	case ActionKeepUp:
		return "keep up"
	case ActionCatchUp:
		parts = append(parts, fmt.Sprintf("catch up from %d to %d", after(c.SinceLSN), c.TargetLSN))
		if c.Truncate {
			parts = append(parts, fmt.Sprintf("truncated to %d first", c.ForkLSN))
		}
	case ActionRebuild:
		parts = append(parts, fmt.Sprintf("rebuild of what changed after %d, to %d", c.SinceLSN, c.TargetLSN))
		if c.Resume {
			parts = append(parts, fmt.Sprintf("below chunk %d only after %d", c.Cursor, c.BaseLSN))
		}
		if c.OwnMapUntrusted {
			parts = append(parts, "of every chunk")
		}
	}
	if c.OutOfSyncFirst {
		parts = append(parts, "once the configuration has it out of sync")
	}
	return strings.Join(parts, ", ")
}

// why returns what made the rule hold.
func (d Decision) why() string {
	p, r, fork := &d.Facts.Primary, &d.Facts.Replica, d.Choice.ForkLSN
	switch d.Choice.Rule {
	case RuleTakeover:
		return fmt.Sprintf("the primary has not begun epoch %d yet", p.Epoch)
	case RuleContradiction:
		return d.Choice.Detail
	case RuleNewerEpoch:
		return fmt.Sprintf("it knows epoch %d, and the primary is of epoch %d", r.newestEpoch(), p.Epoch)
	case RuleSplitEpoch:
		return "one epoch number stands for two epochs; say which side loses"
	case RuleSplitCommitted:
		return fmt.Sprintf("it has what the primary has not after %d, and committed up to %d; say which side loses", fork, r.CommittedLSN)
	case RulePrimaryDamaged:
		return "the primary's own " + damage(p.LogDamaged, p.BaseDamaged) + " damaged"
	case RuleReplicaDamaged:
		return "its " + damage(r.LogDamaged, r.BaseDamaged) + " damaged"
	case RuleUnfinishedRebuild:
		return "a rebuild of it has not ended"
	case RuleTruncate:
		return fmt.Sprintf("it has records after %d that the primary has not, none in its base image", fork)
	case RuleDiverged:
		return fmt.Sprintf("it has records after %d that the primary has not, and its base image or the log does not go back there", fork)
	case RuleAtHead:
		return "it has everything" + ifSo(d.Facts.Learning, ", and waits to be taken in sync")
	case RuleAdmit:
		return "it has everything, but is not in sync"
	case RuleWithinLog:
		return fmt.Sprintf("it ends at %d, and the log goes back to %d", r.AppliedLSN, p.TailLSN)
	case RuleBeyondLog:
		return fmt.Sprintf("it ends at %d, and the log goes back to %d only", r.AppliedLSN, p.TailLSN)
	default:
		return "of a rule that there is not"
	}
}

// String returns the primary's facts in words.
func (p PrimaryFacts) String() string {
	return fmt.Sprintf("log %d to %d, checkpoint %d, %s%s%s", p.TailLSN, p.HeadLSN, p.CheckpointLSN, lineageWords(p.Lineage),
		ifSo(p.LogDamaged, ", log damaged"), ifSo(p.BaseDamaged, ", base damaged"))
}

// replica returns the replica's facts in words.
func (f Facts) replica() string {
	r := f.Replica
	words := fmt.Sprintf("applied %d, durable %d, committed %d, base up to %d, %s%s%s%s", r.AppliedLSN, r.DurableLSN,
		r.CommittedLSN, r.BaseHighLSN, lineageWords(r.Lineage), ifSo(r.LogDamaged, ", log damaged"),
		ifSo(r.BaseDamaged, ", base damaged"), ifSo(f.Learning, ", learning"))
	if r.Inconsistent {
		m := r.Rebuild
		words += fmt.Sprintf(", inside a rebuild (was consistent at %d, base as of %d, read up to %d, chunk %d)",
			m.ConsistentLSN, m.BaseLSN, m.SourceHighLSN, m.Cursor)
	}
	return words
}

// lineageWords returns the newest entries of a lineage.
func lineageWords(lineage []block.EpochStart) string {
	const shown = 4
	var parts []string
	if len(lineage) > shown {
		parts = append(parts, "…")
	}
	for _, e := range lineage[max(0, len(lineage)-shown):] {
		parts = append(parts, fmt.Sprintf("%d from %d (%x)", e.Epoch, e.First, e.ID[:4]))
	}
	if len(parts) == 0 {
		return "no epochs"
	}
	return "epochs " + strings.Join(parts, ", ")
}

func damage(log, base bool) string {
	switch {
	case log && base:
		return "log and base image are"
	case log:
		return "log is"
	case base:
		return "base image is"
	default:
		return "copy is"
	}
}

func ifSo(so bool, words string) string {
	if so {
		return words
	}
	return ""
}
