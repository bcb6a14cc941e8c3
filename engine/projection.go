package engine

// Mode is what a volume is, in one word, for those outside.
type Mode string

// The modes.
const (
	ModeAllocatedOnly    Mode = "allocated_only"
	ModeBootstrapPending Mode = "bootstrap_pending"
	ModePublishHealthy   Mode = "publish_healthy" // the only healthy one
	ModeReplicaReady     Mode = "replica_ready"
	ModeDegraded         Mode = "degraded"
	ModeNeedsRebuild     Mode = "needs_rebuild"
)

// What a mode's reason says, where it is not why a session failed.
const (
	ReasonRebuildInProgress         = "rebuild_in_progress"
	ReasonRecoveryInProgress        = "recovery_in_progress"
	ReasonAwaitingRoleApply         = "awaiting_role_apply"
	ReasonAwaitingReceiverReady     = "awaiting_receiver_ready"
	ReasonAwaitingShipperConfigured = "awaiting_shipper_configured"
	ReasonAwaitingShipperConnected  = "awaiting_shipper_connected"
	ReasonAwaitingBarrierDurability = "awaiting_barrier_durability"
	ReasonAwaitingInSync            = "awaiting_in_sync" // a replica is not in sync, and no session runs (S24)
)

// project returns mode and reason of a volume: the first that holds.
func project(v *VolumeState) (Mode, string) {
	failed := v.failure()
	switch {
	case v.anySession(SessionRebuild):
		return ModeNeedsRebuild, ReasonRebuildInProgress
	case failed != "":
		return ModeDegraded, failed
	case v.anySession(SessionCatchUp):
		return ModeBootstrapPending, ReasonRecoveryInProgress
	case v.Role == RoleReplica && v.Readiness.ReceiverReady:
		return ModeReplicaReady, ""
	case v.Role == RolePrimary && len(v.Replicas) == 0:
		return ModeAllocatedOnly, ""
	case v.Role == RoleNone:
		return ModeAllocatedOnly, ""
	}
	if awaited := v.awaited(); awaited != "" {
		return ModeBootstrapPending, awaited
	}
	return ModePublishHealthy, ""
}

// awaited returns the first thing that an assigned volume waits for, or "" for a healthy primary.
func (v *VolumeState) awaited() string {
	r := v.Readiness
	switch {
	case !r.RoleApplied:
		return ReasonAwaitingRoleApply
	case v.Role == RoleReplica:
		return ReasonAwaitingReceiverReady
	case !r.ShipperConfigured:
		return ReasonAwaitingShipperConfigured
	case !r.ShipperConnected:
		return ReasonAwaitingShipperConnected
	case !v.BarrierConfirmed:
		return ReasonAwaitingBarrierDurability
	case !v.allInSync():
		return ReasonAwaitingInSync
	default:
		return ""
	}
}

// anySession tells whether a session of a kind is issued or running.
func (v *VolumeState) anySession(kind SessionKind) bool {
	for _, r := range v.ReplicaStates {
		if r.Session.Kind == kind && r.Session.active() {
			return true
		}
	}
	return false
}

// failure returns why a session failed, or "". A split brain goes first, as it waits for an operator; then the replica
// whose ID is first.
func (v *VolumeState) failure() string {
	first := ""
	for _, a := range v.Replicas { // by ReplicaID
		s := v.ReplicaStates[a.ReplicaID].Session
		if s.State != SessionStateFailed {
			continue
		}
		if s.Reason == ReasonSplitBrain {
			return s.Reason
		}
		if first == "" {
			first = s.Reason
		}
	}
	return first
}

// allInSync tells whether every assigned replica counts as in sync (S24).
func (v *VolumeState) allInSync() bool {
	for _, r := range v.ReplicaStates {
		if !r.InSync() {
			return false
		}
	}
	return true
}
