package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gone closes the client's end of the only connection, and returns once the server has forgotten it.
func (f *fixture) gone(w *wire) {
	f.tb.Helper()
	f.mu.Lock()
	var done chan struct{}
	for c := range f.connections {
		done = c.done
	}
	f.mu.Unlock()
	w.conn.Close()
	<-done
}

// oldAge is how long the server of startOld has been there: longer than any request takes, so that one whose beginning
// was forgotten shows.
const oldAge = 24 * time.Hour

func startOld(t *testing.T, e Export) *fixture {
	f := prepare(t, Config{}, e)
	f.begun = f.begun.Add(-oldAge)
	f.serve()
	return f
}

// command returns what was counted for one command of the export a.
func (f *fixture) command(name string) CommandStats {
	f.tb.Helper()
	for _, c := range f.Stats().Exports["a"].Commands {
		if c.Command == name {
			return c
		}
	}
	f.tb.Fatalf("nothing is counted for %s", name)
	return CommandStats{}
}

// TestStatsCountEachRequest sends some of everything, and compares what was counted: while the client is there, and
// after it has left.
func TestStatsCountEachRequest(t *testing.T) {
	m := newMemory(testSize)
	f := startOld(t, Export{Name: "a", Device: m})
	w := f.connect(true)
	for range 3 {
		w.want(codeOK, request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
	}
	w.want(codeOK, request{kind: cmdRead, length: 1000})
	m.cold.Store(true)
	w.want(codeOK, request{kind: cmdRead, length: 2000})
	w.want(codeOK, request{kind: cmdRead})
	w.want(codeOK, request{kind: cmdFlush})
	w.want(codeOK, request{kind: cmdTrim, length: 8192})
	w.want(codeOK, request{kind: cmdWriteZeroes, length: 512, flags: cmdFlagFUA})
	w.want(codeOK, request{kind: cmdCache, length: 4096})
	w.want(codeOK, request{kind: cmdBlockStatus, length: 65536})
	w.want(codeInvalid, request{kind: 4711})
	w.want(codeNoSpace, request{kind: cmdWrite, offset: testSize, length: 100}, make([]byte, 100)...)
	w.want(codeInvalid, request{kind: cmdRead, offset: testSize, length: 1})
	m.fail(fmt.Errorf("full: %w", syscall.ENOSPC))
	w.want(codeNoSpace, request{kind: cmdWrite, length: 512}, make([]byte, 512)...)
	m.fail(errors.New("broken"))
	w.want(codeIO, request{kind: cmdRead, length: 700})
	m.cold.Store(false)
	w.want(codeIO, request{kind: cmdRead, length: 800})
	w.want(codeIO, request{kind: cmdFlush})
	w.want(codeIO, request{kind: cmdTrim, length: 1})
	w.want(codeIO, request{kind: cmdBlockStatus, length: 1})
	type counts struct {
		requests, bytes uint64
		errors          map[string]uint64
	}
	want := map[string]counts{
		"read":         {6, 1000 + 2000 + 700 + 800, map[string]uint64{"EINVAL": 1, "EIO": 2}},
		"write":        {5, 3*4096 + 512, map[string]uint64{"ENOSPC": 2}},
		"flush":        {2, 0, map[string]uint64{"EIO": 1}},
		"trim":         {2, 8192 + 1, map[string]uint64{"EIO": 1}},
		"write_zeroes": {1, 512, map[string]uint64{}},
		"cache":        {1, 4096, map[string]uint64{}},
		"block_status": {2, 65536 + 1, map[string]uint64{"EIO": 1}},
		"unknown":      {1, 0, map[string]uint64{"EINVAL": 1}},
	}
	requests := uint64(0)
	for name, c := range want {
		requests += c.requests
		if got := f.command(name); got.Requests != c.requests || got.Bytes != c.bytes || !maps.Equal(got.Errors, c.errors) {
			t.Errorf("%s: %d requests, %d bytes, errors %v; want %+v", name, got.Requests, got.Bytes, got.Errors, c)
		}
	}
	if s := f.Stats(); s.Transmitting != 1 || s.Handshaking != 0 || s.Draining != 0 || s.Accepted != 1 || s.Exports["a"].Connections != 1 {
		t.Errorf("one client: %+v", s)
	}
	f.gone(w)
	s := f.Stats()
	if s.Transmitting != 0 || s.InFlightBytes != 0 || s.Exports["a"].Connections != 0 || s.Exports["a"].Batch.Sum != float64(requests) {
		t.Errorf("no client, %d requests before: %+v", requests, s)
	}
	for name, c := range want {
		got := f.command(name)
		if got.Requests != c.requests || got.Bytes != c.bytes || !maps.Equal(got.Errors, c.errors) {
			t.Errorf("%s, afterwards: %d requests, %d bytes, errors %v; want %+v", name, got.Requests, got.Bytes, got.Errors, c)
		}
		if got.Latency.Count != c.requests || got.Latency.Sum <= 0 || got.Latency.Sum >= oldAge.Seconds() {
			t.Errorf("%s: %d latencies, %g s together, of %d requests", name, got.Latency.Count, got.Latency.Sum, c.requests)
		}
	}
	f.Forget("a")
	if s := f.Stats(); len(s.Exports) != 0 {
		t.Errorf("after Forget: %+v", s.Exports)
	}
}

// TestStatsLatencyBeginsAtParsing holds requests up in the device: what they took is at least that long.
func TestStatsLatencyBeginsAtParsing(t *testing.T) {
	for _, c := range []struct {
		name string
		r    request
		sent int // bytes with the request; the answer has the others
		gate func(m *memory, g *gate)
	}{
		{"write", request{kind: cmdWrite, length: 1 << 20}, 1 << 20, func(m *memory, g *gate) { m.applyGate = g }},
		{"flush", request{kind: cmdFlush}, 0, func(m *memory, g *gate) { m.flushGate = g }},
		{"read", request{kind: cmdRead, length: 1 << 20}, 0, func(m *memory, g *gate) { m.readGate = g }},
	} {
		m, g := newMemory(testSize), newGate()
		c.gate(m, g)
		m.cold.Store(true)
		f := startOld(t, Export{Name: "a", Device: m})
		w := f.connect(false)
		w.send(c.r, make([]byte, c.sent)...)
		<-g.entered
		entered := f.now()
		s := f.Stats()
		if s.InFlightBytes != c.r.chargeBytes() {
			t.Errorf("%s: %d bytes in flight, want %d", c.name, s.InFlightBytes, c.r.chargeBytes())
		}
		if c.r.length > 0 && used(s) < 1<<20 {
			t.Errorf("%s: %d bytes of buffers, want a MiB at least", c.name, used(s))
		}
		if got := f.command(c.name); got.Requests != 1 || got.Latency.Count != 0 {
			t.Errorf("%s under way: %d requests, %d latencies", c.name, got.Requests, got.Latency.Count)
		}
		held := f.now() - entered
		close(g.open)
		w.next(int(c.r.length) - c.sent)
		f.gone(w)
		if got := f.command(c.name); got.Latency.Count != 1 || got.Latency.Sum < held.Seconds() || got.Latency.Sum >= oldAge.Seconds() {
			t.Errorf("%s: %d latencies of %g s together, held up for %v", c.name, got.Latency.Count, got.Latency.Sum, held)
		}
		if s := f.Stats(); s.InFlightBytes != 0 || used(s) != 0 {
			t.Errorf("%s: %d bytes in flight and %d of buffers without a client", c.name, s.InFlightBytes, used(s))
		}
	}
}

func used(s Stats) int64 {
	n := int64(0)
	for _, b := range s.Buffers {
		n += b.UsedBytes
	}
	return n
}

// TestStatsNeverDecrease asks for stats while clients come and go.
func TestStatsNeverDecrease(t *testing.T) {
	const clients, rounds, each = 4, 10, 20
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	var working sync.WaitGroup
	for range clients {
		working.Go(func() {
			for range rounds {
				w := f.connect(false)
				for range each {
					w.want(codeOK, request{kind: cmdFlush})
				}
				w.conn.Close()
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		working.Wait()
	}()
	requests, batches := uint64(0), uint64(0)
	for working := true; working; {
		select {
		case <-finished:
			working = false
		default:
		}
		e := f.Stats().Exports["a"]
		if e.Commands == nil {
			continue // nobody has come yet
		}
		n := e.Commands[cmdFlush].Requests
		if n < requests || e.Batch.Count < batches {
			t.Fatalf("%d requests, %d batches after %d, %d", n, e.Batch.Count, requests, batches)
		}
		requests, batches = n, e.Batch.Count
	}
	if requests != clients*rounds*each {
		t.Errorf("%d requests, want %d", requests, clients*rounds*each)
	}
}

// noExport is an Exports that has something, and cannot give it.
type noExport struct{}

func (noExport) Lookup(string) (Export, error) { return Export{}, errors.New("damaged") }
func (noExport) List() []Listing               { return nil }

// TestHandshakeFailures ends handshakes in each way there is.
func TestHandshakeFailures(t *testing.T) {
	ask := func(_ *fixture, w *wire) {
		w.greet(flagFixedNewstyle)
		w.option(optGo, infoRequest{name: "b"}.encode())
		w.wantReply(optGo, repErrUnknown)
		w.leave()
	}
	for reason, c := range map[string]struct {
		exports Exports
		timeout time.Duration
		tls     *TLS
		network string // unix, where it says nothing else
		do      func(f *fixture, w *wire)
	}{
		reasonAborted: {do: func(_ *fixture, w *wire) {
			w.greet(flagFixedNewstyle)
			w.option(optAbort, nil)
			w.wantReply(optAbort, repAck)
		}},
		reasonLeft: {do: func(_ *fixture, w *wire) {
			w.read(greetingBytes)
			w.leave()
		}},
		reasonTimeout:     {timeout: time.Millisecond, do: func(_ *fixture, w *wire) { w.read(greetingBytes) }},
		reasonProtocol:    {do: func(_ *fixture, w *wire) { w.greet(1 << 15) }},
		reasonUnknown:     {do: ask},
		reasonUnavailable: {exports: noExport{}, do: ask},
		reasonTLS: {tls: &TLS{Identity: func() Identity { return Identity{} }}, do: func(_ *fixture, w *wire) {
			w.greet(flagFixedNewstyle)
			w.option(optStartTLS, nil)
			w.wantReply(optStartTLS, repAck)
			w.write([]byte("nothing like a client's hello"))
			if _, err := io.Copy(io.Discard, w.conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				w.tb.Error(err)
			}
		}},
		reasonPlaintext: {tls: &TLS{Identity: func() Identity { return Identity{} }, Require: true}, network: "tcp", do: func(_ *fixture, w *wire) {
			w.greet(flagFixedNewstyle)
			w.option(optExportName, []byte("a"))
		}},
		reasonStopping: {do: func(f *fixture, w *wire) {
			w.read(greetingBytes)
			if err := f.Close(); err != nil {
				w.tb.Error(err)
			}
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			f := prepare(t, Config{HandshakeTimeout: c.timeout, TLS: c.tls}, Export{Name: "a", Device: newMemory(testSize)})
			if c.exports != nil {
				f.Server.cfg.Exports = c.exports
			}
			w := f.open(cmp.Or(c.network, "unix"))
			c.do(f, w)
			w.wantEnd()
			for r, n := range f.Stats().HandshakeFailures {
				if (r == reason) != (n == 1) || n > 1 {
					t.Errorf("%d failures for the reason %s", n, r)
				}
			}
		})
	}
}

// open serves on a socket of that network, and connects to it.
func (f *fixture) open(network string) *wire {
	f.tb.Helper()
	f.serve()
	if network == "unix" {
		return f.dial()
	}
	l, err := net.Listen(network, "127.0.0.1:0")
	if err != nil {
		f.tb.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- f.Serve(ctx, l) }()
	f.tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			f.tb.Error(err)
		}
	})
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(func() { conn.Close() })
	return &wire{tb: f.tb, conn: conn}
}

// leave ends the client's half of the connection.
func (w *wire) leave() {
	w.tb.Helper()
	if err := w.conn.(*net.UnixConn).CloseWrite(); err != nil {
		w.tb.Fatal(err)
	}
}

// TestCommandsHaveNames: a command, a code or a reason without a name would be counted for nothing.
func TestCommandsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range append(Commands(), HandshakeReasons()...) {
		if name == "" || seen[name] {
			t.Errorf("name %q", name)
		}
		seen[name] = true
	}
	for _, code := range []uint32{codePerm, codeIO, codeNoMem, codeInvalid, codeNoSpace, codeOverflow, codeNotSup, codeShutdown} {
		if got := codeNames()[codeIndex(code)]; got.code != code || got.name == "" {
			t.Errorf("code %d is counted as %+v", code, got)
		}
	}
	for _, kind := range []uint16{cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdCache, cmdWriteZeroes, cmdBlockStatus} {
		if slotOf(kind) != int(kind) || slotOf(kind) == unknownSlot {
			t.Errorf("command %d is counted as %s", kind, Commands()[slotOf(kind)])
		}
	}
}

// BenchmarkTally counts a batch of one request.
func BenchmarkTally(b *testing.B) {
	var t tally
	batch := &batch{count: 1}
	batch.received[cmdWrite], batch.receivedBytes[cmdWrite] = 1, 4096
	a := &answers{}
	a.answered[cmdWrite] = 1
	s := &Server{begun: time.Now()}
	b.ReportAllocs()
	for range b.N {
		a.parsed = s.now()
		t.received(batch)
		t.answered(a, s.now())
	}
}

// TestStatsOfAnswersInParts: what is answered apart from the batch that it came in, because that has many data or was
// taken over, took as long as it took.
func TestStatsOfAnswersInParts(t *testing.T) {
	m, applies, flushes := newMemory(testSize), newGate(), newGate()
	m.applyGate, m.flushGate = applies, flushes
	f := prepare(t, Config{}, Export{Name: "a", Device: m})
	f.begun, f.takeoverDelay = f.begun.Add(-oldAge), 1
	f.serve()
	w := f.connect(false)
	read := request{kind: cmdRead, length: replyBufferBytes - 1}
	w.write(append(append(encoded(read), encoded(read)...), encoded(read)...))
	for range 3 {
		w.next(int(read.length))
	}
	for kind, g := range map[uint16]*gate{cmdTrim: applies, cmdFlush: flushes} {
		r := request{kind: kind}
		if kind == cmdTrim {
			r.length = 1
		}
		w.send(r)
		w.send(request{kind: cmdRead, length: 1})
		<-g.entered
		w.next(1) // by who took over
		close(g.open)
		w.next(0)
	}
	f.gone(w)
	for name, n := range map[string]uint64{"read": 5, "trim": 1, "flush": 1} {
		if got := f.command(name).Latency; got.Count != n || got.Sum >= oldAge.Seconds() {
			t.Errorf("%s: %d latencies, %g s together; want %d", name, got.Count, got.Sum, n)
		}
	}
}

// TestStatsOfAnswersThatNobodyTakes: a request is counted, and how long it took is not.
func TestStatsOfAnswersThatNobodyTakes(t *testing.T) {
	m, g := newMemory(testSize), newGate()
	m.applyGate = g
	f := start(t, Config{}, Export{Name: "a", Device: m})
	w := f.connect(false)
	w.send(request{kind: cmdTrim, length: 1})
	<-g.entered
	transmission := f.onlyTransmission()
	w.conn.Close()
	close(g.open)
	transmission.goroutines.Wait()
	if got := f.command("trim"); got.Requests != 1 || got.Latency.Count != 0 {
		t.Errorf("%d requests, %d latencies; want one that was not answered", got.Requests, got.Latency.Count)
	}
}
