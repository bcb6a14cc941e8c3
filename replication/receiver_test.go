package replication

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// testReceiver is in session 5, has records 1 to 10 of p, 8 of them durable, and has received the stream's from 9 on.
func testReceiver(t *testing.T, p *primaryLog) *Receiver {
	t.Helper()
	r := NewReceiver(testAuthority, testBlockBytes, 10, 8)
	r.Begin(5, 10, 8)
	if err := r.Start(answerOf(p), &StartStream{Stream: 3, FirstLSN: 9, TargetLSN: 14, Before: p.link(8)}, p.link(8)); err != nil {
		t.Fatal(err)
	}
	return r
}

func answerOf(*primaryLog) Header {
	h := testAuthority.Header(5)
	h.Sender, h.Volume = id(1), id(9)
	return h
}

// apply does what a host does with records.
func apply(t *testing.T, r *Receiver, h Header, m *Records) {
	t.Helper()
	if err := r.Receive(h, m); err != nil {
		t.Fatal(err)
	}
	r.Applied(m, max(r.applied, m.LastLSN))
}

// TestReceiver: acks speak of what the stream has shown, contiguous, and the session completes at its target, once.
func TestReceiver(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	r, h := testReceiver(t, p), answerOf(p)
	step := func(what string, want Ack, wantSync bool, wantDone block.LSN) {
		t.Helper()
		got, ack, ok := r.Ack()
		if want.Stream = 3; !ok || *ack != want || got != testAuthority.Header(5) {
			t.Errorf("%s: %+v is acknowledged, want %+v", what, *ack, want)
		}
		if r.WantSync() != wantSync {
			t.Errorf("%s: wants a sync: %v", what, r.WantSync())
		}
		if done, ok := r.Completed(); ok != (wantDone > 0) || ok && done.DurableLSN != wantDone {
			t.Errorf("%s: completed %+v", what, done)
		}
	}
	step("before the first record", Ack{ReceivedLSN: 8, AppliedLSN: 8, DurableLSN: 8}, false, 0)
	apply(t, r, h, p.message(3, 9, 9))
	step("one that is here", Ack{ReceivedLSN: 9, AppliedLSN: 9, DurableLSN: 8}, false, 0)
	apply(t, r, h, p.message(3, 10, 12))
	step("new ones", Ack{ReceivedLSN: 12, AppliedLSN: 12, DurableLSN: 8}, false, 0)
	if err := r.Barrier(h, 11); err != nil {
		t.Fatal(err)
	}
	step("a barrier", Ack{ReceivedLSN: 12, AppliedLSN: 12, DurableLSN: 8}, true, 0)
	r.Synced(10)
	if b, ok := r.Answer(); ok {
		t.Errorf("the barrier is answered at 10: %+v", b)
	}
	r.Synced(50) // with what came after it was asked
	step("synced", Ack{ReceivedLSN: 12, AppliedLSN: 12, DurableLSN: 12}, false, 0)
	if b, ok := r.Answer(); !ok || *b != (BarrierAck{LSN: 11, DurableLSN: 12}) {
		t.Errorf("the barrier is answered %+v, %v", b, ok)
	}
	if b, ok := r.Answer(); ok {
		t.Errorf("the barrier is answered again: %+v", b)
	}
	apply(t, r, h, p.message(3, 13, 13))
	step("below the target", Ack{ReceivedLSN: 13, AppliedLSN: 13, DurableLSN: 12}, false, 0)
	apply(t, r, h, p.message(3, 14, 15))
	step("at the target", Ack{ReceivedLSN: 15, AppliedLSN: 15, DurableLSN: 12}, true, 0)
	r.Synced(15)
	step("complete", Ack{ReceivedLSN: 15, AppliedLSN: 15, DurableLSN: 15}, false, 15)
	apply(t, r, h, p.message(3, 16, 18))
	r.Synced(18)
	step("live", Ack{ReceivedLSN: 18, AppliedLSN: 18, DurableLSN: 18}, false, 0)
}

// TestReceiverUnshown: what a copy has durable, and the stream has not shown to be the primary's, is not acknowledged, and
// no barrier is answered by it: it may be a fork.
func TestReceiverUnshown(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	r := NewReceiver(testAuthority, testBlockBytes, 20, 20)
	if _, _, ok := r.Ack(); ok {
		t.Error("acknowledges without a stream")
	}
	h := answerOf(p)
	if err := r.Barrier(h, 6); err != nil {
		t.Fatal(err)
	}
	h.Session = 0
	if err := r.Start(h, &StartStream{Stream: 1, FirstLSN: 5, TargetLSN: 0, Before: p.link(4)}, p.link(4)); err != nil {
		t.Fatal(err)
	}
	if _, ack, _ := r.Ack(); *ack != (Ack{Stream: 1, ReceivedLSN: 4, AppliedLSN: 4, DurableLSN: 4}) {
		t.Errorf("acknowledges %+v", ack)
	}
	if b, ok := r.Answer(); ok {
		t.Errorf("answers %+v", b)
	}
	apply(t, r, h, p.message(1, 5, 7))
	if b, ok := r.Answer(); !ok || b.DurableLSN != 7 {
		t.Errorf("answers %+v, %v", b, ok)
	}
}

// TestReceiverRefuses: whatever is of another epoch, primary, session or stream, has a gap, or is not what it says changes
// nothing.
func TestReceiverRefuses(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	other := newPrimaryLog(t)
	other.write(8)
	other.epoch(8, id(30), id(31)) // record 10
	bad := p.message(3, 9, 12)
	bad.Raw[100] ^= 1
	long := p.message(3, 9, 12)
	long.LastLSN = 11
	skips := p.message(3, 9, 12)
	skips.Raw = slices.Concat(p.raw(9, 10), p.raw(12, 12))
	newer := other.message(3, 9, 10)
	for name, c := range map[string]struct {
		h    func(*Header)
		m    *Records
		want error
	}{
		"an older epoch":       {func(h *Header) { h.Epoch-- }, nil, ErrOldEpoch},
		"no epoch":             {func(h *Header) { h.Epoch = 0 }, nil, ErrOldEpoch},
		"no epoch's ID":        {func(h *Header) { h.EpochID = uuid.Nil }, nil, ErrOldEpoch},
		"not adopted":          {func(h *Header) { h.Epoch++ }, nil, ErrStale},
		"another epoch's ID":   {func(h *Header) { h.EpochID = id(77) }, nil, ErrOtherPrimary},
		"another primary":      {func(h *Header) { h.Sender = id(77) }, nil, ErrOtherPrimary},
		"another session":      {func(h *Header) { h.Session-- }, nil, ErrStale},
		"no session":           {func(h *Header) { h.Session = 0 }, nil, ErrStale},
		"an older stream":      {nil, p.message(2, 9, 12), ErrStale},
		"a newer stream":       {nil, p.message(4, 9, 12), ErrStale},
		"a gap":                {nil, p.message(3, 10, 12), ErrGap},
		"once more":            {nil, p.message(3, 8, 12), ErrGap},
		"a gap inside":         {nil, skips, wal.ErrGap},
		"bad CRC":              {nil, bad, wal.ErrRecordCorrupt},
		"more than it says":    {nil, long, ErrGap},
		"others than it says":  {nil, &Records{Stream: 3, FirstLSN: 9, LastLSN: 12, Raw: p.raw(10, 13)}, ErrGap},
		"begins later":         {nil, &Records{Stream: 3, FirstLSN: 9, LastLSN: 12, Raw: p.raw(10, 12)}, ErrGap},
		"torn":                 {nil, &Records{Stream: 3, FirstLSN: 9, LastLSN: 12, Raw: p.raw(9, 12)[:200]}, wal.ErrRecordTorn},
		"of a newer epoch":     {nil, newer, ErrDiverged},
		"nothing (control)":    {nil, p.message(3, 9, 12), nil},
		"everything (control)": {nil, p.message(3, 9, 21), nil},
	} {
		r, h := testReceiver(t, p), answerOf(p)
		if c.h != nil {
			c.h(&h)
		}
		if c.m == nil {
			c.m = p.message(3, 9, 12)
		}
		before := *r
		if err := r.Receive(h, c.m); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if !reflect.DeepEqual(*r, before) {
			t.Errorf("%s changed the receiver", name)
		}
	}
}

// TestS6StartStream: a stream begins only where both logs have the same record, and never before an older one.
func TestS6StartStream(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	good := p.link(8)
	change := func(f func(*Link)) Link { l := good; f(&l); return l }
	for name, c := range map[string]struct {
		m    StartStream
		own  Link
		want error
	}{
		"control":                {StartStream{Stream: 4, FirstLSN: 9, Before: good}, good, nil},
		"at the head":            {StartStream{Stream: 4, FirstLSN: 11, Before: p.link(10)}, p.link(10), nil},
		"from the beginning":     {StartStream{Stream: 4, FirstLSN: 1}, Link{}, nil},
		"CRC is gone there":      {StartStream{Stream: 4, FirstLSN: 9, Before: change(func(l *Link) { l.CRC = 0 })}, good, nil},
		"CRC is gone here":       {StartStream{Stream: 4, FirstLSN: 9, Before: good}, change(func(l *Link) { l.CRC = 0 }), nil},
		"beyond the head":        {StartStream{Stream: 4, FirstLSN: 12, Before: p.link(11)}, Link{}, ErrGap},
		"another CRC":            {StartStream{Stream: 4, FirstLSN: 9, Before: good}, change(func(l *Link) { l.CRC++ }), ErrDiverged},
		"another epoch":          {StartStream{Stream: 4, FirstLSN: 9, Before: good}, change(func(l *Link) { l.EpochID = id(70) }), ErrDiverged},
		"epoch is unknown here":  {StartStream{Stream: 4, FirstLSN: 9, Before: good}, change(func(l *Link) { l.EpochID = uuid.Nil }), ErrDiverged},
		"epoch is unknown there": {StartStream{Stream: 4, FirstLSN: 9, Before: change(func(l *Link) { l.EpochID = uuid.Nil })}, change(func(l *Link) { l.EpochID = uuid.Nil }), ErrDiverged},
		"another record here":    {StartStream{Stream: 4, FirstLSN: 9, Before: good}, p.link(7), ErrDiverged},
		"another record, no CRC": {StartStream{Stream: 4, FirstLSN: 9, Before: good}, change(func(l *Link) { l.LSN, l.CRC = 7, 0 }), ErrDiverged},
		"the same stream":        {StartStream{Stream: 3, FirstLSN: 9, Before: good}, good, ErrStale},
		"an older stream":        {StartStream{Stream: 2, FirstLSN: 9, Before: good}, good, ErrStale},
	} {
		r, h := testReceiver(t, p), answerOf(p)
		before := *r
		if err := r.Start(h, &c.m, c.own); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want != nil && !reflect.DeepEqual(*r, before) {
			t.Errorf("%s changed the receiver", name)
		}
		h.Session++
		if err := r.Start(h, &c.m, c.own); err == nil {
			t.Errorf("%s: of another session it begins", name)
		}
	}
}

// TestI11EpochStart: a log in which the present epoch begins as another one, or under another primary, is not its log.
func TestI11EpochStart(t *testing.T) {
	p := newPrimaryLog(t)
	for name, a := range map[string]Authority{
		"ID": {Epoch: 7, EpochID: id(70), Primary: id(1)}, "primary": {Epoch: 7, EpochID: id(8), Primary: id(70)}, "": testAuthority,
	} {
		r := NewReceiver(a, testBlockBytes, 0, 0)
		h := a.Header(0)
		h.Sender = a.Primary
		if err := r.Start(h, &StartStream{Stream: 1, FirstLSN: 1}, Link{}); err != nil {
			t.Fatal(err)
		}
		if err := r.Receive(h, p.message(1, 1, 1)); errors.Is(err, ErrOtherPrimary) != (name != "") || name == "" && err != nil {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// TestI11Authority: older epochs, and the own one of another primary, are refused; a newer one is news.
func TestI11Authority(t *testing.T) {
	for _, c := range []struct {
		own       Authority
		epoch     block.Epoch
		epochID   uuid.UUID
		sender    uuid.UUID
		news      bool
		want      error
		wantReply error // of a replica that says so to a primary
	}{
		{testAuthority, 7, id(8), id(1), false, nil, nil},
		{testAuthority, 6, id(8), id(1), false, ErrOldEpoch, ErrOldEpoch},
		{testAuthority, 8, id(30), id(31), true, nil, ErrNewerEpoch},
		{testAuthority, 7, id(30), id(1), false, ErrOtherPrimary, ErrOtherPrimary},
		{testAuthority, 7, id(8), id(2), false, ErrOtherPrimary, nil}, // a replica answers under its own ID
		{testAuthority, 8, uuid.Nil, id(1), false, ErrOldEpoch, ErrNewerEpoch},
		{Authority{Epoch: 7}, 7, id(8), id(1), true, nil, ErrOtherPrimary},
		{Authority{}, 1, id(8), id(1), true, nil, ErrNewerEpoch},
		{Authority{}, 0, id(8), id(1), false, ErrOldEpoch, ErrOtherPrimary},
	} {
		h := Header{Epoch: c.epoch, EpochID: c.epochID, Sender: c.sender}
		if news, err := c.own.Check(h); news != c.news || !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%+v of %+v: %v, %v", c.own, h, news, err)
		}
		if err := c.own.CheckAnswer(h); !errors.Is(err, c.wantReply) || c.wantReply == nil && err != nil {
			t.Errorf("answer %+v to %+v: %v", h, c.own, err)
		}
		if a := AuthorityOf(h); a != (Authority{c.epoch, c.epochID, c.sender}) {
			t.Errorf("%+v claims %+v", h, a)
		}
	}
}

// TestReceiverAdopt: a newer epoch, and another session, end what was there, and streams count anew in each epoch.
func TestReceiverAdopt(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	r, h := testReceiver(t, p), answerOf(p)
	r.Begin(6, 10, 8)
	if err := r.Receive(h, p.message(3, 9, 9)); !errors.Is(err, ErrStale) {
		t.Errorf("records of the session before: %v", err)
	}
	h.Session = 6
	if err := r.Receive(h, p.message(3, 9, 9)); !errors.Is(err, ErrStale) {
		t.Errorf("records without a stream: %v", err)
	}
	if err := r.Barrier(h, 9); err != nil {
		t.Fatal(err)
	}
	newer := Authority{Epoch: 8, EpochID: id(30), Primary: id(31)}
	r.Adopt(newer)
	if _, _, ok := r.Ack(); ok || r.Session() != 0 || r.Authority() != newer {
		t.Errorf("after a newer epoch: %+v", r)
	}
	if err := r.Barrier(h, 9); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("a barrier of the old one: %v", err)
	}
	h = Header{Epoch: 8, EpochID: id(30), Sender: id(31)}
	if err := r.Start(h, &StartStream{Stream: 1, FirstLSN: 11, Before: p.link(10)}, p.link(10)); err != nil {
		t.Error(err)
	}
	r.Synced(10)
	if b, ok := r.Answer(); ok {
		t.Errorf("a barrier of the old epoch is answered: %+v", b)
	}
}

// TestReceiverBarriers: however many barriers there are, memory is bounded and each is answered.
func TestReceiverBarriers(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	r, h := testReceiver(t, p), answerOf(p)
	for lsn := range block.LSN(1000) {
		if err := r.Barrier(h, 9+lsn); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.barriers) > maxBarriers || r.barriers[0] != 9 || r.barriers[len(r.barriers)-1] != 1008 {
		t.Errorf("%d barriers, %v", len(r.barriers), r.barriers)
	}
}
