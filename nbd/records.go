package nbd

import (
	"errors"
	"net"
	"sync"
)

const (
	// sealBytes is how much of the answers is made into records at a time: four of the largest.
	sealBytes = 64 << 10
	// recordOverheadBytes is room for what TLS adds to that, and for records of its own: answers to key updates, alerts.
	recordOverheadBytes = 4 << 10
)

// errOwnRecords means that a client made TLS answer again and again, and reads none of it.
var errOwnRecords = errors.New("client does not take TLS's own records")

// recordBuffer has the records that wait to be sent, or bytes that are to become one.
type recordBuffer [sealBytes + recordOverheadBytes]byte

// recordPool holds record buffers between uses.
type recordPool struct{ sync.Pool }

func (p *recordPool) get() *recordBuffer {
	if b, ok := p.Get().(*recordBuffer); ok {
		return b
	}
	return new(recordBuffer)
}

func (p *recordPool) put(b *recordBuffer) { p.Put(b) }

// records is the connection as a tls.Conn sees it: the side on which the bytes are encrypted.
//
// In the handshake it is just the client's connection. In transmission neither of its methods may wait when the stream
// above must not: Read returns errAgain, after which crypto/tls goes on in the middle of a record, and Write only
// collects records, for flush to send. So a batch of answers leaves in one system call, and what a client does not
// take is left to the sender's goroutine, as in plaintext.
type records struct {
	net.Conn
	socket       *socket
	pool         *recordPool
	transmission bool

	// Owned by who receives.
	wait    bool // for bytes to arrive
	drained bool // the last read took all there was

	flushing [1][]byte // owned by who sends

	mu     sync.Mutex
	buffer *recordBuffer // nil: empty
	left   int           // bytes of buffer that have left
	filled int           // Invariant: 0 <= left <= filled <= len(buffer)
}

// Read is net.Conn's.
func (r *records) Read(p []byte) (int, error) {
	if !r.transmission {
		return r.Conn.Read(p)
	}
	if r.drained && !r.wait {
		return 0, errAgain
	}
	n, err := r.socket.receive(p, r.wait)
	r.drained = n < len(p)
	return n, err
}

// Write is net.Conn's. It may be called by who receives as well, where TLS itself has something to say.
func (r *records) Write(p []byte) (int, error) {
	if !r.transmission {
		return r.Conn.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buffer == nil {
		r.buffer = r.pool.get()
	}
	if len(p) > len(r.buffer)-r.filled {
		return 0, errOwnRecords
	}
	r.filled += copy(r.buffer[r.filled:], p)
	return len(p), nil
}

// flush sends the records that were written, and reports whether all of them left.
func (r *records) flush(wait bool) (bool, error) {
	for {
		r.flushing[0] = r.unsent()
		if r.flushing[0] == nil {
			return true, nil
		}
		length := len(r.flushing[0])
		rest, err := r.socket.send(r.flushing[:], wait)
		for _, b := range rest {
			length -= len(b)
		}
		r.sent(length)
		r.flushing[0] = nil
		if err != nil || len(rest) > 0 && !wait {
			return false, err
		}
	}
}

// unsent returns what is to be sent; nil, and no buffer is held, where that is nothing.
func (r *records) unsent() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buffer == nil {
		return nil
	}
	if r.left == r.filled {
		r.pool.put(r.buffer)
		r.buffer, r.left, r.filled = nil, 0, 0
		return nil
	}
	return r.buffer[r.left:r.filled]
}

func (r *records) sent(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left += n
}
