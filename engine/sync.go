package engine

import "slices"

func (e SyncAckReceived) apply(v *VolumeState) ([]Command, string) {
	r, ignored := v.replica(e.Epoch, e.ReplicaID)
	if ignored != "" {
		return nil, ignored
	}
	ack := e.Ack.clone()
	exchanged := ack.CopyID != r.knownCopy()
	if exchanged {
		r.CaughtUp = false // what was known is known of another copy (S2)
	}
	r.LastSyncAck, r.Acked = ack, true
	v.WALTail, v.WALHead = e.PrimaryWALTail, e.PrimaryWALHead
	s := &r.Session
	switch {
	case s.active() && (exchanged || ack.ActiveSession != nil && *ack.ActiveSession != s.ID):
		return v.lose(r), ""
	case s.active():
		return nil, "" // facts only (I17)
	}
	var commands []Command
	if ack.ActiveSession != nil && *ack.ActiveSession != 0 {
		commands = append(commands, v.cancel(r, *ack.ActiveSession, ReasonSuperseded))
	}
	facts := Facts{Primary: e.primary(v), Replica: ack, Learning: r.Learning, CaughtUp: r.CaughtUp, Discard: r.Discard}
	return append(commands, v.carryOut(r, facts, decide(facts))...), ""
}

// primary returns what the primary knows of itself.
func (e SyncAckReceived) primary(v *VolumeState) PrimaryFacts {
	return PrimaryFacts{
		Epoch: v.Epoch, EpochID: v.EpochID, RoleApplied: v.Readiness.RoleApplied,
		TailLSN: e.PrimaryWALTail, HeadLSN: e.PrimaryWALHead, CheckpointLSN: e.PrimaryCheckpointLSN,
		Lineage: slices.Clone(e.PrimaryLineage), LogDamaged: e.PrimaryLogDamaged, BaseDamaged: e.PrimaryBaseDamaged,
	}
}

// lose fails a session that the replica is not in: its command was lost, or it was ended or replaced there (S23). The
// next ack decides.
func (v *VolumeState) lose(r *ReplicaView) []Command {
	active := r.LastSyncAck.ActiveSession
	reason := ReasonTransportLost
	if active == nil || *active != 0 {
		reason = ReasonSuperseded
	}
	commands := []Command{v.cancel(r, r.Session.ID, reason)}
	if active != nil && *active != 0 && *active != r.Session.ID {
		commands = append(commands, v.cancel(r, *active, ReasonSuperseded))
	}
	r.Session.fail(reason)
	return commands
}

// carryOut makes a choice the state of a replica, and a command where it needs one.
func (v *VolumeState) carryOut(r *ReplicaView, facts Facts, c Choice) []Command {
	v.Decided++
	d := Decision{Sequence: v.Decided, VolumeID: v.VolumeID, Version: v.Version, ReplicaID: r.ReplicaID, Facts: facts, Choice: c}
	var commands []Command
	switch c.Action {
	case ActionNothing:
	case ActionHold:
		r.CaughtUp = false
		r.Session = ReplicaSession{State: SessionStateFailed, Reason: c.Reason}
	case ActionKeepUp:
		if r.Session.Kind != SessionKeepUp {
			r.Session = ReplicaSession{Kind: SessionKeepUp, State: SessionStateIdle}
		}
	case ActionCatchUp, ActionRebuild:
		d.SessionID = v.issue(r, c)
		commands = []Command{c.command(v, r)}
	default:
		panic("engine: a choice without an action") // decide names one in every case
	}
	r.remember(d)
	return commands
}

// issue begins a session, and returns its ID.
func (v *VolumeState) issue(r *ReplicaView, c Choice) SessionID {
	v.SessionsIssued++
	kind := SessionCatchUp
	if c.Action == ActionRebuild {
		kind = SessionRebuild
	}
	r.CaughtUp = false
	r.Session = ReplicaSession{
		ID: sessionID(v.Epoch, v.SessionsIssued), Kind: kind, State: SessionStateIssued,
		StartLSN: after(c.SinceLSN), TargetLSN: c.TargetLSN, PinLSN: c.PinLSN,
	}
	return r.Session.ID
}

// command returns what the host has to do for the session just issued.
func (c Choice) command(v *VolumeState, r *ReplicaView) Command {
	s := r.Session
	if c.Action == ActionCatchUp {
		return IssueCatchUpCommand{
			VolumeID: v.VolumeID, Epoch: v.Epoch, ReplicaID: r.ReplicaID, SessionID: s.ID,
			StartLSN: s.StartLSN, TargetLSN: s.TargetLSN, PinLSN: s.PinLSN,
			Truncate: c.Truncate, ForkLSN: c.ForkLSN, OutOfSyncFirst: c.OutOfSyncFirst,
		}
	}
	return IssueRebuildCommand{
		VolumeID: v.VolumeID, Epoch: v.Epoch, ReplicaID: r.ReplicaID, SessionID: s.ID,
		TargetLSN: s.TargetLSN, PinLSN: s.PinLSN, ForkLSN: c.ForkLSN, SinceLSN: c.SinceLSN,
		Resume: c.Resume, BaseLSN: c.BaseLSN, Cursor: c.Cursor,
		OwnMapUntrusted: c.OwnMapUntrusted, OutOfSyncFirst: c.OutOfSyncFirst,
	}
}
