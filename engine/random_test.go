package engine

import (
	"math/rand/v2"

	"github.com/google/uuid"

	"lockstep/block"
)

// chooser makes every choice that an arbitrary event has: pick returns 0 to n-1.
type chooser interface{ pick(n int) int }

type randomChooser struct{ r *rand.Rand }

func (c randomChooser) pick(n int) int { return c.r.IntN(n) }

// byteChooser takes its choices from bytes; when there are none left, the first.
type byteChooser struct{ rest []byte }

func (c *byteChooser) pick(n int) int {
	if len(c.rest) == 0 {
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return int(b) % n
}

// seldom is true once in n times.
func seldom(c chooser, n int) bool { return c.pick(n) == n-1 }

// anyLSN is small, so that positions meet; now and then it is as large as it can be.
func anyLSN(c chooser) block.LSN {
	if seldom(c, 60) {
		return ^block.LSN(0) - block.LSN(c.pick(2))
	}
	return block.LSN(c.pick(24))
}

func anyCopy(c chooser) uuid.UUID {
	if seldom(c, 8) {
		return number(1)
	}
	return uuid.Nil
}

func anyReplica(c chooser) string { return []string{"b", "c", "d"}[c.pick(3)] }

// anyEvent returns an event of one of two volumes, which mostly makes sense to the engine.
func anyEvent(c chooser, e *Engine) Event {
	id := "disk0"
	if seldom(c, 10) {
		id = "disk1"
	}
	v, _ := e.Volume(id)
	epoch := v.Epoch
	if seldom(c, 10) {
		epoch = block.Epoch(c.pick(5))
	}
	replica := anyReplica(c)
	session, target := SessionID(c.pick(3)), anyLSN(c)
	if r := v.ReplicaStates[replica]; r != nil && !seldom(c, 8) {
		session, target = r.Session.ID, r.Session.TargetLSN-block.LSN(c.pick(4)/3)
	}
	if v.Epoch == 0 && !seldom(c, 8) {
		return anyAssignment(c, id, v)
	}
	switch c.pick(12) {
	case 0:
		if seldom(c, 3) || v.Role != RolePrimary {
			return anyAssignment(c, id, v)
		}
		return BarrierConfirmed{id, epoch, anyLSN(c)}
	case 1, 2:
		told := [3]*bool{nil, new(bool), new(bool)}
		*told[1] = true
		fact := func() *bool { return told[(c.pick(6)+1)/3] }
		return ReadinessObserved{id, epoch, fact(), fact(), fact(), fact()}
	case 3, 4, 5, 6:
		return anySync(c, id, epoch, replica, session)
	case 7, 8:
		lanes := []BaseLane{BaseLaneUnknown, BaseLaneOpen, BaseLaneEnded}
		return SessionProgress{id, epoch, replica, session, anyLSN(c), block.LSN(c.pick(24)), lanes[c.pick(3)]}
	case 9, 10:
		return SessionCompleted{id, epoch, replica, session, target}
	default:
		return SessionFailed{id, epoch, replica, session, []string{"", ReasonTransportLost, ReasonPinLost}[c.pick(3)]}
	}
}

func anyAssignment(c chooser, id string, v VolumeState) AssignmentDelivered {
	a := AssignmentDelivered{VolumeID: id, Epoch: v.Epoch, EpochID: v.EpochID, Version: v.Version + 1, Role: RolePrimary}
	if v.Epoch == 0 || seldom(c, 4) {
		a.Epoch++
	}
	switch c.pick(12) {
	case 0:
		a.Epoch = block.Epoch(c.pick(6))
	case 1:
		a.Version = uint64(c.pick(4))
	case 2:
		a.EpochID = number(byte(c.pick(3)))
	case 3:
		a.Role = []Role{RoleNone, RoleReplica, "king"}[c.pick(3)]
	}
	for _, name := range []string{"d", "b", "c"} {
		if seldom(c, 3) {
			continue
		}
		r := ReplicaAssignment{ReplicaID: name, CopyID: anyCopy(c), Learning: seldom(c, 3)}
		if seldom(c, 8) {
			r.Endpoint.DataAddr = "moved"
		}
		if seldom(c, 8) {
			r.Discard = DiscardGrant{CopyID: anyCopy(c), EpochID: uuid.UUID{byte(c.pick(4))}, CommittedLSN: anyLSN(c)}
		}
		a.Replicas = append(a.Replicas, r)
	}
	if seldom(c, 20) {
		a.Replicas = append(a.Replicas, ReplicaAssignment{ReplicaID: []string{"b", ""}[c.pick(2)]})
	}
	return a
}

func anySync(c chooser, id string, epoch block.Epoch, replica string, session SessionID) SyncAckReceived {
	e := SyncAckReceived{
		VolumeID: id, Epoch: epoch, ReplicaID: replica,
		PrimaryWALTail: 1 + block.LSN(c.pick(12)), PrimaryWALHead: 11 + block.LSN(c.pick(12)), PrimaryCheckpointLSN: block.LSN(c.pick(12)),
		PrimaryLineage: anyLineage(c), PrimaryLogDamaged: seldom(c, 40), PrimaryBaseDamaged: seldom(c, 40),
	}
	e.PrimaryLineage = append(e.PrimaryLineage, block.EpochStart{Epoch: epoch, ID: uuid.UUID{byte(epoch)}, First: 10})
	e.Ack = SyncAck{
		AppliedLSN: anyLSN(c), BaseHighLSN: block.LSN(c.pick(5)), CommittedLSN: block.LSN(c.pick(10)), CopyID: anyCopy(c),
		SeenEpoch: block.Epoch(c.pick(4)), Lineage: anyLineage(c), LogDamaged: seldom(c, 20), BaseDamaged: seldom(c, 20),
	}
	e.Ack.DurableLSN = e.Ack.AppliedLSN / block.LSN(1+c.pick(2))
	if seldom(c, 6) {
		e.Ack.Inconsistent = true
		e.Ack.Rebuild = RebuildMark{anyLSN(c), anyLSN(c), anyLSN(c), uint64(c.pick(9))}
	}
	switch c.pick(6) {
	case 0:
		e.Ack.ActiveSession = new(SessionID)
	case 1, 2:
		e.Ack.ActiveSession = &session
	}
	if seldom(c, 2) { // as a replica of the primary's own lineage
		e.Ack.Lineage, e.Ack.AppliedLSN = e.PrimaryLineage, e.PrimaryWALHead-block.LSN(c.pick(3)*4)
		e.Ack.DurableLSN = e.Ack.AppliedLSN
	}
	return e
}

// anyLineage returns up to two epochs below 4, sometimes ones that contradict others.
func anyLineage(c chooser) []block.EpochStart {
	var lineage []block.EpochStart
	for epoch := range block.Epoch(3) {
		if seldom(c, 2) {
			lineage = append(lineage, block.EpochStart{Epoch: epoch + 1, ID: uuid.UUID{byte(epoch + 1)}, First: 1 + block.LSN(epoch)*4})
		}
	}
	if len(lineage) > 0 && seldom(c, 20) {
		lineage[len(lineage)-1].ID[1] = 1
	}
	return lineage
}
