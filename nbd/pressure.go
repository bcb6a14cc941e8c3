package nbd

import (
	"errors"
	"os"
	"time"
)

// Memory is short when clients stall: in the middle of a request, before its answers, or behind a device that blocks.
// Then these rules keep what is left for those who do not.
//
//   - Each connection has a reserve: one buffer of 128 KiB to receive in and one to answer from, which nobody else can
//     take. While a quota is tight it is used first, so that requests of that size need nothing of the quota.
//   - A connection that waits for the rest of a request goes on in its reserve, where that holds what there is.
//   - A client that is behind gets no more memory for answers, any other only for one request at a time in the read pool.
//   - Who waits for memory in the read pool does not count as one of its workers.
//   - Where somebody waits for a quota, a client that stalls with memory of it is cut after pressedTimeout.
const (
	// reserveBytes is enough for the largest request that most clients send.
	reserveBytes = 128 << 10
	// pressedTimeout is how long a client may stall with memory that others wait for, besides 1 s for 4 MiB of a request.
	pressedTimeout = 2 * time.Second
	// pressedTakeBytes is how much a client has to take in that time of what waits for it.
	pressedTakeBytes = 64 << 10
)

// tight reports whether less than a quarter is left, or somebody waits.
func (q *quota) tight() bool {
	return q.usedBytes.Load() > q.limitBytes/4*3 || q.wanted()
}

// wanted reports whether somebody waits.
func (q *quota) wanted() bool { return q.waiting.Load() > 0 }

// newReserve makes a quota of one small buffer, for one connection and one direction.
func newReserve(p *pool) *quota { return newQuota(p, int64(classBytes(bufferClass(reserveBytes)))) }

// patience bounds a wait for a client that holds memory, by looks at whether others want that meanwhile.
type patience struct {
	limit   time.Duration // for all of the wait
	pressed time.Duration // where the memory is wanted
	since   time.Time     // start of the wait; zero: none
}

// next returns until when to wait before the next look; over: the client has had its time.
func (p *patience) next(now time.Time, held, wanted bool) (until time.Time, over bool) {
	limit := p.limit
	if wanted {
		limit = min(limit, p.pressed)
	}
	end := p.since.Add(limit)
	if !now.Before(end) {
		return time.Time{}, true
	}
	if look := now.Add(p.pressed / 2); held && look.Before(end) {
		end = look
	}
	return end, false
}

// replyBuffer takes a buffer of n bytes for an answer, on a goroutine of the read pool, and waits where it must: for the
// reserve, which only this connection's own client keeps, or for the quota.
func (t *transmission) replyBuffer(n int) (*buffer, error) {
	if b := t.server.replies.try(n); b != nil {
		return b, nil
	}
	from := t.server.replies
	if n <= reserveBytes+bufferSlackBytes {
		if b := t.replyReserve.try(n); b != nil {
			return b, nil
		}
		from = t.replyReserve
	}
	t.server.reads.stepAside()
	defer t.server.reads.stepBack()
	return from.get(t.abandoned, n)
}

// await sends parts as far as the client takes them within its time, and leaves the rest in them.
func (s *sender) await() error {
	begun := time.Now()
	p := patience{limit: s.timeout, pressed: s.pressedTimeout, since: begun}
	taken := 0
	for {
		now := time.Now()
		if taken >= pressedTakeBytes {
			p.limit, p.since, taken = s.timeout-now.Sub(begun), now, 0
		}
		until, over := p.next(now, true, s.memory.wanted() && s.holdsMemory())
		if over {
			return os.ErrDeadlineExceeded
		}
		if err := s.socket.setWriteDeadline(until); err != nil {
			return err
		}
		all, before := s.parts, partsBytes(s.parts)
		rest, err := s.socket.send(s.parts, true)
		s.parts = all[:copy(all, rest)]
		taken += before - partsBytes(s.parts)
		if err == nil {
			return s.socket.setWriteDeadline(time.Time{})
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// holdsMemory reports whether any of what is to be sent lies in memory that others may wait for. Its caller is busy.
func (s *sender) holdsMemory() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range [][]*answers{s.writing, s.queue} {
		for _, a := range list {
			for _, b := range a.buffers {
				if b.quota == s.memory {
					return true
				}
			}
		}
	}
	return false
}

func partsBytes(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}
