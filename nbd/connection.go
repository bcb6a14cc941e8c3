package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// lingerTime is how long a connection that the server ends waits for the client to end it too.
const lingerTime = time.Second

// errReplaced means that another export took the name while a client was choosing it.
var errReplaced = errors.New("export was replaced")

// connection is one client, from accept to close.
type connection struct {
	server *Server
	conn   net.Conn
	ending chan struct{} // closed when it is to be drained or was killed
	done   chan struct{} // closed when nothing of it is left

	// Guarded by server.mu.
	chosen bool   // the client has chosen an export
	export string // its canonical name
	choice uint64 // how many had chosen one when it did

	mu           sync.Mutex
	transmission *transmission // nil in the handshake
	draining     bool
}

// run serves the client until the connection ends.
func (c *connection) run() {
	defer close(c.done)
	defer c.server.remove(c)
	defer c.conn.Close()
	logger := c.server.cfg.Logger.With().Str("client", peer(c.conn)).Logger()
	disconnects := c.server.disconnectsSoFar()
	bytes, export, agreed, err := c.negotiate(logger)
	if err != nil {
		return
	}
	t, err := c.enter(bytes, &export, agreed, disconnects)
	if err != nil {
		export.release()
		c.server.counters.handshakeFailed(new(handshake).reason(err))
		logger.Warn().Err(err).Str("volume", export.Name).Msg("nbd client refused")
		return
	}
	logger = identified(logger, bytes)
	logger.Info().Str("volume", export.Name).Msg("nbd client connected")
	c.awaitPredecessors(bytes)
	err = t.run()
	export.release()
	logger.Info().Str("volume", export.Name).AnErr("reason", err).Msg("nbd client disconnected")
	if t.sender.failure() == nil {
		bytes.end(err == nil || errors.Is(err, io.EOF), lingerTime)
	}
}

// negotiate does the handshake, in no longer than it may take, and returns what the transmission phase goes on with.
// It logs why there is none.
func (c *connection) negotiate(logger zerolog.Logger) (stream, Export, terms, error) {
	h := handshake{
		conn:    c.conn,
		exports: c.server.cfg.Exports,
		tls:     c.server.cfg.TLS,
		mustTLS: c.server.mustTLS(c.conn),
		records: &c.server.records,
		logger: func(name string, err error) {
			logger.Warn().Err(err).Str("volume", name).Msg("nbd export not available")
		},
	}
	bytes, export, agreed, err := c.shake(&h)
	switch {
	case err != nil && h.shunned && h.secure == nil:
		logger.Info().Err(errPlaintext).Msg("nbd client refused")
	case errors.Is(err, errTLS):
		logger.Info().Err(err).Msg("nbd client refused")
	case err != nil:
		logger.Debug().Err(err).Msg("nbd handshake ended")
	}
	if err != nil {
		c.server.counters.handshakeFailed(h.reason(err))
	}
	if err != nil && h.secure != nil {
		h.secure.endHandshake()
	}
	return bytes, export, agreed, err
}

func (c *connection) shake(h *handshake) (stream, Export, terms, error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.server.cfg.HandshakeTimeout)); err != nil {
		return nil, Export{}, terms{}, fmt.Errorf("limit the handshake's time: %w", err)
	}
	export, agreed, err := h.run()
	if err != nil {
		return nil, Export{}, terms{}, err
	}
	var bytes stream
	if err = c.conn.SetDeadline(time.Time{}); err == nil {
		bytes, err = h.stream(c.conn)
	}
	if err != nil {
		export.release()
		return nil, Export{}, terms{}, fmt.Errorf("end the handshake: %w", err)
	}
	return bytes, export, agreed, nil
}

// enter moves the connection to transmission. A Disconnect since the handshake began cannot have seen this client, so
// then the export is looked up again, and released by the caller whatever happens.
func (c *connection) enter(bytes stream, export *Export, agreed terms, disconnects uint64) (*transmission, error) {
	for !c.choose(export.Name, &disconnects) {
		again, err := c.server.cfg.Exports.Lookup(export.Name)
		if err != nil {
			return nil, fmt.Errorf("look up export again: %w", err)
		}
		told := export.Description // it may say which volume this is
		export.release()
		*export = again
		if uint64(again.Device.Size()) < agreed.sizeBytes || again.ReadOnly != agreed.readOnly || again.Description != told {
			return nil, errReplaced
		}
	}
	t := newTransmission(c.server, c.conn, bytes, export.Device, agreed)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return nil, errDraining
	}
	c.transmission = t
	return t, nil
}

// choose makes the connection visible to Disconnect, unless one was called since *disconnects, which it updates.
func (c *connection) choose(name string, disconnects *uint64) bool {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disconnects != *disconnects {
		*disconnects = s.disconnects
		return false
	}
	c.chosen, c.export, c.choice = true, name, s.choices
	s.choices++
	return true
}

// drain ends the connection after its requests in flight.
func (c *connection) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
	if c.transmission != nil {
		c.transmission.drain()
		return
	}
	_ = c.conn.Close() // ends the handshake
}

// endLocked notes that the connection is to end.
func (c *connection) endLocked() {
	if !c.draining {
		close(c.ending)
	}
	c.draining = true
}

// kill cuts the connection.
func (c *connection) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
	if c.transmission != nil {
		c.transmission.kill()
		return
	}
	_ = c.conn.Close() // ends the handshake
}

func (s *Server) disconnectsSoFar() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disconnects
}

func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
	s.retireLocked(c)
}
