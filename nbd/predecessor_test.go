package nbd

import (
	"bytes"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// heldDevice holds the first Apply until it is let go, and notes the order in which changes end.
type heldDevice struct {
	*memory
	begun, letGo chan struct{}

	mu    sync.Mutex
	first bool
	order []byte // first byte of each write, as they end
}

func (d *heldDevice) Apply(changes []Change) {
	d.mu.Lock()
	hold := !d.first
	d.first = true
	d.mu.Unlock()
	if hold {
		close(d.begun)
		<-d.letGo
	}
	d.memory.Apply(changes)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range changes {
		d.order = append(d.order, changes[i].Data[0])
	}
}

func (d *heldDevice) ended() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.order)
}

// connectOne is connect, and also returns the server's side.
func (f *fixture) connectOne() (*wire, *connection) {
	f.tb.Helper()
	known := make(map[*connection]bool)
	f.mu.Lock()
	for c := range f.connections {
		known[c] = true
	}
	f.mu.Unlock()
	w := f.connect(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.connections {
		if !known[c] {
			return w, c
		}
	}
	f.tb.Fatal("the server does not have the connection")
	return nil, nil
}

// leaveAnswer asks for more than a socket holds, and returns once the server waits for the client to take it.
func (w *wire) leaveAnswer(c *connection) {
	w.tb.Helper()
	w.send(request{kind: cmdRead, cookie: 9, length: testSize})
	for !c.isSending() {
		runtime.Gosched()
	}
}

func write(cookie, offset uint64) request {
	return request{kind: cmdWrite, cookie: cookie, offset: offset, length: 512, payload: 512}
}

func filled(b byte) []byte { return bytes.Repeat([]byte{b}, 512) }

// TestI3RequestsOfAClosedConnectionEndFirst: a client that gave up on a connection writes on a new one; what it had sent on
// the old one is not carried out after that.
func TestI3RequestsOfAClosedConnectionEndFirst(t *testing.T) {
	d := &heldDevice{memory: newMemory(testSize), begun: make(chan struct{}), letGo: make(chan struct{})}
	f := start(t, Config{}, Export{Name: "disk", Device: d})
	old := f.connect(false)
	old.send(write(1, 0), filled(1)...)
	<-d.begun
	alive := f.connect(false) // of somebody who waits for nobody
	old.conn.Close()
	young := f.connect(false)
	young.send(write(2, 0), filled(2)...)
	alive.want(codeOK, write(3, 512), filled(3)...)
	close(d.letGo)
	if a := young.next(0); a.cookie != 2 || a.code != codeOK {
		t.Errorf("the second write is answered by %+v", a)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if string(d.order) != "\x03\x01\x02" {
		t.Errorf("writes ended in the order % x", d.order)
	}
}

// TestWaitForAClosedConnectionEnds: who waits for one does not keep the server, or an export, from ending.
func TestWaitForAClosedConnectionEnds(t *testing.T) {
	d := &heldDevice{memory: newMemory(testSize), begun: make(chan struct{}), letGo: make(chan struct{})}
	f := start(t, Config{}, Export{Name: "disk", Device: d})
	old := f.connect(false)
	old.send(write(1, 0), filled(1)...)
	<-d.begun
	old.conn.Close()
	young := f.connect(false)
	f.mu.Lock()
	var waits *connection
	for c := range f.connections {
		if !c.hungUp() {
			waits = c
		}
	}
	f.mu.Unlock()
	waits.drain()
	<-waits.done
	if _, err := young.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection that waited is still open")
	}
	close(d.letGo)
}

// TestI3WhoeverWaitsWaitsToTheEnd: requests wait as well where the server has cut the old connection, since an answer could
// not be sent any more, and where their own client has said all it has to say.
func TestI3WhoeverWaitsWaitsToTheEnd(t *testing.T) {
	for name, cut := range map[string]bool{"cut": true, "closed": false} {
		t.Run(name, func(t *testing.T) {
			d := &heldDevice{memory: newMemory(testSize), begun: make(chan struct{}), letGo: make(chan struct{})}
			f := start(t, Config{}, Export{Name: "disk", Device: d})
			old, c := f.connectOne()
			old.send(write(1, 0), filled(1)...)
			<-d.begun
			if cut {
				old.leaveAnswer(c)
			}
			old.conn.Close()
			for cut && c.conn.SetDeadline(time.Time{}) == nil {
				runtime.Gosched()
			}
			young := f.connect(false)
			young.send(write(2, 0), filled(2)...)
			if err := young.conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // one after the other, so that young has looked at its client meanwhile
				idle, waits := f.connectOne()
				idle.conn.Close()
				<-waits.done
			}
			close(d.letGo)
			if a := young.next(0); a.cookie != 2 || a.code != codeOK {
				t.Errorf("the second write is answered by %+v", a)
			}
			if order := d.ended(); order != "\x01\x02" {
				t.Errorf("writes ended in the order % x", order)
			}
		})
	}
}

// TestClosedConnectionThatTakesNothing: a client that closes its sending side and takes none of its answers does not hold up
// those that connect after it.
func TestClosedConnectionThatTakesNothing(t *testing.T) {
	f := start(t, Config{WriteTimeout: time.Hour}, Export{Name: "disk", Device: newMemory(testSize)})
	old, c := f.connectOne()
	old.leaveAnswer(c)
	if err := old.conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	young := f.connect(false)
	if err := young.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	young.want(codeOK, write(2, 0), filled(2)...)
}
