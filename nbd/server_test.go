package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// TestFlushDoesNotHoldBackOthers blocks a Flush, and expects writes and reads of the same connection to be answered.
func TestFlushDoesNotHoldBackOthers(t *testing.T) {
	m := newMemory(testSize)
	m.flushGate = newGate()
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(false)
	w.write(append(encoded(request{kind: cmdWrite, cookie: 1, length: 1}, 'x'), encoded(request{kind: cmdFlush, cookie: 2})...))
	if a := w.next(0); a.cookie != 1 {
		t.Fatalf("answer %+v, want the write's, which the flush came with", a)
	}
	<-m.flushGate.entered
	w.want(codeOK, request{kind: cmdWrite, cookie: 3, length: 1}, 'y')
	w.want(codeOK, request{kind: cmdRead, cookie: 4, length: 1})
	close(m.flushGate.open)
	if a := w.next(0); a.cookie != 2 || a.code != codeOK {
		t.Fatalf("answer %+v", a)
	}
}

// TestApplyDoesNotHoldBackReads blocks one Apply after the other up to the bound.
func TestApplyDoesNotHoldBackReads(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate = newGate()
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(true)
	for i := range maxLeaders - 1 {
		w.send(request{kind: cmdWrite, cookie: uint64(i), length: 1}, byte(i))
		<-m.applyGate.entered
		w.want(codeOK, request{kind: cmdRead, cookie: 100, length: 1})
	}
	// The last leader has nobody to take over; what came with its write is answered all the same.
	w.write(append(encoded(request{kind: cmdRead, cookie: 200, length: 1}), encoded(request{kind: cmdTrim, cookie: 300, length: 1})...))
	if a := w.next(0); a.cookie != 200 {
		t.Fatalf("answer %+v", a)
	}
	<-m.applyGate.entered
	w.send(request{kind: cmdRead, cookie: 400, length: 1})
	close(m.applyGate.open)
	for range maxLeaders + 1 {
		if a := w.next(0); a.code != codeOK {
			t.Fatalf("answer %+v", a)
		}
	}
}

func TestSlowReadDoesNotHoldBackOthers(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate = newGate()
	w := start(t, Config{ReadWorkers: 2}, Export{Name: "a", Device: m}).connect(false)
	for i := range 5 {
		w.send(request{kind: cmdRead, cookie: uint64(i), length: 1})
	}
	<-m.readGate.entered
	<-m.readGate.entered
	w.want(codeOK, request{kind: cmdWrite, cookie: 10, length: 1}, 'x')
	w.want(codeOK, request{kind: cmdFlush, cookie: 11})
	if n := m.coldReads.Load(); n != 2 {
		t.Fatalf("%d reads wait for the disk, want no more than ReadWorkers", n)
	}
	close(m.readGate.open)
	for range 5 {
		w.next(1)
	}
}

// TestStalledClientHarmsNobody lets clients ask for more than sockets hold and read nothing, with all memory for
// replies within their reach; another one goes on, and the stalled ones are cut.
func TestStalledClientHarmsNobody(t *testing.T) {
	m := newMemory(8 << 20)
	cfg := Config{WriteTimeout: 50 * time.Millisecond, BufferBytes: 64 << 20}
	f := start(t, cfg, Export{Name: "a", Device: m})
	for range 4 {
		w := f.connect(false)
		for i := range 16 {
			w.send(request{kind: cmdRead, cookie: uint64(i), length: 4 << 20})
		}
	}
	w := f.connect(false)
	w.want(codeOK, request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
	w.want(codeOK, request{kind: cmdRead, length: 1 << 20})
	w.want(codeOK, request{kind: cmdFlush})
	f.awaitConnections(1)
}

// awaitConnections waits until no more than n are left.
func (f *fixture) awaitConnections(n int) {
	f.mu.Lock()
	ended := make(chan struct{}, len(f.connections))
	more := len(f.connections) - n
	for c := range f.connections {
		go func() {
			<-c.done
			ended <- struct{}{}
		}()
	}
	f.mu.Unlock()
	for range more {
		<-ended
	}
}

func TestClientThatStopsInAPayloadIsCut(t *testing.T) {
	f := start(t, Config{ReceiveTimeout: 20 * time.Millisecond}, Export{Name: "a", Device: newMemory(testSize)})
	for _, sent := range [][]byte{
		encoded(request{kind: cmdWrite, length: 4096}, 1, 2, 3),
		encoded(request{kind: cmdWrite, length: 512 << 10}, 1, 2, 3),
		encoded(request{kind: cmdWrite, offset: testSize, length: 4096}, 1, 2, 3), // refused, to be dropped
		encoded(request{kind: cmdFlush})[:10],
	} {
		w := f.connect(false)
		w.write(sent)
		w.wantEnd()
	}
	f.exports.awaitIdle()
	// One that is idle between requests is not cut.
	w := f.connect(false)
	w.write(encoded(request{kind: cmdFlush})[:10])
	w.write(encoded(request{kind: cmdFlush})[10:])
	w.next(0)
	timer := time.NewTimer(100 * time.Millisecond)
	<-timer.C
	w.want(codeOK, request{kind: cmdFlush})
}

func TestHandshakeTimeout(t *testing.T) {
	f := start(t, Config{HandshakeTimeout: 20 * time.Millisecond}, Export{Name: "a", Device: newMemory(testSize)})
	w := f.dial()
	w.read(greetingBytes)
	w.wantEnd()
	w = f.connect(false)
	timer := time.NewTimer(60 * time.Millisecond)
	<-timer.C
	w.want(codeOK, request{kind: cmdFlush}) // the limit ended with the handshake
}

// TestVanishedClient closes connections with requests in flight; their buffers and exports come back.
func TestVanishedClient(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate, m.readGate = newGate(), newGate()
	m.cold.Store(true)
	f := start(t, Config{}, Export{Name: "a", Device: m})
	for range 8 {
		w := f.connect(false)
		w.send(request{kind: cmdRead, length: 100 << 10})
		w.send(request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
		w.send(request{kind: cmdWrite, length: 100})
		<-m.applyGate.entered
		<-m.readGate.entered
		w.conn.Close()
	}
	close(m.applyGate.open)
	close(m.readGate.open)
	f.exports.awaitIdle()
}

// TestDisconnectRequest expects everything in flight to be answered before the end.
func TestDisconnectRequest(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate = newGate()
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(false)
	w.send(request{kind: cmdRead, cookie: 1, length: 10})
	w.write(append(encoded(request{kind: cmdWrite, cookie: 2, length: 1}, 'x'), encoded(request{kind: cmdDisconnect})...))
	if a := w.next(0); a.cookie != 2 {
		t.Fatalf("answer %+v", a)
	}
	close(m.readGate.open)
	if a := w.next(10); a.cookie != 1 || a.code != codeOK {
		t.Fatalf("answer %+v", a)
	}
	w.wantEnd()
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate = newGate()
	f := start(t, Config{}, Export{Name: "a", Device: m})
	idle, busy, greeted := f.connect(false), f.connect(false), f.dial()
	greeted.read(greetingBytes)
	busy.send(request{kind: cmdWrite, cookie: 9, length: 1}, 'x')
	<-m.applyGate.entered
	done := make(chan error)
	go func() { done <- f.Shutdown(context.Background()) }()
	idle.wantEnd()
	greeted.wantEnd()
	close(m.applyGate.open)
	if a := busy.next(0); a.cookie != 9 || a.code != codeOK {
		t.Fatalf("answer %+v", a)
	}
	busy.wantEnd()
	for _, w := range []*wire{idle, busy, greeted} {
		w.conn.Close()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", f.path); err == nil {
		t.Fatal("a server that was shut down accepts")
	}
	l, err := net.Listen("unix", f.path+"2")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Serve(context.Background(), l); !errors.Is(err, ErrClosed) {
		t.Fatalf("Serve after Shutdown: %v", err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate = newGate()
	f := start(t, Config{}, Export{Name: "a", Device: m})
	w := f.connect(false)
	w.send(request{kind: cmdWrite, length: 1}, 'x')
	<-m.applyGate.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Shutdown: %v", err)
	}
	w.wantEnd()
	f.exports.mu.Lock()
	lent := f.exports.lent
	f.exports.mu.Unlock()
	if lent != 1 {
		t.Fatal("export released while a request is inside it")
	}
	close(m.applyGate.open)
}

func TestDisconnectOfAnExport(t *testing.T) {
	a, b := newMemory(testSize), newMemory(testSize)
	f := start(t, Config{}, Export{Name: "a", Device: a}, Export{Name: "b", Device: b})
	first, second, early := f.connect(false), f.connect(false), f.dial()
	early.greet(flagFixedNewstyle)
	other := f.dial()
	other.greet(flagFixedNewstyle)
	other.option(optGo, infoRequest{name: "b"}.encode())
	other.wantReply(optGo, repInfo)
	other.wantReply(optGo, repAck)
	other.want(codeOK, request{kind: cmdFlush})
	first.want(codeOK, request{kind: cmdFlush})
	second.want(codeOK, request{kind: cmdFlush})
	if n := f.ConnectionsTo("a"); n != 2 {
		t.Fatalf("%d connections to a, want 2", n)
	}
	f.exports.withdraw("a")
	var clients sync.WaitGroup
	for _, w := range []*wire{first, second} {
		clients.Go(func() {
			w.wantEnd()
			w.conn.Close()
		})
	}
	if err := f.Disconnect(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	if n := f.ConnectionsTo("a"); n != 0 {
		t.Fatalf("%d connections to a are left", n)
	}
	other.want(codeOK, request{kind: cmdFlush})
	// A client in its handshake since before is looked up once more, and goes on where its export is still there.
	early.option(optGo, infoRequest{name: "b"}.encode())
	early.wantReply(optGo, repInfo)
	early.wantReply(optGo, repAck)
	early.want(codeOK, request{kind: cmdFlush})
}

// TestDisconnectDuringTheHandshake withdraws an export between Lookup and transmission.
func TestDisconnectDuringTheHandshake(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	c := &connection{server: f.Server}
	disconnects := f.disconnectsSoFar()
	export, err := f.exports.Lookup("a")
	if err != nil {
		t.Fatal(err)
	}
	f.exports.withdraw("a")
	if err := f.Disconnect(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.enter(&export, terms{sizeBytes: testSize}, disconnects); !errors.Is(err, ErrUnknownExport) {
		t.Fatalf("entered a withdrawn export: %v", err)
	}
	export.release()
}

func TestTooManyConnections(t *testing.T) {
	f := start(t, Config{MaxConnections: 2}, Export{Name: "a", Device: newMemory(testSize)})
	first, _ := f.connect(false), f.connect(false)
	f.dial().wantEnd()
	if n := f.Connections(); n != 2 {
		t.Fatalf("%d connections", n)
	}
	first.want(codeOK, request{kind: cmdFlush})
}

// TestInFlightBound sends more than the bound and expects the device to see no more than that at once.
func TestInFlightBound(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate = newGate()
	f := start(t, Config{InFlightBytes: 4 * (requestChargeBytes + 1000)}, Export{Name: "a", Device: m})
	w := f.connect(false)
	var burst []byte
	for i := range 20 {
		burst = append(burst, encoded(request{kind: cmdRead, cookie: uint64(i), length: 1000})...)
	}
	w.write(burst)
	for range 4 {
		<-m.readGate.entered
	}
	var tr *transmission
	f.mu.Lock()
	for c := range f.connections {
		c.mu.Lock()
		tr = c.transmission
		c.mu.Unlock()
	}
	f.mu.Unlock()
	tr.mu.Lock()
	inFlight := tr.inFlightBytes
	tr.mu.Unlock()
	if want := int64(4 * (requestChargeBytes + 1000)); inFlight != want {
		t.Errorf("%d bytes in flight, want %d", inFlight, want)
	}
	close(m.readGate.open)
	for range 20 {
		w.next(1000)
	}
}

// TestIdleConnectionHoldsNoBuffer expects all buffers back once everything is answered.
func TestIdleConnectionHoldsNoBuffer(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	for range 10 {
		w := f.connect(false)
		w.want(codeOK, request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
		w.want(codeOK, request{kind: cmdRead, length: 4096})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, q := range []*quota{f.receives, f.larges, f.replies} {
		if err := q.sem.Acquire(ctx, q.limitBytes); err != nil {
			t.Fatal("idle connections hold buffers")
		}
		q.sem.Release(q.limitBytes)
	}
}

func TestManyClients(t *testing.T) {
	m := newMemory(16 << 20)
	f := start(t, Config{BufferBytes: 2 << 20}, Export{Name: "a", Device: m})
	var clients sync.WaitGroup
	for i := range 16 {
		w := f.connect(i%2 == 0)
		clients.Go(func() {
			for n := range 50 {
				data := randomBytes(1 + (i*7919+n*104729)%200000)
				r := request{kind: cmdWrite, cookie: uint64(n), offset: uint64(i << 20), length: uint32(len(data))}
				w.want(codeOK, r, data...)
				r.kind = cmdRead
				got := w.want(codeOK, r).payload
				if string(got[len(got)-len(data):]) != string(data) {
					panic(fmt.Sprintf("client %d round %d reads something else", i, n))
				}
			}
		})
	}
	clients.Wait()
}
