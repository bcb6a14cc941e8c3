package engine_test

import (
	"testing"

	"lockstep/engine"
)

// TestFixedNames goes through the life of a volume with the names that other programs are written against, and with
// nothing else: what the engine has beyond them may be left zero.
func TestFixedNames(t *testing.T) {
	yes := true
	e := engine.NewEngine()
	apply := func(event engine.Event, mode engine.Mode, reason string) engine.Result {
		t.Helper()
		r := e.ApplyEvent(event)
		if r.Mode != mode || r.ModeReason != reason || r.Healthy != (mode == engine.ModePublishHealthy) {
			t.Fatalf("after %T: %s %s, healthy %v", event, r.Mode, r.ModeReason, r.Healthy)
		}
		return r
	}
	view := func(id string) *engine.ReplicaView {
		v, _ := e.Volume("v")
		return v.ReplicaStates[id]
	}
	replica := func(id string) engine.ReplicaAssignment {
		return engine.ReplicaAssignment{ReplicaID: id, Endpoint: engine.Endpoint{DataAddr: "10.0.0.2:1", CtrlAddr: "10.0.0.2:2"}}
	}
	apply(engine.AssignmentDelivered{VolumeID: "v", Epoch: 1, Role: engine.RolePrimary}, engine.ModeAllocatedOnly, "")
	both := []engine.ReplicaAssignment{replica("b"), replica("c")}
	apply(engine.AssignmentDelivered{VolumeID: "v", Epoch: 2, Role: engine.RolePrimary, Replicas: both}, engine.ModeBootstrapPending, "awaiting_role_apply")
	apply(engine.ReadinessObserved{VolumeID: "v", Epoch: 2, RoleApplied: &yes}, engine.ModeBootstrapPending, "awaiting_shipper_configured")
	apply(engine.ReadinessObserved{VolumeID: "v", Epoch: 2, ShipperConfigured: &yes}, engine.ModeBootstrapPending, "awaiting_shipper_connected")
	apply(engine.ReadinessObserved{VolumeID: "v", Epoch: 2, ShipperConnected: &yes}, engine.ModeBootstrapPending, "awaiting_barrier_durability")
	apply(engine.BarrierConfirmed{VolumeID: "v", Epoch: 2, DurableLSN: 40}, engine.ModePublishHealthy, "")

	r := apply(engine.SyncAckReceived{VolumeID: "v", Epoch: 2, ReplicaID: "b", Ack: engine.SyncAck{DurableLSN: 30, AppliedLSN: 50},
		PrimaryWALTail: 20, PrimaryWALHead: 100}, engine.ModeBootstrapPending, "recovery_in_progress")
	command, ok := r.Commands[0].(engine.IssueCatchUpCommand)
	if !ok || command.StartLSN != 51 || command.TargetLSN != 100 || command.PinLSN != 51 || command.SessionID != view("b").Session.ID {
		t.Fatalf("%+v", r.Commands)
	}
	progress := engine.SessionProgress{VolumeID: "v", Epoch: 2, ReplicaID: "b", SessionID: command.SessionID, Progress: 75}
	apply(progress, engine.ModeBootstrapPending, "recovery_in_progress")
	if s := view("b").Session; s.State != engine.SessionStateRunning || s.Kind != engine.SessionCatchUp || s.Progress != 75 {
		t.Fatalf("%+v", s)
	}
	apply(engine.SessionFailed{VolumeID: "v", Epoch: 2, ReplicaID: "b", SessionID: command.SessionID, Reason: "pin_lost"}, engine.ModeDegraded, "pin_lost")
	r = apply(engine.SyncAckReceived{VolumeID: "v", Epoch: 2, ReplicaID: "b", Ack: engine.SyncAck{AppliedLSN: 10},
		PrimaryWALTail: 500, PrimaryWALHead: 1000}, engine.ModeNeedsRebuild, "rebuild_in_progress")
	rebuild, ok := r.Commands[0].(engine.IssueRebuildCommand)
	if !ok || rebuild.TargetLSN != 1000 {
		t.Fatalf("%+v", r.Commands)
	}
	apply(engine.SessionCompleted{VolumeID: "v", Epoch: 2, ReplicaID: "b", SessionID: rebuild.SessionID, DurableLSN: 1000}, engine.ModePublishHealthy, "")
	if s := view("b").Session; s.Kind != engine.SessionKeepUp || s.State != engine.SessionStateCompleted {
		t.Fatalf("%+v", s)
	}
	r = apply(engine.SyncAckReceived{VolumeID: "v", Epoch: 2, ReplicaID: "c", Ack: engine.SyncAck{DurableLSN: 1000, AppliedLSN: 1000},
		PrimaryWALTail: 500, PrimaryWALHead: 1000}, engine.ModePublishHealthy, "")
	if s := view("c").Session; len(r.Commands) != 0 || s.Kind != engine.SessionKeepUp {
		t.Fatalf("%+v, %+v", r, s)
	}
	apply(engine.AssignmentDelivered{VolumeID: "v", Epoch: 2, Role: engine.RolePrimary, Replicas: both[:1]}, engine.ModeBootstrapPending, "awaiting_shipper_configured")
	if v, _ := e.Volume("v"); len(v.ReplicaStates) != 1 || view("b") == nil || v.DurableLSN != 40 {
		t.Fatalf("%+v", v)
	}
	apply(engine.AssignmentDelivered{VolumeID: "v", Epoch: 3, Role: engine.RoleReplica}, engine.ModeBootstrapPending, "awaiting_role_apply")
	apply(engine.ReadinessObserved{VolumeID: "v", Epoch: 3, ReceiverReady: &yes}, engine.ModeReplicaReady, "")
}
