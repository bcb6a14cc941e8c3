package e2e

import (
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/test/authority"
)

// secured is a node that requires TLS and client certificates, and directories of certificates as libnbd and QEMU want
// them.
type secured struct {
	*node
	dir  string // of the server's files
	port string
	ca   *authority.Authority

	known, unknown, nobody, mistrustful string // clients: of the CA, of another CA, without certificate, trusting another CA
}

func startSecured(t *testing.T, flags ...string) *secured {
	t.Helper()
	dir := shortDir(t)
	s := &secured{node: newNode(t, dir), dir: dir, ca: authority.New(t)}
	other := authority.New(t)
	server := s.ca.Server("server")
	authority.Write(t, dir, map[string][]byte{
		"cert.pem": server.Certificate, "key.pem": server.Key, "ca.pem": s.ca.PEM()})
	s.known = clientFiles(t, s.ca, s.ca.Client("known"))
	s.unknown = clientFiles(t, s.ca, other.Client("unknown"))
	s.nobody = clientFiles(t, s.ca, authority.Pair{})
	s.mistrustful = clientFiles(t, other, s.ca.Client("mistrustful"))
	s.must("volume", "create", "disk", "--size", "64MiB")
	s.node.start(append([]string{"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem"),
		"--tls-ca", filepath.Join(dir, "ca.pem")}, flags...)...)
	s.port = s.tcpPort()
	return s
}

// clientFiles makes a directory that trusts a CA and has a client's certificate, or none.
func clientFiles(t *testing.T, trusted *authority.Authority, p authority.Pair) string {
	dir := shortDir(t)
	files := map[string][]byte{"ca-cert.pem": trusted.PEM()}
	if p.Certificate != nil {
		files["client-cert.pem"], files["client-key.pem"] = p.Certificate, p.Key
	}
	authority.Write(t, dir, files)
	return dir
}

// tcpPort asks the server which port it has.
func (n *node) tcpPort() string {
	n.t.Helper()
	var status struct {
		TCP []string `json:"tcp"`
	}
	if err := json.Unmarshal([]byte(n.must("status")), &status); err != nil {
		n.t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(status.TCP[0])
	if err != nil {
		n.t.Fatal(err)
	}
	return port
}

// tlsURI is for a client with the certificates in dir.
func (s *secured) tlsURI(dir string) string {
	return "nbds://localhost:" + s.port + "/disk?tls-certificates=" + dir
}

// refused runs a program that has to fail, and returns what it says.
func refused(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = t.TempDir()
	out, err := c.CombinedOutput()
	if err == nil {
		t.Errorf("%s %q succeeded:\n%s", name, args, out)
	}
	return string(out)
}

func TestNbdinfoOverTLS(t *testing.T) {
	s := startSecured(t, "--tls", "require")
	wantText(t, tool(t, "nbdinfo", s.tlsURI(s.known)), "with TLS", "export-size: 67108864", "lockstep volume")
	wantText(t, tool(t, "nbdinfo", "--list", "nbds://localhost:"+s.port+"/?tls-certificates="+s.known),
		`export="disk"`, "description: lockstep volume")
	for who, dir := range map[string]string{"unknown": s.unknown, "nobody": s.nobody, "mistrustful": s.mistrustful} {
		t.Log(who, refused(t, "nbdinfo", s.tlsURI(dir)))
	}
	refused(t, "nbdinfo", "nbd://localhost:"+s.port+"/disk")

	// On the Unix socket TLS may be, and need not.
	wantText(t, tool(t, "nbdinfo", s.uri("disk")), "without TLS")
	wantText(t, tool(t, "nbdinfo", "nbds+unix:///disk?socket="+s.socket()+"&tls-certificates="+s.known), "with TLS")
	refused(t, "nbdinfo", "nbds+unix:///disk?socket="+s.socket()+"&tls-certificates="+s.unknown)
	s.stop() // the log is complete
	wantText(t, s.log.String(), "client stays in plaintext where TLS is required", "TLS handshake failed", `"certificate":"CN=known"`)
}

func TestNbdcopyOverTLS(t *testing.T) {
	s := startSecured(t, "--tls", "require")
	in, out := image(t, 64*mib), filepath.Join(t.TempDir(), "out")
	tool(t, "nbdcopy", "--flush", in, s.tlsURI(s.known))
	tool(t, "nbdcopy", s.tlsURI(s.known), out)
	sameFiles(t, in, out)
	refused(t, "nbdcopy", s.tlsURI(s.unknown), out)
	refused(t, "nbdcopy", in, s.tlsURI(s.nobody))
}

func TestNbdshOverTLS(t *testing.T) {
	s := startSecured(t, "--tls", "require")
	tool(t, "/usr/bin/python3", "-c", `
import errno, nbd, sys
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
assert h.get_tls_negotiated() and h.get_size() == 64 << 20
h.pwrite(b"head" * 1024, 0, nbd.CMD_FLAG_FUA)
assert h.pread(4097, 0) == b"head" * 1024 + b"\0"
h.set_strict_mode(0)
for refused in (lambda: h.pwrite(bytes(1 << 20), 64 << 20), lambda: h.pread(1, 64 << 20), lambda: h.trim(1, 64 << 20)):
    try:
        refused()
        raise SystemExit("a request beyond the end succeeded")
    except nbd.Error as e:
        assert e.errnum in (errno.ENOSPC, errno.EINVAL), e
    assert h.pread(4, 0) == b"head" # in step
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), i * 4096) for i in range(256)]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
for i in range(256):
    assert h.pread(4096, i * 4096) == bytes([i]) * 4096
h.flush()
h.shutdown()
`, s.tlsURI(s.known))
	tool(t, "/usr/bin/python3", "-c", `
import nbd, sys
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri("nbd://localhost:%s/disk" % sys.argv[1])
for refused in (lambda: h.opt_list(lambda name, description: 0), h.opt_info, h.opt_go):
    try:
        refused()
        raise SystemExit("an option is answered in plaintext")
    except nbd.Error:
        pass
h.opt_abort()
`, s.port)
}

func TestQemuOverTLS(t *testing.T) {
	s := startSecured(t, "--tls", "require")
	creds := func(dir string) []string {
		return []string{"--object", "tls-creds-x509,id=t,endpoint=client,dir=" + dir}
	}
	disk := "driver=raw,file.driver=nbd,file.host=localhost,file.port=" + s.port + ",file.export=disk,file.tls-creds=t"
	in, qcow := image(t, 64*mib), filepath.Join(t.TempDir(), "back.qcow2")
	qemuImg := func(command, dir string, args ...string) []string {
		return append(append([]string{command}, creds(dir)...), args...)
	}
	wantText(t, tool(t, "qemu-img", qemuImg("info", s.known, "--image-opts", disk)...), "64 MiB")
	tool(t, "qemu-img", qemuImg("convert", s.known, "-n", "--target-image-opts", "-f", "raw", in, disk)...)
	tool(t, "qemu-img", qemuImg("convert", s.known, "--image-opts", "-O", "qcow2", disk, qcow)...)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", in, qcow)
	for _, dir := range []string{s.unknown, s.nobody, s.mistrustful} {
		refused(t, "qemu-img", qemuImg("info", dir, "--image-opts", disk)...)
	}
	wantText(t, refused(t, "qemu-img", "info", "nbd://localhost:"+s.port+"/disk"), "TLS is required here")
}

// TestCertificateRenewal replaces the server's files while it runs.
func TestCertificateRenewal(t *testing.T) {
	s := startSecured(t) // with a certificate and nothing said, TLS is offered
	wantText(t, tool(t, "nbdinfo", "nbd://localhost:"+s.port+"/disk"), "without TLS")
	tool(t, "nbdinfo", s.tlsURI(s.known))
	after := authority.New(t)
	server := after.Server("renewed")
	authority.Write(t, s.dir, map[string][]byte{"cert.pem": server.Certificate, "key.pem": server.Key, "ca.pem": after.PEM()})
	tool(t, "nbdinfo", s.tlsURI(clientFiles(t, after, after.Client("new"))))
	refused(t, "nbdinfo", s.tlsURI(s.known))
	refused(t, "nbdinfo", s.tlsURI(clientFiles(t, after, s.ca.Client("old"))))
	s.stop() // the log is complete
	wantText(t, s.log.String(), "TLS certificate reloaded", `"certificate":"CN=new"`)
}

// TestTLSFilesMissing starts servers that cannot have what they are told to.
func TestTLSFilesMissing(t *testing.T) {
	dir := shortDir(t)
	n := newNode(t, dir)
	for args, says := range map[string]string{
		"--tls require": "--tls require needs --tls-cert and --tls-key",
		"--tls-cert " + dir + "/none --tls-key " + dir + "/none": "--tls-cert: open " + dir + "/none: no such file",
		"--tls maybe": `"maybe" is not off, on or require`,
	} {
		out, err := n.try(append([]string{"serve", "--listen", "127.0.0.1:0"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("serve %s: %v\n%s", args, err, out)
		}
	}
}
