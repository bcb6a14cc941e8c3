package e2e

import "testing"

// extendedScript is an NBD client of its own, written from the protocol's text with nothing but Python's library. It asks
// for extended headers and works on a volume of 1 TiB.
const extendedScript = `
import socket, struct, sys, os
TiB, OPT, REP = 1 << 40, 0x49484156454f5054, 0x3e889045565a9
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def recv(n):
    b = b""
    while len(b) < n:
        part = s.recv(n - len(b))
        assert part, "connection ended"
        b += part
    return b
def option(code, data=b""):
    s.sendall(struct.pack(">QII", OPT, code, len(data)) + data)
    replies = []
    while True:
        magic, of, kind, n = struct.unpack(">QIII", recv(20))
        assert magic == REP and of == code, (magic, of)
        replies.append((kind, recv(n)))
        if kind == 1 or kind >> 31:
            return replies
assert recv(18)[:8] == b"NBDMAGIC"
s.sendall(struct.pack(">I", 3))
assert option(8) == [(1, b"")] and option(11) == [(1, b"")]  # structured replies, then extended headers
assert option(8)[0][0] == (1 << 31) + 10                     # and there is no way back
name = struct.pack(">I", 3) + b"big"
query = struct.pack(">II", 1, 15) + b"base:allocation"
context = struct.unpack(">I", option(10, name + query)[0][1][:4])[0]
info = option(7, name + struct.pack(">H", 0))
kind, size, flags = struct.unpack(">HQH", info[0][1])
assert (kind, size) == (0, TiB), info
assert flags & 1 << 12 and flags & 1 << 7 and flags & 1 << 11 and flags & 1 << 8 and not flags & 1 << 4, hex(flags)

FUA, NO_HOLE, DF, REQ_ONE, FAST, PAYLOAD = 1, 2, 4, 8, 16, 32
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
cookie = 0
def request(kind, offset, length, flags=0, payload=b""):
    """the chunks of the answer: (type, payload)"""
    global cookie
    cookie += 1
    if payload:
        flags, length = flags | PAYLOAD, len(payload)
    s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, flags, kind, cookie, offset, length) + payload)
    chunks = []
    while True:
        magic, done, chunk, of, at, n = struct.unpack(">IHHQQQ", recv(32))
        assert (magic, of, at) == (0x6e8a278c, cookie, offset), (hex(magic), of, at)
        chunks.append((chunk, recv(n)))
        if done & 1:
            return chunks
def ok(*args, **more):
    chunks = request(*args, **more)
    assert chunks == [(0, b"")], chunks
def fails(code, *args, **more):
    (chunk, payload), = request(*args, **more)
    assert chunk == 1 << 15 | 1 and struct.unpack(">I", payload[:4])[0] == code, (chunk, payload)
EPERM, EINVAL, ENOSPC, EOVERFLOW = 1, 22, 28, 75
def extents(offset, length, **more):
    chunk, payload = request(STATUS, offset, length, **more)[0]
    assert chunk == 6
    ctx, count = struct.unpack(">II", payload[:8])
    assert ctx == context and len(payload) == 8 + 16 * count
    return [struct.unpack(">QQ", payload[i:i + 16]) for i in range(8, len(payload), 16)]

assert extents(0, TiB) == [(TiB, 3)]
data = os.urandom(1 << 20)
far = 700 << 30
ok(WRITE, far, 0, FUA, payload=data)
assert extents(0, TiB) == [(far, 3), (1 << 20, 0), (TiB - far - (1 << 20), 3)]
assert extents(0, TiB, flags=REQ_ONE) == [(far, 3)]
only = struct.pack(">QI", 1 << 40, context)
assert struct.unpack(">IIQQ", request(STATUS, 0, 0, REQ_ONE, payload=only)[0][1]) == (context, 1, far, 3)
fails(EINVAL, STATUS, 0, 0, payload=only + struct.pack(">I", context))
fails(EINVAL, TRIM, 0, 0, payload=b"x" * 100000)
# a read over both: a hole and data, or one piece
chunks = request(READ, far - (1 << 20), 2 << 20)
assert [c for c, _ in chunks] == [2, 1], chunks
assert chunks[0][1] == struct.pack(">QI", far - (1 << 20), 1 << 20) and chunks[1][1] == struct.pack(">Q", far) + data
chunks = request(READ, far - (1 << 20), 2 << 20, DF)
assert [c for c, _ in chunks] == [1] and chunks[0][1][8:] == bytes(1 << 20) + data
fails(EOVERFLOW, READ, 0, TiB)
# lengths of 64 bits
ok(CACHE, 0, TiB)
ok(ZERO, 0, far, NO_HOLE | FAST | FUA)
assert extents(0, TiB) == [(far, 2), (1 << 20, 0), (TiB - far - (1 << 20), 3)], extents(0, TiB)
ok(TRIM, 5, TiB - 10)
assert request(READ, far, 1 << 20) == [(2, struct.pack(">QI", far, 1 << 20))]
assert all(state & 2 for _, state in extents(4096, TiB - 8192)), extents(4096, TiB - 8192)
fails(ENOSPC, ZERO, 1, TiB)
fails(EINVAL, TRIM, 1, TiB)
fails(ENOSPC, ZERO, 1 << 20, (1 << 64) - (1 << 20))
fails(EINVAL, WRITE, 0, 512)
ok(FLUSH, 0, 0)
# gone with requests in flight
for i in range(100):
    s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, 0, ZERO, i, i << 30, 1 << 39))
s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, PAYLOAD, WRITE, 7, 0, 1 << 20) + data[:1000])
s.close()
`

// TestExtendedHeaders has another program use every command with them.
func TestExtendedHeaders(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.start()
	n.must("volume", "create", "big", "--size", "1TiB")
	before := n.show("big").Head
	tool(t, "/usr/bin/python3", "-c", extendedScript, n.socket())
	// One record each for the write, the zeroing and the trim, and for the trim's edges; and of those in flight.
	if after := n.show("big").Head; after < before+5 || after > before+5+100 {
		t.Errorf("the log went from %d to %d", before, after)
	}
	if err := n.dial("big").write([]byte("still there"), 0); err != nil {
		t.Error(err)
	}
	n.stop()
}
