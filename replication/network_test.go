package replication

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"lockstep/block"
	"lockstep/engine"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the only seed to run the network with")
	seedsFlag = flag.Uint64("seeds", 15, "how many seeds to run the network with")
)

// cluster is a primary and two replicas, their cores, and a network between them that one loop steps.
type cluster struct {
	*testing.T
	rng      *rand.Rand
	log      *primaryLog
	durable  block.LSN // of the primary's log
	tracker  *Tracker
	peers    []*peer
	waits    map[Ticket]block.LSN
	acked    block.LSN // newest LSN that a flush was acknowledged for
	version  uint64
	refused  int
	answered int
}

// peer is a replica: what the primary has of it, what it is, and what is between.
type peer struct {
	name     string
	copy     *fakeCopy
	receiver *Receiver
	sender   *Sender // nil: not connected
	stream   uint64
	session  engine.SessionID
	there    [][]byte // frames on their way to it
	back     [][]byte // and from it
	late     [][]byte // frames of its connections that are gone
	inSync   bool
	complete bool
}

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{T: t, rng: rand.New(rand.NewPCG(seed, 2)), log: newPrimaryLog(t), tracker: NewTracker("p", 1), waits: map[Ticket]block.LSN{}}
	for _, name := range []string{"a", "b"} {
		p := &peer{name: name, copy: &fakeCopy{}, inSync: true}
		p.receiver = NewReceiver(testAuthority, testBlockBytes, 0, 0)
		c.peers = append(c.peers, p)
	}
	c.inForce()
	return c
}

func (c *cluster) inSync() []string {
	set := []string{"p"}
	for _, p := range c.peers {
		if p.inSync {
			set = append(set, p.name)
		}
	}
	return set
}

func (c *cluster) inForce() {
	c.version++
	c.tracker.InForce(c.version, c.inSync())
}

// connect begins a stream at what the replica has durable; a session with it, where it is not in sync.
func (c *cluster) connect(p *peer) {
	c.cut(p)
	p.stream++
	p.session, p.complete = 0, false
	if !p.inSync {
		p.session = engine.SessionID(7<<32) + engine.SessionID(p.stream)
	}
	p.receiver.Begin(p.session, p.copy.head(), p.copy.durable)
	first := p.copy.durable + 1
	target := block.LSN(0)
	if p.session != 0 {
		target = c.log.Head()
	}
	p.sender = NewSender(SenderConfig{
		Authority: testAuthority, Session: p.session, Stream: p.stream, FirstLSN: first, TargetLSN: target, BeforeID: id(8),
		Log: c.log.from(first), WindowBytes: 4 << 10, BatchBytes: 1 << 10,
	})
	p.send(p.sender.Header(), p.sender.Start())
}

// cut ends a connection. Of what was on its way some comes much later.
func (c *cluster) cut(p *peer) {
	if p.sender == nil {
		return
	}
	p.sender = nil
	c.tracker.Lost(p.name)
	for _, f := range p.there {
		if c.rng.IntN(3) == 0 {
			p.late = append(p.late, f)
		}
	}
	p.there, p.back = nil, nil
}

func (p *peer) send(h Header, m Message) {
	h.Sender, h.Volume = id(1), id(9)
	p.there = append(p.there, AppendFrame(nil, h, m))
}

// crash loses some of what the replica had not synced, and all that it knew.
func (c *cluster) crash(p *peer) {
	c.cut(p)
	lost := c.rng.IntN(int(p.copy.head()-p.copy.durable) + 1)
	p.copy.records = p.copy.records[:len(p.copy.records)-lost]
	p.copy.durable = p.copy.head() // recovery ends with a sync
	p.receiver = NewReceiver(testAuthority, testBlockBytes, p.copy.head(), p.copy.durable)
	p.receiver.stream = p.stream // as in the epoch before: streams of before do not come back
}

// deliver gives a frame to a replica; the connection ends where that refuses it, with nothing changed.
func (c *cluster) deliver(p *peer, frame []byte) bool {
	h, m, _, err := DecodeFrame(frame)
	if err != nil {
		c.Fatal(err)
	}
	before := p.copy.head()
	switch m := m.(type) {
	case *StartStream:
		err = p.receiver.Start(h, m, p.copy.link(m.Before.LSN))
	case *Records:
		if err = p.receiver.Receive(h, m); err == nil {
			if err := p.copy.receive(m.FirstLSN, m.Raw); err != nil {
				c.Fatal(err)
			}
			p.receiver.Applied(m, p.copy.head())
		}
	case *BarrierRequest:
		err = p.receiver.Barrier(h, m.LSN)
	}
	if err != nil && p.copy.head() != before {
		c.Fatalf("%v, and it is applied", err)
	}
	if h, ack, ok := p.receiver.Ack(); ok && err == nil && p.sender != nil && ack.Stream == p.stream {
		p.back = append(p.back, AppendFrame(nil, h, ack))
	}
	return err == nil
}

// deliverLate gives a frame of a connection that is gone to a replica, which takes it only where it knows of no later one.
func (c *cluster) deliverLate(p *peer, frame []byte) {
	h, m, _, err := DecodeFrame(frame)
	if err != nil {
		c.Fatal(err)
	}
	stream := uint64(0)
	switch m := m.(type) {
	case *StartStream:
		stream = m.Stream
	case *Records:
		stream = m.Stream
	}
	old := stream < p.receiver.stream || h.Session != p.receiver.Session()
	if taken := c.deliver(p, frame); taken && old {
		c.Fatalf("%s of stream %d is taken in stream %d", m.Kind(), stream, p.receiver.stream)
	} else if !taken {
		c.refused++
	}
}

// answerFrom takes in what the replica sent.
func (c *cluster) answerFrom(p *peer) {
	h, m, _, err := DecodeFrame(p.back[0])
	if err != nil {
		c.Fatal(err)
	}
	p.back = p.back[1:]
	switch m := m.(type) {
	case *Ack:
		if err := p.sender.Acked(h, m); err != nil {
			c.Fatalf("ack of an honest replica: %v", err)
		}
		c.tracker.Durable(p.name, m.DurableLSN)
	case *SessionCompleted:
		p.complete = true
	}
}

// step does one thing.
func (c *cluster) step(faults bool) {
	p := c.peers[c.rng.IntN(2)]
	switch n := c.rng.IntN(100); {
	case n < 15 && faults:
		c.log.write(1 + c.rng.IntN(4))
	case n < 20 && faults:
		c.durable = c.log.sync()
		c.tracker.Durable("p", c.durable)
		c.waits[c.tracker.Wait(c.durable)] = c.durable
	case n < 22 && faults:
		c.cut(p)
	case n < 23 && faults:
		c.crash(p)
	case n < 24 && faults && len(p.late) > 0:
		c.deliverLate(p, p.late[c.rng.IntN(len(p.late))])
	case n < 25 && faults && len(p.there) > 1: // the network, or a liar, loses or repeats a frame
		if c.rng.IntN(2) == 0 {
			p.there = p.there[1:]
		} else {
			p.there = slices.Insert(p.there, 0, p.there[0])
		}
	case n < 27 && faults && p.inSync && p.sender == nil: // it is dropped (I12)
		p.inSync = false
		c.inForce()
	case p.sender == nil:
		c.connect(p)
	case n < 45:
		if m, err := p.sender.Next(); err != nil {
			c.Fatal(err)
		} else if m != nil {
			p.send(p.sender.Header(), m)
		}
	case n < 65 && len(p.there) > 0:
		f := p.there[0]
		p.there = p.there[1:]
		if !c.deliver(p, f) {
			c.refused++
			c.cut(p)
		}
	case n < 70:
		c.syncReplica(p)
	case n < 98 && len(p.back) > 0:
		c.answerFrom(p)
	case p.complete && !p.inSync:
		if c.tracker.Propose(append(c.inSync(), p.name)); c.tracker.Admissible(p.name) {
			p.inSync = true
			c.inForce()
		}
	}
	c.check()
}

func (c *cluster) syncReplica(p *peer) {
	p.copy.durable = p.copy.head()
	p.receiver.Synced(p.copy.durable)
	h, ack, ok := p.receiver.Ack()
	if !ok || p.sender == nil || ack.Stream != p.stream {
		return
	}
	p.back = append(p.back, AppendFrame(nil, h, ack))
	if done, ok := p.receiver.Completed(); ok {
		p.back = append(p.back, AppendFrame(nil, h, done))
	}
}

// check holds what is against what must be.
func (c *cluster) check() {
	for _, ticket := range c.tracker.Answered() {
		c.acked = max(c.acked, c.waits[ticket])
		delete(c.waits, ticket)
		c.answered++
	}
	if c.acked > c.durable {
		c.Fatalf("%d is acknowledged, and %d is durable here", c.acked, c.durable)
	}
	for _, p := range c.peers {
		if p.inSync && p.copy.durable < max(c.acked, c.tracker.Committed()) {
			c.Fatalf("%s is in sync with %d, and %d is acknowledged, %d committed", p.name, p.copy.durable, c.acked, c.tracker.Committed())
		}
		if s := p.sender; s != nil && (s.Durable() > p.copy.durable || s.Applied() > p.copy.head() || s.InFlight() > 4<<10+1<<10+4*600) {
			c.Fatalf("%s has %d, %d; the primary believes %d, %d with %d in flight", p.name, p.copy.durable, p.copy.head(), s.Durable(), s.Applied(), s.InFlight())
		}
	}
}

// TestNetwork: over a network that breaks, repeats, loses, and brings frames of connections long gone, with replicas that
// crash, are dropped and come back, no flush is acknowledged that an in-sync replica lacks, and at the end all logs are the
// same, byte for byte, and every flush is answered.
func TestNetwork(t *testing.T) {
	refused, answered := 0, 0
	for seed := uint64(1); seed <= max(*seedsFlag, *seedFlag); seed++ {
		if *seedFlag != 0 && seed != *seedFlag {
			continue
		}
		t.Logf("seed %d", seed)
		c := newCluster(t, seed)
		for range 1000 {
			c.step(true)
		}
		for n := 0; n < 20000 && !c.quiet(); n++ {
			c.step(false)
		}
		want := c.log.raw(1, c.log.Head())
		for _, p := range c.peers {
			if got := slices.Concat(p.copy.records...); !bytes.Equal(got, want) || !p.inSync {
				t.Fatalf("%s has %d of %d bytes at the end; in sync: %v", p.name, len(got), len(want), p.inSync)
			}
		}
		if len(c.waits) > 0 {
			t.Fatalf("%d flushes are not answered: %s", len(c.waits), c.tracker)
		}
		refused, answered = refused+c.refused, answered+c.answered
	}
	if *seedFlag == 0 && (refused < 100 || answered < 300) {
		t.Errorf("only %d frames were refused, and %d flushes answered", refused, answered)
	}
}

func (c *cluster) quiet() bool {
	for _, p := range c.peers {
		if !p.inSync || p.copy.durable != c.log.Head() {
			return false
		}
	}
	return len(c.waits) == 0
}
