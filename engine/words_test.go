package engine

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// words reads the words of an input. A word is a name, or key=value.
type words struct {
	t     *testing.T
	input string
	rest  []string
}

func (w *words) fail(why string) {
	w.t.Helper()
	w.t.Fatalf("%q: %s", w.input, why)
}

// next returns the next word.
func (w *words) next() string {
	w.t.Helper()
	if len(w.rest) == 0 {
		w.fail("too short")
	}
	word := w.rest[0]
	w.rest = w.rest[1:]
	return word
}

// take returns the value of a key, and whether it is there.
func (w *words) take(key string) (string, bool) {
	for i, word := range w.rest {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			w.rest = append(append([]string(nil), w.rest[:i]...), w.rest[i+1:]...)
			return value, true
		}
	}
	return "", false
}

// flag tells whether a word is there.
func (w *words) flag(word string) bool {
	for i := range w.rest {
		if w.rest[i] == word {
			w.rest = append(append([]string(nil), w.rest[:i]...), w.rest[i+1:]...)
			return true
		}
	}
	return false
}

// number returns the value of a key, or what it is otherwise.
func (w *words) number(key string, otherwise uint64) uint64 {
	value, ok := w.take(key)
	if !ok {
		return otherwise
	}
	return w.parse(value)
}

func (w *words) parse(value string) uint64 {
	w.t.Helper()
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		w.fail(err.Error())
	}
	return n
}

func (w *words) lsn(key string) block.LSN { return block.LSN(w.number(key, 0)) }

func (w *words) done() {
	w.t.Helper()
	if len(w.rest) > 0 {
		w.fail("not understood: " + strings.Join(w.rest, " "))
	}
}

// event returns the event of an input. Epoch and session are the present ones unless given.
func (w *words) event(verb string, v VolumeState) Event {
	w.t.Helper()
	epoch := block.Epoch(w.number("epoch", uint64(v.Epoch)))
	if verb == "assign" {
		return w.assignment(epoch)
	}
	switch verb {
	case "ready":
		return w.readiness(epoch)
	case "barrier":
		return BarrierConfirmed{VolumeID: stageVolume, Epoch: epoch, DurableLSN: block.LSN(w.parse(w.next()))}
	}
	replica := w.next()
	var present SessionID
	if r := v.ReplicaStates[replica]; r != nil {
		present = r.Session.ID
	}
	switch verb {
	case "ack":
		return w.sync(epoch, replica, present)
	case "progress":
		return SessionProgress{VolumeID: stageVolume, Epoch: epoch, ReplicaID: replica, SessionID: w.session(present),
			TargetLSN: w.lsn("target"), BaseLane: w.baseLane(), Progress: block.LSN(w.parse(w.next()))}
	case "complete":
		return SessionCompleted{VolumeID: stageVolume, Epoch: epoch, ReplicaID: replica, SessionID: w.session(present),
			DurableLSN: block.LSN(w.parse(w.next()))}
	case "fail":
		return SessionFailed{VolumeID: stageVolume, Epoch: epoch, ReplicaID: replica, SessionID: w.session(present), Reason: w.next()}
	}
	w.fail("no such input")
	return nil
}

func (w *words) baseLane() BaseLane {
	lane, _ := w.take("lane")
	return BaseLane(lane)
}

// session returns the session given, where "present" is the present one.
func (w *words) session(present SessionID) SessionID {
	value, ok := w.take("session")
	if !ok || value == "present" {
		return present
	}
	return SessionID(w.parse(value))
}

// assignment reads: assign epoch=1 version=1 id=7 role=primary b c:learning:copy=3:discard=3/2x/100
func (w *words) assignment(epoch block.Epoch) Event {
	role, _ := w.take("role")
	if role == "none" {
		role = ""
	}
	a := AssignmentDelivered{VolumeID: stageVolume, Epoch: epoch, Version: w.number("version", 0), Role: Role(role)}
	if id, ok := w.take("id"); ok {
		_, a.EpochID = w.epoch(id)
	}
	for len(w.rest) > 0 {
		parts := strings.Split(w.next(), ":")
		r := ReplicaAssignment{ReplicaID: parts[0], Endpoint: Endpoint{DataAddr: parts[0] + ":1", CtrlAddr: parts[0] + ":2"}}
		for _, p := range parts[1:] {
			w.attribute(&r, p)
		}
		a.Replicas = append(a.Replicas, r)
	}
	return a
}

func (w *words) attribute(r *ReplicaAssignment, attribute string) {
	key, value, _ := strings.Cut(attribute, "=")
	switch key {
	case "learning":
		r.Learning = true
	case "copy":
		r.CopyID = number(byte(w.parse(value)))
	case "at":
		r.Endpoint.DataAddr = value
	case "discard":
		parts := strings.Split(value, "/")
		_, id := w.epoch(parts[1])
		r.Discard = DiscardGrant{CopyID: number(byte(w.parse(parts[0]))), EpochID: id, CommittedLSN: block.LSN(w.parse(parts[2]))}
	default:
		w.fail("no such attribute " + attribute)
	}
}

// readiness reads names of facts; one with "no-" before it does not hold.
func (w *words) readiness(epoch block.Epoch) Event {
	e := ReadinessObserved{VolumeID: stageVolume, Epoch: epoch}
	for len(w.rest) > 0 {
		word, no := strings.CutPrefix(w.next(), "no-")
		holds := !no
		switch word {
		case "role":
			e.RoleApplied = &holds
		case "receiver":
			e.ReceiverReady = &holds
		case "configured":
			e.ShipperConfigured = &holds
		case "connected":
			e.ShipperConnected = &holds
		default:
			w.fail("no such fact " + word)
		}
	}
	return e
}

// sync reads an ack; what is the primary's begins with "p".
func (w *words) sync(epoch block.Epoch, replica string, present SessionID) Event {
	e := SyncAckReceived{VolumeID: stageVolume, Epoch: epoch, ReplicaID: replica,
		PrimaryWALTail: block.LSN(w.number("ptail", 1)), PrimaryWALHead: w.lsn("phead"), PrimaryCheckpointLSN: w.lsn("pcheckpoint"),
		PrimaryLineage: w.lineage("plineage"), PrimaryLogDamaged: w.flag("plogdamaged"), PrimaryBaseDamaged: w.flag("pbasedamaged"),
	}
	a := &e.Ack
	a.AppliedLSN = w.lsn("applied")
	a.DurableLSN = block.LSN(w.number("durable", uint64(a.AppliedLSN)))
	a.BaseHighLSN, a.CheckpointLSN, a.CommittedLSN = w.lsn("base"), w.lsn("checkpoint"), w.lsn("committed")
	a.CopyID, a.SeenEpoch = number(byte(w.number("copy", 0))), block.Epoch(w.number("seen", 0))
	a.Lineage, a.LogDamaged, a.BaseDamaged = w.lineage("lineage"), w.flag("logdamaged"), w.flag("basedamaged")
	if mark, ok := w.take("rebuild"); ok {
		p := strings.Split(mark, "/")
		a.Inconsistent = true
		a.Rebuild = RebuildMark{block.LSN(w.parse(p[0])), block.LSN(w.parse(p[1])), block.LSN(w.parse(p[2])), w.parse(p[3])}
	}
	for _, word := range w.rest {
		if strings.HasPrefix(word, "session=") {
			active := w.session(present)
			a.ActiveSession = &active
		}
	}
	return e
}

// lineage reads 1@1,2x@101: epoch 1 from 1 on, then an epoch 2, another than "2", from 101 on.
func (w *words) lineage(key string) []block.EpochStart {
	value, ok := w.take(key)
	if !ok {
		return nil
	}
	var lineage []block.EpochStart
	for _, entry := range strings.Split(value, ",") {
		name, first, _ := strings.Cut(entry, "@")
		epoch, id := w.epoch(name)
		lineage = append(lineage, block.EpochStart{Epoch: epoch, ID: id, First: block.LSN(w.parse(first))})
	}
	return lineage
}

// epoch reads the name of an epoch: its number, and letters that tell it from another of that number.
func (w *words) epoch(name string) (block.Epoch, uuid.UUID) {
	digits := strings.TrimRight(name, "abcdefghijklmnopqrstuvwxyz")
	id := uuid.UUID{0: byte(w.parse(digits)), 1: 0xee}
	copy(id[2:], name[len(digits):])
	return block.Epoch(w.parse(digits)), id
}

// number returns the UUID that stands for a small number.
func number(n byte) uuid.UUID { return uuid.UUID{15: n} }
