package replication

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"
)

// What a connection may be closed for, beside what is wrong with a frame. The words that a Refusal has for them are
// reasonOf's.
var (
	// ErrWrongPeer means that somebody else was reached, or is meant, than should be.
	ErrWrongPeer = errors.New("not the node that is meant")
	// ErrWrongVolume means that a message is about another volume than its connection.
	ErrWrongVolume = errors.New("message about another volume")
	// ErrSequence means that a frame was repeated, or that one is missing.
	ErrSequence = errors.New("a frame is missing or comes again")
	// ErrUnexpected means that a message has no place where it came.
	ErrUnexpected = errors.New("message that has no place here")
	// ErrClosed means that this side has closed the connection.
	ErrClosed = errors.New("the connection was closed by this node")
)

// RefusedError is a Refusal of the other side.
type RefusedError struct {
	Header  Header // of the refusal: its epoch is the newest that the peer knows
	Refusal Refusal
	// Authentic: it is the peer's word. Otherwise it may be anybody's, and proves only that the connection is over.
	Authentic bool
}

// Error says why, in the peer's words.
func (e *RefusedError) Error() string {
	who := "the peer"
	if !e.Authentic {
		who = "somebody who is not known to be the peer"
	}
	return fmt.Sprintf("%s refuses: %s: %q", who, e.Refusal.Reason, e.Refusal.Detail)
}

// Conn is one lane's connection, after the handshake. Send may be called from several goroutines, Receive from one.
type Conn struct {
	nc     net.Conn
	cfg    *Config
	lane   Lane
	volume uuid.UUID
	peer   uuid.UUID // node ID

	once   sync.Once
	closed chan struct{} // closed by Close

	writing  sync.Mutex
	out      []byte // guarded by writing
	sent     uint64 // guarded by writing: the sequence of the last frame
	sealSent *seal  // nil inside TLS, without a secret, and before the keys are there

	in           *bufio.Reader
	frame        []byte // of the message that Receive returned last
	received     uint64 // sequence of the last frame
	sealReceived *seal
	welcome      bool // the handshake is over
}

// readBytes is how much is read ahead, and so what an idle connection holds.
const readBytes = 16 << 10

func newConn(nc net.Conn, cfg *Config) *Conn {
	return &Conn{nc: nc, cfg: cfg, closed: make(chan struct{}), in: bufio.NewReaderSize(nc, readBytes)}
}

// Lane returns which lane the connection is.
func (c *Conn) Lane() Lane { return c.lane }

// Volume returns the UUID of the volume that it is about.
func (c *Conn) Volume() uuid.UUID { return c.volume }

// Peer returns the node ID of the other side.
func (c *Conn) Peer() uuid.UUID { return c.peer }

// Send sends a message. Volume, sender and sequence of the header are the connection's. An error ends the connection.
func (c *Conn) Send(h Header, m Message) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.sent++
	h.Volume, h.Sender, h.Sequence = c.volume, c.cfg.NodeID, c.sent
	c.out = AppendFrame(c.out[:0], h, m)
	c.out = c.sealSent.append(c.out, c.out, c.sent)
	err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.sendTimeout()))
	if err == nil {
		_, err = c.nc.Write(c.out)
	}
	if err != nil {
		_ = c.Close() // half a frame may be out: nothing can follow it
		return c.failure("send "+m.Kind().String(), err)
	}
	return nil
}

// Receive waits for the next message, which is valid until the next call. Its header's volume and sender are what they
// should be, and it is of the connection's lane. A *RefusedError is the other side's last word. Any error ends the
// connection; the caller may tell the reason to the other side with Refuse.
func (c *Conn) Receive() (Header, Message, error) {
	h, m, err := c.receive()
	if err != nil {
		return h, nil, c.failure("receive", err)
	}
	return h, m, nil
}

func (c *Conn) receive() (Header, Message, error) {
	n, err := c.readFrame()
	if err != nil {
		return Header{}, nil, err
	}
	h, m, _, err := DecodeFrame(c.frame[:n])
	if err != nil {
		return Header{}, nil, err
	}
	refusal, refused := m.(*Refusal)
	c.received++
	if err := c.sealReceived.check(c.frame[:n], c.frame[n:], h.Sequence); err != nil {
		if refused && !c.welcome && len(c.frame) == n {
			return h, nil, &RefusedError{Header: h, Refusal: *refusal}
		}
		return h, nil, err
	}
	switch {
	case h.Sequence != c.received:
		return h, nil, fmt.Errorf("%w: number %d, and %d is next", ErrSequence, h.Sequence, c.received)
	case refused:
		authentic := c.cfg.Secret == nil || c.cfg.TLS != nil || c.sealReceived != nil
		return h, nil, &RefusedError{Header: h, Refusal: *refusal, Authentic: authentic}
	case !c.welcome:
		return h, m, nil // the handshake checks the rest
	case h.Volume != c.volume:
		return h, nil, fmt.Errorf("%w: %s on a connection about %s", ErrWrongVolume, h.Volume, c.volume)
	case h.Sender != c.peer:
		return h, nil, fmt.Errorf("%w: a message of node %s from node %s", ErrWrongPeer, h.Sender, c.peer)
	case !c.lane.carries(m.Kind()):
		return h, nil, fmt.Errorf("%w: %s on the %s lane", ErrUnexpected, m.Kind(), c.lane)
	}
	return h, m, nil
}

// Buffered tells whether more of what the other side sent is here already. It is for the goroutine that receives.
func (c *Conn) Buffered() bool { return c.in.Buffered() >= HeaderBytes }

// readFrame reads a frame and its tag into c.frame, and returns the frame's length without the tag.
func (c *Conn) readFrame() (int, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.cfg.idleTimeout())); err != nil {
		return 0, err
	}
	header, err := c.in.Peek(HeaderBytes)
	if err != nil {
		return 0, torn(err, len(header))
	}
	n, err := frameLength(header)
	if err != nil {
		return 0, err
	}
	if kind := kindOf(header); !c.welcome && !kind.ofHandshake() {
		return 0, fmt.Errorf("%w: %s before the handshake is done", ErrUnexpected, kind)
	}
	size := n + c.sealReceived.size()
	if cap(c.frame) < size {
		c.frame = make([]byte, size)
	}
	c.frame = c.frame[:size]
	got, err := io.ReadFull(c.in, c.frame)
	if err != nil && got == n && !c.welcome {
		c.frame = c.frame[:n] // of a peer that could not agree on keys; receive decides
		return n, nil
	}
	return n, torn(err, got)
}

// torn tells an end between frames, io.EOF, from one inside a frame.
func torn(err error, got int) error {
	if got > 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("%w: the connection ended after %d bytes of it", ErrTorn, got)
	}
	return err
}

// failure names the connection in an error.
func (c *Conn) failure(op string, err error) error {
	select {
	case <-c.closed:
		if !errors.As(err, new(*RefusedError)) {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
	default:
	}
	return fmt.Errorf("%s on the %s lane with %s: %w", op, c.lane, c.nc.RemoteAddr(), err)
}

// Refuse tells the other side why, and closes the connection. It waits, for at most a second, until the other side has
// closed too: what it still sends would otherwise make the kernel drop the reason on its way.
func (c *Conn) Refuse(h Header, r *Refusal) {
	if c.Send(h, r) == nil {
		c.linger()
	}
	_ = c.Close()
}

// lingerBytes is the most that is read, and dropped, of one who goes on sending.
const lingerBytes = 64 << 20

func (c *Conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes)
}

// Close ends the connection, and Send and Receive with ErrClosed. It may be called twice.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		if t, ok := c.nc.(*tls.Conn); ok {
			err = t.NetConn().Close() // without waiting for a peer that reads nothing
			return
		}
		err = c.nc.Close()
	})
	return err
}
