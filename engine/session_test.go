package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

func TestI17ActiveSessionIsNotDecidedAgain(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	session := view(t, e, "b").Session
	for _, progress := range []bool{false, true} {
		if progress {
			e.ApplyEvent(SessionProgress{VolumeID: "disk0", Epoch: 3, ReplicaID: "b", SessionID: session.ID})
			session.State = SessionStateRunning
		}
		for _, applied := range []block.LSN{0, 60, 100, 500} { // rules 6, 5, 4 and 2, were they asked
			got := e.ApplyEvent(answer("b", applied))
			r := view(t, e, "b")
			if len(got.Commands) != 0 || r.Session != session || len(r.Decisions) != 1 || r.LastSyncAck.AppliedLSN != applied {
				t.Errorf("applied %d: %+v, %+v", applied, got, r)
			}
		}
	}
}

func TestI17FailedSessionWaitsForFacts(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	session := view(t, e, "b").Session.ID
	if r := e.ApplyEvent(SessionFailed{"disk0", 3, "b", session, ReasonTransportLost}); r.Mode != ModeDegraded || r.ModeReason != ReasonTransportLost {
		t.Fatalf("%+v", r)
	}
	no, yes := false, true
	for _, event := range []Event{
		ReadinessObserved{VolumeID: "disk0", Epoch: 3, ShipperConnected: &no},
		ReadinessObserved{VolumeID: "disk0", Epoch: 3, ShipperConnected: &yes},
		BarrierConfirmed{"disk0", 3, 90},
		AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 6, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b", Learning: true}}},
	} {
		result := e.ApplyEvent(event)
		s := view(t, e, "b").Session
		if result.Ignored != "" || s.Kind != SessionCatchUp || s.State != SessionStateFailed || s.ID != session {
			t.Errorf("after %T: %+v, %+v", event, result, s)
		}
	}
	if s := e.ApplyEvent(answer("b", 10)); !issues[IssueRebuildCommand](s) {
		t.Errorf("fresh facts are beyond the log: %+v", s)
	}
}

func TestProgress(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	id := view(t, e, "b").Session.ID
	for _, c := range []struct{ told, progress, pin block.LSN }{{50, 50, 51}, {70, 70, 71}, {60, 70, 71}, {^block.LSN(0), ^block.LSN(0), ^block.LSN(0)}} {
		e.ApplyEvent(SessionProgress{VolumeID: "disk0", Epoch: 3, ReplicaID: "b", SessionID: id, Progress: c.told})
		if s := view(t, e, "b").Session; s.Progress != c.progress || s.PinLSN != c.pin || s.TargetLSN != 100 {
			t.Errorf("at %d: %+v", c.told, s)
		}
	}
	e.ApplyEvent(SessionFailed{VolumeID: "disk0", Epoch: 3, ReplicaID: "b", SessionID: id})
	if s := view(t, e, "b").Session; s.Reason != ReasonCancelled {
		t.Errorf("failed for no reason: %+v", s)
	}
}

// issues tells whether a result has a command of a type.
func issues[C Command](r Result) bool {
	return slices.ContainsFunc(r.Commands, func(c Command) bool { _, ok := c.(C); return ok })
}

// A replica that a session was decided for counts again by that session's completion and by nothing else.
func TestI18InSyncOnlyByCompletion(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	session := view(t, e, "b").Session.ID
	for _, event := range []Event{
		SessionProgress{"disk0", 3, "b", session, 100, 0, BaseLaneUnknown},
		answer("b", 100),
		BarrierConfirmed{"disk0", 3, 100},
		AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 6, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b", Learning: true}}},
		AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 7, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b"}}},
		SessionCompleted{"disk0", 3, "b", session, 99},
		SessionCompleted{"disk0", 3, "b", session + 1, 100},
	} {
		if result := e.ApplyEvent(event); view(t, e, "b").InSync() || result.Healthy {
			t.Errorf("after %T it is in sync: %+v", event, result)
		}
	}
	if r := e.ApplyEvent(SessionCompleted{"disk0", 3, "b", session, 100}); !view(t, e, "b").InSync() || !r.Healthy {
		t.Errorf("after its completion it is not: %+v", r)
	}
}

// Nothing that was ever issued comes again: not after removal, not on another replica, not in another epoch.
func TestS23SessionIDsNeverRepeat(t *testing.T) {
	issued := map[string]bool{}
	note := func(volume, replica string, id SessionID) {
		key := fmt.Sprint(volume, id)
		if issued[key] || id == 0 {
			t.Fatalf("session %s of %s was there before", key, replica)
		}
		issued[key] = true
	}
	for epoch := range block.Epoch(30) { // each an engine of its own: a restart starts an epoch
		c := randomChooser{rand.New(rand.NewPCG(uint64(epoch), 23))}
		e := NewEngine()
		for range 400 {
			event := anyEvent(c, e)
			if a, ok := event.(AssignmentDelivered); ok {
				a.Epoch, a.EpochID = 100+epoch, uuid.Nil
				event = a
			}
			for _, command := range e.ApplyEvent(event).Commands {
				switch command := command.(type) {
				case IssueCatchUpCommand:
					note(command.VolumeID, command.ReplicaID, command.SessionID)
				case IssueRebuildCommand:
					note(command.VolumeID, command.ReplicaID, command.SessionID)
				}
			}
		}
	}
	if len(issued) < 200 {
		t.Errorf("%d sessions were issued: too few to tell", len(issued))
	}
}

// The copy was exchanged under the primary's session: that session is ended, and told to be so once.
func TestS23ExchangedCopyEndsTheSession(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	session := view(t, e, "b").Session.ID
	other := SessionID(77)
	for _, c := range []struct {
		active *SessionID
		want   []Command
	}{
		{nil, []Command{CancelSessionCommand{"disk0", 3, "b", session, ReasonSuperseded}}},
		{&session, []Command{CancelSessionCommand{"disk0", 3, "b", session + 1, ReasonSuperseded}, CancelSessionCommand{"disk0", 3, "b", session, ReasonSuperseded}}},
		{new(SessionID), []Command{CancelSessionCommand{"disk0", 3, "b", session + 2, ReasonTransportLost}}},
		{&other, []Command{CancelSessionCommand{"disk0", 3, "b", session + 3, ReasonSuperseded}, CancelSessionCommand{"disk0", 3, "b", other, ReasonSuperseded}}},
	} {
		a := answer("b", 50)
		a.Ack.CopyID, a.Ack.ActiveSession = uuid.UUID{9}, c.active
		got := e.ApplyEvent(a).Commands
		if n := len(got); n > 0 && issues[PublishProjectionCommand](Result{Commands: got[n-1:]}) {
			got = got[:n-1]
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v, want %+v", got, c.want)
		}
		e.ApplyEvent(answer("b", 50))
	}
	present := view(t, e, "b").Session.ID
	a := answer("b", 50)
	a.Ack.CopyID, a.Ack.ActiveSession = uuid.UUID{9}, &present
	cancels := 0
	for _, command := range e.ApplyEvent(a).Commands {
		if _, ok := command.(CancelSessionCommand); ok {
			cancels++
		}
	}
	if cancels != 1 {
		t.Errorf("the session was ended %d times", cancels)
	}
}
