package engine

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the output in the scenarios")

// TestScenarios runs testdata/*.txt. A line that begins with ">" is an input; what follows, up to the next one or a
// comment, is its output.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := playScenario(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s: go test -update rewrites it\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

// playScenario returns the text with the outputs as they are now.
func playScenario(t *testing.T, text string) string {
	t.Helper()
	s := &stage{t: t, engine: NewEngine()}
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		input, ok := strings.CutPrefix(line, "> ")
		switch {
		case ok:
			fmt.Fprintf(&b, "%s\n%s", line, s.play(input))
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&b, line)
		}
	}
	return b.String()
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d:\n want %s\n got  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// stage is an engine that is driven by words.
type stage struct {
	t      *testing.T
	engine *Engine
}

const stageVolume = "disk0"

// play carries out one input and returns its output.
func (s *stage) play(input string) string {
	fields := strings.Fields(input)
	w := &words{t: s.t, input: input, rest: fields[1:]}
	state, _ := s.engine.Volume(stageVolume)
	switch fields[0] {
	case "state":
		return describeState(state)
	case "explain":
		return s.explain(state, w.next())
	}
	event := w.event(fields[0], state)
	w.done()
	return describe(s.engine.ApplyEvent(event))
}

func (s *stage) explain(state VolumeState, id string) string {
	var b strings.Builder
	for _, d := range state.ReplicaStates[id].Decisions {
		fmt.Fprintln(&b, d)
	}
	return b.String()
}

// describe returns a result, a line each.
func describe(r Result) string {
	var b strings.Builder
	if r.Ignored != "" {
		fmt.Fprintf(&b, "ignored: %s\n", r.Ignored)
	}
	for _, c := range r.Commands {
		words := strings.TrimPrefix(fmt.Sprintf("%T%+v", c, c), "engine.")
		if shipper, ok := c.(ConfigureShipperCommand); ok {
			words = fmt.Sprintf("ConfigureShipperCommand{Epoch:%d Replicas:%s}", shipper.Epoch, addresses(shipper.Replicas))
		}
		fmt.Fprintln(&b, strings.ReplaceAll(words, "VolumeID:"+stageVolume+" ", ""))
	}
	return b.String()
}

func addresses(replicas []ReplicaAssignment) []string {
	var all []string
	for _, r := range replicas {
		all = append(all, r.ReplicaID+" at "+r.Endpoint.DataAddr+" and "+r.Endpoint.CtrlAddr)
	}
	return all
}

func describeState(v VolumeState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s epoch %d version %d durable %d: %s %s\n", v.Role, v.Epoch, v.Version, v.DurableLSN, v.Mode, v.ModeReason)
	for _, a := range v.Replicas {
		r := v.ReplicaStates[a.ReplicaID]
		q := r.Session
		fmt.Fprintf(&b, "%s: in sync %v, caught up %v, %s %s, session %d start %d target %d pin %d progress %d %s\n", r.ReplicaID,
			r.InSync(), r.CaughtUp, q.Kind, q.State, q.ID, q.StartLSN, q.TargetLSN, q.PinLSN, q.Progress, q.Reason)
	}
	return b.String()
}
