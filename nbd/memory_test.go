package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
)

// memory is a Device in memory that can block, fail and count.
type memory struct {
	mu   sync.Mutex
	data []byte
	hole []bool // for each 4 KiB

	cold     atomic.Bool // ReadNoWait never has anything
	failWith atomic.Pointer[error]

	applies, changes, flushes, reads, coldReads atomic.Int64

	// Each call of the kind sends itself on entered and waits for release, where these are not nil.
	applyGate, flushGate, readGate *gate
}

// gate stops calls at its door.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1024), open: make(chan struct{})} }

func (g *gate) pass() {
	if g != nil {
		g.entered <- struct{}{}
		<-g.open
	}
}

func newMemory(size int) *memory {
	m := &memory{data: make([]byte, size), hole: make([]bool, (size+4095)/4096)}
	for i := range m.hole {
		m.hole[i] = true
	}
	return m
}

// contents returns a copy of the range.
func (m *memory) contents(offset, length int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data[offset : offset+length])
}

func (m *memory) fail(err error) { m.failWith.Store(&err) }

func (m *memory) failure() error {
	if p := m.failWith.Load(); p != nil {
		return *p
	}
	return nil
}

func (m *memory) Size() int64    { return int64(len(m.data)) }
func (m *memory) BlockSize() int { return 4096 }

func (m *memory) Read(p []byte, offset int64) error {
	m.coldReads.Add(1)
	m.readGate.pass()
	return m.copyOut(p, offset)
}

func (m *memory) ReadNoWait(p []byte, offset int64) (bool, error) {
	if m.cold.Load() {
		return false, nil
	}
	return true, m.copyOut(p, offset)
}

func (m *memory) copyOut(p []byte, offset int64) error {
	m.reads.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(p, m.data[offset:offset+int64(len(p))])
	return m.failure()
}

func (m *memory) Apply(changes []Change) {
	m.applies.Add(1)
	m.changes.Add(int64(len(changes)))
	m.applyGate.pass()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range changes {
		c := &changes[i]
		if c.Err = m.failure(); c.Err != nil {
			continue
		}
		if c.Op == OpWrite {
			copy(m.data[c.Offset:c.Offset+c.Length], c.Data)
		} else {
			clear(m.data[c.Offset : c.Offset+c.Length])
		}
		for b := c.Offset / 4096; b <= (c.Offset+c.Length-1)/4096; b++ {
			whole := b*4096 >= c.Offset && (b+1)*4096 <= c.Offset+c.Length
			m.hole[b] = c.Op != OpWrite && !c.NoHole && (whole || m.hole[b])
		}
	}
}

func (m *memory) Flush() error {
	m.flushes.Add(1)
	m.flushGate.pass()
	return m.failure()
}

func (m *memory) Extents(offset, length int64, limit int) ([]Extent, error) {
	if err := m.failure(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var extents []Extent
	for end := offset + length; offset < end; {
		hole := m.hole[offset/4096]
		n := min((offset/4096+1)*4096, end) - offset
		offset += n
		if last := len(extents) - 1; last >= 0 && extents[last].Hole == hole {
			extents[last].Length += n
			continue
		}
		if len(extents) == limit {
			break
		}
		extents = append(extents, Extent{Length: n, Hole: hole, Zero: hole})
	}
	return extents, nil
}

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

func (e *exports) List() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for name := range e.byName {
		names = append(names, name)
	}
	return names
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

// connect dials and enters transmission.
func (f *fixture) connect(structured bool) *wire {
	f.tb.Helper()
	w := f.dial()
	w.greet(flagFixedNewstyle | flagNoZeroes)
	if structured {
		w.option(optStructuredReply, nil)
		w.wantReply(optStructuredReply, repAck)
		w.option(optSetMetaContext, contextRequest{queries: []string{contextAllocation}}.encode())
		w.wantReply(optSetMetaContext, repMetaContext)
		w.wantReply(optSetMetaContext, repAck)
		w.structured = true
	}
	w.option(optGo, infoRequest{}.encode())
	w.wantReply(optGo, repInfo)
	w.wantReply(optGo, repAck)
	return w
}

// wire is a client made of raw bytes.
type wire struct {
	tb         testing.TB
	conn       net.Conn
	structured bool
}

func (w *wire) write(b []byte) {
	w.tb.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.tb.Fatalf("client writes %d bytes: %v", len(b), err)
	}
}

func (w *wire) read(n int) []byte {
	w.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(w.conn, b); err != nil {
		w.tb.Fatalf("client reads %d bytes: %v", n, err)
	}
	return b
}

// wantEnd checks that the server closes without another byte.
func (w *wire) wantEnd() {
	w.tb.Helper()
	n, err := w.conn.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		w.tb.Fatalf("connection goes on: %d bytes, error %v", n, err)
	}
}

func (w *wire) greet(flags uint16) {
	w.tb.Helper()
	w.read(greetingBytes)
	w.write([]byte{0, 0, byte(flags >> 8), byte(flags)})
}

func (w *wire) option(code uint32, data []byte) {
	w.tb.Helper()
	b := make([]byte, optionBytes)
	option{code: code, length: uint32(len(data))}.encode(b)
	w.write(append(b, data...))
}

func (w *wire) wantReply(code, kind uint32) []byte {
	w.tb.Helper()
	header := w.read(20)
	want := appendOptionReply(nil, code, kind)
	if !bytes.Equal(header[:16], want[:16]) {
		w.tb.Fatalf("reply to option %d: got %x, want %x", code, header[:16], want[:16])
	}
	n := int(header[16])<<24 | int(header[17])<<16 | int(header[18])<<8 | int(header[19])
	return w.read(n)
}

func encoded(r request, payload ...byte) []byte {
	b := make([]byte, requestBytes)
	r.encode(b)
	return append(b, payload...)
}

func (w *wire) send(r request, payload ...byte) {
	w.tb.Helper()
	w.write(encoded(r, payload...))
}

// answer is one reply with its payload.
type answer struct {
	reply
	payload []byte
}

// next reads a reply; data is the length of a read that a simple reply may answer.
func (w *wire) next(data int) answer {
	w.tb.Helper()
	b := w.read(simpleBytes)
	if bytes.Equal(b[:4], []byte{0x66, 0x8e, 0x33, 0xef}) {
		b = append(b, w.read(chunkBytes-simpleBytes)...)
	}
	r, err := decodeReply(b)
	if err != nil {
		w.tb.Fatalf("decode reply %x: %v", b, err)
	}
	a := answer{reply: r}
	if r.structured {
		a.payload = w.read(int(r.length))
		if r.kind == chunkError {
			a.code = uint32(a.payload[2])<<8 | uint32(a.payload[3])
		}
	} else if r.code == codeOK {
		a.payload = w.read(data)
	}
	return a
}

// want sends a request and checks the code of its answer.
func (w *wire) want(code uint32, r request, payload ...byte) answer {
	w.tb.Helper()
	w.send(r, payload...)
	data := 0
	if r.kind == cmdRead && !w.structured {
		data = int(r.length)
	}
	a := w.next(data)
	if a.cookie != r.cookie || a.code != code {
		w.tb.Fatalf("request %+v: got cookie %d code %d, want code %d", r, a.cookie, a.code, code)
	}
	return a
}
