package nbd

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A client that gives up on a connection, because an answer takes too long or never comes, sends its requests again on a new
// one. What it sent on the old one may have been read already, and still be carried out: after the second copy, and over
// what the client wrote after that. So a connection begins with its requests only when those of every connection to the
// same export that its client has closed are over. (A close that is still on its way through a network is not seen.)

// predecessorCheck is how often a connection that waits looks whether its own client is still there.
const predecessorCheck = time.Second

// awaitPredecessors waits until the connections to c's export that their clients have closed have ended. It returns early
// when c is to end.
func (c *connection) awaitPredecessors() {
	for _, old := range c.server.connectionsBeside(c) {
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
				if c.hungUp() {
					return
				}
			}
		}
	}
}

// connectionsBeside returns the other connections to the same export.
func (s *Server) connectionsBeside(c *connection) []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []*connection
	for o := range s.connections {
		if o != c && o.chosen && o.export == c.export {
			others = append(others, o)
		}
	}
	return others
}

// hungUp tells whether the client has closed the connection, whatever was not read of it yet.
func (c *connection) hungUp() bool {
	sc, ok := c.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone && err == nil // an error: it is closed on this side, and ends by itself
}
