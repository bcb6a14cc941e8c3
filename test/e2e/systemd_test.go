package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serviceManager is the socket that systemd would listen on.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newServiceManager(t *testing.T) serviceManager {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return serviceManager{t, conn}
}

// await returns all that is said until something has that beginning.
func (m serviceManager) await(begin string) (said []string) {
	m.t.Helper()
	p := make([]byte, 4096)
	if err := m.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		m.t.Fatal(err)
	}
	for {
		n, err := m.conn.Read(p)
		if err != nil {
			m.t.Fatalf("%q was not said: %v; but %q", begin, err, said)
		}
		said = append(said, string(p[:n]))
		if strings.HasPrefix(said[len(said)-1], begin) {
			return said
		}
	}
}

func TestServiceManager(t *testing.T) {
	n := newNode(t, shortDir(t))
	n.must("volume", "create", "disk", "--size", "64MiB")
	n.must("volume", "create", "broken", "--size", "64MiB")
	if err := os.Remove(filepath.Join(n.data, "volumes", "broken", "base.img")); err != nil {
		t.Fatal(err)
	}
	manager := newServiceManager(t)
	t.Setenv("WATCHDOG_USEC", "150000")
	n.start()
	said := manager.await("READY=1")
	wantText(t, said[0], "EXTEND_TIMEOUT_USEC=30000000", "STATUS=")
	wantText(t, said[len(said)-1], "STATUS=serving 1 volumes, 0 clients; FAILED: broken")
	c := n.dial("disk")
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		manager.await("WATCHDOG=1")
	}
	wantText(t, strings.Join(manager.await("STATUS="), "\n"), "serving 1 volumes, 1 clients")
	n.signal(syscall.SIGTERM)
	said = manager.await("STOPPING=1")
	wantText(t, said[len(said)-1], "EXTEND_TIMEOUT_USEC=45000000", "STATUS=stopping")
	if err := n.reap(); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if out, err := n.try("serve", "--listen", "none"); err == nil {
		t.Error("a watchdog that is no number is taken")
	} else {
		wantText(t, out, "WATCHDOG_USEC")
	}
}

// The units are such as systemd understands.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	for source, name := range map[string]string{"lockstep.service": "lockstep.service", "lockstep-attach@.service": "lockstep-attach@db.service"} {
		unit, err := os.ReadFile(filepath.Join("..", "..", "scripts", "systemd", source))
		if err != nil {
			t.Fatal(err)
		}
		here := strings.ReplaceAll(string(unit), "/usr/local/bin/lockstep", program)
		if here == string(unit) {
			t.Errorf("%s starts another program", source)
		}
		if strings.Contains(here, "attach --config") {
			t.Errorf("%s: does not attach where there is no server, and so no configuration file", source)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(here), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := tool(t, "systemd-analyze", "verify", path); out != "" { // it only warns of words it does not know
			t.Errorf("systemd says of %s:\n%s", source, out)
		}
	}
}
