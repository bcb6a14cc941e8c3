package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// brokenManager fails with an error of its own.
type brokenManager struct {
	Manager
	err error
}

func (m brokenManager) Show(context.Context, string) (VolumeStatus, error) {
	return VolumeStatus{}, m.err
}

// Export is the Manager's; it fails half way.
func (m brokenManager) Export(_ context.Context, _ string, _ bool, to Sink) error {
	return errors.Join(to.data([]byte("half")), m.err)
}

func TestExportThatFailsHalfWay(t *testing.T) {
	a := &admin{manager: brokenManager{err: errBroken}, log: zerolog.Nop(), stopping: t.Context()}
	s := httptest.NewServer(a.handler())
	defer s.Close()
	for _, accept := range []string{streamType, "*/*"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v1/volumes/x/data", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := s.Client().Do(req)
		if err != nil && accept != streamType {
			continue // cut off before the first byte was sent
		}
		if err != nil {
			t.Fatal(err)
		}
		var from Source = &rawReader{r: resp.Body}
		if accept == streamType {
			from = &streamReader{r: resp.Body}
		}
		err = copyContent(from, rawWriter{io.Discard})
		if accept == streamType && (!errors.Is(err, ErrRemote) || !strings.Contains(err.Error(), errBroken.Error())) {
			t.Errorf("extent stream: %v", err)
		}
		if err == nil {
			t.Errorf("%s: half an export is taken for a whole one", accept)
		}
		resp.Body.Close()
	}
}

func TestErrorsCrossTheSocket(t *testing.T) {
	for _, c := range append(codes(), coded{io.ErrNoProgress, http.StatusInternalServerError}) {
		a := &admin{manager: brokenManager{err: fmt.Errorf("show volume: %w", c.err)}, log: zerolog.Nop(), stopping: t.Context()}
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/volumes/x", nil))
		var f failure
		if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || !strings.Contains(f.Error, c.err.Error()) {
			t.Errorf("%v: body %q, %v", c.err, w.Body, err)
		}
		if w.Code != c.code {
			t.Errorf("%v: code %d, want %d", c.err, w.Code, c.code)
		}
		if got := (remoteError{text: f.Error, code: w.Code}); w.Code != http.StatusInternalServerError && !errors.Is(got, c.err) {
			t.Errorf("%v is not itself on the other side", c.err)
		}
	}
	if errors.Is(remoteError{code: http.StatusNotFound}, ErrExists) {
		t.Error("a volume that is not there exists")
	}
}

func TestAdminAsWithCurl(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.endpoints.Admin)
	}
	transport := &http.Transport{DialContext: dial}
	defer transport.CloseIdleConnections()
	call := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
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
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/status", "", 200, `"volumes":[{"name":"first"`},
		{"GET", "/v1/volumes", "", 200, `[{"name":"first"`},
		{"GET", "/v1/volumes/first", "", 200, `"state":"served"`},
		{"GET", "/v1/volumes/none", "", 404, `{"error":"no such volume`},
		{"GET", "/v2/volumes", "", 404, `{"error":"there is no request GET /v2/volumes;`},
		{"PATCH", "/v1/volumes", "", 405, `{"error":"there is no request PATCH /v1/volumes;`},
		{"PATCH", "/v1/volumes/first", "", 405, ""},
		{"POST", "/v1/volumes", `{"name":"a","size_bytes":8388608,"wal_size_bytes":16777216}`, 200, `"name":"a"`},
		{"POST", "/v1/volumes", `{"name":"b","size":1}`, 400, "unknown field"},
		{"POST", "/v1/volumes", `{"name":"b","size_bytes":8388608}{}`, 400, "more after"},
		{"POST", "/v1/volumes", `{"name":"` + strings.Repeat("b", maxBodyBytes) + `"}`, 400, "too large"},
		{"POST", "/v1/volumes", `{"name":"../b","size_bytes":8388608}`, 400, "not a volume name"},
		{"PUT", "/v1/volumes/c/data?size_bytes=8388608&wal_size_bytes=16777216", "content", 200, `"name":"c"`},
		{"GET", "/v1/volumes/c/data", "", 200, "content\x00"},
		{"PUT", "/v1/volumes/d/data?size_bytes=x", "", 400, "size_bytes"},
		{"PUT", "/v1/volumes/d/data?size=1", "", 400, "unknown"},
		{"POST", "/v1/volumes/c/checkpoint", "", 200, "{}"},
		{"DELETE", "/v1/volumes/c", "", 200, "{}"},
		{"DELETE", "/v1/volumes/c", "", 404, "no such volume"},
	} {
		code, text := call(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %.200q; want %d and %q", c.method, c.path, code, text, c.code, c.want)
		}
	}
}

// An operator who vanishes in the middle of an import leaves no volume.
func TestImportCutOff(t *testing.T) {
	s := start(t, emptyServerDir(t), nil)
	conn, err := net.Dial("unix", s.endpoints.Admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "PUT /v1/volumes/half/data?size_bytes=%d&wal_size_bytes=%d HTTP/1.1\r\nHost: x\r\n"+
		"Content-Length: %d\r\n\r\nhalf of it", testVolumeBytes, MinLogBytes, testVolumeBytes); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	// Which of the two it notices first is the server's business.
	if text := string(resp); !strings.Contains(text, "unexpected EOF") && !strings.Contains(text, "context canceled") {
		t.Errorf("answer: %s", resp)
	}
	m, _ := manage(t, s.dir)
	if got := names(t, m); got != "first served" {
		t.Errorf("volumes: %s", got)
	}
}

// A server that is told to stop does not wait for an operator who sends nothing more, or reads nothing more.
func TestStopWithStalledCopies(t *testing.T) {
	s := start(t, emptyServerDir(t), func(c *Config) { c.ShutdownTimeout = time.Hour })
	c, err := attach(t, s.endpoints.Unix, "first")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, 0, bytes.Repeat([]byte{1}, testVolumeBytes))
	dial := func() net.Conn {
		conn, err := net.Dial("unix", s.endpoints.Admin)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	reading, writing := dial(), dial()
	if _, err := io.WriteString(reading, "GET /v1/volumes/first/data?force=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(reading, make([]byte, 100)); err != nil { // then the export is under way
		t.Fatal(err)
	}
	head := fmt.Sprintf("PUT /v1/volumes/half/data?size_bytes=%d&wal_size_bytes=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
		testVolumeBytes, MinLogBytes, testVolumeBytes)
	// More than the socket holds, so that it is taken only by an import under way.
	if _, err := io.WriteString(writing, head+strings.Repeat("x", testVolumeBytes*3/4)); err != nil {
		t.Fatal(err)
	}
	s.end(t)
	if entries, err := os.ReadDir(filepath.Join(s.dir, volumesName)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
