package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMetrics watches a server as monitoring would, with curl: on an address of its own and on the admin socket, while a
// client works and after the volume lost its base image.
func TestMetrics(t *testing.T) {
	n := newNode(t, shortDir(t))
	n.start("--metrics", "127.0.0.1:0")
	address := n.metricsAddress()
	n.must("volume", "create", "db", "--size", "64MiB", "--wal-size", "16MiB")
	nbdsh(t, n.uri("db"), "h.pwrite(b'x' * 65536, 0); h.pwrite(b'y' * 4096, 65536); h.flush(); h.shutdown()")
	admin := []string{"--unix-socket", filepath.Join(n.data, "admin.sock"), "http://lockstep"}
	for _, where := range [][]string{{"http://" + address}, admin} {
		if code, text := curl(t, where, "/healthz"); code != 200 || text != "ok\n" {
			t.Errorf("health at %s: %d, %s", where, code, text)
		}
		if code, text := curl(t, where, "/readyz"); code != 200 || !strings.Contains(text, `"ready":true`) {
			t.Errorf("readiness at %s: %d, %s", where, code, text)
		}
		code, text := curl(t, where, "/metrics")
		if code != 200 {
			t.Fatalf("metrics at %s: %d, %s", where, code, text)
		}
		for _, line := range []string{
			`lockstep_nbd_requests_total{command="write",volume="db"} 2`,
			`lockstep_nbd_request_bytes_total{command="write",volume="db"} 69632`,
			`lockstep_nbd_request_errors_total{code="EIO",command="write",volume="db"} 0`,
			`lockstep_volume_durable_lsn{volume="db"} 3`,
			`lockstep_volume_dirty_bytes{volume="db"} 69632`,
			`lockstep_ready 1`,
		} {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("%s is missing at %s in:\n%s", line, where, matching(text, strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]))
			}
		}
	}
	if code, _ := curl(t, []string{"http://" + address}, "/v1/status"); code != 404 {
		t.Errorf("commands are answered at the address of the metrics: %d", code)
	}
	n.stop()
	image := filepath.Join(n.data, "volumes", "db", "base.img")
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	n.start()
	if code, text := curl(t, admin, "/readyz"); code != 503 || !strings.Contains(text, `"name":"db","state":"failed"`) {
		t.Errorf("with a volume that cannot be opened: %d, %s", code, text)
	}
	if _, text := curl(t, admin, "/metrics"); !strings.Contains(text, `lockstep_volume_failed{volume="db"} 1`+"\n") {
		t.Errorf("with a volume that cannot be opened:\n%s", matching(text, "lockstep_volume_failed"))
	}
	n.stop()
}

// metricsAddress asks the server where its metrics are.
func (n *node) metricsAddress() string {
	n.t.Helper()
	var s struct {
		Metrics string `json:"metrics"`
	}
	if err := json.Unmarshal([]byte(n.must("status")), &s); err != nil || s.Metrics == "" {
		n.t.Fatalf("no address: %v", err)
	}
	return s.Metrics
}

// curl asks for a path of a place, which is curl's last arguments but for the path.
func curl(t *testing.T, where []string, path string) (code int, body string) {
	t.Helper()
	args := append([]string{"-s", "-w", "\n%{http_code}"}, where...)
	args[len(args)-1] += path
	out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %q: %v\n%s", args, err, out)
	}
	at := strings.LastIndexByte(string(out), '\n')
	if _, err := fmt.Sscan(string(out[at+1:]), &code); err != nil {
		t.Fatal(err)
	}
	return code, string(out[:at])
}

// matching returns the lines that begin so.
func matching(text, prefix string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
