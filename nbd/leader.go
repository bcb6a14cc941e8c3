package nbd

import "time"

const (
	// takeoverDelay is how long an Apply or a Flush keeps the leader from reading before another one takes over.
	takeoverDelay = 500 * time.Microsecond
	// maxLeaders bounds the goroutines of one connection that are inside Apply or Flush. At the bound the last one
	// keeps the lead, so the connection reads nothing until it is done.
	maxLeaders = 16
)

// leader is a goroutine that reads requests, until it ends or loses the lead to another one.
type leader struct {
	t     *transmission
	watch *time.Timer // runs while watched, or fires late and finds it is not

	// Guarded by t.mu.
	watched bool
	pending *answers // ready to be sent by whoever comes first, this goroutine or the one that takes over
}

// lead carries out batches until the input ends or the lead is lost.
func (l *leader) lead() {
	defer l.leave()
	for {
		b, err := l.t.nextBatch()
		if err != nil {
			l.t.end(err)
			return
		}
		if !l.carryOut(b) {
			return
		}
	}
}

func (l *leader) leave() {
	if l.watch != nil {
		l.watch.Stop()
	}
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.t.leaders--
	if l.t.leading == l {
		l.t.leading = nil
	}
}

// carryOut does everything in b and answers it, and reports whether this goroutine still leads.
func (l *leader) carryOut(b *batch) (leading bool) {
	t := l.t
	for _, r := range b.status {
		t.server.reads.submit(t, r, b.parsed)
	}
	a := t.answerReads(b, b.ready)
	leading = true
	if len(b.changes) > 0 {
		a, leading = l.apply(b, a, leading)
	}
	if len(b.flushes) > 0 {
		a, leading = l.flush(b, a, leading)
	}
	t.server.batches.put(b)
	t.sender.send(a)
	return leading
}

// apply carries out b's changes and adds their answers to a.
func (l *leader) apply(b *batch, a *answers, leading bool) (*answers, bool) {
	l.guard(a, leading)
	l.t.device.Apply(b.changes)
	a, leading = l.unguard(leading)
	a.chargeBytes += b.changesChargeBytes
	a.parsed = b.parsed
	for i := range b.changes {
		err, kind := b.changes[i].Err, b.changes[i].Op.command()
		code := errorCode(err)
		if err != nil {
			l.logFailure("apply", err)
		}
		a.answered[slotOf(kind)]++
		l.t.tally.failed(kind, code)
		to := tag{b.cookies[i], uint64(b.changes[i].Offset)}
		a.small = l.t.parser.terms.style.appendAnswer(a.small, to, code)
	}
	return a, leading
}

// flush answers all of b's flushes by one Flush.
func (l *leader) flush(b *batch, a *answers, leading bool) (*answers, bool) {
	if !leading { // nobody watches any more, so what is ready goes first
		l.t.sender.send(a)
		a = nil
	}
	l.guard(a, leading)
	err := l.t.device.Flush()
	if err != nil {
		l.logFailure("flush", err)
	}
	a, leading = l.unguard(leading)
	a.chargeBytes += int64(len(b.flushes)) * requestChargeBytes
	a.parsed = b.parsed
	for _, cookie := range b.flushes {
		a.answered[cmdFlush]++
		l.t.tally.failed(cmdFlush, errorCode(err))
		a.small = l.t.parser.terms.style.appendAnswer(a.small, tag{cookie: cookie}, errorCode(err)) // a flush is at 0
	}
	return a, leading
}

func (l *leader) logFailure(operation string, err error) {
	l.t.server.cfg.Logger.Debug().Err(err).Str("operation", operation).Msg("nbd request failed")
}

// guard starts the watch over a call that may last, with the answers that are ready before it.
func (l *leader) guard(a *answers, leading bool) {
	l.t.mu.Lock()
	l.pending, l.watched = a, leading
	l.t.mu.Unlock()
	switch {
	case !leading:
	case l.watch == nil:
		l.watch = time.AfterFunc(l.t.takeoverDelay, l.takeover)
	default:
		l.watch.Reset(l.t.takeoverDelay)
	}
}

// unguard ends the watch. It returns the answers that wait to be sent, and whether this goroutine still leads.
func (l *leader) unguard(leading bool) (*answers, bool) {
	if leading {
		l.watch.Stop()
	}
	l.t.mu.Lock()
	a := l.pending
	l.pending, l.watched = nil, false
	leading = l.t.leading == l
	l.t.mu.Unlock()
	if a == nil {
		a = l.t.server.answers.get()
	}
	return a, leading
}

// takeover runs when a watched call lasts: another goroutine sends what is ready and, within maxLeaders, leads.
func (l *leader) takeover() {
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if !l.watched {
		return // it fired just when the call returned
	}
	l.watched = false
	ready := l.pending
	l.pending = nil
	var next *leader
	if t.leaders < maxLeaders {
		next = &leader{t: t}
		t.leaders++
		t.leading = next
	}
	t.goroutines.Go(func() { // the watched goroutine is still counted, so the count is not zero
		if ready != nil {
			t.sender.send(ready)
		}
		if next != nil {
			next.lead()
		}
	})
}
