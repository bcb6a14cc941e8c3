package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"lockstep/nbd"
)

// get asks for a path on host:port, or on a Unix socket.
func get(t testing.TB, address, path string) (code int, body string) {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://lockstep"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// scrape is what a scrape found.
type scrape map[string]*dto.MetricFamily

func scrapeFrom(t testing.TB, address string) scrape {
	t.Helper()
	code, text := get(t, address, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("scrape: %d, %s", code, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// metric returns the metric with these labels, as name, value, name, value; nil where there is none.
func (s scrape) metric(name string, labels ...string) *dto.Metric {
	for _, m := range s[name].GetMetric() {
		if len(m.GetLabel()) != len(labels)/2 {
			continue
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName() == labels[i] && l.GetValue() == labels[i+1]
			})
		}
		if fits {
			return m
		}
	}
	return nil
}

// value returns a number, or how many values a histogram has.
func (s scrape) value(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	m := s.metric(name, labels...)
	switch {
	case m == nil:
		t.Fatalf("there is no %s %v", name, labels)
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetHistogram() != nil:
		return float64(m.GetHistogram().GetSampleCount())
	}
	return m.GetGauge().GetValue()
}

// leave disconnects in order, and returns once the server has ended the connection.
func (c *client) leave(t testing.TB) {
	t.Helper()
	out := make([]byte, 28)
	copy(out, []byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, cmdDisconnect})
	if _, err := c.conn.Write(out); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Read(out); !errors.Is(err, io.EOF) {
		t.Fatalf("after a disconnect: %v", err)
	}
	c.close()
}

// TestMetricsOfAClient compares a scrape with what a client did.
func TestMetricsOfAClient(t *testing.T) {
	s := start(t, emptyServerDir(t), func(c *Config) { c.Metrics = "127.0.0.1:0" })
	before := scrapeFrom(t, s.endpoints.Metrics)
	if n := before.value(t, "lockstep_nbd_requests_total", "volume", "first", "command", "write"); n != 0 {
		t.Errorf("%g writes before the first", n)
	}
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.write(t, int64(i)*8192, make([]byte, 4096)) // and a flush each
	}
	c.read(t, 0, 1000)
	if code := c.command(t, cmdRead, testVolumeBytes, nil, 1); code != uint32(unix.EINVAL) {
		t.Fatalf("a read beyond the end: %d", code)
	}
	if n := scrapeFrom(t, s.endpoints.Metrics).value(t, "lockstep_nbd_volume_connections", "volume", "first"); n != 1 {
		t.Errorf("%g connections, want 1", n)
	}
	c.leave(t)
	if _, err := attach(t, s.endpoints.Unix, "none"); !errors.Is(err, errRefused) {
		t.Fatalf("an export that is not there: %v", err)
	}
	m, _ := manage(t, s.dir)
	if err := m.Checkpoint(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	after := scrapeFrom(t, s.endpoints.Metrics)
	grown := func(name string, labels ...string) float64 {
		t.Helper()
		n := after.value(t, name, labels...)
		if before.metric(name, labels...) != nil {
			n -= before.value(t, name, labels...)
		}
		return n
	}
	volume := []string{"volume", "first"}
	command := func(name string, more ...string) []string {
		return append([]string{"volume", "first", "command", name}, more...)
	}
	for _, w := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"lockstep_nbd_requests_total", command("write"), 3},
		{"lockstep_nbd_requests_total", command("flush"), 3},
		{"lockstep_nbd_requests_total", command("read"), 2},
		{"lockstep_nbd_requests_total", command("trim"), 0},
		{"lockstep_nbd_request_bytes_total", command("write"), 3 * 4096},
		{"lockstep_nbd_request_bytes_total", command("read"), 1000},
		{"lockstep_nbd_request_errors_total", command("read", "code", "EINVAL"), 1},
		{"lockstep_nbd_request_duration_seconds", command("write"), 3},
		{"lockstep_nbd_request_duration_seconds", command("read"), 2},
		{"lockstep_nbd_batch_requests", volume, 8},
		{"lockstep_nbd_connections_accepted_total", nil, 2},
		{"lockstep_volume_head_lsn", volume, 3},
		{"lockstep_volume_durable_lsn", volume, 3},
		{"lockstep_volume_checkpoint_lsn", volume, after.value(t, "lockstep_volume_head_lsn", volume...) - before.value(t, "lockstep_volume_checkpoint_lsn", volume...)},
		{"lockstep_volume_checkpoints_total", append([]string{"outcome", "done"}, volume...), 1},
		{"lockstep_volume_checkpoint_duration_seconds", volume, 1},
		{"lockstep_volume_base_written_bytes_total", volume, 3 * 4096},
		{"lockstep_volume_base_sync_duration_seconds", volume, 1},
		{"lockstep_wal_records_total", volume, 3},
	} {
		if got := grown(w.name, w.labels...); got != w.want {
			t.Errorf("%s %v grew by %g, want %g", w.name, w.labels, got, w.want)
		}
	}
	// The requests came one by one, so every bucket has all batches in it.
	for _, b := range after.metric("lockstep_nbd_batch_requests", volume...).GetHistogram().GetBucket() {
		if b.GetCumulativeCount() != 8 {
			t.Errorf("%d batches of up to %g requests, want 8", b.GetCumulativeCount(), b.GetUpperBound())
		}
	}
	// Each flush is one sync; what else there is, such as marks, depends on the clock.
	if n := grown("lockstep_wal_sync_duration_seconds", volume...); n < 3 {
		t.Errorf("%g syncs of the log for 3 flushes", n)
	}
	if n := grown("lockstep_wal_appended_bytes_total", volume...); n < 3*4096 || n > 4*4096 {
		t.Errorf("%g bytes appended for three writes of 4096", n)
	}
	for name, want := range map[string]float64{"lockstep_volume_dirty_blocks": 0, "lockstep_volume_failed": 0, "lockstep_nbd_volume_connections": 0} {
		if got := after.value(t, name, volume...); got != want {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
}

// TestMetricsAreProper scrapes a server of which nothing has been asked yet: each metric that there is said to be is
// found, so that the first of anything is an increase, and none else. All have names as Prometheus recommends them.
func TestMetricsAreProper(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	_, text := get(t, s.endpoints.Admin, "/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %+v", err, problems)
	}
	found := scrapeFrom(t, s.endpoints.Admin)
	for _, a := range newCollector(nil, nil, nil).families() {
		f := found[a.name]
		if f == nil {
			t.Errorf("%s is not in a scrape", a.name)
			continue
		}
		if got := strings.ToLower(f.GetType().String()); got != string(a.kind) || f.GetHelp() != a.help {
			t.Errorf("%s is a %s, %q; want a %s, %q", a.name, got, f.GetHelp(), a.kind, a.help)
		}
		for _, l := range f.GetMetric()[0].GetLabel() {
			if !slices.Contains(a.labels, l.GetName()) {
				t.Errorf("%s has a label %s", a.name, l.GetName())
			}
		}
		delete(found, a.name)
	}
	others := ""
	for name := range found {
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s is found, and nobody says what it is", name)
		}
		others += name + " "
	}
	for _, name := range []string{"go_goroutines ", "process_resident_memory_bytes ", "process_open_fds "} {
		if !strings.Contains(others, name) {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestMetricsOfVolumesThatGo: nothing is said of a volume that was deleted, and one that takes its name begins anew.
func TestMetricsOfVolumesThatGo(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	m, _ := manage(t, s.dir)
	writes := []string{"volume", "b", "command", "write"}
	for range 2 {
		create(t, m, CreateRequest{Name: "b"})
		c, err := attach(t, s.endpoints.Unix, "b")
		if err != nil {
			t.Fatal(err)
		}
		c.write(t, 0, make([]byte, 4096))
		if n := scrapeFrom(t, s.endpoints.Admin).value(t, "lockstep_nbd_requests_total", writes...); n != 1 {
			t.Errorf("%g writes, want 1", n)
		}
		if err := m.Delete(t.Context(), "b", true); err != nil {
			t.Fatal(err)
		}
		if _, text := get(t, s.endpoints.Admin, "/metrics"); strings.Contains(text, `volume="b"`) {
			t.Error("a volume that was deleted is still measured")
		}
	}
}

// TestReadiness: a server is ready while every volume takes changes, and says which does not and why.
func TestReadiness(t *testing.T) {
	s := start(t, emptyServerDir(t), func(c *Config) { c.Metrics = "127.0.0.1:0" })
	m, _ := manage(t, s.dir)
	create(t, m, CreateRequest{Name: "b"})
	want := func(code int, parts ...string) {
		t.Helper()
		for _, address := range []string{s.endpoints.Metrics, s.endpoints.Admin} {
			got, text := get(t, address, "/readyz")
			var r Readiness
			if err := json.Unmarshal([]byte(text), &r); err != nil || got != code || r.Ready != (code == http.StatusOK) {
				t.Errorf("on %s: %d, %s, %v; want %d", address, got, text, err, code)
			}
			for _, p := range parts {
				if !strings.Contains(text, p) {
					t.Errorf("%q is not in %s", p, text)
				}
			}
			if got, text := get(t, address, "/healthz"); got != http.StatusOK || text != "ok\n" {
				t.Errorf("health on %s: %d, %s", address, got, text)
			}
			found := scrapeFrom(t, address)
			if n := found.value(t, "lockstep_ready"); n != truth(r.Ready) {
				t.Errorf("lockstep_ready is %g where the answer is %d", n, code)
			}
			if n := found.value(t, "lockstep_volume_failed", "volume", "b"); n != 1-truth(r.Ready) {
				t.Errorf("lockstep_volume_failed of b is %g where the answer is %d", n, code)
			}
		}
	}
	want(http.StatusOK, `"volumes":[]`)
	c, err := attach(t, s.endpoints.Unix, "b")
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, filepath.Join(s.dir, volumesName, "b", "wal"))
	if code := c.command(t, cmdWrite, 0, make([]byte, 4096), 4096); code != uint32(unix.EIO) {
		t.Fatalf("a write that the log cannot take: error %d", code)
	}
	want(http.StatusServiceUnavailable, `"name":"b","state":"failed","reason":"the log failed`)
	if n := scrapeFrom(t, s.endpoints.Metrics).value(t, "lockstep_nbd_request_errors_total", "volume", "b", "command", "write", "code", "EIO"); n != 1 {
		t.Errorf("%g writes failed, want 1", n)
	}
	if _, err := m.Reopen(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	want(http.StatusOK)
}

// TestReadinessAtTheStart: a volume that cannot be opened is told of, and has a state and nothing else; before all have
// been tried, and once the server stops, it is not ready.
func TestReadinessAtTheStart(t *testing.T) {
	dir, _ := damagedVolume(t)
	s := start(t, dir, nil)
	code, text := get(t, s.endpoints.Admin, "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(text, `"name":"first","state":"failed","reason":"open volume: `) {
		t.Errorf("%d, %s", code, text)
	}
	found := scrapeFrom(t, s.endpoints.Admin)
	for state, want := range map[string]float64{StateFailed: 1, StateServed: 0, StateOpening: 0} {
		if got := found.value(t, "lockstep_volume_state", "volume", "first", "state", state); got != want {
			t.Errorf("state %s: %g", state, got)
		}
	}
	if found["lockstep_volume_head_lsn"] != nil {
		t.Error("a volume that is not open has a head")
	}
	h, done := openHost(t, emptyServerDir(t))
	defer done(t.Context())
	mon := &monitor{host: h}
	if r := mon.readiness(); r.Ready || r.Reason != "the server is starting" {
		t.Errorf("at first: %+v", r)
	}
	mon.started.Store(true)
	if r := mon.readiness(); !r.Ready {
		t.Errorf("then: %+v", r)
	}
	d := newDisk(h.log, "new", StateOpening)
	h.disks["new"] = d
	if r := mon.readiness(); r.Ready || len(r.Volumes) != 1 || r.Volumes[0].Name != "new" {
		t.Errorf("while a volume is opened: %+v", r)
	}
	d.state = StateCreating
	if r := mon.readiness(); !r.Ready {
		t.Errorf("while one is made: %+v", r)
	}
	h.drop(d)
	h.stop()
	if r := mon.readiness(); r.Ready || r.Reason != "the server is stopping" {
		t.Errorf("at the end: %+v", r)
	}
}

// TestMetricsAddress: there is nothing on it but monitoring; it is told of, and refused where it cannot be had.
func TestMetricsAddress(t *testing.T) {
	s := start(t, emptyServerDir(t), func(c *Config) { c.Metrics = "127.0.0.1:0" })
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 200, "/": 404, "/v1/status": 404, "/v1/volumes": 404} {
		if code, text := get(t, s.endpoints.Metrics, path); code != want {
			t.Errorf("%s: %d, %s", path, code, text)
		}
	}
	if _, text := get(t, s.endpoints.Admin, "/v1/status"); !strings.Contains(text, `"metrics":"`+s.endpoints.Metrics+`"`) {
		t.Errorf("status: %s", text)
	}
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "other"), Listen: []string{}, Metrics: s.endpoints.Metrics}
	if err := Run(t.Context(), cfg); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("an address that is in use: %v", err)
	}
	cfg.Metrics = "localhost"
	if err := cfg.validate(); err == nil || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("an address without a port: %v", err)
	}
	for address, want := range map[net.Addr]bool{
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}: true, &net.TCPAddr{IP: net.IPv6loopback}: true, &net.UnixAddr{}: true,
		&net.TCPAddr{IP: net.IPv4zero}: false, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5)}: false, &net.TCPAddr{}: false,
	} {
		if loopback(listenerAt{at: address}) != want {
			t.Errorf("%v is loopback: %v", address, !want)
		}
	}
}

// listenerAt is a listener as far as its address goes.
type listenerAt struct {
	net.Listener
	at net.Addr
}

func (l listenerAt) Addr() net.Addr { return l.at }

// TestReadmeMetrics: README's table of metrics is that of the program, and its alerts are about nothing else.
func TestReadmeMetrics(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	want, names := "| metric | type | labels | |\n|---|---|---|---|\n", map[string]bool{}
	for _, a := range newCollector(nil, nil, nil).families() {
		names[a.name] = true
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", a.name, a.kind, strings.Join(a.labels, ", "), a.help)
	}
	if !strings.Contains(readme, want) {
		t.Errorf("README's table of metrics is not this one:\n%s", want)
	}
	used := 0
	for _, name := range regexp.MustCompile(`\blockstep_[a-z0-9_]+`).FindAllString(readme, -1) {
		base := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			base = strings.TrimSuffix(base, suffix)
		}
		used++
		if !names[name] && !names[base] {
			t.Errorf("README speaks of %s, which there is not", name)
		}
	}
	if used <= len(names) {
		t.Errorf("README has %d names for %d metrics: the alerts are not looked at", used, len(names))
	}
	for _, list := range [][]string{nbd.Commands(), nbd.HandshakeReasons()} {
		for _, word := range list {
			if !strings.Contains(readme, "`"+word+"`") {
				t.Errorf("README does not say what %s is", word)
			}
		}
	}
}
