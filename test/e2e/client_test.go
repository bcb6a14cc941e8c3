package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
)

// What the client speaks of NBD: fixed newstyle, NBD_OPT_GO, simple replies.
const (
	optionMagic  = 0x49484156454f5054
	replyMagic   = 0x3e889045565a9
	requestMagic = 0x25609513
	simpleMagic  = 0x67446698

	optionGo      = 7
	replyAck      = 1
	replyInfo     = 3
	infoExport    = 0
	noZeroesFixed = 3

	cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdZero = 0, 1, 3, 4, 6
	flagFUA                                       = 1
)

// client is one connection. Its methods are for one goroutine.
type client struct {
	conn   net.Conn
	r      *bufio.Reader
	size   uint64
	cookie uint64
}

// request is one request; a read fills data.
type request struct {
	kind, flags uint16
	offset      int64
	length      int // where there are no data
	data        []byte
}

// dial connects to a volume over the Unix socket.
func (n *node) dial(volume string) *client {
	n.t.Helper()
	return dial(n.t, "unix", n.socket(), volume)
}

func dial(t *testing.T, network, address, volume string) *client {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, 1<<20)}
	if err := c.handshake(volume); err != nil {
		t.Fatalf("handshake for %s: %v", volume, err)
	}
	return c
}

func (c *client) handshake(volume string) error {
	var greeting [18]byte
	if _, err := io.ReadFull(c.r, greeting[:]); err != nil {
		return err
	}
	be := binary.BigEndian
	out := be.AppendUint32(nil, noZeroesFixed)
	out = be.AppendUint64(out, optionMagic)
	out = be.AppendUint32(out, optionGo)
	out = be.AppendUint32(out, uint32(4+len(volume)+2))
	out = be.AppendUint32(out, uint32(len(volume)))
	out = append(out, volume...)
	out = be.AppendUint16(out, 0)
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	for {
		var header [20]byte
		if _, err := io.ReadFull(c.r, header[:]); err != nil {
			return err
		}
		payload := make([]byte, be.Uint32(header[16:]))
		if _, err := io.ReadFull(c.r, payload); err != nil {
			return err
		}
		kind := be.Uint32(header[12:])
		switch {
		case be.Uint64(header[:]) != replyMagic:
			return fmt.Errorf("option reply begins with %x", header[:8])
		case kind == replyAck:
			return nil
		case kind != replyInfo:
			return fmt.Errorf("option reply %#x: %s", kind, payload)
		case len(payload) >= 10 && be.Uint16(payload) == infoExport:
			c.size = be.Uint64(payload[2:])
		}
	}
}

// do sends requests in one go and waits for all their answers. failed has the error of each, 0 for none; err is that of
// the connection.
func (c *client) do(requests ...request) (failed []syscall.Errno, err error) {
	be := binary.BigEndian
	var out []byte
	first := c.cookie + 1
	for _, r := range requests {
		c.cookie++
		out = be.AppendUint32(out, requestMagic)
		out = be.AppendUint16(out, r.flags)
		out = be.AppendUint16(out, r.kind)
		out = be.AppendUint64(out, c.cookie)
		out = be.AppendUint64(out, uint64(r.offset))
		out = be.AppendUint32(out, uint32(max(r.length, len(r.data))))
		if r.kind == cmdWrite {
			out = append(out, r.data...)
		}
	}
	if _, err := c.conn.Write(out); err != nil {
		return nil, err
	}
	failed = make([]syscall.Errno, len(requests))
	for range requests {
		var header [16]byte
		if _, err := io.ReadFull(c.r, header[:]); err != nil {
			return nil, err
		}
		i := be.Uint64(header[8:]) - first
		if be.Uint32(header[:]) != simpleMagic || i >= uint64(len(requests)) {
			return nil, fmt.Errorf("reply %x to requests from %d on", header, first)
		}
		failed[i] = syscall.Errno(be.Uint32(header[4:]))
		if requests[i].kind == cmdRead && failed[i] == 0 {
			if _, err := io.ReadFull(c.r, requests[i].data); err != nil {
				return nil, err
			}
		}
	}
	return failed, nil
}

// one carries out one request.
func (c *client) one(r request) error {
	failed, err := c.do(r)
	if err != nil {
		return err
	}
	if failed[0] != 0 {
		return failed[0]
	}
	return nil
}

func (c *client) write(p []byte, offset int64) error {
	return c.one(request{kind: cmdWrite, offset: offset, data: p})
}

func (c *client) read(p []byte, offset int64) error {
	return c.one(request{kind: cmdRead, offset: offset, data: p})
}

func (c *client) flush() error { return c.one(request{kind: cmdFlush}) }
