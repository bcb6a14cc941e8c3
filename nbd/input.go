package nbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// receiveBufferBytes is the size of buffer for requests that fit it. A larger one is read into a buffer of its own.
	receiveBufferBytes = 256 << 10
	// peekBytes is how much is read where a large request is likely: its header, and little that has to be copied to
	// the request's own buffer.
	peekBytes = 4 << 10
)

var errStalled = errors.New("client stalled in the middle of a request")

// input is the receiving half of a connection: bytes that were read and not yet consumed. Its owner is the leader.
//
// It holds one use of buf. A batch whose payloads lie in buf holds another, and then the bytes before start belong to
// that batch, so they are neither moved nor reused while there are two.
//
// While small is tight, a buffer of the connection's own reserve is used instead, as far as that goes.
//
// A buffer of the quota large holds one request and never the start of the next, so that nobody waits for one such
// buffer while holding another.
type input struct {
	socket       stream
	small, large *quota
	reserve      *quota
	timeout      time.Duration // for a client to send the rest of a request, besides 1 s for each MiB
	pressed      time.Duration // the same where others wait for the memory, besides 1 s for each 4 MiB
	setDeadline  func(time.Time) error
	awaitSole    func(*buffer) error // waits until buf has one user

	buf        *buffer // nil: nothing buffered
	start, end int     // Invariant: 0 <= start <= end <= len(buf.mem)

	largeLikely bool // the last batch had a request larger than receiveBufferBytes

	waitingSince time.Time // start of waiting for the rest of a request; zero: not waiting
	deadline     time.Time // set on the socket; zero: none

	lend     func() []byte // made once for receiveLent
	giveBack func()
}

func newInput(s stream, small, large, reserve *quota) *input {
	in := &input{socket: s, small: small, large: large, reserve: reserve}
	in.lend = func() []byte {
		if in.buf = in.tryBuffer(); in.buf == nil {
			return nil
		}
		if in.largeLikely {
			return in.buf.mem[:peekBytes]
		}
		return in.buf.mem
	}
	in.giveBack = in.drop
	return in
}

// tryBuffer takes a buffer of small, or of the reserve where small is tight; nil where there is none now.
func (in *input) tryBuffer() *buffer {
	if !in.small.tight() {
		if b := in.small.try(receiveBufferBytes); b != nil {
			return b
		}
	}
	return in.reserve.try(reserveBytes)
}

// bytes are what is buffered.
func (in *input) bytes() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf.mem[in.start:in.end]
}

// consume drops n bytes from the front.
func (in *input) consume(n int) {
	in.start += n
	in.waitingSince = time.Time{}
}

// drop gives up the buffer and everything in it.
func (in *input) drop() {
	if in.buf != nil {
		in.buf.release()
	}
	in.buf, in.start, in.end = nil, 0, 0
}

// fill reads more bytes. total is the length of what is at the front, as far as known: a request of which a part is
// buffered, or bytes to be dropped; 0 when the client owes nothing. It waits until there is something to read, for an
// idle client without holding a buffer, for the rest of a request no longer than it may take.
func (in *input) fill(ctx context.Context, total int) error {
	if in.start == in.end {
		in.drop()
	}
	for {
		n, err := in.read(ctx, total)
		if err == nil {
			in.end += n
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		in.deadline = time.Time{}
		if err := in.setDeadline(in.deadline); err != nil {
			return err
		}
	}
}

func (in *input) read(ctx context.Context, total int) (int, error) {
	if in.buf == nil {
		if err := in.limitWait(total); err != nil {
			return 0, err
		}
		return in.readFirst(ctx)
	}
	if err := in.makeRoom(ctx, total); err != nil {
		return 0, err
	}
	n, err := in.socket.receive(in.room(total), false)
	if err != errAgain {
		return n, err
	}
	in.standBack()
	if err := in.limitWait(total); err != nil {
		return 0, err
	}
	return in.socket.receive(in.room(total), true)
}

// room is where to read to.
func (in *input) room(total int) []byte {
	if in.buf.quota == in.large {
		return in.buf.mem[in.end : in.start+total]
	}
	return in.buf.mem[in.end:]
}

// standBack goes on in the reserve before a wait, where others need the memory more.
func (in *input) standBack() {
	if in.buf.quota != in.small || in.end-in.start >= reserveBytes || !in.small.tight() {
		return
	}
	if b := in.reserve.try(reserveBytes); b != nil {
		in.moveTo(b)
	}
}

// readFirst reads with nothing buffered.
func (in *input) readFirst(ctx context.Context) (int, error) {
	for {
		n, err := in.socket.receiveLent(in.lend, in.giveBack)
		if err != errNoBuffer {
			return n, err
		}
		if err := in.socket.awaitBytes(); err != nil {
			return 0, err
		}
		// Only a batch of this connection can have the reserve. Waiting for small might be for other clients.
		if in.buf, err = in.reserve.get(ctx, reserveBytes); err != nil {
			return 0, err
		}
		n, err = in.socket.receive(in.buf.mem, false)
		if err == nil {
			return n, nil
		}
		in.drop()
		if err != errAgain {
			return 0, err
		}
	}
}

// makeRoom makes buf hold at least total bytes from start on, and at least one byte more than it has.
func (in *input) makeRoom(ctx context.Context, total int) error {
	have := in.end - in.start
	need := max(total, have+1)
	if in.buf.quota == in.reserve && have < len(in.buf.mem) && in.small.tight() {
		need = have + 1 // no more than has arrived
	}
	if need > classBytes(bufferClass(receiveBufferBytes)) {
		return in.makeLargeRoom(ctx, need)
	}
	shared := in.buf.refs.Load() > 1
	if in.start+need <= len(in.buf.mem) && (in.start == 0 || shared) {
		return nil
	}
	if need > len(in.buf.mem) { // of the reserve
		b, err := in.small.get(ctx, receiveBufferBytes)
		if err == nil {
			in.moveTo(b)
		}
		return err
	}
	if shared {
		if b := in.tryBuffer(); b != nil {
			if need <= len(b.mem) {
				in.moveTo(b)
				return nil
			}
			b.release()
		}
		// Waiting for the quota with a buffer of it in hand might be for ever; its other user finishes some time.
		if err := in.awaitSole(in.buf); err != nil {
			return err
		}
	}
	copy(in.buf.mem, in.bytes())
	in.start, in.end = 0, have
	return nil
}

// makeLargeRoom moves the start of a large request to a buffer of its own.
func (in *input) makeLargeRoom(ctx context.Context, need int) error {
	if in.buf.quota == in.large {
		return nil
	}
	b, err := in.large.get(ctx, need)
	if err != nil {
		return err
	}
	in.moveTo(b)
	return nil
}

func (in *input) moveTo(b *buffer) {
	n := copy(b.mem, in.bytes())
	in.buf.release()
	in.buf, in.start, in.end = b, 0, n
}

// limitWait bounds the wait for the rest of something total bytes long. The deadline on the socket is only ever set
// earlier than needed, never moved for each request: when it strikes, fill comes here again.
func (in *input) limitWait(total int) error {
	if total == 0 {
		return nil
	}
	now := time.Now()
	if in.waitingSince.IsZero() {
		in.waitingSince = now
	}
	p := patience{
		limit:   in.timeout + time.Duration(total>>20)*time.Second,
		pressed: in.pressed + time.Duration(total>>22)*time.Second,
		since:   in.waitingSince,
	}
	held := in.buf != nil && in.buf.quota != in.reserve
	until, over := p.next(now, held, held && in.buf.quota.wanted())
	if over {
		return fmt.Errorf("%w: %d bytes in %v", errStalled, total, now.Sub(in.waitingSince))
	}
	if !in.deadline.IsZero() && !in.deadline.After(until) {
		return nil
	}
	in.deadline = until
	return in.setDeadline(until)
}
