package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// model is what the engine has to know of one volume, written for reading and not for use: it says what a volume is after
// each event, and nothing of commands, words or positions within a session.
type model struct {
	epoch    block.Epoch
	epochID  uuid.UUID
	version  uint64
	role     Role
	ready    bool // the role is applied
	durable  block.LSN
	replicas map[string]*modelReplica
	issued   uint64
}

type modelReplica struct {
	learning, whole bool // whole: it lacks nothing that is known of
	named, seen     uuid.UUID
	ack             SyncAck
	acked           bool
	session         SessionID
	recovering      SessionKind // "" when no session is under way
	target          block.LSN
	lane            BaseLane
	failed          bool
	discard         DiscardGrant
}

func (m *model) inSync(r *modelReplica) bool {
	return !r.learning && r.whole && r.recovering == "" && !r.failed && r.seen == r.named
}

// take applies an event, and tells whether it counts.
func (m *model) take(event Event) bool {
	switch e := event.(type) {
	case AssignmentDelivered:
		return m.assign(e)
	case ReadinessObserved:
		if e.Epoch != m.epoch || m.epoch == 0 {
			return false
		}
		if e.RoleApplied != nil {
			m.ready = *e.RoleApplied
		}
		return true
	case BarrierConfirmed:
		if e.Epoch != m.epoch || m.role != RolePrimary {
			return false
		}
		m.durable = max(m.durable, e.DurableLSN)
		return true
	case SyncAckReceived:
		return m.sync(e)
	case SessionProgress:
		r := m.in(e.Epoch, e.ReplicaID, e.SessionID)
		if r == nil {
			return false
		}
		r.target = max(r.target, e.TargetLSN)
		if e.BaseLane != "" && r.lane != BaseLaneEnded {
			r.lane = e.BaseLane
		}
		return true
	case SessionCompleted:
		r := m.in(e.Epoch, e.ReplicaID, e.SessionID)
		if r == nil || e.DurableLSN < r.target || r.lane == BaseLaneOpen {
			return false
		}
		if r.recovering == SessionCatchUp && (r.ack.LogDamaged || r.ack.BaseDamaged || r.ack.Inconsistent) {
			r.failed = true
		} else {
			r.whole = true
		}
		r.recovering = ""
		return true
	case SessionFailed:
		r := m.in(e.Epoch, e.ReplicaID, e.SessionID)
		if r == nil {
			return false
		}
		r.recovering, r.failed = "", true
		return true
	}
	panic("not an event")
}

// in returns the replica in whose present session an event is.
func (m *model) in(epoch block.Epoch, id string, session SessionID) *modelReplica {
	r := m.replicas[id]
	if r == nil || epoch != m.epoch || m.role != RolePrimary || r.recovering == "" || r.session != session {
		return nil
	}
	return r
}

func (m *model) assign(e AssignmentDelivered) bool {
	rank := map[Role]int{RoleNone: 0, RoleReplica: 1, RolePrimary: 2}
	if _, ok := rank[e.Role]; !ok || e.Epoch == 0 || e.Epoch < m.epoch {
		return false
	}
	next := map[string]ReplicaAssignment{}
	if e.Role == RolePrimary {
		for _, r := range e.Replicas {
			if _, twice := next[r.ReplicaID]; twice || r.ReplicaID == "" {
				return false
			}
			next[r.ReplicaID] = r
		}
	}
	begins := e.Epoch > m.epoch
	if !begins && (e.EpochID != m.epochID || rank[e.Role] > rank[m.role] || e.Version < m.version || e.Version == m.version && e.Version > 0) {
		return false
	}
	if begins || e.Role != m.role {
		m.ready = false
	}
	if begins {
		m.replicas, m.issued = map[string]*modelReplica{}, 0
	}
	m.epoch, m.epochID, m.version, m.role = e.Epoch, e.EpochID, e.Version, e.Role
	old := m.replicas
	m.replicas = map[string]*modelReplica{}
	for id, a := range next {
		r, known := old[id]
		if !known {
			r = &modelReplica{whole: begins && !a.Learning, seen: a.CopyID}
		}
		if known && a.Learning && !r.learning {
			r.whole = false
		}
		if known && !r.acked && a.CopyID != r.named {
			r.whole, r.seen = false, a.CopyID
		}
		r.learning, r.discard, r.named = a.Learning, a.Discard, a.CopyID
		m.replicas[id] = r
	}
	return true
}

func (m *model) sync(e SyncAckReceived) bool {
	r := m.replicas[e.ReplicaID]
	if r == nil || e.Epoch != m.epoch || m.role != RolePrimary {
		return false
	}
	other := e.Ack.CopyID != r.seen
	r.whole = r.whole && !other
	r.ack, r.seen, r.acked = e.Ack, e.Ack.CopyID, true
	if r.recovering != "" {
		if other || e.Ack.ActiveSession != nil && *e.Ack.ActiveSession != r.session {
			r.recovering, r.failed = "", true
		}
		return true
	}
	choice := decide(Facts{
		Primary: PrimaryFacts{Epoch: m.epoch, EpochID: m.epochID, RoleApplied: m.ready, TailLSN: e.PrimaryWALTail,
			HeadLSN: e.PrimaryWALHead, CheckpointLSN: e.PrimaryCheckpointLSN, Lineage: e.PrimaryLineage,
			LogDamaged: e.PrimaryLogDamaged, BaseDamaged: e.PrimaryBaseDamaged},
		Replica: e.Ack, Learning: r.learning, CaughtUp: r.whole, Discard: r.discard,
	})
	switch choice.Action {
	case ActionHold:
		r.failed, r.whole, r.session = true, false, 0
	case ActionKeepUp:
		r.failed = false
	case ActionCatchUp, ActionRebuild:
		m.issued++
		r.failed, r.whole, r.lane, r.target = false, false, "", choice.TargetLSN
		r.session, r.recovering = SessionID(uint64(m.epoch)<<32+m.issued), SessionCatchUp
		if choice.Action == ActionRebuild {
			r.recovering = SessionRebuild
		}
	}
	return true
}

// differs returns what the engine has otherwise than the model, or "".
func (m *model) differs(v VolumeState) string {
	if v.Epoch != m.epoch || v.Version != m.version || v.Role != m.role || v.DurableLSN != m.durable || len(v.ReplicaStates) != len(m.replicas) {
		return fmt.Sprintf("volume is %+v", v)
	}
	for id, r := range m.replicas {
		got, ok := v.ReplicaStates[id]
		if !ok {
			return id + " is missing"
		}
		s := got.Session
		if s.active() != (r.recovering != "") || s.active() && (s.Kind != r.recovering || s.ID != r.session || s.TargetLSN != r.target) {
			return fmt.Sprintf("session of %s is %+v", id, s)
		}
		if (s.State == SessionStateFailed) != r.failed || got.InSync() != m.inSync(r) {
			return fmt.Sprintf("%s is %+v, in sync %v", id, got, got.InSync())
		}
	}
	return ""
}

// TestModel runs random events against the model. Each run begins anew.
func TestModel(t *testing.T) {
	counted, completed, rebuilds := 0, 0, 0
	for seed := range uint64(400) {
		c := randomChooser{rand.New(rand.NewPCG(seed, 7))}
		e := NewEngine()
		models := map[string]*model{}
		for step := range 250 {
			event := anyEvent(c, e)
			m := models[event.volume()]
			if m == nil {
				m = &model{replicas: map[string]*modelReplica{}}
				models[event.volume()] = m
			}
			result := e.ApplyEvent(event)
			if got, want := result.Ignored == "", m.take(event); got != want {
				t.Fatalf("seed %d, step %d: %T%+v\ncounted %v (%s), want %v", seed, step, event, event, got, result.Ignored, want)
			}
			v, _ := e.Volume(event.volume())
			if why := m.differs(v); why != "" {
				t.Fatalf("seed %d, step %d: after %T%+v\n%s\nmodel %+v", seed, step, event, event, why, m)
			}
			if result.Ignored == "" {
				counted++
				if _, ok := event.(SessionCompleted); ok {
					completed++
				}
			}
			for _, command := range result.Commands {
				if _, ok := command.(IssueRebuildCommand); ok {
					rebuilds++
				}
			}
		}
	}
	t.Logf("%d events counted, %d sessions completed, %d rebuilds", counted, completed, rebuilds)
	if counted < 10000 || completed < 300 || rebuilds < 300 {
		t.Error("too few to tell")
	}
}
