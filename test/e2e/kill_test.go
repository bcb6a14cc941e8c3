package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const (
	mib = 1 << 20
	// What one writer of the kill tests has to itself, and how many requests it sends at once, each in a stripe of its
	// own: the order of requests in flight that overlap is nobody's promise.
	writerSectors = 8192
	writerBatch   = 16
	stripeSectors = writerSectors / writerBatch
)

// writer changes its own part of a volume until its connection breaks.
type writer struct {
	ledger *ledger
	rand   *rand.Rand
}

// write sends batches; acked is called after each that was acknowledged.
func (w *writer) write(c *client, acked func()) error {
	for {
		var changes []change
		var requests []request
		for i := range writerBatch {
			size := 1 + w.rand.IntN(64)
			begin := i*stripeSectors + w.rand.IntN(stripeSectors-size)
			change, request := w.ledger.send(begin, size, w.rand.IntN(8) == 0)
			if w.rand.IntN(64) == 0 {
				request.flags = flagFUA
			}
			changes, requests = append(changes, change), append(requests, request)
		}
		if w.rand.IntN(16) == 0 {
			requests = append(requests, request{kind: cmdFlush})
		}
		failed, err := c.do(requests...)
		if err != nil {
			return nil // the server was killed
		}
		for i := range requests {
			if failed[i] != 0 {
				return fmt.Errorf("request %d of the batch: %w", i, failed[i])
			}
		}
		for _, c := range changes {
			w.ledger.ack(c)
		}
		acked()
	}
}

// I2: what was acknowledged survives the death of the server, each time. The log is so small that it is recycled, and
// checkpoints run, while the kills come.
func TestKill(t *testing.T) {
	n := newNode(t, shortDir(t))
	n.must("volume", "create", "disk", "--size", "64MiB", "--wal-size", "16MiB")
	const seed = 1
	var writers []*writer
	for i := range 4 {
		writers = append(writers, &writer{
			ledger: newLedger(int64(i)*writerSectors, writerSectors),
			rand:   rand.New(rand.NewPCG(seed, uint64(i))),
		})
	}
	n.start()
	for round := range 6 {
		killAt := int64(30 + rand.New(rand.NewPCG(seed, uint64(round))).IntN(400))
		n.killUnder(writers, killAt)
		n.start()
		c := n.dial("disk")
		for _, w := range writers {
			if err := w.ledger.verify(c); err != nil {
				t.Fatalf("after kill %d, at %d batches: %v", round+1, killAt, err)
			}
		}
	}
	n.stop()
}

// killUnder lets the writers write, and kills the server when so many batches have been acknowledged.
func (n *node) killUnder(writers []*writer, batches int64) {
	n.t.Helper()
	var acked atomic.Int64
	var wg sync.WaitGroup
	for _, w := range writers {
		c := n.dial("disk")
		wg.Go(func() {
			err := w.write(c, func() {
				if acked.Add(1) == batches {
					n.signal(syscall.SIGKILL)
				}
			})
			if err != nil {
				n.t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := n.reap(); err == nil {
		n.t.Fatal("a killed server ended well")
	}
}

// I1, as far as a process can be asked: when a flush or FUA change is acknowledged, all that was acknowledged before it
// is durable by the server's own account, and there after a kill.
func TestFlushThenKill(t *testing.T) {
	n := newNode(t, shortDir(t))
	n.must("volume", "create", "disk", "--size", "64MiB")
	n.start()
	l := newLedger(0, 64)
	for round := range 4 {
		c, other := n.dial("disk"), n.dial("disk")
		for i := range 16 {
			change, r := l.send(i*4, 4, false)
			last := i == 15
			if last && round%2 == 0 {
				r.flags = flagFUA // alone it does not promise the writes before it to be durable, but this log does
			}
			if err := c.one(r); err != nil {
				t.Fatal(err)
			}
			l.ack(change)
		}
		written := n.show("disk").Head
		if round%2 == 1 {
			if err := other.flush(); err != nil { // on another connection than the writes
				t.Fatal(err)
			}
		}
		if s := n.show("disk"); s.Durable < written {
			t.Errorf("LSN %d was acknowledged and flushed, and %d is durable", written, s.Durable)
		}
		n.kill()
		n.start()
		if err := l.verify(n.dial("disk")); err != nil {
			t.Fatalf("after kill %d: %v", round+1, err)
		}
	}
}
