package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errAgain is a net.Error that passes, so that crypto/tls goes on after it where it was.
var (
	errAgain    error = again{}
	errNoBuffer       = errors.New("no buffer now")

	errNoDescriptor = errors.New("connection without a file descriptor")
)

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

// socket is the stream of a connection in plaintext, and under TLS that of its records. Only socket knows that there
// is a file descriptor.
type socket struct {
	conn net.Conn
	raw  syscall.RawConn

	in  receiving
	out sending

	// The steps are made once, so that a call costs no closure.
	receiveStep, peekStep, sendStep func(fd uintptr) bool
}

// receiving is the state of one receive.
type receiving struct {
	lend     func() []byte // nil: dst is given
	giveBack func()
	dst      []byte
	wait     bool // for bytes to arrive
	n        int
	err      error
}

// sending is the state of one send.
type sending struct {
	parts [][]byte
	wait  bool // for the client to take them
	n     int  // bytes that left
	err   error
}

func newSocket(conn net.Conn) (*socket, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%w: %T", errNoDescriptor, conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach the connection's file descriptor: %w", err)
	}
	s := &socket{conn: conn, raw: raw}
	s.receiveStep, s.peekStep, s.sendStep = s.stepReceive, s.stepPeek, s.stepSend
	return s, nil
}

// receive is stream's.
func (s *socket) receive(dst []byte, wait bool) (int, error) {
	s.in = receiving{dst: dst, wait: wait}
	return s.runReceive()
}

// receiveLent is stream's.
func (s *socket) receiveLent(lend func() []byte, giveBack func()) (int, error) {
	s.in = receiving{lend: lend, giveBack: giveBack, wait: true}
	return s.runReceive()
}

func (s *socket) runReceive() (int, error) {
	err := s.raw.Read(s.receiveStep)
	if err == nil {
		err = s.in.err
	}
	n := s.in.n
	s.in = receiving{}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

func (s *socket) stepReceive(fd uintptr) bool {
	in := &s.in
	dst := in.dst
	if in.lend != nil {
		if dst = in.lend(); dst == nil {
			in.err = errNoBuffer
			return true
		}
	}
	n, err := retryInterrupted(fd, dst, unix.Read)
	if err == nil && n > 0 {
		in.n = n
		return true
	}
	if in.lend != nil {
		in.giveBack()
	}
	if err == unix.EAGAIN {
		in.err = nil
		if !in.wait {
			in.err = errAgain
		}
		return !in.wait
	}
	in.err = err
	return true
}

// awaitBytes is stream's.
func (s *socket) awaitBytes() error { return s.raw.Read(s.peekStep) }

func (s *socket) stepPeek(fd uintptr) bool {
	var one [1]byte
	for {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK)
		if err != unix.EINTR {
			return err != unix.EAGAIN
		}
	}
}

// setWriteDeadline is stream's.
func (s *socket) setWriteDeadline(at time.Time) error { return s.conn.SetWriteDeadline(at) }

// send is stream's.
func (s *socket) send(parts [][]byte, wait bool) (rest [][]byte, err error) {
	s.out = sending{parts: parts, wait: wait}
	err = s.raw.Write(s.sendStep)
	if err == nil {
		err = s.out.err
	}
	rest = s.out.parts
	s.out = sending{}
	return rest, err
}

func (s *socket) stepSend(fd uintptr) bool {
	out := &s.out
	for len(out.parts) > 0 {
		n, err := writeParts(fd, out.parts)
		if err == unix.EAGAIN {
			return !out.wait || out.n >= sendProgressBytes
		}
		if err != nil {
			out.err = err
			return true
		}
		out.n += n
		out.parts = dropBytes(out.parts, n)
	}
	return true
}

// sendProgressBytes is how much a client takes in one send that waits, if it stays behind.
const sendProgressBytes = 1 << 20

// maxParts is how many parts one system call takes.
const maxParts = 64

func writeParts(fd uintptr, parts [][]byte) (int, error) {
	if len(parts) == 1 {
		return retryInterrupted(fd, parts[0], unix.Write)
	}
	for {
		n, err := unix.Writev(int(fd), parts[:min(len(parts), maxParts)])
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// dropBytes takes n bytes from the front of parts, in place.
func dropBytes(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

func retryInterrupted(fd uintptr, b []byte, call func(int, []byte) (int, error)) (int, error) {
	for {
		n, err := call(int(fd), b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// end is stream's.
func (s *socket) end(byClient bool, limit time.Duration) {
	if !byClient {
		s.linger(limit)
	}
}

// linger ends the sending side and drops what still arrives until the client closes too, so that a close with bytes
// unread does not reset the connection before the client has read its last replies.
func (s *socket) linger(limit time.Duration) {
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || s.conn.SetReadDeadline(time.Now().Add(limit)) != nil {
		return
	}
	var dropped [512]byte
	for {
		if _, err := s.conn.Read(dropped[:]); err != nil {
			return
		}
	}
}
