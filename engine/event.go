package engine

import (
	"github.com/google/uuid"

	"lockstep/block"
)

// Event is one fact, told to ApplyEvent. The seven types in this file are all there are. Each carries the epoch it was
// observed in; one of another epoch changes nothing (I16).
type Event interface {
	volume() string
	// apply changes v and returns what is to be done, or changes nothing and returns why.
	apply(v *VolumeState) (commands []Command, ignored string)
}

// AssignmentDelivered tells a node's part in a volume, as the configuration has it. It is the first event of a volume.
type AssignmentDelivered struct {
	VolumeID string      // the volume's UUID; not empty
	Epoch    block.Epoch // 1 or more; a smaller one than known is ignored
	EpochID  uuid.UUID   // the epoch's random ID (S6); nil where the host does not tell
	Version  uint64      // of the configuration; an older one of the same epoch is ignored. 0 is a host without versions
	Role     Role        // within an epoch it may only step down: a promotion starts a new one (I14)
	Replicas []ReplicaAssignment
}

// ReadinessObserved tells what of the host is in place. A nil field says nothing.
type ReadinessObserved struct {
	VolumeID          string
	Epoch             block.Epoch
	RoleApplied       *bool // primary: the longer tail is joined, the epoch-start record is durable (S9)
	ReceiverReady     *bool // replica: a primary may connect
	ShipperConfigured *bool // primary: the newest ConfigureShipperCommand is carried out
	ShipperConnected  *bool // primary: connected to every replica of it
}

// SyncAckReceived tells a replica's answer to a sync, with the primary's own facts at the moment it came.
type SyncAckReceived struct {
	VolumeID  string
	Epoch     block.Epoch
	ReplicaID string
	Ack       SyncAck

	PrimaryWALTail       block.LSN // oldest record retained; head + 1 when there is none
	PrimaryWALHead       block.LSN // newest record
	PrimaryCheckpointLSN block.LSN // every record up to it is in the base image
	PrimaryLineage       []block.EpochStart
	PrimaryLogDamaged    bool
	PrimaryBaseDamaged   bool
}

// SessionProgress tells how far a session has come.
type SessionProgress struct {
	VolumeID  string
	Epoch     block.Epoch
	ReplicaID string
	SessionID SessionID
	Progress  block.LSN // every record of the session up to it is durable on the replica
	// TargetLSN raises the session's target, where it is larger: the end of the base lane names the final one (S21).
	TargetLSN block.LSN
	BaseLane  BaseLane
}

// SessionCompleted tells that the replica reports its session done. Below the target it is refused (S21).
type SessionCompleted struct {
	VolumeID   string
	Epoch      block.Epoch
	ReplicaID  string
	SessionID  SessionID
	DurableLSN block.LSN // every record up to it is durable on the replica
}

// SessionFailed tells that a session will not complete. The host has stopped its side of it.
type SessionFailed struct {
	VolumeID  string
	Epoch     block.Epoch
	ReplicaID string
	SessionID SessionID
	Reason    string // one of the Reason words
}

// BarrierConfirmed tells that a flush closed.
type BarrierConfirmed struct {
	VolumeID   string
	Epoch      block.Epoch
	DurableLSN block.LSN // durable on every in-sync replica, and on the primary
}

func (e AssignmentDelivered) volume() string { return e.VolumeID }
func (e ReadinessObserved) volume() string   { return e.VolumeID }
func (e SyncAckReceived) volume() string     { return e.VolumeID }
func (e SessionProgress) volume() string     { return e.VolumeID }
func (e SessionCompleted) volume() string    { return e.VolumeID }
func (e SessionFailed) volume() string       { return e.VolumeID }
func (e BarrierConfirmed) volume() string    { return e.VolumeID }
