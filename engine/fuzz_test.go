package engine

import "testing"

// FuzzEvents applies whatever events the bytes stand for. None may panic, and what holds of every state has to hold.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("assignments, acks, sessions and barriers in no order that anybody thought of"))
	f.Add([]byte{0, 0, 2, 0, 1, 0, 11, 1, 0, 1, 0, 1, 0, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 9, 9, 9, 9})
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := &byteChooser{choices}
		e := NewEngine()
		for range 200 {
			if len(c.rest) == 0 {
				return
			}
			event := anyEvent(c, e)
			result := e.ApplyEvent(event)
			if result.Ignored != "" && len(result.Commands) > 0 {
				t.Fatalf("%T%+v was ignored and gave commands: %+v", event, event, result)
			}
			v, ok := e.Volume(event.volume())
			if ok {
				checkState(t, v, result)
			}
		}
	})
}

// checkState checks what holds of every state.
func checkState(t *testing.T, v VolumeState, result Result) {
	t.Helper()
	if len(v.Replicas) != len(v.ReplicaStates) || v.Role != RolePrimary && len(v.Replicas) > 0 {
		t.Fatalf("views are not those assigned: %+v", v)
	}
	healthy := true
	for _, a := range v.Replicas {
		r := v.ReplicaStates[a.ReplicaID]
		healthy = healthy && r.InSync()
		if r.InSync() && (r.Learning || r.Session.active() || r.Session.State == SessionStateFailed) {
			t.Fatalf("in sync: %+v", r)
		}
		if r.Session.active() && (r.Session.ID == 0 || r.Session.Kind == SessionKeepUp || r.Session.Kind == SessionNone) {
			t.Fatalf("under way: %+v", r.Session)
		}
		if len(r.Decisions) > maxDecisions {
			t.Fatalf("%d decisions", len(r.Decisions))
		}
		for _, d := range r.Decisions {
			if len(d.String()) == 0 {
				t.Fatal("a decision without words")
			}
		}
	}
	if result.Healthy && !healthy || result.Healthy != (result.Mode == ModePublishHealthy) {
		t.Fatalf("healthy: %+v", v)
	}
}
