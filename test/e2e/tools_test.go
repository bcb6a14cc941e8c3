package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// served returns a node whose server serves a volume "disk".
func served(t *testing.T, size string) *node {
	t.Helper()
	n := newNode(t, shortDir(t))
	n.must("volume", "create", "disk", "--size", size)
	n.start()
	return n
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

// image makes a file with random data and holes.
func image(t *testing.T, size int) string {
	t.Helper()
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	for begin := 0; begin < size; begin += 8 * mib {
		if _, err := r.Read(p[begin : begin+min(5*mib+300, size-begin)]); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	pa, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	pb, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pa, pb) {
		t.Errorf("%s and %s differ", a, b)
	}
}

func TestNbdinfo(t *testing.T) {
	n := served(t, "64MiB")
	wantText(t, tool(t, "nbdinfo", n.uri("disk")), "newstyle-fixed", "export-size: 67108864", "can_multi_conn: true",
		"can_trim: true", "can_zero: true", "can_fua: true", "is_read_only: false", "block_size_preferred: 4096")
	wantText(t, tool(t, "nbdinfo", "--list", n.uri("")), `export="disk"`)
}

func TestNbdcopy(t *testing.T) {
	n := served(t, "64MiB")
	in, out := image(t, 64*mib), filepath.Join(t.TempDir(), "out")
	tool(t, "nbdcopy", "--flush", in, n.uri("disk"))
	tool(t, "nbdcopy", n.uri("disk"), out)
	sameFiles(t, in, out)
	n.must("volume", "checkpoint", "disk") // now it is read from the base image, not from the log
	tool(t, "nbdcopy", n.uri("disk"), out)
	sameFiles(t, in, out)
}

func TestQemuImg(t *testing.T) {
	n := served(t, "64MiB")
	in := image(t, 64*mib)
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, n.uri("disk"))
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, n.uri("disk"))
	qcow := filepath.Join(t.TempDir(), "back.qcow2")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", n.uri("disk"), qcow)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", in, qcow)
}

func TestQemuIO(t *testing.T) {
	n := served(t, "64MiB")
	out := tool(t, "qemu-io", "-f", "raw", n.uri("disk"),
		"-c", "write -P 0x5a 0 1M", "-c", "write -P 0xa5 1000 3000", "-c", "write -f -P 0x11 12M 4k",
		"-c", "write -z 64k 64k", "-c", "discard 256k 256k", "-c", "flush",
		"-c", "read -P 0x5a 0 1000", "-c", "read -P 0xa5 1000 3000", "-c", "read -P 0x5a 4000 60000",
		"-c", "read -P 0 64k 64k", "-c", "read -P 0 256k 256k", "-c", "read -P 0x5a 512k 512k", "-c", "read -P 0x11 12M 4k",
		"-c", "aio_write -P 0x77 20M 2M", "-c", "aio_write -P 0x78 24M 2M", "-c", "aio_flush",
		"-c", "read -P 0x77 20M 2M", "-c", "read -P 0x78 24M 2M")
	if strings.Contains(out, "failed") {
		t.Errorf("qemu-io says:\n%s", out)
	}
}

func TestNbdsh(t *testing.T) {
	n := served(t, "64MiB")
	nbdsh(t, n.uri("disk"), `
import errno
assert h.get_size() == 64 << 20 and h.can_multi_conn() and h.can_fua()
h.pwrite(b"head" * 1024, 0, nbd.CMD_FLAG_FUA)
h.pwrite(b"x", (64 << 20) - 1)
assert h.pread(4097, 0) == b"head" * 1024 + b"\0"
assert h.pread(2, (64 << 20) - 2) == b"\0x"
h.zero(100, 50)
assert h.pread(200, 0) == (b"head" * 50)[:50] + bytes(100) + (b"head" * 50)[150:200]
h.flush()
h.set_strict_mode(0)
try:
    h.pwrite(b"beyond", 64 << 20)
    raise SystemExit("a write beyond the end succeeded")
except nbd.Error as e:
    assert e.errnum in (errno.ENOSPC, errno.EINVAL), e
`)
}

func TestFio(t *testing.T) {
	n := served(t, "64MiB")
	out := tool(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+n.uri("disk"), "--rw=randwrite", "--bsrange=512-64k",
		"--iodepth=32", "--size=48m", "--fsync=200", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--output-format=terse")
	if fields := strings.Split(out, ";"); len(fields) < 5 || fields[4] != "0" {
		t.Errorf("fio says:\n%s", out)
	}
}

// The ways out and in that the README names.
func TestExportImport(t *testing.T) {
	n := served(t, "64MiB")
	in, dir := image(t, 64*mib), t.TempDir()
	raw, piped, qcow := filepath.Join(dir, "raw"), filepath.Join(dir, "piped"), filepath.Join(dir, "qcow2")
	tool(t, "nbdcopy", "--flush", in, n.uri("disk"))
	n.must("volume", "export", "disk", raw)
	sameFiles(t, in, raw)
	tool(t, "qemu-img", "convert", "-O", "qcow2", n.uri("disk"), qcow)

	n.must("volume", "import", "again", raw)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, n.uri("again"))
	n.stop()
	shell(t, n, "nbdcopy -- [ qemu-nbd -r -f qcow2 "+qcow+" ] - | "+program+" volume import pipe - --size 64MiB")
	shell(t, n, program+" volume export pipe - > "+piped)
	sameFiles(t, in, piped)
	n.start()
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, n.uri("pipe"))
}

func shell(t *testing.T, n *node, script string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail; "+script)
	c.Env = append(os.Environ(), "LOCKSTEP_DATA_DIR="+n.data)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
