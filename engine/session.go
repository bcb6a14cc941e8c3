package engine

import "lockstep/block"

// SessionID names a session; 0 is none. The first of an epoch is the epoch times 2^32, plus 1, and each further one is
// one more: within an epoch none repeats, and beyond it only if an epoch has 2^32 sessions or there are 2^32 epochs. Every
// message and event carries the epoch beside it (I11).
type SessionID uint64

// sessionID returns the ID of the nth session, from 1 on, of an epoch.
func sessionID(epoch block.Epoch, n uint64) SessionID { return SessionID(uint64(epoch)<<32 + n) }

// SessionKind is what a session does.
type SessionKind string

// The kinds of a session. Keep-up is what is there without a recovery: live records.
const (
	SessionNone    SessionKind = ""
	SessionKeepUp  SessionKind = "keep_up"
	SessionCatchUp SessionKind = "catch_up"
	SessionRebuild SessionKind = "rebuild"
)

// SessionState is where a session stands.
type SessionState string

// The states of a session.
const (
	SessionStateIdle      SessionState = "idle"      // none was needed, or none decided yet
	SessionStateIssued    SessionState = "issued"    // its command is given
	SessionStateRunning   SessionState = "running"   // it has made progress
	SessionStateCompleted SessionState = "completed" // accepted; live records since
	SessionStateFailed    SessionState = "failed"    // or refused by a decision; Reason says why
)

// BaseLane is what the host knows of a rebuild's base lane.
type BaseLane string

// The states of a base lane. A rebuild whose lane is open does not complete (S21).
const (
	BaseLaneUnknown BaseLane = "" // in an event: nothing new
	BaseLaneOpen    BaseLane = "open"
	BaseLaneEnded   BaseLane = "ended" // the replica has the message that ends it
)

// ReplicaSession is the newest session of a replica.
type ReplicaSession struct {
	ID        SessionID // 0 if none was issued since the last decision
	Kind      SessionKind
	State     SessionState
	StartLSN  block.LSN // first record that the replica was not known to have
	TargetLSN block.LSN // complete once durable here
	PinLSN    block.LSN // the log is kept from here on
	Progress  block.LSN // never decreases
	BaseLane  BaseLane
	Reason    string // why it failed, or ""
}

// active tells whether the session is under way: then nothing is decided for its replica (I17).
func (s ReplicaSession) active() bool {
	return s.State == SessionStateIssued || s.State == SessionStateRunning
}

func (s *ReplicaSession) fail(reason string) { s.State, s.Reason = SessionStateFailed, reason }

// shortOf returns why the session cannot complete at an LSN, or "".
func (s *ReplicaSession) shortOf(durable block.LSN) string {
	switch {
	case durable < s.TargetLSN:
		return "it is below the target"
	case s.BaseLane == BaseLaneOpen:
		return "the base lane has not ended"
	default:
		return ""
	}
}

func (e SessionProgress) apply(v *VolumeState) ([]Command, string) {
	r, ignored := v.inSession(e.Epoch, e.ReplicaID, e.SessionID)
	if ignored != "" {
		return nil, ignored
	}
	s := &r.Session
	s.State = SessionStateRunning
	s.Progress = max(s.Progress, e.Progress)
	s.PinLSN = max(s.PinLSN, after(e.Progress))
	s.TargetLSN = max(s.TargetLSN, e.TargetLSN)
	if e.BaseLane != BaseLaneUnknown && s.BaseLane != BaseLaneEnded {
		s.BaseLane = e.BaseLane
	}
	return nil, ""
}

func (e SessionCompleted) apply(v *VolumeState) ([]Command, string) {
	r, ignored := v.inSession(e.Epoch, e.ReplicaID, e.SessionID)
	if ignored != "" {
		return nil, ignored
	}
	if short := r.Session.shortOf(e.DurableLSN); short != "" {
		return nil, "completion refused: " + short
	}
	if why := r.LastSyncAck.unfit(); why != "" && r.Session.Kind == SessionCatchUp {
		r.Session.fail(why) // log records mend neither a log nor a base (S14)
		return []Command{v.cancel(r, r.Session.ID, why)}, ""
	}
	s := &r.Session
	s.Kind, s.State = SessionKeepUp, SessionStateCompleted
	s.Progress = max(s.Progress, e.DurableLSN)
	r.CaughtUp = true
	return nil, ""
}

func (e SessionFailed) apply(v *VolumeState) ([]Command, string) {
	r, ignored := v.inSession(e.Epoch, e.ReplicaID, e.SessionID)
	if ignored != "" {
		return nil, ignored
	}
	reason := e.Reason
	if reason == "" {
		reason = ReasonCancelled
	}
	r.Session.fail(reason)
	return nil, ""
}
