package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"lockstep/block"
)

var (
	// ErrTooFewCopies means that fewer copies than min-copies are in sync, and that the volume is to fail then (S4).
	ErrTooFewCopies = errors.New("fewer copies are in sync than min-copies wants")
	// ErrDeposed means that this node is not the volume's primary any longer.
	ErrDeposed = errors.New("this node is not the volume's primary any longer")
)

// Committer has flushes wait for the copies that a Tracker wants. It is what a volume's flushes and checkpoints ask. Its
// methods may be called from many goroutines; it starts none.
type Committer struct {
	self   string
	wanted chan struct{} // capacity 1: replicas are to be asked for a barrier

	mu      sync.Mutex
	tracker *Tracker              // guarded by mu
	waits   map[Ticket]chan error // guarded by mu; each of capacity 1
	fails   bool                  // guarded by mu: below min-copies waits fail; otherwise they block
	closed  error                 // guarded by mu
}

// NewCommitter returns the committer of a primary, of the ID self, for one epoch. fails says that below minCopies a flush
// fails with ErrTooFewCopies, and does not block.
func NewCommitter(self string, minCopies int, fails bool) *Committer {
	return &Committer{
		self: self, wanted: make(chan struct{}, 1), tracker: NewTracker(self, minCopies), waits: map[Ticket]chan error{}, fails: fails,
	}
}

// Commit returns nil once every record up to lsn, which is durable here, is so on every copy that flushes wait for. It
// returns the context's error when that ends, ErrDeposed after Close, and ErrTooFewCopies where the volume is to fail then.
// No error is one of this copy: Commit may be called again.
func (c *Committer) Commit(ctx context.Context, lsn block.LSN) error {
	c.mu.Lock()
	if c.closed != nil {
		defer c.mu.Unlock()
		return c.closed
	}
	c.tracker.Durable(c.self, lsn)
	ticket, answer := c.tracker.Wait(lsn), make(chan error, 1)
	c.waits[ticket] = answer
	c.answerLocked()
	_, due := c.tracker.Barrier()
	c.mu.Unlock()
	if due {
		c.want()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case err := <-answer: // it was answered while the lock was waited for
		return err
	default:
	}
	c.tracker.Forget(ticket)
	delete(c.waits, ticket)
	return fmt.Errorf("wait for other copies: %w (%s)", ctx.Err(), c.tracker)
}

// want has Wanted tell; where it was not asked since it told last, once is enough.
func (c *Committer) want() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

// Wanted tells that replicas are to be asked to make durable what Pending says.
func (c *Committer) Wanted() <-chan struct{} { return c.wanted }

// Pending returns the newest LSN that is waited for, 0 for none.
func (c *Committer) Pending() block.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracker.Pending()
}

// Update lets the caller tell the tracker facts, and then answers who waited for them. It returns what is committed.
func (c *Committer) Update(tell func(*Tracker)) block.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	tell(c.tracker)
	if c.closed == nil {
		c.answerLocked()
	}
	if _, due := c.tracker.Barrier(); due {
		c.want()
	}
	return c.tracker.Committed()
}

// SetFails changes what happens below min-copies: flushes fail, or block.
func (c *Committer) SetFails(fails bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails = fails
	c.answerLocked()
}

// answerLocked answers the waits that are over.
func (c *Committer) answerLocked() {
	if c.fails && c.tracker.Below() {
		c.failLocked(fmt.Errorf("%w (%s)", ErrTooFewCopies, c.tracker))
		return
	}
	for _, ticket := range c.tracker.Answered() {
		c.waits[ticket] <- nil
		delete(c.waits, ticket)
	}
}

// failLocked answers all waits with an error. Their order is nobody's concern: each has its own goroutine.
func (c *Committer) failLocked(err error) {
	for ticket, answer := range c.waits {
		c.tracker.Forget(ticket)
		answer <- err
		delete(c.waits, ticket)
	}
}

// Close ends all waits, and those to come, with ErrDeposed. Nothing is acknowledged after it. It may be called twice.
func (c *Committer) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.closed = ErrDeposed
		c.failLocked(c.closed)
	}
}
