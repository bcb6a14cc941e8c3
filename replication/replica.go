package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"lockstep/block"
	"lockstep/engine"
)

// Copy is what a Replica needs of its volume. All but Sync and Facts are called under one lock, which is what makes the
// test of epoch, session and stream one step with its effect (S8).
type Copy interface {
	// Follow makes a newer authority durable before it returns, and fences what this copy did in older epochs (I11).
	Follow(a Authority) error
	// Link returns the link to the record at lsn, the zero Link where the log does not reach it. The CRC is 0 where the log
	// no longer has the record; the EpochID is always known, from the lineage.
	Link(lsn block.LSN) (Link, error)
	// Receive takes records as they are in the primary's log, whose first is at most one after the head: those up to the
	// head have to be there byte for byte (else ErrDiverged), the rest is appended. It returns the head. After an error
	// nothing was appended.
	Receive(raw []byte) (applied block.LSN, err error)
	// Sync makes everything that was received before the call durable, and returns up to where that is so.
	Sync() (durable block.LSN, err error)
	// SetCommitted tells how far the copy may checkpoint (S10).
	SetCommitted(lsn block.LSN)
	// Truncate cuts the log after an LSN, having tested against its present state that it may (S13).
	Truncate(to block.LSN) error
	// Facts returns what a sync ack says, without the session.
	Facts() engine.SyncAck
}

// RefusedLocal is the reason where the replica's own copy failed, and nobody lied.
const RefusedLocal = "replica_failed"

// errLocal marks an error of the copy.
type errLocal struct{ error }

func (e errLocal) Unwrap() error { return e.error }

// Replica is a copy's end of the log and control lanes. Run, and ServeLog and ServeControl for each connection, block until
// their context or connection ends; they may be called from many goroutines.
type Replica struct {
	copy Copy
	wake chan struct{} // capacity 1: somebody waits for a sync

	mu       sync.Mutex
	receiver *Receiver // guarded by mu
	log      *Conn     // guarded by mu: the connection of the present stream
	control  *Conn     // guarded by mu: the newest that a primary spoke on
}

// NewReplica returns the replica of a copy that has persisted the authority and has blocks of blockBytes.
func NewReplica(c Copy, a Authority, blockBytes int) *Replica {
	f := c.Facts()
	return &Replica{copy: c, wake: make(chan struct{}, 1), receiver: NewReceiver(a, blockBytes, f.AppliedLSN, f.DurableLSN)}
}

// Authority returns whose word counts here.
func (r *Replica) Authority() Authority {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.receiver.Authority()
}

// Run syncs the copy whenever a barrier or a session's end waits for it, until the context ends. It returns an error where
// the copy fails: then no more is acknowledged.
func (r *Replica) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		durable, err := r.copy.Sync()
		if err != nil {
			return fmt.Errorf("sync the replica's log: %w", err)
		}
		r.mu.Lock()
		r.receiver.Synced(durable)
		answers := r.answersLocked()
		r.mu.Unlock()
		answers.send()
	}
}

// answers is what there is to say, and where.
type answers struct {
	log, control *Conn
	h            Header
	toLog        *Ack
	toControl    []Message
}

func (r *Replica) answersLocked() (a answers) {
	a.log, a.control = r.log, r.control
	h, ack, ok := r.receiver.Ack()
	if a.h = h; ok {
		a.toLog = ack
	}
	if b, ok := r.receiver.Answer(); ok {
		a.toControl = append(a.toControl, b)
	}
	if done, ok := r.receiver.Completed(); ok {
		a.toControl = append(a.toControl, done)
	}
	if r.receiver.WantSync() {
		select {
		case r.wake <- struct{}{}:
		default: // it was told already
		}
	}
	return a
}

// send says it. A connection that breaks here ends where it is received on.
func (a answers) send() {
	if a.log != nil && a.toLog != nil {
		_ = a.log.Send(a.h, a.toLog)
	}
	for _, m := range a.toControl {
		if a.control != nil {
			_ = a.control.Send(a.h, m)
		}
	}
}

// ServeLog receives a stream. Whatever is wrong with it is told to the primary, and returned.
func (r *Replica) ServeLog(ctx context.Context, c *Conn) error {
	return r.serve(ctx, c, func(h Header, m Message) error {
		switch m := m.(type) {
		case *StartStream:
			return r.start(c, h, m)
		case *Records:
			return r.receive(c, h, m)
		case *Heartbeat:
			return c.Send(h, &Heartbeat{Number: m.Number, Answer: true})
		}
		return fmt.Errorf("%w: %s from a primary", ErrUnexpected, m.Kind())
	})
}

func (r *Replica) serve(ctx context.Context, c *Conn, handle func(Header, Message) error) error {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer r.leave(c)
	for {
		h, m, err := c.Receive()
		if err == nil {
			err = handle(h, m)
		}
		if err != nil {
			return c.end(r.Authority().Header(0), err)
		}
	}
}

// end tells the other side the reason for an error that is not its own word or the network's, and closes the connection.
func (c *Conn) end(h Header, err error) error {
	local := errors.As(err, new(errLocal))
	if reason := Reason(err); local && reason == RefusedProtocol {
		c.Refuse(h, &Refusal{Reason: RefusedLocal, Detail: err.Error()})
	} else if local || lies(err) {
		c.Refuse(h, &Refusal{Reason: reason, Detail: err.Error()})
	}
	_ = c.Close()
	return err
}

// lies tells whether an error is about what the other side said.
func lies(err error) bool {
	for _, lie := range []error{
		ErrMagic, ErrVersion, ErrTooLong, ErrCorrupt, ErrTag, ErrSequence, ErrUnexpected, ErrWrongVolume, ErrWrongPeer,
		ErrOldEpoch, ErrOtherPrimary, ErrNewerEpoch, ErrStale, ErrGap, ErrDiverged,
	} {
		if errors.Is(err, lie) {
			return true
		}
	}
	return badRecords(err)
}

// leave forgets a connection that has ended.
func (r *Replica) leave(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == c {
		r.log = nil
	}
	if r.control == c {
		r.control = nil
	}
}

// adoptLocked makes the authority of a message durable where it is news, and refuses it where it is none.
func (r *Replica) adoptLocked(h Header) error {
	news, err := r.receiver.Authority().Check(h)
	if err != nil || !news {
		return err
	}
	a := AuthorityOf(h)
	if err := r.copy.Follow(a); err != nil {
		return errLocal{fmt.Errorf("follow epoch %d: %w", a.Epoch, err)}
	}
	r.receiver.Adopt(a)
	return nil
}

func (r *Replica) start(c *Conn, h Header, m *StartStream) error {
	r.mu.Lock()
	err := r.startLocked(c, h, m)
	answers := r.answersLocked()
	r.mu.Unlock()
	if err == nil {
		answers.send()
	}
	return err
}

func (r *Replica) startLocked(c *Conn, h Header, m *StartStream) error {
	if err := r.adoptLocked(h); err != nil {
		return err
	}
	own, err := r.copy.Link(m.Before.LSN)
	if err != nil {
		return errLocal{fmt.Errorf("find record %d: %w", m.Before.LSN, err)}
	}
	if err := r.receiver.Start(h, m, own); err != nil {
		return err
	}
	r.log = c
	return nil
}

func (r *Replica) receive(c *Conn, h Header, m *Records) error {
	r.mu.Lock()
	err := r.applyLocked(h, m)
	answers := r.answersLocked()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if c.Buffered() && len(answers.toControl) == 0 {
		return nil // an ack for all of it will follow
	}
	answers.send()
	return nil
}

func (r *Replica) applyLocked(h Header, m *Records) error {
	if err := r.receiver.Receive(h, m); err != nil {
		return err
	}
	head, err := r.copy.Receive(m.Raw)
	if err != nil {
		return errLocal{fmt.Errorf("apply records %d to %d: %w", m.FirstLSN, m.LastLSN, err)}
	}
	r.receiver.Applied(m, head)
	return nil
}

// ServeControl answers a primary's questions and takes its orders.
func (r *Replica) ServeControl(ctx context.Context, c *Conn) error {
	return r.serve(ctx, c, func(h Header, m Message) error {
		r.mu.Lock()
		reply, err := r.orderLocked(h, m)
		ours := r.receiver.Authority().Header(r.receiver.Session())
		if err == nil {
			r.control = c
		}
		answers := r.answersLocked()
		r.mu.Unlock()
		if err == nil && reply != nil {
			err = c.Send(ours, reply)
		}
		answers.toLog = nil
		answers.send()
		return err
	})
}

func (r *Replica) orderLocked(h Header, m Message) (Message, error) {
	if err := r.adoptLocked(h); err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *Heartbeat:
		return &Heartbeat{Number: m.Number, Answer: true}, nil
	case *SyncRequest:
		facts, session := r.copy.Facts(), r.receiver.Session()
		facts.ActiveSession = &session
		return &SyncAck{Number: m.Number, Facts: facts}, nil
	case *BarrierRequest:
		return nil, r.receiver.Barrier(h, m.LSN)
	case *Committed:
		r.copy.SetCommitted(m.LSN)
		return nil, nil
	case *StartCatchUp:
		return r.catchUpLocked(h, m)
	case *CancelSession: // what follows is keep-up, where anything does
		if h.Session == r.receiver.Session() {
			r.beginLocked(0)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("%w: %s from a primary", ErrUnexpected, m.Kind())
}

func (r *Replica) beginLocked(session engine.SessionID) {
	f := r.copy.Facts()
	r.receiver.Begin(session, f.AppliedLSN, f.DurableLSN)
}

// catchUpLocked begins a session. The log lane may begin once its first progress is told.
func (r *Replica) catchUpLocked(h Header, m *StartCatchUp) (Message, error) {
	if newest := r.receiver.Newest(); h.Session <= newest {
		return nil, fmt.Errorf("%w: session %d after session %d", ErrStale, h.Session, newest)
	}
	own, err := r.copy.Link(m.Before.LSN)
	if err != nil {
		return nil, errLocal{fmt.Errorf("find record %d: %w", m.Before.LSN, err)}
	}
	if err := agree(m.Before, own); err != nil { // before anything is cut
		return nil, err
	}
	if m.Truncate && m.FirstLSN != m.ForkLSN+1 {
		return nil, fmt.Errorf("%w: truncate to %d and go on with %d", ErrGap, m.ForkLSN, m.FirstLSN)
	}
	if m.Truncate {
		if err := r.copy.Truncate(m.ForkLSN); err != nil {
			return nil, errLocal{fmt.Errorf("truncate to %d: %w", m.ForkLSN, err)}
		}
	}
	r.beginLocked(h.Session)
	f := r.copy.Facts()
	return &SessionProgress{DurableLSN: min(f.DurableLSN, m.FirstLSN-1), TargetLSN: m.TargetLSN}, nil
}
