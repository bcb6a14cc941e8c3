package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

var (
	// ErrUnknownExport is what Exports.Lookup wraps for a name that it does not have.
	ErrUnknownExport = errors.New("unknown export")
	// ErrClosed is returned by Serve on a server that was shut down before.
	ErrClosed = errors.New("nbd server is closed")
)

// Exports are the devices that clients may ask for. Its methods may be called from many goroutines at once.
type Exports interface {
	// Lookup finds an export by name; "" asks for the default one. An unknown name is an error that wraps
	// ErrUnknownExport.
	Lookup(name string) (Export, error)

	// List returns the exports that clients may see.
	List() []Listing
}

// Listing is an export as a list shows it.
type Listing struct {
	Name        string // canonical
	Description string // for people; may be empty
}

// Export is a device under a name, as Lookup lends it to one client.
type Export struct {
	Name        string // canonical; a client may have asked for it by another one
	Description string // for people; may be empty
	ReadOnly    bool
	Device      Device

	// Release, where it is not nil, is called once for each Lookup that succeeded, when the server will not touch
	// Device on its account again.
	Release func()
}

func (e Export) release() {
	if e.Release != nil {
		e.Release()
	}
}

// Config says what a server serves, and its limits. A limit of 0 means the default.
type Config struct {
	Exports Exports // required
	Logger  zerolog.Logger
	TLS     *TLS // nil: connections are in plaintext

	HandshakeTimeout time.Duration // for all of the handshake; default 10 s
	ReceiveTimeout   time.Duration // for the rest of a request, and 1 s more for each MiB; default 30 s
	WriteTimeout     time.Duration // for a client that is behind to take 1 MiB, or what is left; default 30 s

	MaxConnections int   // more are closed at once; default 1024
	InFlightBytes  int64 // of requests of one connection that are not answered; default 64 MiB
	BufferBytes    int64 // of buffers, for all connections; one larger request is admitted alone; default 256 MiB
	ReadWorkers    int   // goroutines for reads that wait for a disk; default 64
}

func (c Config) validate() (Config, error) {
	if c.Exports == nil {
		return c, errors.New("no exports")
	}
	if c.TLS != nil && c.TLS.Identity == nil {
		return c, errors.New("TLS without an identity")
	}
	c.HandshakeTimeout = positive(c.HandshakeTimeout, 10*time.Second)
	c.ReceiveTimeout = positive(c.ReceiveTimeout, 30*time.Second)
	c.WriteTimeout = positive(c.WriteTimeout, 30*time.Second)
	c.MaxConnections = positive(c.MaxConnections, 1024)
	c.InFlightBytes = positive(c.InFlightBytes, 64<<20)
	c.BufferBytes = positive(c.BufferBytes, 256<<20)
	c.ReadWorkers = positive(c.ReadWorkers, 64)
	return c, nil
}

func positive[T ~int | ~int64](n, otherwise T) T {
	if n > 0 {
		return n
	}
	return otherwise
}

// Server serves exports on any number of listeners.
type Server struct {
	cfg           Config
	takeoverDelay time.Duration

	pressedTimeout time.Duration

	// The memory budget, in three shares. A connection that holds a buffer of one waits only for later ones.
	pool                      *pool
	receives, larges, replies *quota
	answers                   answerPool
	batches                   batchPool
	reads                     readPool
	records                   recordPool

	mu          sync.Mutex
	closed      bool
	listeners   map[net.Listener]chan struct{} // closed when its Serve has returned
	connections map[*connection]struct{}
	disconnects uint64            // calls of Disconnect so far
	choices     uint64            // clients that have chosen an export so far
	retired     map[string]*tally // by export: of the connections there were

	begun    time.Time // what now counts from
	counters counters
}

// NewServer makes a server. It panics where cfg has no Exports, or TLS without an Identity.
func NewServer(cfg Config) *Server {
	cfg, err := cfg.validate()
	if err != nil {
		panic("nbd: new server: " + err.Error())
	}
	p := newPool()
	return &Server{
		cfg:           cfg,
		takeoverDelay: takeoverDelay,

		pressedTimeout: pressedTimeout,
		pool:           p,
		receives:       newQuota(p, max(cfg.BufferBytes/4, 1)),
		larges:         newQuota(p, max(cfg.BufferBytes/4, 1)),
		replies:        newQuota(p, max(cfg.BufferBytes/2, 1)),
		reads:          readPool{limit: cfg.ReadWorkers, shareBytes: cfg.BufferBytes / 16},
		listeners:      make(map[net.Listener]chan struct{}),
		connections:    make(map[*connection]struct{}),
		retired:        make(map[string]*tally),
		begun:          time.Now(),
	}
}

// Connections is how many clients are connected, those in the handshake included.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.connections)
}

// ConnectionsTo is how many clients use the export of that canonical name.
func (s *Server) ConnectionsTo(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.connections {
		if c.chosen && c.export == name {
			n++
		}
	}
	return n
}

// Serve accepts clients on l until ctx ends or the server is shut down, which are no errors, and closes l. Connections
// it accepted go on until Shutdown or Close. It returns ErrClosed if the server was shut down before.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	done := make(chan struct{})
	defer close(done)
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = done
	s.mu.Unlock()
	defer s.forget(l)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err == nil {
			s.admit(conn)
			continue
		}
		if ctx.Err() != nil || s.isClosed() {
			return nil
		}
		if !passes(err) {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		s.cfg.Logger.Warn().Err(err).Msg("nbd accept failed, will try again")
		s.pause(ctx)
	}
}

// passes reports whether an error of Accept is about one connection, or a shortage that may pass.
func passes(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause keeps a shortage from turning Serve into a busy loop.
func (s *Server) pause(ctx context.Context) {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (s *Server) forget(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit starts serving a client, or closes the connection when there are too many.
func (s *Server) admit(conn net.Conn) {
	c := &connection{server: s, conn: conn, ending: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	full := len(s.connections) >= s.cfg.MaxConnections
	if !full && !s.closed {
		s.counters.accepted.Add(1)
		s.connections[c] = struct{}{}
		s.mu.Unlock()
		go c.run()
		return
	}
	s.mu.Unlock()
	if full {
		s.counters.refused.Add(1)
		s.cfg.Logger.Warn().Int("limit", s.cfg.MaxConnections).Msg("nbd client refused, too many connections")
	}
	_ = conn.Close() // nothing was promised on it
}

// Shutdown stops accepting, lets the requests in flight finish, answers them, and closes every connection. When ctx
// ends before that is done, it cuts what is left and returns an error without waiting for it; Close waits.
func (s *Server) Shutdown(ctx context.Context) error {
	connections, serving := s.close()
	for _, c := range connections {
		c.drain()
	}
	if err := await(ctx, connections); err != nil {
		for _, c := range connections {
			c.kill()
		}
		return fmt.Errorf("shut down nbd server: %w", err)
	}
	s.finish(serving)
	return nil
}

// Close stops accepting, cuts every connection, and waits until their requests in flight have finished. It may be
// called more than once, and after Shutdown.
func (s *Server) Close() error {
	connections, serving := s.close()
	for _, c := range connections {
		c.kill()
	}
	for _, c := range connections {
		<-c.done
	}
	s.finish(serving)
	return nil
}

// close ends accepting and returns what there is to wait for.
func (s *Server) close() (connections []*connection, serving []chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l, done := range s.listeners {
		_ = l.Close() // Serve closes it as well
		serving = append(serving, done)
	}
	for c := range s.connections {
		connections = append(connections, c)
	}
	return connections, serving
}

// finish waits for what works for no connection, once all of them are gone.
func (s *Server) finish(serving []chan struct{}) {
	for _, done := range serving {
		<-done
	}
	s.reads.goroutines.Wait()
	s.pool.close()
}

// Disconnect ends all connections to the export of that canonical name, as Shutdown does, and waits until each has
// released it. A client may come back at once unless Lookup refuses it, so the export is withdrawn first.
func (s *Server) Disconnect(ctx context.Context, name string) error {
	var connections []*connection
	s.mu.Lock()
	s.disconnects++
	for c := range s.connections {
		if c.chosen && c.export == name {
			connections = append(connections, c)
		}
	}
	s.mu.Unlock()
	for _, c := range connections {
		c.drain()
	}
	if err := await(ctx, connections); err != nil {
		for _, c := range connections {
			c.kill()
		}
		return fmt.Errorf("disconnect clients of export %q: %w", name, err)
	}
	return nil
}

func await(ctx context.Context, connections []*connection) error {
	for _, c := range connections {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
