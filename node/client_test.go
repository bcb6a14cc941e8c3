package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// A client that knows just enough NBD to use an export.

var errRefused = errors.New("export refused")

const (
	cmdRead       = 0
	cmdWrite      = 1
	cmdDisconnect = 2
	cmdFlush      = 3
)

type client struct {
	conn net.Conn
	size int64
}

// attach connects to an export on a Unix socket, or host:port.
func attach(t testing.TB, address, export string) (*client, error) {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{conn: conn}
	if err := c.handshake(export); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) handshake(export string) error {
	greeting := make([]byte, 18)
	if _, err := io.ReadFull(c.conn, greeting); err != nil {
		return err
	}
	const fixedNewstyleNoZeroes, optGo = 3, 7
	out := binary.BigEndian.AppendUint32(nil, fixedNewstyleNoZeroes)
	out = append(out, "IHAVEOPT"...)
	out = binary.BigEndian.AppendUint32(out, optGo)
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(export)+2))
	out = binary.BigEndian.AppendUint32(out, uint32(len(export)))
	out = append(append(out, export...), 0, 0)
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	for {
		header := make([]byte, 20)
		if _, err := io.ReadFull(c.conn, header); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(header[16:]))
		if _, err := io.ReadFull(c.conn, body); err != nil {
			return err
		}
		const ack, info = 1, 3
		switch kind := binary.BigEndian.Uint32(header[12:]); {
		case kind == ack:
			return nil
		case kind == info && binary.BigEndian.Uint16(body) == 0:
			c.size = int64(binary.BigEndian.Uint64(body[2:]))
		case kind>>31 == 1:
			return fmt.Errorf("%w: %s", errRefused, body)
		}
	}
}

// command sends a request and returns the error code of its answer; answers of reads fill data.
func (c *client) command(t testing.TB, kind uint16, off int64, data []byte, length int) uint32 {
	t.Helper()
	out := binary.BigEndian.AppendUint32(nil, 0x25609513)
	out = binary.BigEndian.AppendUint16(out, 0)
	out = binary.BigEndian.AppendUint16(out, kind)
	out = binary.BigEndian.AppendUint64(out, 42)
	out = binary.BigEndian.AppendUint64(out, uint64(off))
	out = binary.BigEndian.AppendUint32(out, uint32(length))
	if kind == cmdWrite {
		out = append(out, data...)
	}
	if _, err := c.conn.Write(out); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 16)
	if _, err := io.ReadFull(c.conn, reply); err != nil {
		t.Fatal(err)
	}
	code := binary.BigEndian.Uint32(reply[4:])
	if kind == cmdRead && code == 0 {
		if _, err := io.ReadFull(c.conn, data); err != nil {
			t.Fatal(err)
		}
	}
	return code
}

// write writes and flushes.
func (c *client) write(t testing.TB, off int64, p []byte) {
	t.Helper()
	if code := c.command(t, cmdWrite, off, p, len(p)); code != 0 {
		t.Fatalf("write at %d: error %d", off, code)
	}
	if code := c.command(t, cmdFlush, 0, nil, 0); code != 0 {
		t.Fatalf("flush: error %d", code)
	}
}

func (c *client) read(t testing.TB, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if code := c.command(t, cmdRead, off, p, n); code != 0 {
		t.Fatalf("read at %d: error %d", off, code)
	}
	return p
}

func (c *client) close() { c.conn.Close() }
