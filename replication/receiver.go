package replication

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
	"lockstep/wal"
)

// What is wrong with a stream. Nothing of a message that it is about is applied.
var (
	// ErrGap means that records do not follow on what is there.
	ErrGap = errors.New("records do not follow on those that are here")
	// ErrStale means that a message is of a session or stream that is not the present one.
	ErrStale = errors.New("message of another session or an older stream")
	// ErrDiverged means that the two logs differ where they should be the same (S6): both sides stop.
	ErrDiverged = errors.New("the logs differ where they should be the same")
)

// Receiver decides, on a replica, which records of a stream may be applied, and what may be acknowledged. It lives as long
// as the copy is open; streams and sessions come and go.
//
// What is acknowledged is what the present stream has shown to be the primary's own: a copy that has more, or other,
// records than its primary does not count for them.
//
// Whoever applies what it returns does so under the lock that guards the Receiver, so that no other stream, session or
// epoch begins between the test and its effect (S8).
type Receiver struct {
	blockBytes int
	authority  Authority
	session    engine.SessionID // 0: none
	newest     engine.SessionID // that the epoch has had
	target     block.LSN        // of the session; 0 outside of one, and once it was told complete
	stream     uint64           // newest that the epoch has had
	started    bool             // it is being received
	next       block.LSN        // that the stream brings; every record below is the primary's own
	applied    block.LSN        // of the copy
	durable    block.LSN        // of the copy
	barriers   []block.LSN      // not answered, ascending
}

// maxBarriers is how many barriers wait at a time; further ones wait together, for the newest.
const maxBarriers = 64

// NewReceiver returns the receiver of a copy that has persisted the authority, with blocks of blockBytes and a log up to
// applied, of which all up to durable is on stable storage.
func NewReceiver(a Authority, blockBytes int, applied, durable block.LSN) *Receiver {
	return &Receiver{blockBytes: blockBytes, authority: a, applied: applied, durable: durable}
}

// Authority returns whose word counts here.
func (r *Receiver) Authority() Authority { return r.authority }

// Session returns the present session, 0 for none.
func (r *Receiver) Session() engine.SessionID { return r.session }

// Adopt begins a newer epoch, which was made durable. Session and stream of the older one end.
func (r *Receiver) Adopt(a Authority) {
	if a.Epoch < r.authority.Epoch {
		panic(fmt.Sprintf("replication: epoch %d adopted after %d", a.Epoch, r.authority.Epoch))
	}
	if a.Epoch > r.authority.Epoch {
		r.stream, r.newest, r.barriers = 0, 0, nil
	}
	r.authority, r.session, r.target, r.started = a, 0, 0, false
}

// Newest returns the newest session that the epoch has had here: none comes again (S23).
func (r *Receiver) Newest() engine.SessionID { return r.newest }

// Begin begins a session, 0 being keep-up, and ends the one before and its stream. The copy's log, truncated where the
// session wanted that, has the positions given.
func (r *Receiver) Begin(session engine.SessionID, applied, durable block.LSN) {
	r.session, r.newest, r.target, r.started = session, max(r.newest, session), 0, false
	r.applied, r.durable = applied, durable
}

// check tests whose word a message is.
func (r *Receiver) check(h Header) error {
	news, err := r.authority.Check(h)
	switch {
	case err != nil:
		return err
	case news:
		return fmt.Errorf("%w: epoch %d is not adopted yet, epoch %d is", ErrStale, h.Epoch, r.authority.Epoch)
	case h.Session != r.session:
		return fmt.Errorf("%w: session %d, in session %d", ErrStale, h.Session, r.session)
	}
	return nil
}

// Start begins a stream, which ends the one before. own is the copy's link to the record that the stream's link is to.
func (r *Receiver) Start(h Header, m *StartStream, own Link) error {
	if err := r.check(h); err != nil {
		return fmt.Errorf("start stream %d: %w", m.Stream, err)
	}
	if m.Stream <= r.stream {
		return fmt.Errorf("%w: stream %d after stream %d", ErrStale, m.Stream, r.stream)
	}
	if m.FirstLSN > r.applied+1 {
		return fmt.Errorf("start stream %d: %w: it begins with record %d, and this log ends with %d", m.Stream, ErrGap, m.FirstLSN, r.applied)
	}
	if err := agree(m.Before, own); err != nil {
		return fmt.Errorf("start stream %d: %w", m.Stream, err)
	}
	r.stream, r.started, r.next, r.target = m.Stream, true, m.FirstLSN, m.TargetLSN
	return nil
}

// agree tests that two links are to the same record (S6). The epoch ID has to be known on both sides: the CRC may be gone
// with the log.
func agree(theirs, own Link) error {
	if theirs.LSN == 0 {
		return nil
	}
	if own.LSN != theirs.LSN || theirs.EpochID == uuid.Nil || own.EpochID != theirs.EpochID {
		return fmt.Errorf("%w: record %d is of epoch %s there, and record %d of epoch %s here", ErrDiverged, theirs.LSN, theirs.EpochID, own.LSN, own.EpochID)
	}
	if theirs.CRC != 0 && own.CRC != 0 && theirs.CRC != own.CRC {
		return fmt.Errorf("%w: record %d has CRC %08x there and %08x here", ErrDiverged, theirs.LSN, theirs.CRC, own.CRC)
	}
	return nil
}

// Receive decides on records. After nil they are to be compared with the log up to its head, applied beyond it, and then
// told with Applied. After an error nothing of them is applied, and the connection ends.
func (r *Receiver) Receive(h Header, m *Records) error {
	if err := r.check(h); err != nil {
		return fmt.Errorf("receive records: %w", err)
	}
	switch {
	case !r.started || m.Stream != r.stream:
		return fmt.Errorf("%w: records of stream %d, and the newest is %d", ErrStale, m.Stream, r.stream)
	case m.FirstLSN != r.next:
		return fmt.Errorf("%w: record %d, and %d is next", ErrGap, m.FirstLSN, r.next)
	}
	changes, err := wal.DecodeRecords(m.Raw, r.blockBytes)
	if err != nil {
		return fmt.Errorf("receive records %d to %d: %w", m.FirstLSN, m.LastLSN, err)
	}
	if first, last := changes[0].LSN, changes[len(changes)-1].LSN; first != m.FirstLSN || last != m.LastLSN {
		return fmt.Errorf("%w: records %d to %d in a message of %d to %d", ErrGap, first, last, m.FirstLSN, m.LastLSN)
	}
	for i := range changes {
		if err := r.ours(&changes[i]); err != nil {
			return fmt.Errorf("receive record %d: %w", changes[i].LSN, err)
		}
	}
	return nil
}

// ours tests that a record can be one of the present primary's log.
func (r *Receiver) ours(c *wal.Change) error {
	switch e := c.Epoch(); {
	case e > r.authority.Epoch:
		return fmt.Errorf("%w: epoch %d, sent in epoch %d", ErrDiverged, e, r.authority.Epoch)
	case e < r.authority.Epoch || c.Type != wal.RecordEpochStart:
		return nil
	}
	if s := c.EpochStart(); s.ID != r.authority.EpochID || s.Primary != r.authority.Primary {
		return fmt.Errorf("%w: epoch %d begins as %s of node %s", ErrOtherPrimary, s.Epoch, s.ID, s.Primary)
	}
	return nil
}

// Applied tells that the records of a message that Receive let through are in the copy's log, which now ends with head.
func (r *Receiver) Applied(m *Records, head block.LSN) {
	if head < m.LastLSN || m.FirstLSN != r.next {
		panic(fmt.Sprintf("replication: records %d to %d applied, and the log ends with %d", m.FirstLSN, m.LastLSN, head))
	}
	r.next = m.LastLSN + 1
	r.applied = max(r.applied, head)
}

// Synced tells that the copy's log is durable up to an LSN.
func (r *Receiver) Synced(durable block.LSN) { r.durable = max(r.durable, min(durable, r.applied)) }

// shown returns a position of the copy as far as the stream has shown it to be the primary's own.
func (r *Receiver) shown(lsn block.LSN) block.LSN {
	if !r.started {
		return 0
	}
	return min(lsn, r.next-1)
}

// Ack returns what may be acknowledged, and the header for it; false where there is no stream.
func (r *Receiver) Ack() (Header, *Ack, bool) {
	return r.authority.Header(r.session), &Ack{
		Stream: r.stream, ReceivedLSN: r.shown(r.next - 1), AppliedLSN: r.shown(r.applied), DurableLSN: r.shown(r.durable),
	}, r.started
}

// Barrier takes a barrier in. Errors are as with Receive.
func (r *Receiver) Barrier(h Header, lsn block.LSN) error {
	if _, err := r.authority.Check(h); err != nil {
		return fmt.Errorf("barrier at record %d: %w", lsn, err)
	}
	if h.Epoch != r.authority.Epoch {
		return fmt.Errorf("barrier at record %d: %w: epoch %d is not adopted yet", lsn, ErrStale, h.Epoch)
	}
	n := len(r.barriers)
	switch {
	case n > 0 && lsn <= r.barriers[n-1]: // answered with that one, at the latest
	case n == maxBarriers:
		r.barriers[n-1] = lsn
	default:
		r.barriers = append(r.barriers, lsn)
	}
	return nil
}

// WantSync tells whether somebody waits for a sync: it would answer a barrier, or complete the session.
func (r *Receiver) WantSync() bool {
	applied, durable := r.shown(r.applied), r.shown(r.durable)
	if durable >= applied {
		return false
	}
	return len(r.barriers) > 0 && r.barriers[0] <= applied || r.target > 0 && r.target <= applied
}

// Answer returns the ack of the newest barrier that is reached, which answers all below it; false where there is none.
func (r *Receiver) Answer() (*BarrierAck, bool) {
	durable, n := r.shown(r.durable), 0
	for n < len(r.barriers) && r.barriers[n] <= durable {
		n++
	}
	if n == 0 {
		return nil, false
	}
	lsn := r.barriers[n-1]
	r.barriers = r.barriers[n:]
	return &BarrierAck{LSN: lsn, DurableLSN: durable}, true
}

// Completed tells, once, that the session of a catch-up has reached its target. A rebuild completes otherwise (S21).
func (r *Receiver) Completed() (*SessionCompleted, bool) {
	durable := r.shown(r.durable)
	if r.session == 0 || r.target == 0 || durable < r.target {
		return nil, false
	}
	r.target = 0
	return &SessionCompleted{DurableLSN: durable}, true
}

// badRecords tells whether an error is about the bytes of records.
func badRecords(err error) bool {
	for _, bad := range []error{wal.ErrRecordMagic, wal.ErrRecordVersion, wal.ErrRecordTorn, wal.ErrRecordCorrupt, wal.ErrGap} {
		if errors.Is(err, bad) {
			return true
		}
	}
	return false
}
