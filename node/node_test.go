package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lockstep/nbd"
)

const testVolumeBytes = 8 << 20

// server is a running Run of a test.
type server struct {
	dir       string
	endpoints Endpoints
	stop      context.CancelFunc
	result    chan error
}

// start runs a server until it is ready. It is stopped, and its result checked, at the end of the test at the latest.
func start(t testing.TB, dir string, change func(*Config)) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{dir: dir, stop: cancel, result: make(chan error, 1)}
	ready := make(chan Endpoints, 1)
	cfg := Config{DataDir: dir, Listen: []string{"127.0.0.1:0"}, Logger: zerolog.New(zerolog.NewTestWriter(t)),
		Ready: func(e Endpoints) { ready <- e }}
	if change != nil {
		change(&cfg)
	}
	go func() { s.result <- Run(ctx, cfg) }()
	select {
	case s.endpoints = <-ready:
	case err := <-s.result:
		cancel()
		t.Fatalf("server did not start: %v", err)
	}
	t.Cleanup(func() { s.end(t) })
	return s
}

// end stops the server and checks that it stopped well.
func (s *server) end(t testing.TB) {
	t.Helper()
	s.stop()
	if err, ok := <-s.result; ok && err != nil {
		t.Errorf("server stopped with %v", err)
	}
	select {
	case <-s.result:
	default:
		close(s.result)
	}
}

// manage connects to what works on a data directory, until the end of the test or the call of done.
func manage(t testing.TB, dir string) (m Manager, done func()) {
	t.Helper()
	m, err := Connect(t.Context(), dir, "", true, zerolog.New(zerolog.NewTestWriter(t)))
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	done = func() {
		if !closed {
			closed = true
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(done)
	return m, done
}

// both runs a test on a stopped data directory and on a running server, neither with a volume.
func both(t *testing.T, test func(t *testing.T, m Manager, dir string)) {
	t.Run("stopped", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		m, _ := manage(t, dir)
		test(t, m, dir)
	})
	t.Run("running", func(t *testing.T) {
		dir := emptyServerDir(t)
		start(t, dir, nil)
		m, _ := manage(t, dir)
		if err := m.Delete(t.Context(), "first", false); err != nil {
			t.Fatal(err)
		}
		if _, remote := m.(*Remote); !remote {
			t.Fatalf("commands go to %T, not to the server", m)
		}
		test(t, m, dir)
	})
}

// emptyServerDir makes a data directory with one small volume named first, so that a server does not make disk0.
func emptyServerDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	m, done := manage(t, dir)
	create(t, m, CreateRequest{Name: "first"})
	done()
	return dir
}

// create makes a small volume.
func create(t testing.TB, m Manager, r CreateRequest) VolumeStatus {
	t.Helper()
	if r.SizeBytes == 0 {
		r.SizeBytes = testVolumeBytes
	}
	if r.LogBytes == 0 {
		r.LogBytes = MinLogBytes
	}
	s, err := m.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pattern is n bytes that differ from one place to another and from seed to seed, with a hole in the middle.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>9) ^ byte(i)*3 ^ seed
	}
	clear(p[n/4 : n/2])
	return p
}

func content(t testing.TB, m Manager, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Export(t.Context(), name, false, rawWriter{&b}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(t testing.TB, m Manager) string {
	t.Helper()
	list, err := m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name+" "+s.State)
	}
	return strings.Join(names, ", ")
}

func TestFirstStartMakesDisk0(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	s := start(t, dir, nil)
	if v := s.endpoints.Volumes; len(v) != 1 || v[0].Name != "disk0" || v[0].SizeBytes != 1<<30 || v[0].State != StateServed {
		t.Errorf("serves %+v", v)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, s.endpoints.Unix: 0o600, s.endpoints.Admin: 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
	s.end(t)
	for _, path := range []string{s.endpoints.Unix, s.endpoints.Admin} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there after the end: %v", path, err)
		}
	}
}

func TestNodeIDStays(t *testing.T) {
	dir := emptyServerDir(t)
	var ids [2]Status
	for i := range ids {
		s := start(t, dir, nil)
		var err error
		if ids[i], err = NewRemote(s.endpoints.Admin).Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.end(t)
	}
	if ids[0].Node != ids[1].Node || ids[0].PID != os.Getpid() {
		t.Errorf("first %+v, then %+v", ids[0], ids[1])
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	err := Run(t.Context(), Config{DataDir: s.dir, Listen: []string{"127.0.0.1:0"}, Logger: zerolog.Nop()})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Admin != s.endpoints.Admin {
		t.Errorf("got %v", err)
	}
	if _, err := NewRemote(s.endpoints.Admin).Status(t.Context()); err != nil {
		t.Errorf("the first server does not answer any more: %v", err)
	}
}

func TestCommandsWhileServerDoesNotAnswer(t *testing.T) {
	dir := emptyServerDir(t)
	held, err := lock(dir, filepath.Join(dir, "nobody.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_, err = Connect(t.Context(), dir, "", false, zerolog.Nop())
	var locked *LockedError
	if !errors.As(err, &locked) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}

func TestCommandsWhileAnotherRuns(t *testing.T) {
	dir := emptyServerDir(t)
	held, err := lock(dir, "") // as a command does that no server is there for
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := Connect(t.Context(), dir, "", false, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "another command; try again") {
		t.Errorf("a command: %v", err)
	}
	err = Run(t.Context(), Config{DataDir: dir, Listen: []string{}, Logger: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "stop that one first, or give another directory with --data-dir") {
		t.Errorf("a server: %v", err)
	}
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{DataDir: dir, Logger: zerolog.Nop()}); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("serve: %v", err)
	}
	if _, err := Connect(t.Context(), filepath.Join(dir, "none"), "", false, zerolog.Nop()); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("list: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestBrokenVolumeDoesNotStopOthers(t *testing.T) {
	dir := emptyServerDir(t)
	m, done := manage(t, dir)
	create(t, m, CreateRequest{Name: "nosettings"})
	create(t, m, CreateRequest{Name: "noimage"})
	create(t, m, CreateRequest{Name: "newer"})
	done()
	volumes := filepath.Join(dir, volumesName)
	for _, err := range []error{
		os.Remove(filepath.Join(volumes, "noimage", imageName)),
		os.WriteFile(filepath.Join(volumes, "nosettings", settingsName), []byte("{"), 0o600),
		os.WriteFile(filepath.Join(volumes, "newer", settingsName), []byte(`{"version": 7, "planet": "mars"}`), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, dir, nil)
	m, _ = manage(t, dir)
	if got, want := names(t, m), "first served, newer failed, noimage failed, nosettings failed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, reason := range map[string]string{"noimage": "no such file", "newer": "format version 7", "nosettings": "not understood"} {
		v, err := m.Show(t.Context(), name)
		if err != nil || !strings.Contains(v.Error, reason) {
			t.Errorf("%s: %q, %v; want %q", name, v.Error, err, reason)
		}
		if _, err := attach(t, s.endpoints.Unix, name); !errors.Is(err, errRefused) {
			t.Errorf("export %s: %v; want it refused", name, err)
		}
		if err := m.Checkpoint(t.Context(), name); !errors.Is(err, ErrUnavailable) {
			t.Errorf("checkpoint of %s: %v", name, err)
		}
	}
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 0, pattern(4096, 1))
	c.close()
	if err := m.Delete(t.Context(), "nosettings", false); err != nil {
		t.Errorf("a broken volume cannot be deleted: %v", err)
	}
}

func TestDefaultExport(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	c, err := attach(t, s.endpoints.TCP[0], "")
	if err != nil {
		t.Fatalf("the only volume is not the default: %v", err)
	}
	c.close()
	create(t, m, CreateRequest{Name: "second"})
	if _, err := attach(t, s.endpoints.Unix, ""); !errors.Is(err, errRefused) {
		t.Errorf("one of two volumes is the default: %v", err)
	}
	create(t, m, CreateRequest{Name: "disk0", SizeBytes: 2 * testVolumeBytes})
	if c, err = attach(t, s.endpoints.Unix, ""); err != nil {
		t.Fatal(err)
	}
	if c.size != 2*testVolumeBytes {
		t.Errorf("the default has %d bytes, and is not disk0", c.size)
	}
	c.close()
}

func TestReadOnly(t *testing.T) {
	s := start(t, emptyServerDir(t), func(c *Config) { c.ReadOnly = true })
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if code := c.command(t, cmdWrite, 0, make([]byte, 512), 512); code == 0 {
		t.Error("a write was taken")
	}
	if got := c.read(t, 0, 512); !bytes.Equal(got, make([]byte, 512)) {
		t.Error("wrong data")
	}
}

func TestDataOutlivesServer(t *testing.T) {
	dir := emptyServerDir(t)
	want := pattern(1<<20, 9)
	s := start(t, dir, nil)
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 4096, want)
	s.end(t) // with the client still there
	if _, err := c.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client's connection is still open: %v", err)
	}
	s = start(t, dir, nil)
	if v := s.endpoints.Volumes[0]; v.Checkpoint == 0 {
		t.Errorf("no checkpoint was made at the end: %+v", v)
	}
	if c, err = attach(t, s.endpoints.Unix, "first"); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if !bytes.Equal(c.read(t, 4096, len(want)), want) {
		t.Error("the data are not those that were written")
	}
}

func TestHurriedShutdownSkipsCheckpoint(t *testing.T) {
	dir := emptyServerDir(t)
	want := pattern(1<<20, 7)
	hurry, second := context.WithCancel(t.Context())
	s := start(t, dir, func(c *Config) { c.Hurry = hurry })
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 0, want)
	second()
	s.end(t)
	s = start(t, dir, nil)
	if v := s.endpoints.Volumes[0]; v.Checkpoint != 0 || v.Head < 3 {
		t.Errorf("a checkpoint was made all the same, or nothing is in the log: %+v", v)
	}
	m, _ := manage(t, dir)
	if !bytes.Equal(content(t, m, "first")[:len(want)], want) {
		t.Error("the data are not those that were written")
	}
}

func TestShutdownTimeoutBoundsTheStop(t *testing.T) {
	dir := emptyServerDir(t)
	s := start(t, dir, func(c *Config) { c.ShutdownTimeout = time.Nanosecond })
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 0, pattern(1<<20, 7))
	s.end(t)
	s = start(t, dir, nil)
	if v := s.endpoints.Volumes[0]; v.Checkpoint != 0 {
		t.Errorf("a checkpoint was made beyond the bound: %+v", v)
	}
}

func TestConfig(t *testing.T) {
	long := strings.Repeat("x", 108)
	for name, c := range map[string]Config{
		"listen without port": {Listen: []string{"127.0.0.1"}},
		"long socket":         {Unix: "/tmp/" + long},
		"long data directory": {DataDir: "/tmp/" + long},
		"same sockets":        {Unix: "/tmp/a", Admin: "/tmp/a"},
		"negative timeout":    {ShutdownTimeout: -1},
	} {
		if err := c.validate(); err == nil {
			t.Errorf("%s is accepted: %+v", name, c)
		}
	}
	var c Config
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs(DefaultDataDir)
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != dir || c.Unix != dir+"/lockstep.sock" || c.Admin != dir+"/admin.sock" || c.Listen[0] != DefaultListen ||
		c.ShutdownTimeout != 30*time.Second {
		t.Errorf("defaults: %+v", c)
	}
}

func TestListenersAreTakenBeforeVolumesAreTouched(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "data")
	err = Run(t.Context(), Config{DataDir: dir, Listen: []string{taken.Addr().String()}, Logger: zerolog.Nop()})
	if !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, volumesName)); err != nil || len(entries) > 0 {
		t.Errorf("volumes were made: %v, %v", entries, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(left) > 0 {
		t.Errorf("sockets are left: %v", left)
	}
}

var _ nbd.Exports = exports{}
