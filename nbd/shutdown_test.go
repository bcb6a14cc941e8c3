package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

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
	if _, err := c.enter(nil, &export, terms{sizeBytes: testSize}, disconnects); !errors.Is(err, ErrUnknownExport) {
		t.Fatalf("entered a withdrawn export: %v", err)
	}
	export.release()
}

// TestReplacedDuringTheHandshake has another export under the name that a client chose: one that it was told other things of.
func TestReplacedDuringTheHandshake(t *testing.T) {
	for name, other := range map[string]Export{
		"smaller":   {Name: "a", Description: "uuid=1", Device: newMemory(testSize - 1)},
		"read-only": {Name: "a", Description: "uuid=1", ReadOnly: true, Device: newMemory(testSize)},
		"another":   {Name: "a", Description: "uuid=2", Device: newMemory(testSize)},
	} {
		f := start(t, Config{}, Export{Name: "a", Description: "uuid=1", Device: newMemory(testSize)})
		c := &connection{server: f.Server}
		disconnects := f.disconnectsSoFar()
		export, err := f.exports.Lookup("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Disconnect(context.Background(), "a"); err != nil {
			t.Fatal(err)
		}
		f.exports.mu.Lock()
		f.exports.byName["a"] = other
		f.exports.mu.Unlock()
		if _, err := c.enter(nil, &export, terms{sizeBytes: testSize}, disconnects); !errors.Is(err, errReplaced) {
			t.Errorf("%s: entered another export than the one it was told of: %v", name, err)
		}
		export.release()
	}
}

// TestLastAnswerSurvivesTheEnd ends a TCP connection with bytes of the client unread, which resets it, and loses the
// answers under way, unless the server drops those bytes before it closes.
func TestLastAnswerSurvivesTheEnd(t *testing.T) {
	m := newMemory(testSize)
	m.applyGate = newGate()
	f := start(t, Config{}, Export{Name: "a", Device: m})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- f.Serve(ctx, l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{tb: t, conn: conn}
	w.greet(flagFixedNewstyle)
	w.option(optGo, infoRequest{}.encode())
	w.wantReply(optGo, repInfo)
	w.wantReply(optGo, repAck)
	w.send(request{kind: cmdWrite, cookie: 9, length: 1}, 'x')
	<-m.applyGate.entered
	disconnected := make(chan error, 1)
	go func() { disconnected <- f.Disconnect(ctx, "a") }()
	<-f.onlyTransmission().inputEnds.Done()
	w.write(make([]byte, 1000))
	close(m.applyGate.open)
	if err := <-disconnected; err != nil {
		t.Fatal(err)
	}
	if a := w.next(0); a.cookie != 9 || a.code != codeOK {
		t.Fatalf("answer %+v", a)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("connection ends with %v, want EOF: a reset may overtake answers", err)
	}
	conn.Close()
	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}
