package engine

import (
	"slices"
	"strings"
)

func (e AssignmentDelivered) apply(v *VolumeState) ([]Command, string) {
	replicas := sortedReplicas(e.Replicas)
	if e.Role != RolePrimary {
		replicas = nil // who is not primary has none to look after
	}
	if why := e.refused(v, replicas); why != "" {
		return nil, why
	}
	begins := e.Epoch > v.Epoch
	turns := begins || e.Role != v.Role
	commands := v.cancelLeft(replicas, begins)
	moved := turns || !sameAddresses(v.Replicas, replicas)
	if begins {
		v.BarrierConfirmed, v.SessionsIssued, v.Decided = false, 0, 0
		v.ReplicaStates = map[string]*ReplicaView{}
	}
	if turns {
		v.Readiness = Readiness{}
		commands = append(commands, ApplyRoleCommand{VolumeID: v.VolumeID, Epoch: e.Epoch, Role: e.Role})
	}
	v.Epoch, v.EpochID, v.Version, v.Role = e.Epoch, e.EpochID, e.Version, e.Role
	v.assignReplicas(replicas, begins)
	switch {
	case e.Role == RolePrimary && moved:
		v.Readiness.ShipperConfigured, v.Readiness.ShipperConnected = false, false
		commands = append(commands, ConfigureShipperCommand{VolumeID: v.VolumeID, Epoch: e.Epoch, Replicas: slices.Clone(replicas)})
	case e.Role == RoleReplica && turns:
		commands = append(commands, StartReceiverCommand{VolumeID: v.VolumeID, Epoch: e.Epoch})
	}
	return commands, ""
}

// refused returns why an assignment changes nothing, or "".
func (e AssignmentDelivered) refused(v *VolumeState, replicas []ReplicaAssignment) string {
	switch {
	case e.VolumeID == "":
		return "the assignment names no volume"
	case e.Epoch == 0:
		return "the assignment has no epoch"
	case !e.Role.known():
		return "the assignment has a role that there is not"
	case ambiguous(replicas):
		return "the assignment names a replica twice, or one without an ID"
	case e.Epoch < v.Epoch:
		return "it is of an older epoch"
	case e.Epoch > v.Epoch:
		return ""
	case e.EpochID != v.EpochID:
		return "its epoch is known under another ID"
	case e.Version < v.Version:
		return "it is of an older configuration"
	case e.Role.rank() > v.Role.rank():
		return "a role is taken up in a new epoch only"
	case e.Version == v.Version && e.Version != 0:
		if e.Role == v.Role && slices.Equal(replicas, v.Replicas) {
			return "it is known"
		}
		return "its configuration is known with other content"
	default:
		return ""
	}
}

// cancelLeft ends the sessions of replicas that are not to be looked after any more, or not in this epoch.
func (v *VolumeState) cancelLeft(replicas []ReplicaAssignment, begins bool) []Command {
	var commands []Command
	for _, old := range v.Replicas { // by ReplicaID
		r := v.ReplicaStates[old.ReplicaID]
		stays := slices.ContainsFunc(replicas, func(a ReplicaAssignment) bool { return a.ReplicaID == old.ReplicaID })
		switch {
		case !r.Session.active():
		case begins:
			commands = append(commands, v.cancel(r, r.Session.ID, ReasonSuperseded))
		case !stays:
			commands = append(commands, v.cancel(r, r.Session.ID, ReasonCancelled))
		}
	}
	return commands
}

// assignReplicas makes the views those of the assignment. One that joins an epoch that has begun is not in sync before
// it completed a session (S3).
func (v *VolumeState) assignReplicas(replicas []ReplicaAssignment, begins bool) {
	views := make(map[string]*ReplicaView, len(replicas))
	for _, a := range replicas {
		if r, ok := v.ReplicaStates[a.ReplicaID]; ok {
			r.assign(a)
			views[a.ReplicaID] = r
		} else {
			views[a.ReplicaID] = newReplicaView(a, begins && !a.Learning)
		}
	}
	v.Replicas, v.ReplicaStates = replicas, views
}

// sortedReplicas returns a copy by ReplicaID, so that commands have one order however the configuration lists them.
func sortedReplicas(replicas []ReplicaAssignment) []ReplicaAssignment {
	sorted := slices.Clone(replicas)
	slices.SortStableFunc(sorted, func(a, b ReplicaAssignment) int { return strings.Compare(a.ReplicaID, b.ReplicaID) })
	return sorted
}

// ambiguous tells whether a sorted assignment has an ID twice, or an empty one.
func ambiguous(replicas []ReplicaAssignment) bool {
	last := ""
	for _, a := range replicas {
		if a.ReplicaID == last {
			return true
		}
		last = a.ReplicaID
	}
	return false
}

// sameAddresses tells whether there is nothing to connect to anew.
func sameAddresses(old, replicas []ReplicaAssignment) bool {
	return slices.EqualFunc(old, replicas, func(a, b ReplicaAssignment) bool {
		return a.ReplicaID == b.ReplicaID && a.Endpoint == b.Endpoint
	})
}
