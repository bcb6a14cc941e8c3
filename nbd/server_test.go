package nbd

import (
	"context"
	"fmt"
	"slices"
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
	cfg := Config{WriteTimeout: time.Second, BufferBytes: 64 << 20}
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
}

// TestDeadlineOfAnEarlierRequest lets a deadline, which is never taken back when its request is complete, strike on an
// idle connection.
func TestDeadlineOfAnEarlierRequest(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	w := f.connect(false)
	w.want(codeOK, request{kind: cmdFlush})
	if err := f.onlyTransmission().conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	w.want(codeOK, request{kind: cmdFlush})
	w.want(codeOK, request{kind: cmdWrite, length: 512 << 10}, make([]byte, 512<<10)...)
}

func TestHandshakeTimeout(t *testing.T) {
	const limit = 500 * time.Millisecond
	f := start(t, Config{HandshakeTimeout: limit}, Export{Name: "a", Device: newMemory(testSize)})
	entered := f.connect(false)
	w := f.dial()
	w.read(greetingBytes)
	w.wantEnd()
	entered.want(codeOK, request{kind: cmdFlush}) // the limit, over by now, ended with the handshake
}

// TestVanishedClient closes connections with requests in flight; their buffers and exports come back.
func TestVanishedClient(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate, m.readGate = newGate(), newGate()
	m.cold.Store(true)
	f := start(t, Config{}, Export{Name: "a", Device: m})
	var clients []*wire
	for range 8 {
		w := f.connect(false)
		w.want(codeOK, request{kind: cmdFlush}) // it has begun before any of them vanishes, whose requests it would wait for
		clients = append(clients, w)
	}
	for _, w := range clients {
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
	tr := f.onlyTransmission()
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
				r := request{kind: cmdWrite, cookie: uint64(n), offset: uint64(i << 20), length: uint64(len(data))}
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

// TestShareOfTheReadPool expects a connection that has its share of reply memory to start no more reads.
func TestShareOfTheReadPool(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate = newGate()
	f := start(t, Config{BufferBytes: 64 << 20}, Export{Name: "a", Device: m}) // a share of 4 MiB
	w := f.connect(false)
	for i := range 16 {
		w.send(request{kind: cmdRead, cookie: uint64(i), length: testSize})
	}
	for range 3 {
		<-m.readGate.entered
	}
	other := f.connect(false)
	other.send(request{kind: cmdRead, length: 1}) // is not behind the others
	<-m.readGate.entered
	for range 50 {
		other.want(codeOK, request{kind: cmdFlush}) // time for reads that must not start
	}
	if n := m.coldReads.Load(); n != 4 {
		t.Errorf("%d reads were started, want 4", n)
	}
	close(m.readGate.open)
	other.next(1)
	for range 16 {
		if a := w.next(testSize); a.code != codeOK {
			t.Fatalf("answer %+v", a)
		}
	}
}

// TestBufferOfAMissIsGivenBack expects a batch whose reads all miss to hold no memory for replies while it goes on.
func TestBufferOfAMissIsGivenBack(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate, m.applyGate = newGate(), newGate()
	f := start(t, Config{}, Export{Name: "a", Device: m})
	w := f.connect(false)
	w.write(append(encoded(request{kind: cmdRead, length: 1}), encoded(request{kind: cmdTrim, length: 1})...))
	<-m.readGate.entered
	<-m.applyGate.entered
	rest := f.replies.limitBytes - int64(classBytes(0)) // the read pool has one buffer
	if !f.replies.sem.TryAcquire(rest) {
		t.Error("the batch holds a buffer for replies")
	} else {
		f.replies.sem.Release(rest)
	}
	close(m.readGate.open)
	close(m.applyGate.open)
	w.conn.Close()
	f.exports.awaitIdle()
}

// TestReadPoolTakesTurns expects a connection with one read not to wait for all those of another.
func TestReadPoolTakesTurns(t *testing.T) {
	m := newMemory(testSize)
	m.cold.Store(true)
	m.readGate = newGate()
	f := start(t, Config{ReadWorkers: 1}, Export{Name: "a", Device: m})
	greedy, modest := f.connect(false), f.connect(false)
	for i := range 4 {
		greedy.send(request{kind: cmdRead, offset: uint64(i), length: 1})
	}
	<-m.readGate.entered
	greedy.want(codeOK, request{kind: cmdFlush, cookie: 1})
	modest.send(request{kind: cmdRead, offset: 100, length: 1})
	modest.want(codeOK, request{kind: cmdFlush, cookie: 1})
	close(m.readGate.open)
	modest.next(1)
	for range 4 {
		greedy.next(1)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if want := []int64{0, 1, 100, 2, 3}; !slices.Equal(m.coldOffsets, want) {
		t.Fatalf("reads in order %v, want %v", m.coldOffsets, want)
	}
}
