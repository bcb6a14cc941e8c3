package engine

import "lockstep/block"

// Command is something the host has to do. The host carries them out in the order of Result.Commands.
type Command interface{ command() }

// ApplyRoleCommand: take the role. A primary joins the longer tail and starts its epoch, and serves only then (I14).
type ApplyRoleCommand struct {
	VolumeID string
	Epoch    block.Epoch
	Role     Role
}

// ConfigureShipperCommand: connect to these replicas, and to no others.
type ConfigureShipperCommand struct {
	VolumeID string
	Epoch    block.Epoch
	Replicas []ReplicaAssignment // by ReplicaID
}

// StartReceiverCommand: let the primary of this epoch connect.
type StartReceiverCommand struct {
	VolumeID string
	Epoch    block.Epoch
}

// IssueCatchUpCommand: begin a catch-up. The log is sent from StartLSN to TargetLSN, then live records without a gap.
type IssueCatchUpCommand struct {
	VolumeID  string
	Epoch     block.Epoch
	ReplicaID string
	SessionID SessionID
	StartLSN  block.LSN // first record to send; TargetLSN + 1 when there is none
	TargetLSN block.LSN // complete once durable here
	PinLSN    block.LSN // keep the log from here on; moves with SessionProgress
	// Truncate: the replica first cuts its log after ForkLSN, having checked that its base is not beyond it (S13).
	Truncate bool
	ForkLSN  block.LSN
	// OutOfSyncFirst: first make durable a configuration without this replica in sync (S13).
	OutOfSyncFirst bool
}

// IssueRebuildCommand: begin a rebuild. Base image and log are sent at once, by S15 to S21.
type IssueRebuildCommand struct {
	VolumeID  string
	Epoch     block.Epoch
	ReplicaID string
	SessionID SessionID
	TargetLSN block.LSN // complete once durable here, or at the larger target that the end of the base lane names
	PinLSN    block.LSN // keep the log from here on: the log lane begins here or later
	ForkLSN   block.LSN // the logs are the same up to here; the replica truncates to it first (S15)
	SinceLSN  block.LSN // copy what changed after it, by the primary's change map and by the replica's own (S17)
	// Resume: chunks below Cursor are copied only where they changed after BaseLSN; all others after SinceLSN.
	Resume  bool
	BaseLSN block.LSN
	Cursor  uint64
	// OwnMapUntrusted: every chunk counts as changed on the replica (S14).
	OwnMapUntrusted bool
	// OutOfSyncFirst: first make durable a configuration without this replica in sync (I13, S13).
	OutOfSyncFirst bool
}

// CancelSessionCommand: end a session on both sides. The session may be one the engine no longer knows.
type CancelSessionCommand struct {
	VolumeID  string
	Epoch     block.Epoch // the session's
	ReplicaID string
	SessionID SessionID
	Reason    string // one of the Reason words
}

// PublishProjectionCommand: mode, reason or health changed. It is the last of its Result.
type PublishProjectionCommand struct {
	VolumeID string
	Epoch    block.Epoch
	Mode     Mode
	Reason   string
	Healthy  bool
}

func (ApplyRoleCommand) command()         {}
func (ConfigureShipperCommand) command()  {}
func (StartReceiverCommand) command()     {}
func (IssueCatchUpCommand) command()      {}
func (IssueRebuildCommand) command()      {}
func (CancelSessionCommand) command()     {}
func (PublishProjectionCommand) command() {}
