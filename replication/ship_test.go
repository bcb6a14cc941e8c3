package replication

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"lockstep/block"
	"lockstep/engine"
	"lockstep/wal"
)

// walCopy is a Copy that is a real log, in memory.
type walCopy struct {
	*primaryLog
	mu        sync.Mutex
	authority Authority // guarded by mu
	committed block.LSN // guarded by mu
	truncated []block.LSN
}

func newWALCopy(t testing.TB) *walCopy {
	cfg := memoryLog()
	if err := wal.Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err == nil {
		err = errors.Join(l.Harden(), l.Start(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &walCopy{primaryLog: &primaryLog{TB: t, Log: l}}
}

func (c *walCopy) Follow(a Authority) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.authority = a
	return nil
}

func (c *walCopy) Link(lsn block.LSN) (Link, error) {
	if lsn == 0 || lsn > c.Head() {
		return Link{}, nil
	}
	r, err := c.NewReader(lsn + 1)
	if err != nil {
		return Link{}, err
	}
	return linkOf(lsn, c.lineage, r.Before()), nil
}

func (c *walCopy) Receive(raw []byte) (block.LSN, error) {
	changes, err := wal.DecodeRecords(raw, testBlockBytes)
	if err != nil {
		return 0, err
	}
	if first, head := changes[0].LSN, c.Head(); first <= head {
		last := min(head, changes[len(changes)-1].LSN)
		here := c.raw(first, last)
		if !bytes.HasPrefix(raw, here) {
			return 0, ErrDiverged
		}
		changes = changes[last-first+1:]
	}
	for i := range changes {
		if changes[i].Type == wal.RecordEpochStart {
			c.lineage = append(c.lineage, changes[i].EpochStart())
		}
	}
	return c.Head() + block.LSN(len(changes)), c.AppendReceived(changes)
}

func (c *walCopy) Sync() (block.LSN, error) { return c.Log.Sync() }

func (c *walCopy) SetCommitted(lsn block.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed = lsn
}

// Truncate notes what is asked for: a log in memory is not cut.
func (c *walCopy) Truncate(to block.LSN) error {
	c.truncated = append(c.truncated, to)
	return nil
}

func (c *walCopy) Facts() engine.SyncAck {
	return engine.SyncAck{AppliedLSN: c.Head(), DurableLSN: c.Durable(), WALTail: c.Tail()}
}

// lanes are a primary's two connections to a replica that is served.
type lanes struct {
	log, control *Conn
	ended        chan error // of ServeLog and of ServeControl
}

func connectLanes(t *testing.T, ctx context.Context, all *sync.WaitGroup, r *Replica) *lanes {
	t.Helper()
	l := &lanes{ended: make(chan error, 2)}
	for _, lane := range []Lane{LaneLog, LaneControl} {
		p := connectPair(t, testConfig(1, testSecret), testConfig(2, testSecret), testTarget(lane), welcomeAll, nil)
		if p.nearErr != nil || p.farErr != nil {
			t.Fatal(p.nearErr, p.farErr)
		}
		if lane == LaneLog {
			l.log = p.near
			all.Go(func() { l.ended <- r.ServeLog(ctx, p.far) })
			continue
		}
		l.control = p.near
		all.Go(func() { l.ended <- r.ServeControl(ctx, p.far) })
	}
	return l
}

// ask sends an order and returns the answer.
func (l *lanes) ask(t *testing.T, h Header, m Message) Message {
	t.Helper()
	if err := l.control.Send(h, m); err != nil {
		t.Fatal(err)
	}
	_, reply, err := l.control.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// startReplica serves a copy until the test ends.
func startReplica(t *testing.T, c Copy) (*Replica, context.Context, *sync.WaitGroup) {
	t.Helper()
	r := NewReplica(c, Authority{}, testBlockBytes)
	ctx, cancel := context.WithCancel(t.Context())
	all := &sync.WaitGroup{}
	all.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return r, ctx, all
}

// TestShip: a replica on a connection that is cut again and again has, each time, every flush that was answered, and at
// last the primary's log byte for byte.
func TestShip(t *testing.T) {
	p, far := newPrimaryLog(t), newWALCopy(t)
	r, ctx, all := startReplica(t, far)
	committer := NewCommitter("p", 2, false)
	committer.Update(func(t *Tracker) { t.InForce(1, []string{"p", "r"}) })
	for stream := uint64(1); stream <= 6; stream++ {
		l := connectLanes(t, ctx, all, r)
		h := testAuthority.Header(engine.SessionID(7<<32 + stream))
		durable := l.ask(t, h, &SyncRequest{Number: stream}).(*SyncAck).Facts.DurableLSN
		first, target := durable+1, p.Head()
		progress := l.ask(t, h, &StartCatchUp{FirstLSN: first, TargetLSN: target, Before: p.link(durable)})
		if m, ok := progress.(*SessionProgress); !ok || m.TargetLSN != target {
			t.Fatalf("catch-up begins with %+v", progress)
		}
		s := NewSender(SenderConfig{
			Authority: testAuthority, Session: h.Session, Stream: stream, FirstLSN: first, TargetLSN: target, BeforeID: id(8),
			Log: p.from(first), WindowBytes: 64 << 10, BatchBytes: 8 << 10,
		})
		appended, cancel := p.Subscribe()
		var shipping sync.WaitGroup
		shipping.Go(func() {
			if err := Ship(ctx, l.log, s, appended, func(a Ack) {
				committer.Update(func(t *Tracker) { t.Durable("r", a.DurableLSN) })
			}); !errors.Is(err, ErrClosed) {
				t.Errorf("shipping ends with %v", err)
			}
		})
		if m, ok := l.receiveControl(t).(*SessionCompleted); !ok || m.DurableLSN < target {
			t.Fatalf("the catch-up ends with %+v", m)
		}
		for range 20 {
			p.write(10)
			lsn := p.sync()
			if err := l.control.Send(h, &BarrierRequest{LSN: lsn}); err != nil {
				t.Fatal(err)
			}
			if err := committer.Commit(ctx, lsn); err != nil {
				t.Fatal(err)
			}
			if far.Durable() < lsn {
				t.Fatalf("the flush at %d is answered, and the replica has %d", lsn, far.Durable())
			}
		}
		p.write(50) // some of it arrives
		_ = l.log.Close()
		_ = l.control.Close()
		shipping.Wait()
		cancel()
		committer.Update(func(t *Tracker) { t.Lost("r") })
		<-l.ended
		<-l.ended
	}
	if got := far.raw(1, far.Head()); !bytes.HasPrefix(p.raw(1, p.Head()), got) || far.Head() < 1200 {
		t.Errorf("the replica's log of %d records is not the primary's", far.Head())
	}
	if far.authority != testAuthority {
		t.Errorf("the replica follows %+v", far.authority)
	}
}

// receiveControl returns the next message of the control lane that is no barrier ack.
func (l *lanes) receiveControl(t *testing.T) Message {
	t.Helper()
	for {
		_, m, err := l.control.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind() != KindBarrierAck {
			return m
		}
	}
}

// TestReplicaLies: a primary that lies is refused with a reason, on both sides, and nothing of it is in the log.
func TestReplicaLies(t *testing.T) {
	p := newPrimaryLog(t)
	p.write(20)
	bad := p.message(1, 1, 9)
	bad.Raw[100] ^= 1
	good := testAuthority.Header(0)
	other, old := good, good
	other.EpochID, old.Epoch = id(70), 6
	for name, c := range map[string]struct {
		h    Header
		m    Message
		want error
		word string
	}{
		"gap":            {good, p.message(1, 2, 9), ErrGap, RefusedGap},
		"bad record":     {good, bad, wal.ErrRecordCorrupt, RefusedProtocol},
		"old stream":     {good, p.message(9, 1, 9), ErrStale, RefusedStale},
		"old epoch":      {old, p.message(1, 1, 9), ErrOldEpoch, engine.ReasonEpochMismatch},
		"split brain":    {other, p.message(1, 1, 9), ErrOtherPrimary, engine.ReasonSplitBrain},
		"no business":    {good, &Ack{}, ErrUnexpected, RefusedProtocol},
		"another stream": {good, &StartStream{Stream: 2, FirstLSN: 5, Before: p.link(4)}, ErrGap, RefusedGap},
	} {
		far := newWALCopy(t)
		r, ctx, all := startReplica(t, far)
		l := connectLanes(t, ctx, all, r)
		for _, m := range []Message{&StartStream{Stream: 1, FirstLSN: 1}, c.m} {
			h := c.h
			if m != c.m {
				h = good
			}
			if err := l.log.Send(h, m); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		for err == nil {
			_, _, err = l.log.Receive()
		}
		if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal.Reason != c.word || !refused.Authentic || refused.Header.Epoch != 7 {
			t.Errorf("%s: the primary is told %v", name, err)
		}
		_ = l.log.Close()
		if err := <-l.ended; !errors.Is(err, c.want) {
			t.Errorf("%s: the replica finds %v", name, err)
		}
		if far.Head() != 0 {
			t.Errorf("%s: %d records are applied", name, far.Head())
		}
	}
}

// TestI11FollowFirst: a newer epoch is made durable before anything is done in it, and the older one is over from then on.
func TestI11FollowFirst(t *testing.T) {
	far := newWALCopy(t)
	r, ctx, all := startReplica(t, far)
	l := connectLanes(t, ctx, all, r)
	l.ask(t, testAuthority.Header(0), &SyncRequest{})
	if far.mu.Lock(); far.authority != testAuthority || r.Authority() != testAuthority {
		t.Errorf("after an answer in epoch 7 the copy follows %+v", far.authority)
	}
	far.mu.Unlock()
	newer := Authority{Epoch: 8, EpochID: id(30), Primary: id(1)}
	l.ask(t, newer.Header(0), &SyncRequest{})
	if err := l.control.Send(testAuthority.Header(0), &Committed{LSN: 9}); err != nil {
		t.Fatal(err)
	}
	_, _, err := l.control.Receive()
	if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal.Reason != engine.ReasonEpochMismatch || refused.Header.Epoch != 8 {
		t.Errorf("the old primary is told %v", err)
	}
	_ = l.control.Close()
	<-l.ended
	if far.mu.Lock(); far.committed != 0 || far.authority != newer {
		t.Errorf("committed %d by an old primary, following %+v", far.committed, far.authority)
	}
	far.mu.Unlock()
}

// TestReplicaOrders: a session begins once, where the logs agree, and truncates to where it goes on; it ends by its own
// cancel alone. An order that is refused changes nothing.
func TestReplicaOrders(t *testing.T) {
	p, far := newPrimaryLog(t), newWALCopy(t)
	p.write(20)
	if _, err := far.Receive(p.raw(1, 10)); err != nil {
		t.Fatal(err)
	}
	r, ctx, all := startReplica(t, far)
	start := func(first block.LSN, fork block.LSN) *StartCatchUp {
		return &StartCatchUp{FirstLSN: first, TargetLSN: 21, Truncate: fork > 0, ForkLSN: fork, Before: p.link(first - 1)}
	}
	diverged := start(9, 8)
	diverged.Before.EpochID = id(70)
	for _, c := range []struct {
		what      string
		session   engine.SessionID
		m         Message
		word      string // of the refusal; "" is none
		active    engine.SessionID
		truncated int
	}{
		{"logs that differ", 5, diverged, RefusedDiverged, 0, 0},
		{"a truncation elsewhere", 5, start(11, 8), RefusedGap, 0, 0},
		{"a truncation", 5, start(9, 8), "", 5, 1},
		{"the same session", 5, start(11, 0), RefusedStale, 5, 1},
		{"an older session", 4, start(11, 0), RefusedStale, 5, 1},
		{"another one's cancel", 4, &CancelSession{}, "", 5, 1},
		{"its cancel", 5, &CancelSession{}, "", 0, 1},
		{"the same session, cancelled", 5, start(11, 0), RefusedStale, 0, 1},
		{"a newer session", 6, start(11, 0), "", 6, 1},
	} {
		l := connectLanes(t, ctx, all, r)
		if err := l.control.Send(testAuthority.Header(c.session), c.m); err != nil {
			t.Fatal(err)
		}
		if c.word != "" {
			_, _, err := l.control.Receive()
			if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal.Reason != c.word {
				t.Errorf("%s: the primary is told %v", c.what, err)
			}
		} else if c.m.Kind() == KindStartCatchUp {
			if m := l.receiveControl(t); m.Kind() != KindSessionProgress {
				t.Errorf("%s: answered with %+v", c.what, m)
			}
		}
		_ = l.control.Close()
		_ = l.log.Close()
		<-l.ended
		<-l.ended
		l = connectLanes(t, ctx, all, r)
		ack := l.ask(t, testAuthority.Header(0), &SyncRequest{}).(*SyncAck)
		if *ack.Facts.ActiveSession != c.active || len(far.truncated) != c.truncated {
			t.Errorf("%s: session %d, truncated to %d", c.what, *ack.Facts.ActiveSession, far.truncated)
		}
	}
	if far.truncated[0] != 8 {
		t.Errorf("truncated to %d", far.truncated)
	}
}

// TestReplicaStops: a replica's ends of connections whose primary is silent end with their context.
func TestReplicaStops(t *testing.T) {
	r := NewReplica(newWALCopy(t), Authority{}, testBlockBytes)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	l := connectLanes(t, ctx, &all, r)
	cancel()
	for range 2 {
		if err := <-l.ended; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	all.Wait()
}

// BenchmarkShip is a catch-up over loopback, both ends in this process, with tags and without.
func BenchmarkShip(b *testing.B) {
	for _, c := range []struct {
		name   string
		secret []byte
	}{{"secret", testSecret}, {"plain", nil}} {
		b.Run(c.name, func(b *testing.B) {
			p := newPrimaryLog(b)
			data := make([]byte, 64<<10)
			for range 1000 {
				change := wal.Change{Type: wal.RecordWrite, Range: block.Range{Count: uint64(len(data) / testBlockBytes)}, Payload: data}
				if err := p.Append([]wal.Change{change}, 1); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(p.raw(1, p.Head()))))
			for b.Loop() {
				shipAll(b, p, c.secret)
			}
		})
	}
}

// shipAll ships a log to a replica that throws it away.
func shipAll(b *testing.B, p *primaryLog, secret []byte) {
	pair := connectPair(b, testConfig(1, secret), testConfig(2, secret), testTarget(LaneLog), welcomeAll, nil)
	if pair.nearErr != nil || pair.farErr != nil {
		b.Fatal(pair.nearErr, pair.farErr)
	}
	r := NewReplica(&nullCopy{}, Authority{}, testBlockBytes)
	var all sync.WaitGroup
	all.Go(func() { _ = r.ServeLog(b.Context(), pair.far) })
	s := NewSender(SenderConfig{
		Authority: testAuthority, Stream: 1, FirstLSN: 1, Log: p.from(1), WindowBytes: 8 << 20, BatchBytes: 256 << 10,
	})
	_ = Ship(b.Context(), pair.near, s, nil, func(a Ack) {
		if a.AppliedLSN == p.Head() {
			_ = pair.near.Close()
		}
	})
	all.Wait()
}

// nullCopy counts.
type nullCopy struct {
	walCopy
	head block.LSN
}

func (c *nullCopy) Receive(raw []byte) (block.LSN, error) {
	c.head += block.LSN(len(split(raw)))
	return c.head, nil
}

func (c *nullCopy) Link(block.LSN) (Link, error) { return Link{}, nil }
func (c *nullCopy) Facts() engine.SyncAck        { return engine.SyncAck{} }
