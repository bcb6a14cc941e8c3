package nbd

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A connection in the transmission phase: fill → parse → carry out → answer, by one leader at a time. What lasts is
// finished by others: reads by the read pool, a blocked Apply or Flush by the goroutine that called it while another
// one leads, answers that a client does not take by the sender's goroutine.

// backlogBytes of unsent data stop a connection from starting on more requests.
const backlogBytes = 1 << 20

// Reads that had to wait for a disk are answered together up to these.
const (
	alongRequests = 16
	alongBytes    = 64 << 10
)

var errDraining = errors.New("server asked the connection to end")

// transmission is a connection's second phase.
type transmission struct {
	server *Server
	device Device
	conn   net.Conn // the client's; its deadlines and its end are those of the stream
	parser parser
	sender sender
	tally  *tally

	// abandoned ends when nobody listens to answers any more; inputEnds, too, when no more requests are wanted.
	abandoned, inputEnds context.Context
	abandon, endOfInput  context.CancelFunc
	goroutines           sync.WaitGroup // all that work for this connection, jobs included
	jobs                 jobList        // guarded by the read pool
	passedOver           atomic.Bool    // by the read pool, until what is unsent has left
	replyReserve         *quota
	takeoverDelay        time.Duration
	inFlightBoundBytes   int64

	mu            sync.Mutex
	changed       sync.Cond // inFlight or what is unsent fell, or draining began, or the sender failed
	inFlightBytes int64     // charges of requests that are not answered
	leaders       int       // goroutines that lead, or led and have not finished yet
	leading       *leader
	draining      bool
	ended         error // why the input ended
}

func newTransmission(s *Server, conn net.Conn, bytes stream, device Device, agreed terms) *transmission {
	t := &transmission{
		server:             s,
		device:             device,
		conn:               conn,
		tally:              new(tally),
		takeoverDelay:      s.takeoverDelay,
		inFlightBoundBytes: s.cfg.InFlightBytes,
	}
	t.changed.L = &t.mu
	t.abandoned, t.abandon = context.WithCancel(context.Background())
	t.inputEnds, t.endOfInput = context.WithCancel(t.abandoned)
	input := newInput(bytes, s.receives, s.larges, newReserve(s.pool))
	input.timeout, input.pressed = s.cfg.ReceiveTimeout, s.pressedTimeout
	input.setDeadline, input.awaitSole = t.setReceiveDeadline, t.awaitSole
	t.parser = parser{input: input, terms: agreed, tally: t.tally}
	t.replyReserve = newReserve(s.pool)
	t.sender = sender{
		socket:  bytes,
		pool:    &s.answers,
		timeout: s.cfg.WriteTimeout,
		memory:  s.replies,

		pressedTimeout: s.pressedTimeout,
		tally:          t.tally,
		now:            s.now,
		spawn:          t.goroutines.Go,
		finished:       t.finished,
		failed:         func(error) { t.kill() },
	}
	return t
}

// run serves requests until the input ends, then waits for all that are in flight. It returns why the input ended:
// nil when the client ended it.
func (t *transmission) run() error {
	first := &leader{t: t}
	t.mu.Lock()
	t.leaders, t.leading = 1, first
	t.mu.Unlock()
	t.goroutines.Go(first.lead)
	t.goroutines.Wait()
	t.parser.input.drop()
	t.abandon()
	if err := t.sender.failure(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// drain lets no more requests in; those in flight are finished and answered.
func (t *transmission) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	t.endOfInput()
	// A socket that takes no deadline is closed already, which ends the input as well.
	_ = t.conn.SetReadDeadline(time.Unix(1, 0))
	t.changed.Broadcast()
}

// kill cuts the connection; requests in flight are finished without an answer.
func (t *transmission) kill() {
	t.abandon()
	_ = t.conn.Close() // it may be closed already
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	t.changed.Broadcast()
}

// setReceiveDeadline is the input's; draining keeps the one that drain set.
func (t *transmission) setReceiveDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining {
		return errDraining
	}
	return t.conn.SetReadDeadline(at)
}

// finished takes off what was counted for requests that are answered now.
func (t *transmission) finished(chargeBytes, pooledBytes int64) {
	if pooledBytes > 0 || t.passedOver.Load() {
		t.server.reads.finished(t, pooledBytes)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlightBytes -= chargeBytes
	t.changed.Broadcast()
}

// room is how much may be charged for a new batch, and whether nothing is in flight, so that one request is admitted
// whatever its size.
func (t *transmission) room() (bytes int64, alone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inFlightBoundBytes - t.inFlightBytes, t.inFlightBytes == 0
}

// awaitRoom waits until a request of that charge is admitted and the client takes its answers.
func (t *transmission) awaitRoom(chargeBytes int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.draining {
		fits := t.inFlightBytes == 0 || t.inFlightBytes+chargeBytes <= t.inFlightBoundBytes
		if fits && !t.isBehind() {
			return nil
		}
		t.changed.Wait()
	}
	return errDraining
}

// awaitSole waits until the batches that shared the input's buffer are done with it.
func (t *transmission) awaitSole(b *buffer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.draining {
		if b.refs.Load() == 1 {
			return nil
		}
		t.changed.Wait() // a batch gives its buffer back before its answers are finished
	}
	return errDraining
}

// nextBatch reads until there is at least one request to carry out. The caller gives the batch back.
func (t *transmission) nextBatch() (*batch, error) {
	b := t.server.batches.get()
	b.ready = t.server.answers.get()
	for {
		if err := t.awaitRoom(0); err != nil {
			return t.refuse(b, err)
		}
		room, alone := t.room()
		missing := t.parser.parse(b, room, alone)
		if b.count > 0 {
			t.parser.input.largeLikely = b.largest > receiveBufferBytes
			t.charge(b.chargeBytes)
			b.parsed = t.server.now()
			b.ready.parsed = b.parsed
			t.tally.received(b)
			return b, nil
		}
		if err := t.parser.err; err != nil {
			return t.refuse(b, err)
		}
		if missing.chargeBytes > 0 {
			if err := t.awaitRoom(missing.chargeBytes); err != nil {
				return t.refuse(b, err)
			}
			continue
		}
		if err := t.parser.input.fill(t.inputEnds, missing.total); err != nil {
			return t.refuse(b, err)
		}
	}
}

func (t *transmission) charge(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlightBytes += bytes
}

// refuse gives back a batch that came to nothing.
func (t *transmission) refuse(b *batch, err error) (*batch, error) {
	t.server.answers.put(b.ready)
	t.server.batches.put(b)
	return nil, err
}

// end records why the input ended.
func (t *transmission) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case errors.Is(err, errDisconnect):
		err = nil
	case t.draining && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled)):
		err = errDraining
	}
	t.ended = err
}

// answerReads reads what needs no waiting into a's buffers, leaves the rest to the read pool, and returns what is
// still to be sent.
func (t *transmission) answerReads(b *batch, a *answers) *answers {
	left := b.readBytes
	for _, r := range b.reads {
		if a.dataBytes() >= replyBufferBytes {
			t.sender.send(a)
			a = t.server.answers.get()
			a.parsed = b.parsed
		}
		answered := !t.isBehind() && t.readNow(a, r, left)
		left -= int(r.length)
		if !answered {
			t.server.reads.submit(t, r, b.parsed)
			continue
		}
		a.chargeBytes += r.chargeBytes()
		a.answered[cmdRead]++
	}
	a.trim()
	return a
}

// isBehind reports whether the client has more to take before memory is spent on it.
func (t *transmission) isBehind() bool {
	unsent := t.sender.unsent.Load()
	return unsent > backlogBytes || unsent > 0 && t.server.replies.tight()
}

// readNow answers r if that needs no waiting for device or memory. expect is how much the batch still reads.
func (t *transmission) readNow(a *answers, r request, expect int) bool {
	s := t.parser.terms.style
	n := s.readHeaderBytes() + int(r.length)
	buf := t.bufferFor(a, n, expect)
	if buf == nil {
		return false
	}
	data := encodeRead(buf.mem[buf.filled:buf.filled+n], s, r)
	ok, err := t.device.ReadNoWait(data, int64(r.offset))
	switch {
	case err != nil:
		t.tally.failed(cmdRead, errorCode(err))
		a.small = s.appendAnswer(a.small, r.tag(), errorCode(err))
		return true
	case ok:
		buf.addRead(n, s, r)
		return true
	}
	return false
}

// bufferFor returns a buffer of a with n bytes free: the last one, or a new one that fits expect bytes more where that
// is not too much; nil where there is no memory now.
func (t *transmission) bufferFor(a *answers, n, expect int) *buffer {
	if last := len(a.buffers) - 1; last >= 0 && len(a.buffers[last].mem)-a.buffers[last].filled >= n {
		return a.buffers[last]
	}
	var b *buffer
	if !t.server.replies.tight() {
		b = t.server.replies.try(max(n, min(expect, replyBufferBytes)))
	}
	if b == nil && n <= reserveBytes+bufferSlackBytes {
		b = t.replyReserve.try(n)
	}
	if b != nil {
		a.buffers = append(a.buffers, b)
	}
	return b
}

// readSlow answers r on a goroutine that may wait for memory and device. The caller sends the answers.
func (t *transmission) readSlow(r request, parsed time.Duration) *answers {
	s := t.parser.terms.style
	a := t.server.answers.get()
	a.chargeBytes, a.pooledBytes = r.chargeBytes(), r.chargeBytes()
	a.answered[cmdRead], a.parsed = 1, parsed
	if code := t.readInto(a, r, s); code != codeOK {
		t.tally.failed(cmdRead, code)
		a.small = s.appendAnswer(a.small, r.tag(), code)
	}
	return a
}

// readAlong adds the answer to r to those of so many others, if it is a read that needs no more waiting.
func (t *transmission) readAlong(a *answers, r request, others int) bool {
	if r.kind != cmdRead || others >= alongRequests || a.dataBytes() >= alongBytes || !t.readNow(a, r, int(r.length)) {
		a.trim()
		return false
	}
	a.chargeBytes += r.chargeBytes()
	a.pooledBytes += r.chargeBytes()
	a.answered[cmdRead]++
	return true
}

func (t *transmission) readInto(a *answers, r request, s style) uint32 {
	if t.sender.failure() != nil {
		return codeIO // nobody will see it
	}
	n := s.readHeaderBytes() + int(r.length)
	b, err := t.replyBuffer(n)
	if err != nil {
		return codeNoMem
	}
	if err := t.device.Read(encodeRead(b.mem[:n], s, r), int64(r.offset)); err != nil {
		b.release()
		return errorCode(err)
	}
	b.addRead(n, s, r)
	a.buffers = append(a.buffers, b)
	return codeOK
}

// encodeRead writes the header of the answer to r at the start of space, and returns where its data belongs.
func encodeRead(space []byte, s style, r request) (data []byte) {
	header := s.appendReadHeader(space[:0], r.tag(), int(r.length))
	return space[len(header) : len(header)+int(r.length)]
}

// describe answers a block status request.
func (t *transmission) describe(r request, parsed time.Duration) {
	a := t.server.answers.get()
	a.chargeBytes, a.pooledBytes = r.chargeBytes(), r.chargeBytes()
	a.answered[cmdBlockStatus], a.parsed = 1, parsed
	limit := maxExtents
	if r.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	extents, err := t.device.Extents(int64(r.offset), int64(r.length), limit)
	if err == nil && !describes(extents, int64(r.length), limit) {
		err = errExtents
	}
	if err != nil {
		t.server.cfg.Logger.Debug().Err(err).Uint64("offset", r.offset).Uint64("length", r.length).
			Msg("nbd block status failed")
		t.tally.failed(cmdBlockStatus, errorCode(err))
		a.small = t.parser.terms.style.appendAnswer(a.small, r.tag(), errorCode(err))
	} else {
		t.appendStatus(a, r, extents)
	}
	t.sender.send(a)
}

func (t *transmission) appendStatus(a *answers, r request, extents []Extent) {
	s := t.parser.terms.style
	b, err := t.replyBuffer(s.statusReplyBytes(len(extents)))
	if err != nil {
		t.tally.failed(cmdBlockStatus, codeNoMem)
		a.small = s.appendAnswer(a.small, r.tag(), codeNoMem)
		return
	}
	b.filled = len(s.appendStatus(b.mem[:0], r.tag(), allocationContext, extents))
	a.buffers = append(a.buffers, b)
}

// errExtents means that a device broke its promise about Extents.
var errExtents = errors.New("device describes other bytes than it was asked for")

// describes reports whether extents may be sent as they are: some, none of them empty, and not beyond length.
func describes(extents []Extent, length int64, limit int) bool {
	if len(extents) == 0 || len(extents) > limit {
		return false
	}
	for _, e := range extents {
		if e.Length <= 0 || e.Length > length {
			return false
		}
		length -= e.Length
	}
	return true
}
