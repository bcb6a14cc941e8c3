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
// A buffer of the quota large holds one request and never the start of the next, so that nobody waits for one such
// buffer while holding another.
type input struct {
	socket       stream
	small, large *quota
	timeout      time.Duration // for a client to send the rest of a request, besides 1 s for each MiB
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

func newInput(s stream, small, large *quota, timeout time.Duration) *input {
	in := &input{socket: s, small: small, large: large, timeout: timeout}
	in.lend = func() []byte {
		if in.buf = in.small.try(receiveBufferBytes); in.buf == nil {
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
	room := in.buf.mem[in.end:]
	if in.buf.quota == in.large {
		room = in.buf.mem[in.end : in.start+total]
	}
	n, err := in.socket.receive(room, false)
	if err != errAgain {
		return n, err
	}
	if err := in.limitWait(total); err != nil {
		return 0, err
	}
	return in.socket.receive(room, true)
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
		if in.buf, err = in.small.get(ctx, receiveBufferBytes); err != nil {
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
	if need > classBytes(bufferClass(receiveBufferBytes)) {
		return in.makeLargeRoom(ctx, need)
	}
	shared := in.buf.refs.Load() > 1
	if in.start+need <= len(in.buf.mem) && (in.start == 0 || shared) {
		return nil
	}
	if shared {
		if b := in.small.try(receiveBufferBytes); b != nil {
			in.moveTo(b)
			return nil
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
	end := in.waitingSince.Add(in.timeout + time.Duration(total>>20)*time.Second)
	if !now.Before(end) {
		return fmt.Errorf("%w: %d bytes in %v", errStalled, total, now.Sub(in.waitingSince))
	}
	if !in.deadline.IsZero() {
		return nil
	}
	in.deadline = end
	return in.setDeadline(end)
}
