package engine

import (
	"testing"

	"lockstep/block"
)

// Each row makes its condition hold, and all later ones as well, as far as they can: the first has to win.
func TestProjection(t *testing.T) {
	replica := func(kind SessionKind, state SessionState, reason string) *ReplicaView {
		return &ReplicaView{CaughtUp: true, Session: ReplicaSession{Kind: kind, State: state, Reason: reason}}
	}
	keeping := replica(SessionKeepUp, SessionStateCompleted, "")
	all := Readiness{RoleApplied: true, ReceiverReady: true, ShipperConfigured: true, ShipperConnected: true}
	without := func(take func(*Readiness)) Readiness { r := all; take(&r); return r }
	learner := *keeping
	learner.Learning = true
	lagging := *keeping
	lagging.CaughtUp = false
	for name, c := range map[string]struct {
		role      Role
		readiness Readiness
		barrier   bool
		b, c      *ReplicaView
		mode      Mode
		reason    string
	}{
		"a rebuild issued": {RolePrimary, all, true, replica(SessionRebuild, SessionStateIssued, ""),
			replica(SessionCatchUp, SessionStateFailed, ReasonSplitBrain), ModeNeedsRebuild, ReasonRebuildInProgress},
		"a rebuild running": {RolePrimary, all, true, replica(SessionCatchUp, SessionStateRunning, ""),
			replica(SessionRebuild, SessionStateRunning, ""), ModeNeedsRebuild, ReasonRebuildInProgress},
		"a rebuild failed": {RolePrimary, all, true, keeping,
			replica(SessionRebuild, SessionStateFailed, ReasonNoSpace), ModeDegraded, ReasonNoSpace},
		"a session failed, another runs": {RolePrimary, all, true, replica(SessionCatchUp, SessionStateRunning, ""),
			replica(SessionCatchUp, SessionStateFailed, ReasonPinLost), ModeDegraded, ReasonPinLost},
		"two failed": {RolePrimary, all, true, replica(SessionCatchUp, SessionStateFailed, ReasonTransportLost),
			replica(SessionCatchUp, SessionStateFailed, ReasonPinLost), ModeDegraded, ReasonTransportLost},
		"two failed, one for an operator": {RolePrimary, all, true, replica(SessionCatchUp, SessionStateFailed, ReasonTransportLost),
			replica(SessionNone, SessionStateFailed, ReasonSplitBrain), ModeDegraded, ReasonSplitBrain},
		"a catch-up issued": {RolePrimary, all, true, keeping, replica(SessionCatchUp, SessionStateIssued, ""),
			ModeBootstrapPending, ReasonRecoveryInProgress},
		"a catch-up running": {RolePrimary, Readiness{}, false, replica(SessionCatchUp, SessionStateRunning, ""), keeping,
			ModeBootstrapPending, ReasonRecoveryInProgress},
		"a replica, ready":           {RoleReplica, all, true, nil, nil, ModeReplicaReady, ""},
		"a replica, told its role":   {RoleReplica, without(func(r *Readiness) { r.ReceiverReady = false }), true, nil, nil, ModeBootstrapPending, ReasonAwaitingReceiverReady},
		"a replica, told nothing":    {RoleReplica, Readiness{}, true, nil, nil, ModeBootstrapPending, ReasonAwaitingRoleApply},
		"a primary alone":            {RolePrimary, all, true, nil, nil, ModeAllocatedOnly, ""},
		"a primary, told nothing":    {RolePrimary, without(func(r *Readiness) { r.RoleApplied = false }), true, keeping, nil, ModeBootstrapPending, ReasonAwaitingRoleApply},
		"its shipper to be set up":   {RolePrimary, without(func(r *Readiness) { r.ShipperConfigured = false }), true, keeping, nil, ModeBootstrapPending, ReasonAwaitingShipperConfigured},
		"its shipper to connect":     {RolePrimary, without(func(r *Readiness) { r.ShipperConnected = false }), true, keeping, nil, ModeBootstrapPending, ReasonAwaitingShipperConnected},
		"no receiver on a primary":   {RolePrimary, without(func(r *Readiness) { r.ReceiverReady = false }), true, keeping, nil, ModePublishHealthy, ""},
		"nothing durable":            {RolePrimary, all, false, keeping, &learner, ModeBootstrapPending, ReasonAwaitingBarrierDurability},
		"S24 one is a learner":       {RolePrimary, all, true, keeping, &learner, ModeBootstrapPending, ReasonAwaitingInSync},
		"S24 one is not caught up":   {RolePrimary, all, true, &lagging, keeping, ModeBootstrapPending, ReasonAwaitingInSync},
		"healthy":                    {RolePrimary, all, true, keeping, keeping, ModePublishHealthy, ""},
		"taken away":                 {RoleNone, all, true, nil, nil, ModeAllocatedOnly, ""},
		"a replica is not a shipper": {RoleReplica, without(func(r *Readiness) { r.ReceiverReady, r.ShipperConnected = false, false }), false, nil, nil, ModeBootstrapPending, ReasonAwaitingReceiverReady},
	} {
		v := newVolumeState("disk0")
		v.Epoch, v.Role, v.Readiness, v.BarrierConfirmed = 1, c.role, c.readiness, c.barrier
		for id, r := range map[string]*ReplicaView{"b": c.b, "c": c.c} {
			if r != nil {
				v.ReplicaStates[id] = r
			}
		}
		for _, id := range []string{"b", "c"} {
			if v.ReplicaStates[id] != nil {
				v.Replicas = append(v.Replicas, ReplicaAssignment{ReplicaID: id})
			}
		}
		if mode, reason := project(v); mode != c.mode || reason != c.reason {
			t.Errorf("%s: %s %s, want %s %s", name, mode, reason, c.mode, c.reason)
		}
	}
}

// A barrier of an earlier epoch makes nothing healthy: the replicas of this one may not have been there.
func TestHealthIsOfThisEpoch(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	yes := true
	e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 4, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b"}}})
	if r := e.ApplyEvent(ReadinessObserved{"disk0", 4, &yes, nil, &yes, &yes}); r.ModeReason != ReasonAwaitingBarrierDurability {
		t.Errorf("%+v", r)
	}
	if r := e.ApplyEvent(BarrierConfirmed{"disk0", 4, 0}); r.Healthy {
		t.Errorf("nothing is durable: %+v", r)
	}
	for _, durable := range []block.LSN{1, 0} {
		if r := e.ApplyEvent(BarrierConfirmed{"disk0", 4, durable}); !r.Healthy || r.Mode != ModePublishHealthy {
			t.Errorf("%+v", r)
		}
	}
}

// A projection is published when it changes, and once.
func TestProjectionIsPublishedOnce(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	if r := NewEngine().ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 1, Role: RolePrimary}); !issues[PublishProjectionCommand](r) {
		t.Errorf("of a new volume: %+v", r)
	}
	no, yes := false, true
	for _, c := range []struct {
		connected *bool
		published bool
	}{{&yes, false}, {&no, true}, {&no, false}, {nil, false}, {&yes, true}} {
		r := e.ApplyEvent(ReadinessObserved{VolumeID: "disk0", Epoch: 3, ShipperConnected: c.connected})
		if issues[PublishProjectionCommand](r) != c.published || len(r.Commands) > 1 {
			t.Errorf("%+v", r)
		}
	}
}
