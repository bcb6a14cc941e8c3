package engine

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
)

// primary returns an engine that is primary of disk0 in epoch 3 with the replicas, all in place, and one barrier at 5.
func primary(t testing.TB, replicas ...ReplicaAssignment) *Engine {
	t.Helper()
	e := NewEngine()
	yes := true
	for _, event := range []Event{
		AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 5, Role: RolePrimary, Replicas: replicas},
		ReadinessObserved{"disk0", 3, &yes, nil, &yes, &yes},
		BarrierConfirmed{"disk0", 3, 5},
	} {
		if r := e.ApplyEvent(event); r.Ignored != "" {
			t.Fatal(r.Ignored)
		}
	}
	return e
}

// answer is what a replica of primary's says that has no epochs to tell of; the primary's log is 20 to 100.
func answer(replica string, applied block.LSN) SyncAckReceived {
	return SyncAckReceived{VolumeID: "disk0", Epoch: 3, ReplicaID: replica, PrimaryWALTail: 20, PrimaryWALHead: 100,
		Ack: SyncAck{AppliedLSN: applied, DurableLSN: applied}}
}

func view(t testing.TB, e *Engine, replica string) *ReplicaView {
	t.Helper()
	v, _ := e.Volume("disk0")
	r := v.ReplicaStates[replica]
	if r == nil {
		t.Fatalf("%s is not there", replica)
	}
	return r
}

// Two engines that are told the same do the same, to the last word of the last decision.
func TestI15SameEventsSameResults(t *testing.T) {
	for seed := range uint64(40) {
		c := randomChooser{rand.New(rand.NewPCG(seed, 15))}
		a, b := NewEngine(), NewEngine()
		for step := range 300 {
			event := anyEvent(c, a)
			ra, rb := a.ApplyEvent(event), b.ApplyEvent(event)
			if !reflect.DeepEqual(ra, rb) {
				t.Fatalf("seed %d, step %d: %T%+v\n%+v\n%+v", seed, step, event, event, ra, rb)
			}
		}
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: the engines differ", seed)
		}
	}
}

// Many replicas whose sessions end together: the order of a map would show.
func TestI15CommandsGoByReplica(t *testing.T) {
	for range 20 {
		var replicas []ReplicaAssignment
		for _, id := range []string{"h", "c", "e", "b", "g", "d", "f"} {
			replicas = append(replicas, ReplicaAssignment{ReplicaID: id})
		}
		e := primary(t, replicas...)
		for _, a := range replicas {
			e.ApplyEvent(answer(a.ReplicaID, 50))
		}
		result := e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 4, Role: RolePrimary, Replicas: replicas})
		var cancelled, configured string
		for _, command := range result.Commands {
			switch command := command.(type) {
			case CancelSessionCommand:
				cancelled += command.ReplicaID
			case ConfigureShipperCommand:
				for _, r := range command.Replicas {
					configured += r.ReplicaID
				}
			}
		}
		if cancelled != "bcdefgh" || configured != "bcdefgh" {
			t.Fatalf("cancelled %s, configured %s", cancelled, configured)
		}
	}
}

// Of the module for IDs the engine has the word for one, and none of its ways to make one.
func TestI15NoChance(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "uuid" {
				seen++
				if s.Sel.Name != "UUID" && s.Sel.Name != "Nil" {
					t.Errorf("%s: uuid.%s", name, s.Sel.Name)
				}
			}
			return true
		})
	}
	if seen < 5 {
		t.Errorf("%d uses of the module were found: they are not where they are looked for", seen)
	}
}

func TestI16StaleEventsChangeNothing(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"}, ReplicaAssignment{ReplicaID: "c"})
	e.ApplyEvent(answer("b", 50))
	e.ApplyEvent(answer("c", 50))
	b, c := view(t, e, "b").Session.ID, view(t, e, "c").Session.ID
	e.ApplyEvent(SessionFailed{"disk0", 3, "c", c, ReasonPinLost})
	no := false
	from := func(epoch block.Epoch, replica string) SyncAckReceived {
		a := answer(replica, 10)
		a.Epoch = epoch
		return a
	}
	for name, event := range map[string]Event{
		"assignment of an older epoch":       AssignmentDelivered{VolumeID: "disk0", Epoch: 2, Version: 9, Role: RolePrimary},
		"assignment of an older version":     AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 4, Role: RolePrimary},
		"assignment without a version":       AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Role: RolePrimary},
		"assignment of the epoch's namesake": AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 6, Role: RolePrimary, EpochID: uuid.UUID{1}},
		"assignment without an epoch":        AssignmentDelivered{VolumeID: "disk0", Role: RolePrimary, Version: 9},
		"assignment of no volume":            AssignmentDelivered{Epoch: 9, Role: RolePrimary},
		"assignment of no known role":        AssignmentDelivered{VolumeID: "disk0", Epoch: 9, Role: "king"},
		"assignment with a replica twice": AssignmentDelivered{VolumeID: "disk0", Epoch: 9, Role: RolePrimary,
			Replicas: []ReplicaAssignment{{ReplicaID: "b"}, {ReplicaID: "c"}, {ReplicaID: "b"}}},
		"assignment with a replica without a name":         AssignmentDelivered{VolumeID: "disk0", Epoch: 9, Role: RolePrimary, Replicas: make([]ReplicaAssignment, 1)},
		"readiness of an older epoch":                      ReadinessObserved{"disk0", 2, &no, &no, &no, &no},
		"readiness of a newer epoch":                       ReadinessObserved{"disk0", 4, &no, &no, &no, &no},
		"ack of an older epoch":                            from(2, "c"),
		"ack of a newer epoch":                             from(4, "c"),
		"ack of a stranger":                                from(3, "x"),
		"progress of an older epoch":                       SessionProgress{"disk0", 2, "b", b, 60, 300, BaseLaneOpen},
		"progress of a stranger":                           SessionProgress{"disk0", 3, "x", b, 60, 300, BaseLaneOpen},
		"progress of another session":                      SessionProgress{"disk0", 3, "b", b - 1, 60, 300, BaseLaneOpen},
		"progress of another's session":                    SessionProgress{"disk0", 3, "b", c, 60, 300, BaseLaneOpen},
		"progress of a session that failed":                SessionProgress{"disk0", 3, "c", c, 60, 300, BaseLaneOpen},
		"completion of an older epoch":                     SessionCompleted{"disk0", 2, "b", b, 500},
		"completion of another session":                    SessionCompleted{"disk0", 3, "b", b + 1, 500},
		"completion of a session that failed":              SessionCompleted{"disk0", 3, "c", c, 500},
		"completion below the target":                      SessionCompleted{"disk0", 3, "b", b, 99},
		"failure of an older epoch":                        SessionFailed{"disk0", 2, "b", b, ReasonNoSpace},
		"failure of another session":                       SessionFailed{"disk0", 3, "b", b + 1, ReasonNoSpace},
		"failure of a session that failed":                 SessionFailed{"disk0", 3, "c", c, ReasonNoSpace},
		"barrier of an older epoch":                        BarrierConfirmed{"disk0", 2, 500},
		"barrier of a newer epoch":                         BarrierConfirmed{"disk0", 4, 500},
		"assignment of an unknown volume without an epoch": AssignmentDelivered{VolumeID: "disk1"},
		"barrier of an unknown volume":                     BarrierConfirmed{"disk1", 3, 500},
		"ack of an unknown volume":                         SyncAckReceived{VolumeID: "disk1", ReplicaID: "b"},
		"nothing":                                          nil,
	} {
		before, _ := e.Volume("disk0")
		result := e.ApplyEvent(event)
		after, _ := e.Volume("disk0")
		if result.Ignored == "" || len(result.Commands) != 0 || !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %+v\nbefore %+v\nafter  %+v", name, result, before, after)
		}
	}
	for _, id := range []string{"disk1", ""} {
		if _, ok := e.Volume(id); ok {
			t.Errorf("volume %q is there", id)
		}
	}
}

// Within an epoch a node steps down and never up, not even to what it was: a promotion is a new epoch (I14).
func TestI14RoleIsTakenUpInANewEpochOnly(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	version := uint64(5)
	assign := func(epoch block.Epoch, role Role) Result {
		version++
		return e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: epoch, Version: version, Role: role})
	}
	for _, c := range []struct {
		epoch block.Epoch
		role  Role
		taken bool
	}{
		{3, RoleReplica, true}, {3, RolePrimary, false}, {3, RoleNone, true}, {3, RoleReplica, false}, {3, RolePrimary, false}, {4, RolePrimary, true},
	} {
		if got := assign(c.epoch, c.role); (got.Ignored == "") != c.taken {
			t.Errorf("epoch %d, %s: %+v", c.epoch, c.role, got)
		}
	}
	if barrier := assign(4, RoleReplica); barrier.Ignored != "" {
		t.Error(barrier.Ignored)
	}
	if r := e.ApplyEvent(BarrierConfirmed{"disk0", 4, 500}); r.Ignored == "" {
		t.Error("a replica has barriers")
	}
}

// What Volume returns is the caller's, as commands are, and what ApplyEvent was given stays the caller's.
func TestVolumeIsACopy(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	replicas := []ReplicaAssignment{{ReplicaID: "b", Endpoint: Endpoint{DataAddr: "moved"}}}
	result := e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 6, Role: RolePrimary, Replicas: replicas})
	lineage, active := []block.EpochStart{{Epoch: 1, First: 1}, {Epoch: 3, First: 40}}, SessionID(0)
	a := answer("b", 50)
	a.Ack.Lineage, a.PrimaryLineage, a.Ack.ActiveSession = lineage, lineage, &active
	e.ApplyEvent(a)
	known := func() string {
		v, _ := e.Volume("disk0")
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	want := known()
	v, _ := e.Volume("disk0")
	r := v.ReplicaStates["b"]
	for name, spoil := range map[string]func(){
		"an assignment": func() { replicas[0].ReplicaID = "x" },
		"a command":     func() { result.Commands[0].(ConfigureShipperCommand).Replicas[0].ReplicaID = "x" },
		"a lineage":     func() { lineage[0].First = 99 },
		"a session":     func() { active = 99 },
		"replicas":      func() { v.Replicas[0].ReplicaID = "x" },
		"a view":        func() { r.Session.ID, r.CaughtUp = 99, true },
		"views":         func() { v.ReplicaStates["y"] = r },
		"an ack":        func() { r.LastSyncAck.Lineage[0].First, *r.LastSyncAck.ActiveSession = 99, 99 },
		"a decision":    func() { r.Decisions[0].Choice.Rule = "x" },
		"facts":         func() { r.Decisions[0].Facts.Primary.Lineage[0].First = 99 },
		"other facts":   func() { r.Decisions[0].Facts.Replica.Lineage[0].First = 99 },
	} {
		spoil()
		if got := known(); got != want {
			t.Errorf("with %s the engine changed:\ngot  %s\nwant %s", name, got, want)
			want = got
		}
	}
}

func TestDecisionsAreBounded(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	for range 3 * maxDecisions {
		e.ApplyEvent(answer("b", 50))
		e.ApplyEvent(SessionFailed{"disk0", 3, "b", view(t, e, "b").Session.ID, ReasonPinLost})
	}
	d := view(t, e, "b").Decisions
	if len(d) != maxDecisions || d[len(d)-1].Sequence != 3*maxDecisions || d[0].Sequence != 2*maxDecisions+1 {
		t.Errorf("%d decisions, %d to %d", len(d), d[0].Sequence, d[len(d)-1].Sequence)
	}
	for _, each := range d {
		if got := decide(each.Facts); got != each.Choice {
			t.Errorf("decided anew: %+v, was %+v", got, each.Choice)
		}
	}
}

// A replica that moved is connected to anew; what is known of it stays.
func TestEndpointMoves(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"})
	e.ApplyEvent(answer("b", 50))
	before := view(t, e, "b")
	moved := Endpoint{DataAddr: "10.0.0.9:1", CtrlAddr: "10.0.0.9:2"}
	r := e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 3, Version: 6, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b", Endpoint: moved}}})
	if !issues[ConfigureShipperCommand](r) || issues[ApplyRoleCommand](r) {
		t.Errorf("%+v", r)
	}
	before.Endpoint = moved
	if got := view(t, e, "b"); !reflect.DeepEqual(got, before) {
		t.Errorf("got  %+v\nwant %+v", got, before)
	}
	if v, _ := e.Volume("disk0"); v.Readiness.ShipperConfigured || v.Readiness.ShipperConnected || !v.Readiness.RoleApplied {
		t.Errorf("%+v", v.Readiness)
	}
}

// m copies in sync: one at 120 does not move what is durable on all.
func TestDurableLSNIsThatOfAllInSync(t *testing.T) {
	e := primary(t, ReplicaAssignment{ReplicaID: "b"}, ReplicaAssignment{ReplicaID: "c"})
	durable := func() block.LSN { v, _ := e.Volume("disk0"); return v.DurableLSN }
	e.ApplyEvent(answer("b", 50))
	e.ApplyEvent(answer("c", 100))
	b := view(t, e, "b").Session.ID
	e.ApplyEvent(SessionProgress{"disk0", 3, "b", b, 110, 0, BaseLaneUnknown})
	e.ApplyEvent(SessionCompleted{"disk0", 3, "b", b, 120})
	if durable() != 5 {
		t.Errorf("durable %d, and no barrier beyond 5", durable())
	}
	for _, c := range []struct{ confirmed, want block.LSN }{{100, 100}, {80, 100}, {0, 100}, {101, 101}} {
		e.ApplyEvent(BarrierConfirmed{"disk0", 3, c.confirmed})
		if durable() != c.want {
			t.Errorf("confirmed %d: durable %d, want %d", c.confirmed, durable(), c.want)
		}
	}
	e.ApplyEvent(AssignmentDelivered{VolumeID: "disk0", Epoch: 4, Role: RolePrimary, Replicas: []ReplicaAssignment{{ReplicaID: "b"}}})
	if durable() != 101 {
		t.Errorf("in the next epoch durable is %d", durable())
	}
}
