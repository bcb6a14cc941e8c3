package replication

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"lockstep/block"
	"lockstep/wal"
)

var testAuthority = Authority{Epoch: 7, EpochID: id(8), Primary: id(1)}

func testSender(p *primaryLog, first, target block.LSN) *Sender {
	return NewSender(SenderConfig{
		Authority: testAuthority, Session: 5, Stream: 3, FirstLSN: first, TargetLSN: target, BeforeID: id(8),
		Log: p.from(first), WindowBytes: 4000, BatchBytes: 1500,
	})
}

func answer() Header { return testAuthority.Header(5) }

// next returns what is sent next, or fails.
func next(t *testing.T, s *Sender) *Records {
	t.Helper()
	m, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSenderLive: from a session's target the stream goes on with live records, byte for byte and without a gap.
func TestSenderLive(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(10)
	s := testSender(p, 4, p.Head())
	if m := s.Start(); *m != (StartStream{Stream: 3, FirstLSN: 4, TargetLSN: 11, Before: p.link(3)}) || m.Before.CRC == 0 {
		t.Errorf("starts with %+v", m)
	}
	var got []byte
	for sent := block.LSN(3); sent < 40; {
		m := next(t, s)
		if m == nil {
			p.write(3)
			continue
		}
		if m.FirstLSN != sent+1 || m.Stream != 3 {
			t.Fatalf("records %d to %d after %d", m.FirstLSN, m.LastLSN, sent)
		}
		sent = m.LastLSN
		got = append(got, m.Raw...)
		if err := s.Acked(answer(), &Ack{Stream: 3, ReceivedLSN: sent, AppliedLSN: sent, DurableLSN: sent - 1}); err != nil {
			t.Fatal(err)
		}
		if s.PinLSN() != sent {
			t.Errorf("pin %d with durable %d", s.PinLSN(), sent-1)
		}
	}
	if want := p.raw(4, s.Sent()); !bytes.Equal(got, want) {
		t.Error("what was sent is not the log")
	}
}

// TestSenderWindow: what is sent and not applied stays within the window and one batch, and is let go by applied alone.
func TestSenderWindow(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(100)
	s := testSender(p, 1, 0)
	var sent []block.LSN
	for m := next(t, s); m != nil; m = next(t, s) {
		sent = append(sent, m.LastLSN)
	}
	if s.InFlight() < 4000 || s.InFlight() > 4000+1500+2*(64+testBlockBytes) || s.Room() {
		t.Fatalf("%d bytes in flight", s.InFlight())
	}
	full := s.InFlight()
	if err := s.Acked(answer(), &Ack{Stream: 3, ReceivedLSN: s.Sent()}); err != nil || s.InFlight() != full {
		t.Errorf("received lets go: %d bytes in flight, %v", s.InFlight(), err)
	}
	if err := s.Acked(answer(), &Ack{Stream: 3, ReceivedLSN: s.Sent(), AppliedLSN: sent[1] - 1}); err != nil || s.InFlight() != full-len(p.raw(1, sent[0])) {
		t.Errorf("%d of %d bytes in flight, %v", s.InFlight(), full, err)
	}
	if s.PinLSN() != 1 {
		t.Errorf("pin %d with nothing durable", s.PinLSN())
	}
	if m := next(t, s); m == nil || m.FirstLSN != sent[len(sent)-1]+1 {
		t.Errorf("%+v is next", m)
	}
}

// TestSenderLies: an ack that can not be true, or is of another time, changes nothing.
func TestSenderLies(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	s := testSender(p, 1, 0)
	last := next(t, s).LastLSN
	if err := s.Acked(answer(), &Ack{Stream: 3, ReceivedLSN: last, AppliedLSN: 2, DurableLSN: 1}); err != nil {
		t.Fatal(err)
	}
	good := Ack{Stream: 3, ReceivedLSN: last, AppliedLSN: last, DurableLSN: last}
	for name, c := range map[string]struct {
		h    func(*Header)
		ack  func(*Ack)
		want error
	}{
		"newer epoch":      {h: func(h *Header) { h.Epoch++ }, want: ErrNewerEpoch},
		"older epoch":      {h: func(h *Header) { h.Epoch-- }, want: ErrOldEpoch},
		"another epoch":    {h: func(h *Header) { h.EpochID = id(99) }, want: ErrOtherPrimary},
		"another session":  {h: func(h *Header) { h.Session++ }, want: ErrStale},
		"an older stream":  {ack: func(a *Ack) { a.Stream-- }, want: ErrStale},
		"more than sent":   {ack: func(a *Ack) { a.ReceivedLSN++ }, want: ErrGap},
		"control, no flaw": {},
	} {
		h, ack := answer(), good
		if c.h != nil {
			c.h(&h)
		}
		if c.ack != nil {
			c.ack(&ack)
		}
		before, beforeSpans := *s, slices.Clone(s.spans)
		if err := s.Acked(h, &ack); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != nil && (!reflect.DeepEqual(*s, before) || !slices.Equal(s.spans, beforeSpans)) {
			t.Errorf("%s changed the sender", name)
		}
		*s, s.spans = before, beforeSpans
	}
}

// TestSenderOvertaken: an ack that another one overtook takes nothing back.
func TestSenderOvertaken(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	s := testSender(p, 1, 0)
	last := next(t, s).LastLSN
	for _, ack := range []Ack{{AppliedLSN: last, DurableLSN: 2}, {AppliedLSN: 2, DurableLSN: 1}, {AppliedLSN: 1}} {
		ack.Stream, ack.ReceivedLSN = 3, last
		if err := s.Acked(answer(), &ack); err != nil || s.Applied() != last || s.Durable() != 2 || s.InFlight() != 0 {
			t.Errorf("after %+v: applied %d, durable %d, %v", ack, s.Applied(), s.Durable(), err)
		}
	}
}

// TestSenderPinLost: a log that let go of the records says so.
func TestSenderPinLost(t *testing.T) {
	p := newPrimaryLog(t)
	s := NewSender(SenderConfig{Authority: testAuthority, Stream: 1, FirstLSN: 1, Log: lostLog{p.from(1)}, WindowBytes: 1, BatchBytes: 1})
	if m, err := s.Next(); m != nil || !errors.Is(err, wal.ErrNotRetained) {
		t.Errorf("%+v, %v", m, err)
	}
}

type lostLog struct{ LogReader }

func (lostLog) Read(dst []byte, _ int) ([]byte, block.LSN, block.LSN, error) {
	return dst, 1, 0, wal.ErrNotRetained
}
