package engine

import (
	"slices"

	"github.com/google/uuid"

	"lockstep/block"
)

// Readiness is what the host has told of itself in the present epoch and role.
type Readiness struct {
	RoleApplied       bool
	ReceiverReady     bool
	ShipperConfigured bool
	ShipperConnected  bool
}

// VolumeState is everything the engine knows of a volume.
type VolumeState struct {
	VolumeID string
	Epoch    block.Epoch // 0 before the first assignment
	EpochID  uuid.UUID
	Version  uint64 // of the configuration
	Role     Role
	Replicas []ReplicaAssignment // by ReplicaID; empty unless primary

	Readiness     Readiness
	ReplicaStates map[string]*ReplicaView // exactly the replicas of Replicas

	DurableLSN       block.LSN // durable on all in-sync replicas; never decreases
	BarrierConfirmed bool      // a barrier closed in this epoch, on more than nothing
	WALTail, WALHead block.LSN // the primary's, as of the last sync ack

	SessionsIssued uint64 // in this epoch
	Decided        uint64 // decisions in this epoch, those that changed nothing included

	Mode       Mode
	ModeReason string
	Healthy    bool
}

func newVolumeState(id string) *VolumeState {
	return &VolumeState{VolumeID: id, ReplicaStates: map[string]*ReplicaView{}, Mode: ModeAllocatedOnly}
}

// stale returns why an event of an epoch says nothing of the volume, or "".
func (v *VolumeState) stale(epoch block.Epoch) string {
	switch {
	case v.Epoch == 0:
		return "the volume is not assigned"
	case epoch < v.Epoch:
		return "it is of an older epoch"
	case epoch > v.Epoch:
		return "it is of an epoch that is not assigned"
	default:
		return ""
	}
}

// replica returns the view an event speaks of, or why there is none.
func (v *VolumeState) replica(epoch block.Epoch, id string) (r *ReplicaView, ignored string) {
	if why := v.stale(epoch); why != "" {
		return nil, why
	}
	if v.Role != RolePrimary {
		return nil, "only a primary decides"
	}
	r, ok := v.ReplicaStates[id]
	if !ok {
		return nil, "the replica is not assigned"
	}
	return r, ""
}

// inSession returns the view of a replica whose present session, under way, is the one an event names.
func (v *VolumeState) inSession(epoch block.Epoch, id string, session SessionID) (r *ReplicaView, ignored string) {
	r, why := v.replica(epoch, id)
	switch {
	case why != "":
		return nil, why
	case r.Session.ID != session:
		return nil, "it is of another session"
	case !r.Session.active():
		return nil, "its session has ended"
	default:
		return r, ""
	}
}

func (v *VolumeState) cancel(r *ReplicaView, id SessionID, reason string) Command {
	return CancelSessionCommand{VolumeID: v.VolumeID, Epoch: v.Epoch, ReplicaID: r.ReplicaID, SessionID: id, Reason: reason}
}

func (e ReadinessObserved) apply(v *VolumeState) ([]Command, string) {
	if why := v.stale(e.Epoch); why != "" {
		return nil, why
	}
	set := func(fact *bool, told *bool) {
		if told != nil {
			*fact = *told
		}
	}
	set(&v.Readiness.RoleApplied, e.RoleApplied)
	set(&v.Readiness.ReceiverReady, e.ReceiverReady)
	set(&v.Readiness.ShipperConfigured, e.ShipperConfigured)
	set(&v.Readiness.ShipperConnected, e.ShipperConnected)
	return nil, ""
}

func (e BarrierConfirmed) apply(v *VolumeState) ([]Command, string) {
	if why := v.stale(e.Epoch); why != "" {
		return nil, why
	}
	if v.Role != RolePrimary {
		return nil, "only a primary has barriers"
	}
	v.DurableLSN = max(v.DurableLSN, e.DurableLSN)
	v.BarrierConfirmed = v.BarrierConfirmed || e.DurableLSN > 0
	return nil, ""
}

// clone returns a copy that shares nothing with v.
func (v *VolumeState) clone() VolumeState {
	c := *v
	c.Replicas = slices.Clone(v.Replicas)
	c.ReplicaStates = make(map[string]*ReplicaView, len(v.ReplicaStates))
	for id, r := range v.ReplicaStates {
		c.ReplicaStates[id] = r.clone()
	}
	return c
}
