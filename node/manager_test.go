package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"lockstep/volume"
)

func TestCreateShowDelete(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		logs := filepath.Join(dir, "..", "logs")
		made := create(t, m, CreateRequest{Name: "a", BlockSize: 512, Backend: KindThick, LogDir: logs})
		create(t, m, CreateRequest{Name: "b"})
		shown, err := m.Show(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if shown.ID != made.ID || shown.SizeBytes != testVolumeBytes || shown.Backend != KindThick || shown.Error != "" {
			t.Errorf("made %+v, shown %+v", made, shown)
		}
		if filepath.Dir(shown.LogDir) != filepath.Clean(logs) {
			t.Errorf("the log is in %s", shown.LogDir)
		}
		if segments, err := os.ReadDir(shown.LogDir); err != nil || len(segments) == 0 {
			t.Errorf("log directory has %v: %v", segments, err)
		}
		if err := m.Delete(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(logs); err != nil || len(left) > 0 {
			t.Errorf("left in the log directory: %v, %v", left, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, volumesName)); err != nil || len(left) != 1 {
			t.Errorf("left of the volumes: %v, %v; want b alone", left, err)
		}
		list, err := m.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Name != "b" {
			t.Errorf("listed %+v, %v", list, err)
		}
	})
}

func TestRefusals(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		create(t, m, CreateRequest{Name: "there"})
		good := CreateRequest{Name: "new", SizeBytes: testVolumeBytes, LogBytes: MinLogBytes}
		for name, c := range map[string]struct {
			change func(*CreateRequest)
			want   error
		}{
			"existing":      {func(r *CreateRequest) { r.Name = "there" }, ErrExists},
			"bad name":      {func(r *CreateRequest) { r.Name = ".x" }, ErrName},
			"no size":       {func(r *CreateRequest) { r.SizeBytes = 0 }, ErrRequest},
			"negative size": {func(r *CreateRequest) { r.SizeBytes = -4096 }, ErrRequest},
			"odd size":      {func(r *CreateRequest) { r.SizeBytes++ }, ErrRequest},
			"block size":    {func(r *CreateRequest) { r.BlockSize = 8192 }, ErrRequest},
			"backend":       {func(r *CreateRequest) { r.Backend = "tape" }, ErrRequest},
			"relative log":  {func(r *CreateRequest) { r.LogDir = "logs" }, ErrRequest},
			"small log":     {func(r *CreateRequest) { r.LogBytes = MinLogBytes - 1 }, ErrLogSize},
			"large log":     {func(r *CreateRequest) { r.LogBytes = 1 << 60 }, ErrLogSize},
			"large image":   {func(r *CreateRequest) { r.Backend, r.SizeBytes = KindThick, 1<<50 }, ErrNoRoom},
			"no device":     {func(r *CreateRequest) { r.Backend = filepath.Join(dir, "nodevice") }, nil},
			"not a device":  {func(r *CreateRequest) { r.Backend = filepath.Join(dir, lockName) }, nil},
		} {
			r := good
			c.change(&r)
			_, err := m.Create(t.Context(), r)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
		for name, err := range map[string]error{
			"show":       second(m.Show(t.Context(), "none")),
			"delete":     m.Delete(t.Context(), "none", true),
			"checkpoint": m.Checkpoint(t.Context(), "none"),
			"export":     m.Export(t.Context(), "none", true, rawWriter{io.Discard}),
		} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of no volume: %v", name, err)
			}
		}
		if entries, err := os.ReadDir(filepath.Join(dir, volumesName)); err != nil || len(entries) != 1 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	})
}

func second(_ VolumeStatus, err error) error { return err }

func TestImportExport(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		want := pattern(testVolumeBytes, 3)
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, want[:len(want)-100], 0o600); err != nil {
			t.Fatal(err)
		}
		clear(want[len(want)-100:])
		for name, from := range map[string]Source{
			"fromfile": fileSource(t, image),
			"frompipe": &rawReader{r: bytes.NewReader(want)},
		} {
			r := CreateRequest{Name: name, SizeBytes: testVolumeBytes, LogBytes: MinLogBytes}
			if _, err := m.Import(t.Context(), r, from); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !bytes.Equal(content(t, m, name), want) {
				t.Errorf("%s: exported is not what was imported", name)
			}
		}
		copied, err := os.Create(filepath.Join(t.TempDir(), "copy"))
		if err != nil {
			t.Fatal(err)
		}
		defer copied.Close()
		if err := m.Export(t.Context(), "frompipe", false, NewSink(copied)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(copied.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the exported file differs (%d bytes, %v)", len(got), err)
		}
		if used := allocated(t, copied); used > testVolumeBytes*7/8 {
			t.Errorf("a quarter of the volume is zero, but the file takes %d of %d bytes", used, testVolumeBytes)
		}
	})
}

func fileSource(t *testing.T, path string) Source {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s, _, err := NewSource(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// brokenSource fails after some data.
type brokenSource struct{ pieces int }

var errBroken = errors.New("the pipe broke")

func (s *brokenSource) next(buf []byte) (piece, error) {
	if s.pieces--; s.pieces < 0 {
		return piece{}, errBroken
	}
	p := buf[:4096]
	for i := range p {
		p[i] = 1
	}
	return piece{length: 4096, data: p}, nil
}

func TestFailedImportLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		for what, c := range map[string]struct {
			from Source
			want string
		}{
			"broken":    {&brokenSource{pieces: 10}, errBroken.Error()},
			"too short": {Exactly(&rawReader{r: strings.NewReader("short")}, testVolumeBytes), ErrTooShort.Error()},
			"too long":  {&rawReader{r: io.MultiReader(bytes.NewReader(make([]byte, testVolumeBytes)), strings.NewReader("x"))}, ErrTooLong.Error()},
		} {
			r := CreateRequest{Name: "new", SizeBytes: testVolumeBytes, LogBytes: MinLogBytes}
			if _, err := m.Import(t.Context(), r, c.from); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", what, err, c.want)
			}
			if entries, err := os.ReadDir(filepath.Join(dir, volumesName)); err != nil || len(entries) > 0 {
				t.Errorf("%s: left behind: %v, %v", what, entries, err)
			}
			if got := names(t, m); got != "" {
				t.Errorf("%s: still listed: %s", what, got)
			}
		}
	})
}

func TestCheckpoint(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.write(t, 0, pattern(1<<20, 1))
	if err := m.Checkpoint(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	v, err := m.Show(t.Context(), "first")
	if err != nil || v.Checkpoint != v.Head || v.Durable != v.Head || v.Head < 2 || v.Clients != 1 {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestDeleteWithClients(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), "first", false); !errors.Is(err, ErrInUse) {
		t.Errorf("without force: %v", err)
	}
	c.write(t, 0, []byte(strings.Repeat("x", 512)))
	if err := m.Delete(t.Context(), "first", true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client was not disconnected: %v", err)
	}
	if _, err := attach(t, s.endpoints.Unix, "first"); !errors.Is(err, errRefused) {
		t.Errorf("a deleted volume is exported: %v", err)
	}
	if got := names(t, m); got != "" {
		t.Errorf("still there: %s", got)
	}
}

func TestExportWithClients(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	want := pattern(testVolumeBytes, 5)
	c.write(t, 0, want)
	var got bytes.Buffer
	if err := m.Export(t.Context(), "first", false, rawWriter{&got}); !errors.Is(err, ErrInUse) || got.Len() > 0 {
		t.Errorf("without force: %v, %d bytes", err, got.Len())
	}
	if err := m.Export(t.Context(), "first", true, rawWriter{&got}); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("with force: %v, %d bytes", err, got.Len())
	}
}

// writingSink writes to the volume it is fed from.
type writingSink struct {
	Sink
	volume *volume.Volume
	ended  int
}

func (s *writingSink) end() error {
	s.ended++
	return nil
}

func (s *writingSink) zeroes(n int64) error {
	c := []volume.Change{{Kind: volume.Write, Length: 512, Data: make([]byte, 512)}}
	s.volume.Apply(c)
	return c[0].Err
}

func TestExportOfChangingVolumeFails(t *testing.T) {
	h, _ := openHost(t, emptyServerDir(t))
	to := &writingSink{Sink: rawWriter{io.Discard}, volume: h.find("first").volume}
	if err := h.Export(t.Context(), "first", false, to); !errors.Is(err, ErrChanged) || to.ended > 0 {
		t.Errorf("got %v; the copy was ended as a whole one: %v", err, to.ended > 0)
	}
	if err := h.Export(t.Context(), "first", true, to); err != nil || to.ended != 1 {
		t.Errorf("with force: %v", err)
	}
}

// openHost opens the volumes of a directory without serving them, until the end of the test or the call of done, whose
// context bounds the checkpoints.
func openHost(t testing.TB, path string) (h *host, done func(context.Context)) {
	t.Helper()
	dir, err := openDirectory(path, "", false, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	h = newHost(dir, false, zerolog.Nop())
	if err := h.openAll(); err != nil {
		t.Fatal(err)
	}
	done = func(ctx context.Context) {
		if h == nil {
			return
		}
		h.stop()
		if err := errors.Join(h.closeAll(ctx), dir.close()); err != nil {
			t.Error(err)
		}
		h = nil
	}
	t.Cleanup(func() { done(context.Background()) })
	return h, done
}

func TestStopEndsCopies(t *testing.T) {
	h, _ := openHost(t, emptyServerDir(t))
	data := pattern(2*chunkBytes, 1)
	c := []volume.Change{{Kind: volume.Write, Length: int64(len(data)), Data: data}}
	if h.find("first").volume.Apply(c); c[0].Err != nil {
		t.Fatal(c[0].Err)
	}
	err := h.Export(t.Context(), "first", false, stoppingSink{rawWriter{io.Discard}, h})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("export: %v", err)
	}
	if _, err := h.Create(t.Context(), CreateRequest{Name: "late", SizeBytes: testVolumeBytes}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("create on a stopping server: %v", err)
	}
}

// stoppingSink stops the host it is fed by.
type stoppingSink struct {
	Sink
	host *host
}

func (s stoppingSink) data([]byte) error {
	s.host.stop()
	return nil
}

func (s stoppingSink) zeroes(int64) error {
	s.host.stop()
	return nil
}
