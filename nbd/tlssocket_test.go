package nbd

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// recorder is a client's connection that keeps the records it received: type and length of each.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	header  []byte // of the record that is coming in, as far as it is here
	rest    int    // of its payload
	records []record
}

type record struct {
	kind   byte
	length int
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := p[:n]; len(b) > 0; {
		if r.rest > 0 {
			m := min(r.rest, len(b))
			r.rest, b = r.rest-m, b[m:]
			continue
		}
		r.header, b = append(r.header, b[0]), b[1:]
		if len(r.header) == 5 {
			r.rest = int(binary.BigEndian.Uint16(r.header[3:]))
			r.records = append(r.records, record{r.header[0], r.rest})
			r.header = nil
		}
	}
	return n, err
}

// take returns the records since the last call.
func (r *recorder) take() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.records
	r.records = nil
	return taken
}

const tagBytes = 1 + 16 // the true type and the tag, which TLS 1.3 adds to a record

// recorded enters transmission inside TLS with a recorder below it.
func (f *fixture) recorded(cfg *tls.Config) (*wire, *recorder) {
	f.tb.Helper()
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repAck)
	r := &recorder{Conn: w.conn}
	c := tls.Client(r, cfg)
	if err := c.Handshake(); err != nil {
		f.tb.Fatal(err)
	}
	w.conn = c
	w.enter()
	r.take()
	return w, r
}

// TestOneBatchIsOneRecord expects small answers that leave together to share a record, whatever part of them they are
// in, and large ones to fill theirs.
func TestOneBatchIsOneRecord(t *testing.T) {
	offered, client := mutualTLS(t)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	f.takeoverDelay = time.Hour // nobody sends the reads while the writes last
	w, r := f.recorded(client)
	var burst []byte
	for i := range 10 {
		burst = append(burst, encoded(request{kind: cmdWrite, cookie: uint64(i), length: 10}, make([]byte, 10)...)...)
		burst = append(burst, encoded(request{kind: cmdRead, cookie: uint64(100 + i), length: 100})...)
	}
	w.write(burst)
	w.read(10*simpleBytes + 10*(simpleBytes+100))
	if got := r.take(); len(got) != 1 || got[0].length != 20*simpleBytes+1000+tagBytes {
		t.Errorf("10 writes and 10 reads are answered in records %v", got)
	}
	w.want(codeOK, request{kind: cmdRead, length: 4*16<<10 - simpleBytes})
	if got := r.take(); len(got) != 4 {
		t.Errorf("64 KiB of answer come in %d records: %v", len(got), got)
	}
}

// TestRecordsThatArriveTogether expects records that one read may bring in to be one batch.
func TestRecordsThatArriveTogether(t *testing.T) {
	offered, client := mutualTLS(t)
	m := newMemory(testSize)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: m})
	w := f.dial()
	c := &corked{Conn: w.conn}
	w.conn = c
	w.greet(flagFixedNewstyle)
	w.startTLS(client)
	w.enter()
	const requests = 40 // more than crypto/tls reads at a time
	c.cork = true
	for i := range requests {
		w.send(request{kind: cmdWrite, cookie: uint64(i), offset: uint64(i), length: 1}, 'x') // each its own record
	}
	if _, err := c.Conn.Write(c.held); err != nil {
		t.Fatal(err)
	}
	for range requests {
		w.next(0)
	}
	if n := m.applies.Load(); n != 1 {
		t.Errorf("%d records that arrive together are %d batches", requests, n)
	}
}

// corked holds back what is sent.
type corked struct {
	net.Conn
	cork bool
	held []byte
}

func (c *corked) Write(b []byte) (int, error) {
	if !c.cork {
		return c.Conn.Write(b)
	}
	c.held = append(c.held, b...)
	return len(b), nil
}

// TestRecordsInPieces sends records a few bytes at a time, and reads what has to be right in the end.
func TestRecordsInPieces(t *testing.T) {
	offered, client := mutualTLS(t)
	m := newMemory(testSize)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: m})
	w := f.dial()
	w.conn = &pieces{Conn: w.conn}
	w.greet(flagFixedNewstyle)
	w.startTLS(client)
	w.enter()
	for i, length := range []int{1, 100, 16 << 10, 40000} {
		data := randomBytes(length)
		w.want(codeOK, request{kind: cmdWrite, cookie: uint64(i), offset: 7, length: uint64(length)}, data...)
		if got := w.want(codeOK, request{kind: cmdRead, cookie: uint64(i), offset: 7, length: uint64(length)}).payload; !bytes.Equal(got, data) {
			t.Fatalf("%d bytes in pieces are read back as others", length)
		}
	}
}

// pieces sends from 1 to 1000 bytes at a time.
type pieces struct {
	net.Conn
	n int
}

func (p *pieces) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		p.n = p.n*7%1000 + 1
		n, err := p.Conn.Write(b[sent:min(len(b), sent+p.n)])
		if sent += n; err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// TestClientThatFallsBehind asks for more than the sockets hold, and reads it once the server has had to wait.
func TestClientThatFallsBehind(t *testing.T) {
	offered, client := mutualTLS(t)
	m := newMemory(8 << 20)
	copy(m.data, randomBytes(len(m.data)))
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: m})
	w := f.connectTLS(client)
	const reads, length = 24, 333_333
	for i := range reads {
		w.send(request{kind: cmdRead, cookie: uint64(i), offset: uint64(i * length), length: length})
	}
	for tr := f.onlyTransmission(); ; runtime.Gosched() { // until the sender waits for the client
		tr.sender.mu.Lock()
		busy := tr.sender.busy
		tr.sender.mu.Unlock()
		if busy && tr.sender.unsent.Load() > backlogBytes {
			break
		}
	}
	for range reads {
		a := w.next(length)
		if begin := int(a.cookie) * length; a.code != codeOK || !bytes.Equal(a.payload, m.contents(begin, length)) {
			t.Fatalf("read %d: code %d, or other bytes", a.cookie, a.code)
		}
	}
	w.want(codeOK, request{kind: cmdFlush, cookie: 99})
}

// TestCloseNotify expects the server to end TLS before it ends the connection, or a client could not tell the end from
// one that somebody else made.
func TestCloseNotify(t *testing.T) {
	offered, client := mutualTLS(t)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	closed := record{kind: 23, length: 2 + tagBytes} // an alert, encrypted
	ends := map[string]func(w *wire){
		"disconnect":  func(w *wire) { w.send(request{kind: cmdDisconnect}) },
		"wrong magic": func(w *wire) { w.write(make([]byte, requestBytes)) },
		"client's":    func(w *wire) { _ = w.conn.(*tls.Conn).CloseWrite() },
	}
	for name, end := range ends {
		w, r := f.recorded(client)
		end(w)
		if _, err := w.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the client sees %v", name, err)
		}
		if got := r.take(); len(got) != 1 || got[0] != closed {
			t.Errorf("%s: the last records are %v, want %v", name, got, closed)
		}
		w.conn.Close()
	}
	w := f.dial()
	w.greet(flagFixedNewstyle)
	r := &recorder{Conn: w.conn}
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repAck)
	c := tls.Client(r, client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	w.conn = c
	w.option(optAbort, nil)
	w.wantReply(optAbort, repAck)
	w.wantEnd()
	if got := r.take(); got[len(got)-1] != closed {
		t.Errorf("abort: the last records are %v, want %v", got, closed)
	}
}

// TestIdleTLSConnectionHoldsLittle compares the heap with and without many idle connections that were in use. It has
// both sides of them.
func TestIdleTLSConnectionHoldsLittle(t *testing.T) {
	offered, client := mutualTLS(t)
	f := start(t, Config{TLS: offered}, Export{Name: "a", Device: newMemory(testSize)})
	use := func() *wire {
		w := f.connectTLS(client)
		w.want(codeOK, request{kind: cmdWrite, length: 256 << 10}, make([]byte, 256<<10)...)
		w.want(codeOK, request{kind: cmdRead, length: 256 << 10})
		return w
	}
	use()
	before := heap()
	const clients = 32
	all := make([]*wire, clients)
	for i := range all {
		all[i] = use()
	}
	each := (heap() - before) / clients
	runtime.KeepAlive(all)
	t.Logf("%d KiB for each connection, both sides", each>>10)
	if each > 160<<10 {
		t.Errorf("an idle connection inside TLS, both sides of it, holds %d bytes", each)
	}
}

// heap is how much is reachable.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one took from pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestOwnRecordsAreBounded lets TLS answer again and again to a client that reads none of it.
func TestOwnRecordsAreBounded(t *testing.T) {
	r := &records{pool: &recordPool{}, transmission: true}
	for n := 0; ; n += 27 {
		if n > len(recordBuffer{}) {
			t.Fatalf("%d bytes are kept for a client that takes none", n)
		}
		if _, err := r.Write(make([]byte, 27)); err != nil {
			if !errors.Is(err, errOwnRecords) || n < sealBytes {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			return
		}
	}
}
