package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testerSource names the environment variable with a checkout of the NBD project, whose own test client is built from
// it: no distribution has it as a program.
const testerSource = "NBD_SOURCE"

// buildTester builds nbd-tester-client, or skips the test where there is nothing to build it from.
func buildTester(t *testing.T, source string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(source, "tests", "run", "nbd-tester-client.c")); source == "" || err != nil {
		t.Skipf("nbd-tester-client is built from a checkout of github.com/NetworkBlockDevice/nbd; name one in $%s", testerSource)
	}
	flags, err := exec.CommandContext(t.Context(), "pkg-config", "--cflags", "--libs", "glib-2.0", "gnutls").Output()
	if err != nil {
		t.Skipf("nbd-tester-client needs libglib2.0-dev and libgnutls28-dev: pkg-config: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.h"), []byte("#define HAVE_GNUTLS 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// As it stands it speaks TLS 1.2 and nothing else; nbd-client has a flag for that, the tester none.
	crypto, err := os.ReadFile(filepath.Join(source, "crypto-gnutls.c"))
	if err != nil {
		t.Fatal(err)
	}
	crypto = bytes.Replace(crypto, []byte("NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2"), []byte("NORMAL"), 1)
	if err := os.WriteFile(filepath.Join(dir, "crypto.c"), crypto, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "nbd-tester-client")
	args := []string{"-w", "-O1", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-I" + dir, "-I" + source, "-o", binary,
		filepath.Join(source, "tests", "run", "nbd-tester-client.c"), filepath.Join(source, "cliserv.c"),
		filepath.Join(source, "buffer.c"), filepath.Join(dir, "crypto.c")}
	tool(t, "gcc", append(args, strings.Fields(string(flags))...)...)
	return binary
}

// TestTesterClient runs what the NBD project tests its own server with, in plaintext and over TLS. Left out is its
// "integrityhuge", whose requests are larger than the 32 MiB that the server announces.
func TestTesterClient(t *testing.T) {
	source := os.Getenv(testerSource)
	tester := buildTester(t, source)
	s := startSecured(t, "--tls", "on")
	for _, volume := range []string{"small", "large", "largeTLS"} { // the integrity test wants one that reads as zeroes
		size := "50MiB"
		if volume == "small" {
			size = "4MiB"
		}
		s.must("volume", "create", volume, "--size", size)
	}
	trace := filepath.Join(source, "tests", "run", "integrity-test.tr")
	secure := []string{"-A", filepath.Join(s.known, "ca-cert.pem"), "-C", filepath.Join(s.known, "client-cert.pem"),
		"-K", filepath.Join(s.known, "client-key.pem"), "-H", "localhost"}
	network := []string{"localhost", s.port}
	for name, args := range map[string][][]string{
		"read":                {{"-N", "small"}, network},
		"write":               {{"-N", "small", "-w"}, network},
		"flush":               {{"-N", "small", "-w", "-f"}, network},
		"oversized":           {{"-N", "small", "-o"}, network},
		"handshake":           {{"-N", "small", "-h"}, network},
		"Unix socket":         {{"-N", "small", "-w", "-u", s.socket()}},
		"integrity":           {{"-N", "large", "-i", "-t", trace}, network},
		"integrity, over TLS": {{"-N", "largeTLS", "-i", "-t", trace}, secure, network},
	} {
		t.Run(name, func(t *testing.T) {
			var all []string
			for _, part := range args {
				all = append(all, part...)
			}
			tool(t, tester, all...)
		})
	}
	wrong := []string{"-N", "small", "-A", filepath.Join(s.unknown, "ca-cert.pem"), "-C", filepath.Join(s.unknown, "client-cert.pem"),
		"-K", filepath.Join(s.unknown, "client-key.pem"), "-H", "localhost"}
	refused(t, tester, append(wrong, network...)...)
	s.stop()
	wantText(t, s.log.String(), `"certificate":"CN=known","volume":"largeTLS"`)
}
