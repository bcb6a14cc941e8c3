package nbd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The tests here run other people's clients against the server. They need nbdinfo, nbdcopy, python3-libnbd, qemu-utils
// and fio, and fail where one is missing.

// client runs a program and returns what it printed.
func client(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = t.TempDir() // some leave files behind
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (f *fixture) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + f.path }

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func TestNbdinfo(t *testing.T) {
	f := start(t, Config{},
		Export{Name: "disk", Description: "a disk", Device: newMemory(testSize)},
		Export{Name: "still", ReadOnly: true, Device: newMemory(testSize)})
	wantText(t, client(t, "nbdinfo", f.uri("disk")),
		"newstyle-fixed", "using structured packets", "export-size: 1048576", "a disk", "base:allocation",
		"can_cache: true", "can_df: true", "can_fast_zero: true", "can_flush: true", "can_fua: true",
		"can_multi_conn: true", "can_trim: true", "can_zero: true", "is_read_only: false", "is_rotational: false",
		"block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 33554432")
	wantText(t, client(t, "nbdinfo", f.uri("still")), "is_read_only: true", "can_trim: false")
	wantText(t, client(t, "nbdinfo", "--list", f.uri("")), `export="disk"`, `export="still"`)
	wantText(t, client(t, "nbdinfo", "--map", f.uri("disk")), "hole,zero")
}

func TestNbdcopy(t *testing.T) {
	m := newMemory(20 << 20)
	f := start(t, Config{}, Export{Name: "disk", Device: m})
	dir := t.TempDir()
	image, back := filepath.Join(dir, "image"), filepath.Join(dir, "back")
	data := make([]byte, 20<<20)
	copy(data[3<<20:], randomBytes(9<<20+777))
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	client(t, "nbdcopy", image, f.uri("disk"))
	if !bytes.Equal(m.contents(0, len(data)), data) {
		t.Fatal("device differs from the image")
	}
	m.cold.Store(true)
	client(t, "nbdcopy", f.uri("disk"), back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("copy back differs, error %v", err)
	}
}

func TestLibnbd(t *testing.T) {
	f := start(t, Config{}, Export{Name: "disk", Device: newMemory(testSize)},
		Export{Name: "still", ReadOnly: true, Device: newMemory(testSize)})
	script := `
import nbd, sys, errno
def open(uri, structured=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.set_strict_mode(0)
    h.connect_uri(uri)
    return h
def fails(code, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errno == code, (e, code)
    else:
        raise AssertionError("no error")
for structured in (True, False):
    h = open(sys.argv[1], structured)
    data = bytes(range(256)) * 40
    h.pwrite(data, 1000, nbd.CMD_FLAG_FUA)
    assert h.pread(len(data), 1000) == data
    h.zero(500, 1500, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    assert h.pread(len(data), 1000) == data[:500] + bytes(500) + data[1000:]
    h.trim(len(data), 1000, nbd.CMD_FLAG_FUA)
    h.cache(4096, 0)
    h.flush()
    fails("ENOSPC", h.pwrite, data, 1 << 20)
    fails("EINVAL", h.pread, 1, 1 << 20)
    fails("EINVAL", h.trim, 1, 1 << 20)
    fails("EINVAL", h.pwrite, data, 0, 1 << 9)
    fails("EINVAL", h.pread, 2, (1 << 64) - 1)
    if structured:
        seen = []
        h.block_status(1 << 20, 0, lambda context, offset, entries, error: seen.append((context, entries)))
        assert seen and seen[0][0] == "base:allocation" and sum(seen[0][1][::2]) == 1 << 20, seen
        seen = []
        h.block_status(1 << 20, 0, lambda context, offset, entries, error: seen.append(len(entries)), nbd.CMD_FLAG_REQ_ONE)
        assert seen == [2], seen
        h.pwrite(data, 512 << 10)
        seen = []
        see = lambda part, offset, status, error: seen.append((offset >> 10, status))
        got = h.pread_structured(768 << 10, 256 << 10, see)
        assert sorted(seen) == [(256, nbd.READ_HOLE), (512, nbd.READ_DATA), (524, nbd.READ_HOLE)], seen
        assert got == bytes(256 << 10) + data + bytes((512 << 10) - len(data)), "wrong data"
        seen = []
        assert got == h.pread_structured(768 << 10, 256 << 10, see, nbd.CMD_FLAG_DF), "wrong data"
        assert seen == [(256, nbd.READ_DATA)], seen
        h.trim(len(data), 512 << 10)
    cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), i * 4096) for i in range(64)]
    while cookies:
        h.poll(-1)
        cookies = [c for c in cookies if not h.aio_command_completed(c)]
    for i in range(64):
        assert h.pread(4096, i * 4096) == bytes([i]) * 4096
    h.shutdown()
h = open(sys.argv[2])
fails("EPERM", h.pwrite, b"x", 0)
fails("EPERM", h.trim, 1, 0)
fails("EPERM", h.zero, 1, 0)
h.pread(10, 0)
h.shutdown()
`
	client(t, "/usr/bin/python3", "-c", script, f.uri("disk"), f.uri("still"))
}

func TestQemu(t *testing.T) {
	f := start(t, Config{}, Export{Name: "disk", Device: newMemory(testSize)})
	wantText(t, client(t, "qemu-img", "info", "--image-opts", "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path="+f.path+",file.export=disk"), "1 MiB")
	out := client(t, "qemu-io", "-f", "raw",
		"-c", "write -P 0x5a 4k 64k", "-c", "write -f -P 0x5b 1 3", "-c", "read -P 0x5a 4k 64k", "-c", "read -P 0x5b 1 3",
		"-c", "write -z 8k 8k", "-c", "read -P 0 8k 8k", "-c", "discard 0 512k", "-c", "flush",
		"-c", "aio_write -P 1 0 128k", "-c", "aio_write -P 2 128k 128k", "-c", "aio_flush",
		"-c", "read -P 1 0 128k", "-c", "read -P 2 128k 128k", f.uri("disk"))
	if strings.Contains(strings.ToLower(out), "fail") || strings.Contains(out, "error") {
		t.Fatal(out)
	}
	wantText(t, client(t, "qemu-img", "map", "-f", "raw", f.uri("disk")), "0x40000")
}

func TestFio(t *testing.T) {
	m := newMemory(16 << 20)
	f := start(t, Config{}, Export{Name: "disk", Device: m})
	out := client(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+f.uri("disk"), "--rw=randwrite", "--bs=4k-64k",
		"--size=16m", "--iodepth=32", "--verify=crc32c", "--fsync=16", "--randrepeat=1", "--output-format=terse")
	if m.changes.Load() == 0 || m.flushes.Load() == 0 || m.reads.Load() == 0 {
		t.Fatalf("fio did not do its work:\n%s", out)
	}
}
