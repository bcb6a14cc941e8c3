package nbd

import (
	"bytes"
	"sync"
	"testing"
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
