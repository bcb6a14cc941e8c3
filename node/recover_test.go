package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"lockstep/block"
	"lockstep/nbd"
)

// damagedVolume makes a data directory in which the log of volume first is damaged, far below what was durable. It
// returns the content up to the damage.
func damagedVolume(t *testing.T) (dir string, before []byte) {
	t.Helper()
	dir = emptyServerDir(t)
	h, done := openHost(t, dir)
	before = pattern(64<<10, 1)
	d := h.find("first")
	write := func(p []byte) block.LSN {
		c := newDevice(d.volume)
		batch := []nbd.Change{{Op: nbd.OpWrite, Offset: 0, Length: int64(len(p)), Data: p}}
		c.Apply(batch)
		if err := errors.Join(batch[0].Err, c.Flush()); err != nil {
			t.Fatal(err)
		}
		return d.volume.Stats().Head
	}
	write(before)
	marker := bytes.Repeat([]byte("to be damaged "), 1000)
	write(marker)
	write(pattern(64<<10, 3))
	hurried, cancel := context.WithCancel(t.Context())
	cancel() // no checkpoint: the log is to be read
	done(hurried)
	segments, err := filepath.Glob(filepath.Join(dir, volumesName, "first", "wal", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range segments {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, marker[:64]); at >= 0 {
			b[at+40] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return dir, before
		}
	}
	t.Fatal("the record is in no segment")
	return "", nil
}

func TestRecoverWhileServed(t *testing.T) {
	dir, before := damagedVolume(t)
	start(t, dir, nil)
	m, _ := manage(t, dir)
	testRecover(t, m, before)
	if got := names(t, m); got != "first served" {
		t.Errorf("after recovery: %s", got)
	}
	if _, err := m.Recover(t.Context(), "first", RecoverRequest{}); !errors.Is(err, ErrInUse) {
		t.Errorf("an open volume is recovered: %v", err)
	}
	if _, err := m.Inspect(t.Context(), "first", InspectRequest{}); !errors.Is(err, ErrInUse) {
		t.Errorf("an open volume is inspected: %v", err)
	}
}

func TestRecoverStopped(t *testing.T) {
	dir, before := damagedVolume(t)
	m, _ := manage(t, dir)
	testRecover(t, m, before)
}

func testRecover(t *testing.T, m Manager, before []byte) {
	t.Helper()
	if got := names(t, m); got != "first failed" {
		t.Fatalf("volumes: %s", got)
	}
	in, err := m.Inspect(t.Context(), "first", InspectRequest{Records: 10})
	if err != nil || len(in.Problems) != 1 || in.Head != 2 || len(in.Records) != 2 || in.SizeBytes != testVolumeBytes {
		t.Fatalf("inspected %+v, %v", in, err)
	}
	plan, err := m.Recover(t.Context(), "first", RecoverRequest{})
	if err != nil || plan.Applied || plan.ToLSN != 2 || plan.Durable < 4 || len(plan.Lost) == 0 {
		t.Fatalf("planned %+v, %v", plan, err)
	}
	if got := names(t, m); got != "first failed" {
		t.Fatalf("a plan changed something: %s", got)
	}
	if _, err := m.Recover(t.Context(), "first", RecoverRequest{ToLSN: 99, Apply: true}); err == nil {
		t.Error("records that are not there were kept")
	}
	done, err := m.Recover(t.Context(), "first", RecoverRequest{ToLSN: plan.ToLSN, Apply: true})
	if err != nil || !done.Applied || len(done.Aside) == 0 {
		t.Fatalf("recovered %+v, %v", done, err)
	}
	if got := content(t, m, "first"); !bytes.Equal(got[:len(before)], before) {
		t.Error("what was before the damage is not there")
	}
}

func TestInspectSoundVolume(t *testing.T) {
	m, _ := manage(t, emptyServerDir(t))
	in, err := m.Inspect(t.Context(), "first", InspectRequest{})
	if err != nil || len(in.Problems) != 0 || in.BlockSize != DefaultBlockSize || len(in.Slots) != 2 {
		t.Errorf("got %+v, %v", in, err)
	}
	for _, r := range []InspectRequest{{Records: -1}, {Records: maxRecords + 1}} {
		if _, err := m.Inspect(t.Context(), "first", r); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := m.Inspect(t.Context(), "none", InspectRequest{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
