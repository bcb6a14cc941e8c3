package replication

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"lockstep/block"
)

func testCommitter(fails bool) *Committer {
	c := NewCommitter("a", 2, fails)
	c.Update(func(t *Tracker) {
		t.InForce(1, []string{"a", "b"})
		t.Durable("b", 10)
	})
	return c
}

// commits starts a wait whose end the channel tells. Within a bubble.
func commits(ctx context.Context, c *Committer, lsn block.LSN) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.Commit(ctx, lsn) }()
	synctest.Wait()
	return done
}

// ended returns what a wait was answered with; false where it goes on.
func ended(done <-chan error) (error, bool) {
	synctest.Wait()
	select {
	case err := <-done:
		return err, true
	default:
		return nil, false
	}
}

// TestCommit: a commit returns once every copy has what it is for, and asks for it once.
func TestCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCommitter(false)
		if err, ok := ended(commits(t.Context(), c, 10)); !ok || err != nil {
			t.Errorf("what b has: %v, %v", ok, err)
		}
		select {
		case <-c.Wanted():
			t.Error("b is asked for what it has")
		default:
		}
		first, second := commits(t.Context(), c, 11), commits(t.Context(), c, 13)
		<-c.Wanted()
		if c.Pending() != 13 {
			t.Errorf("b is asked for %d", c.Pending())
		}
		if got := c.Update(func(t *Tracker) { t.Durable("b", 12) }); got != 12 {
			t.Errorf("committed %d", got)
		}
		if err, ok := ended(first); !ok || err != nil {
			t.Errorf("11 at 12: %v, %v", ok, err)
		}
		if err, ok := ended(second); ok {
			t.Errorf("13 at 12: %v", err)
		}
		c.Update(func(t *Tracker) { t.InForce(2, []string{"a", "c"}); t.Durable("c", 20) })
		if err, ok := ended(second); !ok || err != nil {
			t.Errorf("13 without b: %v, %v", ok, err)
		}
	})
}

// TestCommitCancelled: a wait ends with its context, and leaves nothing behind; a later one is as if it had not been.
func TestCommitCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCommitter(false)
		ctx, cancel := context.WithCancel(t.Context())
		done := commits(ctx, c, 11)
		cancel()
		if err, ok := ended(done); !ok || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", ok, err)
		}
		if len(c.waits) > 0 || c.Pending() != 0 {
			t.Errorf("%d waits are left, up to %d", len(c.waits), c.Pending())
		}
		again := commits(t.Context(), c, 11)
		c.Update(func(t *Tracker) { t.Durable("b", 11) })
		if err, ok := ended(again); !ok || err != nil {
			t.Errorf("again: %v, %v", ok, err)
		}
	})
}

// TestCommitAskedAgain: a copy whose connection was lost, or that is waited for only now, is asked for what is waited for.
func TestCommitAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, change := range map[string]func(*Tracker){
			"lost":     func(t *Tracker) { t.Lost("b") },
			"proposed": func(t *Tracker) { t.Propose([]string{"a", "b", "c"}) },
			"in force": func(t *Tracker) { t.InForce(2, []string{"a", "b", "c"}) },
		} {
			c := testCommitter(false)
			ctx, cancel := context.WithCancel(t.Context())
			done := commits(ctx, c, 11)
			<-c.Wanted()
			c.Update(func(t *Tracker) { t.Durable("b", 10) })
			select {
			case <-c.Wanted():
				t.Errorf("%s: asked again for nothing", name)
			default:
			}
			c.Update(change)
			select {
			case <-c.Wanted():
			default:
				t.Errorf("%s: not asked again", name)
			}
			cancel()
			<-done
			c.Update(change)
			done = commits(t.Context(), c, 11)
			if len(c.Wanted()) != 1 && name != "in force" { // an old version changes nothing
				t.Errorf("%s: not asked after a wait was cancelled", name)
			}
			c.Close()
			<-done
		}
	})
}

// TestS4Commit: below min-copies a commit blocks, or fails, as the volume is configured, and goes on when there are enough.
func TestS4Commit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCommitter(false)
		c.Update(func(t *Tracker) { t.InForce(2, []string{"a"}) })
		done := commits(t.Context(), c, 5)
		if err, ok := ended(done); ok {
			t.Errorf("below m: %v", err)
		}
		c.SetFails(true)
		if err, ok := ended(done); !ok || !errors.Is(err, ErrTooFewCopies) {
			t.Errorf("below m, failing: %v, %v", ok, err)
		}
		if err, ok := ended(commits(t.Context(), c, 5)); !ok || !errors.Is(err, ErrTooFewCopies) {
			t.Errorf("asked below m, failing: %v, %v", ok, err)
		}
		c.Update(func(t *Tracker) { t.InForce(3, []string{"a", "b"}) })
		if err, ok := ended(commits(t.Context(), c, 5)); !ok || err != nil {
			t.Errorf("with b again: %v, %v", ok, err)
		}
	})
}

// TestCommitDeposed: after Close nothing is acknowledged, whatever becomes known.
func TestCommitDeposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCommitter(false)
		done := commits(t.Context(), c, 11)
		c.Close()
		c.Close()
		if err, ok := ended(done); !ok || !errors.Is(err, ErrDeposed) {
			t.Errorf("%v, %v", ok, err)
		}
		c.Update(func(t *Tracker) { t.Durable("b", 20) })
		if err, ok := ended(commits(t.Context(), c, 10)); !ok || !errors.Is(err, ErrDeposed) {
			t.Errorf("later: %v, %v", ok, err)
		}
	})
}
