package nbd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// exports is an Exports of fixed devices that counts what is not released.
type exports struct {
	mu     sync.Mutex
	byName map[string]Export
	def    string // name of the default export
	lent   int
	idle   *sync.Cond // lent fell to 0
}

func newExports(list ...Export) *exports {
	e := &exports{byName: make(map[string]Export)}
	e.idle = sync.NewCond(&e.mu)
	for _, x := range list {
		e.byName[x.Name] = x
	}
	if len(list) > 0 {
		e.def = list[0].Name
	}
	return e
}

func (e *exports) Lookup(name string) (Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if name == "" {
		name = e.def
	}
	x, ok := e.byName[name]
	if !ok {
		return Export{}, fmt.Errorf("%w: %q", ErrUnknownExport, name)
	}
	e.lent++
	x.Release = func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.lent--; e.lent < 0 {
			panic("released more often than lent")
		}
		e.idle.Broadcast()
	}
	return x, nil
}

func (e *exports) List() []Listing {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []Listing
	for name, x := range e.byName {
		list = append(list, Listing{Name: name, Description: x.Description})
	}
	return list
}

func (e *exports) withdraw(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byName, name)
}

func (e *exports) awaitIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.lent > 0 {
		e.idle.Wait()
	}
}

// fixture is a server on a Unix socket.
type fixture struct {
	*Server
	tb      testing.TB
	path    string
	exports *exports
	stop    context.CancelFunc
	served  chan error
	tls     *tls.Config // of clients; nil: connect stays in plaintext
}

// start serves until the test ends, then checks that nothing is left. Buffers come from the heap, where the race
// detector sees them, and are overwritten when given back.
func start(tb testing.TB, cfg Config, list ...Export) *fixture {
	f := prepare(tb, cfg, list...)
	f.pool.mapMemory = func(n int) ([]byte, error) { return make([]byte, n), nil }
	f.pool.unmapMemory = func([]byte) {}
	f.pool.poison = true
	f.serve()
	return f
}

func prepare(tb testing.TB, cfg Config, list ...Export) *fixture {
	tb.Helper()
	f := &fixture{tb: tb, exports: newExports(list...), served: make(chan error, 1)}
	cfg.Exports = f.exports
	cfg.Logger = zerolog.Nop()
	if isInsideTLS(tb) {
		cfg.TLS, f.tls = mutualTLS(tb)
	}
	f.Server = NewServer(cfg)
	f.path = filepath.Join(tb.TempDir(), "nbd.sock")
	return f
}

func (f *fixture) serve() {
	l, err := net.Listen("unix", f.path)
	if err != nil {
		f.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.served <- f.Serve(ctx, l) }()
	f.tb.Cleanup(f.finish)
}

func (f *fixture) finish() {
	f.stop()
	if err := <-f.served; err != nil {
		f.tb.Errorf("Serve: %v", err)
	}
	if err := f.Close(); err != nil {
		f.tb.Errorf("Close: %v", err)
	}
	f.exports.mu.Lock()
	defer f.exports.mu.Unlock()
	if f.exports.lent != 0 {
		f.tb.Errorf("%d exports were not released", f.exports.lent)
	}
	if n := f.pool.lent; n != 0 {
		f.tb.Errorf("%d buffers were not given back", n)
	}
	for name, q := range map[string]*quota{"receives": f.receives, "larges": f.larges, "replies": f.replies} {
		if !q.sem.TryAcquire(q.limitBytes) {
			f.tb.Errorf("buffers of quota %s were not released", name)
		}
	}
}

func (f *fixture) dial() *wire {
	f.tb.Helper()
	conn, err := net.Dial("unix", f.path)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(func() { conn.Close() })
	return &wire{tb: f.tb, conn: conn}
}

// connect dials and enters transmission, inside TLS where the fixture has it.
func (f *fixture) connect(structured bool) *wire {
	f.tb.Helper()
	if structured {
		return f.connectWith(styleStructured)
	}
	return f.connectWith(styleSimple)
}

// connectWith is connect for any style; in chunks it selects base:allocation.
func (f *fixture) connectWith(s style) *wire {
	f.tb.Helper()
	w := f.dial()
	w.greet(flagFixedNewstyle | flagNoZeroes)
	if f.tls != nil {
		w.startTLS(f.tls)
	}
	if s.chunked() {
		code := optStructuredReply
		if s == styleExtended {
			code = optExtendedHeaders
		}
		w.option(code, nil)
		w.wantReply(code, repAck)
		w.option(optSetMetaContext, contextRequest{queries: []string{contextAllocation}}.encode())
		w.wantReply(optSetMetaContext, repMetaContext)
		w.wantReply(optSetMetaContext, repAck)
		w.style = s
	}
	w.option(optGo, infoRequest{}.encode())
	w.wantReply(optGo, repInfo)
	w.wantReply(optGo, repAck)
	return w
}

// onlyTransmission returns the transmission of the only connection.
func (f *fixture) onlyTransmission() *transmission {
	f.tb.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.connections) != 1 {
		f.tb.Fatalf("%d connections, want 1", len(f.connections))
	}
	for c := range f.connections {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.transmission
	}
	return nil
}
