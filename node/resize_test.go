package node

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lockstep/volume"
)

// TestResize: of each kind of image, a volume grows and keeps what it had; it shrinks only with force, and the refusal says
// what would be lost.
func TestResize(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		for _, kind := range []string{KindFile, KindThick} {
			const small, large = testVolumeBytes, 3*testVolumeBytes + 4096
			create(t, m, CreateRequest{Name: kind, Backend: kind})
			s, err := m.Resize(t.Context(), kind, ResizeRequest{SizeBytes: large})
			if err != nil || s.SizeBytes != large {
				t.Fatalf("%s: grown to %d, %v", kind, s.SizeBytes, err)
			}
			if got := content(t, m, kind); !bytes.Equal(got, make([]byte, large)) {
				t.Errorf("%s: what was added is not all zero", kind)
			}
			if _, err := m.Resize(t.Context(), kind, ResizeRequest{SizeBytes: small}); !errors.Is(err, volume.ErrNeedsForce) ||
				kind == KindFile && !strings.Contains(err.Error(), "where up to 0B of data are") {
				t.Errorf("%s: shrunk without force: %v", kind, err)
			}
			if s, err = m.Resize(t.Context(), kind, ResizeRequest{SizeBytes: small, Force: true}); err != nil || s.SizeBytes != small {
				t.Errorf("%s: shrunk to %d, %v", kind, s.SizeBytes, err)
			}
			if s, err = m.Show(t.Context(), kind); err != nil || s.SizeBytes != small || s.Error != "" {
				t.Errorf("%s: shown %+v, %v", kind, s, err)
			}
			if got := content(t, m, kind); len(got) != small {
				t.Errorf("%s: %d bytes of content", kind, len(got))
			}
		}
		for name, c := range map[string]struct {
			volume string
			size   int64
			want   error
		}{
			"no volume": {"none", testVolumeBytes, ErrNotFound},
			"no size":   {KindFile, 0, ErrRequest},
			"odd size":  {KindFile, testVolumeBytes + 1, ErrRequest},
			"no room":   {KindThick, 1 << 50, ErrNoRoom},
		} {
			if _, err := m.Resize(t.Context(), c.volume, ResizeRequest{SizeBytes: c.size}); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
	})
}

// TestResizeOfMemory: a volume in memory has the size that it was given also after a restart.
func TestResizeOfMemory(t *testing.T) {
	dir := emptyServerDir(t)
	s := start(t, dir, nil)
	m, done := manage(t, dir)
	create(t, m, CreateRequest{Name: "scratch", Backend: KindMemory})
	if _, err := m.Resize(t.Context(), "scratch", ResizeRequest{SizeBytes: 2 * testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	done()
	s.end(t)
	start(t, dir, nil)
	m, _ = manage(t, dir)
	if v, err := m.Show(t.Context(), "scratch"); err != nil || v.SizeBytes != 2*testVolumeBytes {
		t.Errorf("%d bytes, %v", v.SizeBytes, err)
	}
}

// TestResizeWithClients: a client that is connected goes on when its volume grows, and new ones see the new size; one whose
// volume shrinks is disconnected.
func TestResizeWithClients(t *testing.T) {
	dir := emptyServerDir(t)
	s := start(t, dir, nil)
	m, _ := manage(t, dir)
	old, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer old.close()
	p := pattern(4096, 9)
	old.write(t, testVolumeBytes-4096, p)
	if _, err := m.Resize(t.Context(), "first", ResizeRequest{SizeBytes: 2 * testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	young, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer young.close()
	young.write(t, 2*testVolumeBytes-4096, p)
	if got := old.read(t, testVolumeBytes-4096, 4096); !bytes.Equal(got, p) {
		t.Error("the client that was connected reads something else")
	}
	_, err = m.Resize(t.Context(), "first", ResizeRequest{SizeBytes: testVolumeBytes})
	if !errors.Is(err, volume.ErrNeedsForce) || !strings.Contains(err.Error(), "where up to 4KiB of data are") {
		t.Errorf("shrunk without force: %v", err)
	}
	if _, err := m.Resize(t.Context(), "first", ResizeRequest{SizeBytes: testVolumeBytes, Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{old, young} {
		if _, err := c.conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client of the larger volume is still connected")
		}
	}
	again, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if got := again.read(t, testVolumeBytes-4096, 4096); !bytes.Equal(got, p) {
		t.Error("what was before the new end has changed")
	}
	if code := again.command(t, 0, testVolumeBytes, nil, 4096); code == 0 {
		t.Error("a read after the new end is answered")
	}
}
