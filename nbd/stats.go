package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/histogram"
)

// Stats is what a server has done since it was made, and what it holds now.
type Stats struct {
	// Handshaking, Transmitting and Draining are how many connections are in each state.
	Handshaking, Transmitting, Draining int
	Accepted                            uint64 // connections
	Refused                             uint64 // connections closed at once, since there were MaxConnections

	// HandshakeFailures has, for each of HandshakeReasons, the handshakes that ended without an export.
	HandshakeFailures map[string]uint64

	InFlightBytes int64 // that unanswered requests count for, at 4 KiB a request besides its data
	Buffers       []BufferStats
	Exports       map[string]ExportStats // by canonical name: those that had a connection since Forget
}

// BufferStats is how much of one share of the memory budget is taken.
type BufferStats struct {
	Name                  string // receive, large or reply
	UsedBytes, LimitBytes int64
}

// ExportStats is what the clients of one export did.
type ExportStats struct {
	Connections int
	Commands    []CommandStats     // one for each of Commands, in that order
	Batch       histogram.Snapshot // requests that were carried out together
}

// Export returns what the clients of an export did; zeroes where it had none.
func (s Stats) Export(name string) ExportStats {
	if e, ok := s.Exports[name]; ok {
		return e
	}
	return new(tally).stats(0)
}

// CommandStats is about the requests of one command.
type CommandStats struct {
	Command  string
	Requests uint64             // received; counted before they are answered
	Bytes    uint64             // that those which were valid named
	Errors   map[string]uint64  // by the code they were answered with, such as EIO; only codes that occurred
	Latency  histogram.Snapshot // seconds from parsing to the answer's leaving; answers that did not leave are not in it
}

// Commands are the names of all commands.
func Commands() []string {
	names := commandNames()
	return names[:]
}

// ErrorCodes are the names of all codes that a request may be answered with.
func ErrorCodes() []string {
	var names []string
	for _, c := range codeNames() {
		names = append(names, c.name)
	}
	return names
}

// The reasons why a handshake ended without an export.
const (
	reasonAborted     = "aborted"            // the client said so
	reasonLeft        = "client_left"        // it closed the connection
	reasonTimeout     = "timeout"            // it took longer than HandshakeTimeout
	reasonProtocol    = "protocol"           // it sent what no client may
	reasonUnknown     = "unknown_export"     // it asked for an export that is not there
	reasonUnavailable = "unavailable_export" // it asked for one that is there and cannot be had
	reasonStopping    = "stopping"           // the server, or the export, ended the connection
	reasonTLS         = "tls"                // TLS did not come about
	reasonPlaintext   = "plaintext"          // it did not ask for TLS, where that is required

	reasons = 9
)

func handshakeReasons() [reasons]string {
	return [reasons]string{
		reasonAborted, reasonLeft, reasonTimeout, reasonProtocol, reasonUnknown, reasonUnavailable, reasonStopping,
		reasonTLS, reasonPlaintext,
	}
}

// HandshakeReasons are the reasons that handshakes fail for.
func HandshakeReasons() []string {
	all := handshakeReasons()
	return all[:]
}

// reason tells why the handshake ended with err.
func (h *handshake) reason(err error) string {
	switch {
	case errors.Is(err, errTLS):
		return reasonTLS
	case errors.Is(err, errPlaintext), h.shunned && h.secure == nil:
		return reasonPlaintext
	case errors.Is(err, ErrUnknownExport), errors.Is(h.refused, ErrUnknownExport):
		return reasonUnknown
	case h.refused != nil:
		return reasonUnavailable
	case errors.Is(err, errAborted):
		return reasonAborted
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reasonTimeout
	case errors.Is(err, net.ErrClosed), errors.Is(err, errDraining), errors.Is(err, errReplaced):
		return reasonStopping
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reasonLeft
	}
	return reasonProtocol
}

// counters are those of a server that belong to no export.
type counters struct {
	accepted, refused atomic.Uint64
	handshakes        [reasons]atomic.Uint64
}

func (c *counters) handshakeFailed(reason string) {
	for i, r := range handshakeReasons() {
		if r == reason {
			c.handshakes[i].Add(1)
		}
	}
}

// now is the server's clock: time since it was made.
func (s *Server) now() time.Duration { return time.Since(s.begun) }

// retireLocked keeps what a connection that ends has counted.
func (s *Server) retireLocked(c *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transmission == nil {
		return
	}
	t := s.retired[c.export]
	if t == nil {
		t = new(tally)
		s.retired[c.export] = t
	}
	t.merge(c.transmission.tally)
}

// Forget drops what was counted for an export that is gone, under its canonical name. Connections to it have ended.
func (s *Server) Forget(export string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.retired, export)
}

// Stats returns what the server has done so far. It waits for no client and no device.
func (s *Server) Stats() Stats {
	stats := Stats{
		Accepted: s.counters.accepted.Load(), Refused: s.counters.refused.Load(),
		HandshakeFailures: make(map[string]uint64), Exports: make(map[string]ExportStats),
	}
	for i, reason := range handshakeReasons() {
		stats.HandshakeFailures[reason] = s.counters.handshakes[i].Load()
	}
	for _, q := range []struct {
		name string
		*quota
	}{{"receive", s.receives}, {"large", s.larges}, {"reply", s.replies}} {
		stats.Buffers = append(stats.Buffers, BufferStats{q.name, q.usedBytes.Load(), q.limitBytes})
	}
	connections := make(map[string]int)
	for export, t := range s.tallies(&stats, connections) {
		stats.Exports[export] = t.stats(connections[export])
	}
	return stats
}

// tallies returns, for each export, what all its connections counted, and counts the connections there are.
func (s *Server) tallies(stats *Stats, connections map[string]int) map[string]*tally {
	all := make(map[string]*tally)
	of := func(export string) *tally {
		if all[export] == nil {
			all[export] = new(tally)
		}
		return all[export]
	}
	s.mu.Lock() // so that no connection is counted twice, or not at all, because it ends meanwhile
	defer s.mu.Unlock()
	for export, t := range s.retired {
		of(export).merge(t)
	}
	for c := range s.connections {
		t := c.describe(stats)
		if t == nil {
			continue
		}
		connections[c.export]++
		of(c.export).merge(t.tally)
	}
	return all
}

// describe adds the connection to the states, and returns its transmission, if it has one.
func (c *connection) describe(stats *Stats) *transmission {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.draining:
		stats.Draining++
	case c.transmission == nil:
		stats.Handshaking++
	default:
		stats.Transmitting++
	}
	if c.transmission == nil {
		return nil
	}
	c.transmission.mu.Lock()
	defer c.transmission.mu.Unlock()
	stats.InFlightBytes += c.transmission.inFlightBytes
	return c.transmission
}

func (t *tally) stats(connections int) ExportStats {
	stats := ExportStats{Connections: connections, Batch: t.batches.Snapshot()}
	for slot, name := range commandNames() {
		c := CommandStats{
			Command: name, Requests: t.requests[slot].Load(), Bytes: t.bytes[slot].Load(),
			Errors: make(map[string]uint64), Latency: t.latency[slot].Snapshot(),
		}
		for i, code := range codeNames() {
			if n := t.errors[slot][i].Load(); n > 0 {
				c.Errors[code.name] = n
			}
		}
		stats.Commands = append(stats.Commands, c)
	}
	return stats
}
