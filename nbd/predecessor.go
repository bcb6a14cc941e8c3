package nbd

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A client that gives up on a connection, because an answer takes too long or never comes, sends its requests again on a new
// one. What it sent on the old one may have been read already, and still be carried out: after the second copy, and over
// what the client wrote after that. So a connection begins with its requests only when those of every connection to the
// same export that its client has closed are over. (Over TCP a close is not seen while it is on its way, or behind requests
// that the server does not read, because many are in flight and the device blocks.)

// predecessorCheck is how often a connection that waits looks at its own client, and at those of the others.
const predecessorCheck = time.Second

// awaitPredecessors waits until the connections to c's export that their clients, or the server, have closed have ended. It
// returns early when c is to end, or when its client has closed it without a request. Connections wait only for those that
// chose the export before them, so never for each other.
//
// A client that has closed no more than its sending side could take its answers as slowly as it likes. While somebody
// waits it is cut when it does not keep up.
func (c *connection) awaitPredecessors(bytes stream) {
	for _, old := range c.server.connectionsBefore(c) {
		if !old.hungUp() {
			continue
		}
		for gone := false; !gone; {
			select {
			case <-old.done:
				gone = true
			case <-c.ending:
				return
			case <-time.After(predecessorCheck):
				if old.isSending() {
					old.kill()
				}
				if c.saysNothing(bytes) {
					return
				}
			}
		}
	}
}

// connectionsBefore returns the connections that chose the same export before c did.
func (s *Server) connectionsBefore(c *connection) []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []*connection
	for o := range s.connections {
		if o.chosen && o.choice < c.choice && o.export == c.export {
			others = append(others, o)
		}
	}
	return others
}

// hungUp tells whether the connection has been closed, whatever was not read of it yet: by the client, or on this side,
// which does not end what is being carried out.
func (c *connection) hungUp() bool {
	gone := false
	err := c.control(func(fd int) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// saysNothing tells whether the client has closed the connection and no request of it is left. Of one inside TLS it does
// not know, since TLS may have read further.
func (c *connection) saysNothing(bytes stream) bool {
	if _, plain := bytes.(*socket); !plain {
		return false
	}
	nothing := false
	err := c.control(func(fd int) {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		nothing = err == nil && n == 0
	})
	return nothing || err != nil
}

// control calls f with the connection's file descriptor. It fails where the connection is closed on this side; a stream is
// only made of connections that have one.
func (c *connection) control(f func(fd int)) error {
	sc, ok := c.conn.(syscall.Conn)
	if !ok {
		return errNoDescriptor
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// isSending tells whether answers are on their way to the client, or wait for it to take them.
func (c *connection) isSending() bool {
	c.mu.Lock()
	t := c.transmission
	c.mu.Unlock()
	if t == nil {
		return false
	}
	t.sender.mu.Lock()
	defer t.sender.mu.Unlock()
	return t.sender.busy
}
