package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// What is used of the NBD protocol (doc/proto.md of the NetworkBlockDevice project): the oldest fixed newstyle handshake and
// simple replies.
const (
	handshakeMagic   = 0x4e42444d41474943 // NBDMAGIC
	optionMagic      = 0x49484156454f5054 // IHAVEOPT
	requestMagic     = 0x25609513
	replyMagic       = 0x67446698
	optionExportName = 1
	clientFlags      = 1 | 2 // fixed newstyle, no zeroes after the handshake
	flagFUA          = 1     // of a request
)

// What a request is, as NBD numbers it.
const (
	kindRead  = 0
	kindWrite = 1
	kindFlush = 3
	kindTrim  = 4
	kindZero  = 6
)

// client is one connection to a server, with one request at a time.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	size int64 // of the volume, in bytes
}

func dial(socket, volume string) (*client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	if err := c.handshake(volume); err != nil {
		return nil, errors.Join(fmt.Errorf("attach volume %s: %w", volume, err), conn.Close())
	}
	return c, nil
}

func (c *client) handshake(volume string) error {
	var hello [18]byte
	if _, err := io.ReadFull(c.in, hello[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(hello[:]) != handshakeMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic {
		return errors.New("the other side is no NBD server of the new style")
	}
	answer := binary.BigEndian.AppendUint32(nil, clientFlags)
	answer = binary.BigEndian.AppendUint64(answer, optionMagic)
	answer = binary.BigEndian.AppendUint32(answer, optionExportName)
	answer = binary.BigEndian.AppendUint32(answer, uint32(len(volume)))
	if _, err := c.conn.Write(append(answer, volume...)); err != nil {
		return err
	}
	var export [10]byte
	if _, err := io.ReadFull(c.in, export[:]); err != nil {
		return fmt.Errorf("it is not served: %w", err)
	}
	c.size = int64(binary.BigEndian.Uint64(export[:]))
	return nil
}

// do sends a request and waits for its answer. data is what to write, or where to read to, and of the given length else nil.
func (c *client) do(kind, flags uint16, offset int64, length int, data []byte) error {
	request := binary.BigEndian.AppendUint32(nil, requestMagic)
	request = binary.BigEndian.AppendUint16(request, flags)
	request = binary.BigEndian.AppendUint16(request, kind)
	request = binary.BigEndian.AppendUint64(request, uint64(offset)) // the cookie: there is only one at a time
	request = binary.BigEndian.AppendUint64(request, uint64(offset))
	request = binary.BigEndian.AppendUint32(request, uint32(length))
	if kind == kindWrite {
		request = append(request, data...)
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	var reply [16]byte
	if _, err := io.ReadFull(c.in, reply[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(reply[:]) != replyMagic || binary.BigEndian.Uint64(reply[8:]) != uint64(offset) {
		return fmt.Errorf("an answer to something else: % x", reply)
	}
	if code := binary.BigEndian.Uint32(reply[4:]); code != 0 {
		return fmt.Errorf("request %d at %d, %d bytes: the server answered with error %d", kind, offset, length, code)
	}
	if kind == kindRead {
		_, err := io.ReadFull(c.in, data)
		return err
	}
	return nil
}

func (c *client) close() error { return c.conn.Close() }
