package node

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rs/zerolog"
)

// Each change of a volume's state is one line of the log, with from, to and a reason.
func TestStatesAreLogged(t *testing.T) {
	dir := emptyServerDir(t)
	var log bytes.Buffer
	s := start(t, dir, func(c *Config) { c.Logger = zerolog.New(zerolog.SyncWriter(&log)) })
	m, _ := manage(t, dir)
	create(t, m, CreateRequest{Name: "second"})
	spoil(t, filepath.Join(dir, volumesName, "first", "wal"))
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.command(t, cmdWrite, 0, make([]byte, 4096), 4096)
	if _, err := m.Reopen(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), "first", false); err != nil {
		t.Fatal(err)
	}
	s.end(t)
	got := map[string][]string{}
	for line := range bytes.Lines(log.Bytes()) {
		var l struct{ Message, Volume, From, To, Reason string }
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Message == "volume state" {
			got[l.Volume] = append(got[l.Volume], l.From+" to "+l.To)
			if l.Reason == "" {
				t.Errorf("without a reason: %s", line)
			}
		}
	}
	for name, want := range map[string][]string{
		"first":  {"opening to served", "served to failed", "failed to opening", "opening to served", "served to deleting"},
		"second": {"creating to opening", "opening to served"},
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, volumesName, "first")); err == nil {
		t.Error("first is still there")
	}
}
