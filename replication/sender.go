package replication

import (
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

// LogReader is what a Sender needs of the primary's log; *wal.Reader is one.
type LogReader interface {
	// Before returns the CRC of the record before the first that is read; 0 where it is not known.
	Before() uint32
	// Read appends records to dst until that has atLeast bytes or the log ends, and returns their first and last LSN; last
	// is first - 1 where there are none.
	Read(dst []byte, atLeast int) (b []byte, first, last block.LSN, err error)
}

// SenderConfig is what one stream needs to begin.
type SenderConfig struct {
	Authority Authority
	Session   engine.SessionID // 0 in keep-up
	Stream    uint64           // above every one that the epoch has had to this replica
	FirstLSN  block.LSN        // where Log begins
	TargetLSN block.LSN        // of the session; 0 in keep-up
	BeforeID  uuid.UUID        // ID of the epoch that the record before FirstLSN is of
	Log       LogReader
	// WindowBytes is how much may be sent that is not applied yet. One batch, which a reader makes up to 2 MiB longer than
	// BatchBytes, may go beyond it.
	WindowBytes int
	// BatchBytes is how much one message has, where the log has as much.
	BatchBytes int
}

// maxSpans is the most messages on their way, however short they are.
const maxSpans = 4096

// span is one message on its way.
type span struct {
	last  block.LSN
	bytes int
}

// Sender decides what a primary sends of its log to one replica, on one connection. It begins where the replica's log is
// shown to agree and goes on without a gap: past a session's target the same stream is live.
//
// Invariant: durable <= applied <= sent; what is in flight is of the records in (applied, sent].
type Sender struct {
	cfg      SenderConfig
	sent     block.LSN
	applied  block.LSN
	durable  block.LSN
	spans    []span // in flight, the oldest first
	inFlight int    // bytes of them
	buf      []byte
}

// NewSender returns a sender that has sent nothing.
func NewSender(cfg SenderConfig) *Sender {
	if cfg.FirstLSN == 0 || cfg.Stream == 0 || cfg.WindowBytes <= 0 || cfg.BatchBytes <= 0 || cfg.BatchBytes > MaxRecordsBytes/2 {
		panic(fmt.Sprintf("replication: sender from record %d in stream %d", cfg.FirstLSN, cfg.Stream))
	}
	before := cfg.FirstLSN - 1
	return &Sender{cfg: cfg, sent: before}
}

// Start returns the first message of the stream.
func (s *Sender) Start() *StartStream {
	m := &StartStream{Stream: s.cfg.Stream, FirstLSN: s.cfg.FirstLSN, TargetLSN: s.cfg.TargetLSN}
	if before := s.cfg.FirstLSN - 1; before > 0 {
		m.Before = Link{LSN: before, EpochID: s.cfg.BeforeID, CRC: s.cfg.Log.Before()}
	}
	return m
}

// Header returns the header that the stream's messages have.
func (s *Sender) Header() Header { return s.cfg.Authority.Header(s.cfg.Session) }

// Room tells whether the window has room for another message.
func (s *Sender) Room() bool { return s.inFlight < s.cfg.WindowBytes && len(s.spans) < maxSpans }

// Next returns the next message, valid until the call after it; nil where the window has no room, or the log no more.
func (s *Sender) Next() (*Records, error) {
	if !s.Room() {
		return nil, nil
	}
	b, first, last, err := s.cfg.Log.Read(s.buf[:0], s.cfg.BatchBytes)
	s.buf = b
	if err != nil {
		return nil, fmt.Errorf("send stream %d: %w", s.cfg.Stream, err)
	}
	if first != s.sent+1 || len(b) > MaxRecordsBytes {
		panic(fmt.Sprintf("replication: the log reads %d bytes from record %d on after %d was sent", len(b), first, s.sent))
	}
	if last < first {
		return nil, nil
	}
	s.sent = last
	s.inFlight += len(b)
	s.spans = append(s.spans, span{last: last, bytes: len(b)})
	return &Records{Stream: s.cfg.Stream, FirstLSN: first, LastLSN: last, Raw: b}, nil
}

// Acked takes an ack in. An error means that the replica, or what is between, lies or is of another time; the connection
// has to end, and nothing of the ack counts. One that says less than is known was overtaken by another, and takes nothing
// back.
func (s *Sender) Acked(h Header, m *Ack) error {
	if err := s.cfg.Authority.CheckAnswer(h); err != nil {
		return fmt.Errorf("ack of stream %d: %w", s.cfg.Stream, err)
	}
	switch {
	case h.Session != s.cfg.Session || m.Stream != s.cfg.Stream:
		return fmt.Errorf("%w: ack of session %d, stream %d, in session %d, stream %d", ErrStale, h.Session, m.Stream, s.cfg.Session, s.cfg.Stream)
	case m.ReceivedLSN > s.sent:
		return fmt.Errorf("%w: ack of record %d, and %d is the last that was sent", ErrGap, m.ReceivedLSN, s.sent)
	}
	s.applied, s.durable = max(s.applied, m.AppliedLSN), max(s.durable, m.DurableLSN)
	for len(s.spans) > 0 && s.spans[0].last <= s.applied {
		s.inFlight -= s.spans[0].bytes
		s.spans = s.spans[1:]
	}
	return nil
}

// Sent returns the last record that was sent.
func (s *Sender) Sent() block.LSN { return s.sent }

// Applied returns the last record that the replica has acknowledged as applied; 0 before the first ack.
func (s *Sender) Applied() block.LSN { return s.applied }

// Durable returns the last record that the replica has acknowledged as durable; 0 before the first ack.
func (s *Sender) Durable() block.LSN { return s.durable }

// InFlight returns how many bytes are sent and not applied.
func (s *Sender) InFlight() int { return s.inFlight }

// PinLSN returns from where on the log is wanted: the next stream may begin there.
func (s *Sender) PinLSN() block.LSN { return min(max(s.durable+1, s.cfg.FirstLSN), s.sent+1) }
