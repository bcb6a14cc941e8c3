package replication

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"lockstep/block"
	"lockstep/engine"
	"lockstep/test/authority"
)

var testSecret = []byte("0123456789abcdef0123456789abcdef")

// pair is both ends of a connection on loopback. near connected.
type pair struct {
	near, far       *Conn
	nearErr, farErr error
}

// welcomeAll admits everybody.
func welcomeAll(h Header, _ Lane) (Header, *Refusal) { return h, nil }

func testConfig(node byte, secret []byte) *Config { return &Config{NodeID: id(node), Secret: secret} }

func testTarget(lane Lane) Target {
	return Target{Peer: id(2), Lane: lane, Header: Header{Volume: id(9), Epoch: 7, EpochID: id(8)}}
}

// connectPair connects two nodes, by way of a network where through is not nil.
func connectPair(t testing.TB, near, far *Config, target Target, admit Admission, through func(near, far net.Conn)) *pair {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{}
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if through != nil {
			middle, inner := net.Pipe()
			go through(nc, middle)
			nc = inner
		}
		p.far, p.farErr = (&Listener{cfg: far}).handshake(t.Context(), nc, admit)
	})
	target.Address = l.Addr().String()
	p.near, p.nearErr = Connect(t.Context(), near, target)
	all.Wait()
	_ = l.Close()
	t.Cleanup(func() {
		for _, c := range []*Conn{p.near, p.far} {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	return p
}

// talk sends a message each way.
func (p *pair) talk(t *testing.T) {
	t.Helper()
	if p.nearErr != nil || p.farErr != nil {
		t.Fatalf("connect: %v; accept: %v", p.nearErr, p.farErr)
	}
	for _, way := range [][2]*Conn{{p.near, p.far}, {p.far, p.near}} {
		for n := range uint64(3) {
			sent := Header{Epoch: 7, EpochID: id(8), Session: 5}
			if err := way[0].Send(sent, &Heartbeat{Number: n}); err != nil {
				t.Fatal(err)
			}
			h, m, err := way[1].Receive()
			if err != nil {
				t.Fatal(err)
			}
			if beat, ok := m.(*Heartbeat); !ok || beat.Number != n || h.Epoch != 7 || h.Session != 5 || h.Sender != way[0].cfg.NodeID {
				t.Errorf("%+v %+v arrived", h, m)
			}
		}
	}
}

// TestConnect: nodes that have the same secret, or certificates of one cluster, or both, or are on one machine, talk.
func TestConnect(t *testing.T) {
	for name, c := range map[string]struct {
		secret []byte
		tls    *tls.Config
	}{
		"nothing": {}, "secret": {testSecret, nil}, "TLS": {nil, mutual(t)}, "both": {testSecret, mutual(t)},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := testConfig(1, c.secret), testConfig(2, c.secret)
			near.TLS, far.TLS = c.tls, c.tls
			p := connectPair(t, near, far, testTarget(LaneControl), welcomeAll, nil)
			p.talk(t)
			if p.far.Peer() != id(1) || p.far.Volume() != id(9) || p.far.Lane() != LaneControl || p.near.Peer() != id(2) {
				t.Errorf("node %s on the %s lane of %s", p.far.Peer(), p.far.Lane(), p.far.Volume())
			}
			if tagged := p.near.sealSent != nil; tagged != (c.secret != nil && c.tls == nil) {
				t.Errorf("tags: %v", tagged)
			}
		})
	}
}

// TestConnectRefused: who is not meant, or can not prove to be one of the cluster, is told so, and both sides know why.
func TestConnectRefused(t *testing.T) {
	other := []byte("another secret of some length")
	for name, c := range map[string]struct {
		near, far *Config
		target    func(*Target)
		want      error
		word      string
	}{
		"another secret": {testConfig(1, testSecret), testConfig(2, other), nil, ErrSecret, RefusedSecret},
		"no secret":      {testConfig(1, nil), testConfig(2, testSecret), nil, ErrSecret, RefusedSecret},
		"only a secret":  {testConfig(1, testSecret), testConfig(2, nil), nil, ErrSecret, RefusedSecret},
		"another node":   {testConfig(1, testSecret), testConfig(3, testSecret), nil, ErrWrongPeer, RefusedPeer},
		"itself":         {testConfig(2, testSecret), testConfig(2, testSecret), nil, ErrWrongPeer, RefusedPeer},
	} {
		t.Run(name, func(t *testing.T) {
			p := connectPair(t, c.near, c.far, testTarget(LaneLog), func(h Header, _ Lane) (Header, *Refusal) {
				t.Error("admitted")
				return h, nil
			}, nil)
			for side, err := range map[string]error{"near": p.nearErr, "far": p.farErr} {
				var refused *RefusedError
				told := errors.As(err, &refused) && refused.Refusal.Reason == c.word &&
					refused.Authentic == (c.far.Secret == nil && side == "far")
				if !errors.Is(err, c.want) && !told {
					t.Errorf("%s: %v", side, err)
				}
			}
			if c.want == ErrWrongPeer && !errors.Is(p.farErr, c.want) {
				t.Errorf("the one that is reached finds nothing: %v", p.farErr)
			}
			if !errors.Is(p.nearErr, c.want) && !errors.Is(p.farErr, c.want) {
				t.Errorf("neither %v nor %v is %v", p.nearErr, p.farErr, c.want)
			}
		})
	}
}

// TestConnectStranger: a node with a certificate of another cluster is refused, on either side.
func TestConnectStranger(t *testing.T) {
	near, far := testConfig(1, testSecret), testConfig(2, testSecret)
	near.TLS, far.TLS = mutual(t), mutual(t)
	if p := connectPair(t, near, far, testTarget(LaneControl), welcomeAll, nil); p.nearErr == nil || p.farErr == nil {
		t.Errorf("strangers talk: %v, %v", p.nearErr, p.farErr)
	}
	near.TLS.RootCAs = far.TLS.RootCAs // which is believed
	if p := connectPair(t, near, far, testTarget(LaneControl), welcomeAll, nil); p.nearErr == nil || p.farErr == nil {
		t.Errorf("a stranger is let in: %v, %v", p.nearErr, p.farErr)
	}
}

// TestI11ConnectEpoch: a peer that is refused for its epoch learns of the newer one, and that this is authentic.
func TestI11ConnectEpoch(t *testing.T) {
	for name, secret := range map[string][]byte{"secret": testSecret, "none": nil} {
		t.Run(name, func(t *testing.T) {
			p := connectPair(t, testConfig(1, secret), testConfig(2, secret), testTarget(LaneControl), func(h Header, lane Lane) (Header, *Refusal) {
				if h.Epoch != 7 || h.Sender != id(1) || lane != LaneControl {
					t.Errorf("asked to admit %+v", h)
				}
				return Header{Epoch: 8, EpochID: id(7)}, &Refusal{Reason: engine.ReasonEpochMismatch, Detail: "8 has begun", Primary: id(3)}
			}, nil)
			var refused *RefusedError
			if !errors.As(p.nearErr, &refused) || !refused.Authentic || refused.Header.Epoch != 8 || refused.Header.EpochID != id(7) ||
				refused.Refusal != (Refusal{Reason: engine.ReasonEpochMismatch, Detail: "8 has begun", Primary: id(3)}) {
				t.Errorf("near: %v", p.nearErr)
			}
			if p.farErr == nil || p.far != nil {
				t.Errorf("far: %v, %v", p.far, p.farErr)
			}
		})
	}
}

// TestConnectInsecure: without secret and certificates a node neither listens nor connects where others are.
func TestConnectInsecure(t *testing.T) {
	everywhere := &net.TCPAddr{IP: net.IPv4zero}
	for _, c := range []struct {
		addr    net.Addr
		cfg     *Config
		allowed bool
	}{
		{everywhere, testConfig(1, nil), false},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, testConfig(1, nil), false},
		{&net.TCPAddr{IP: net.IPv6zero}, testConfig(1, nil), false},
		{&net.TCPAddr{IP: net.IPv4(127, 1, 2, 3)}, testConfig(1, nil), true},
		{&net.TCPAddr{IP: net.IPv6loopback}, testConfig(1, nil), true},
		{&net.UnixAddr{Name: "/run/peer", Net: "unix"}, testConfig(1, nil), true},
		{everywhere, testConfig(1, testSecret), true},
		{everywhere, &Config{NodeID: id(1), TLS: mutual(t)}, true},
	} {
		if err := c.cfg.allow(c.addr); (err == nil) != c.allowed || err != nil && !errors.Is(err, ErrInsecure) {
			t.Errorf("%s: %v", c.addr, err)
		}
	}
	if l, err := Listen(t.Context(), testConfig(1, nil), "tcp", "0.0.0.0:0", zerolog.Nop()); !errors.Is(err, ErrInsecure) {
		t.Errorf("Listen: %v, %v", l, err)
	}
}

// TestConfigRefused: what would be no protection is refused.
func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no node":           func(c *Config) { c.NodeID = [16]byte{} },
		"empty secret":      func(c *Config) { c.Secret = []byte{} },
		"short secret":      func(c *Config) { c.Secret = testSecret[:MinSecretBytes-1] },
		"negative timeout":  func(c *Config) { c.IdleTimeout = -1 },
		"clients unknown":   func(c *Config) { c.TLS.ClientAuth = tls.RequireAnyClientCert },
		"any clients":       func(c *Config) { c.TLS.ClientCAs = nil },
		"servers unknown":   func(c *Config) { c.TLS.InsecureSkipVerify = true },
		"the world's CAs":   func(c *Config) { c.TLS.RootCAs = nil },
		"no certificate":    func(c *Config) { c.TLS.GetClientCertificate = nil },
		"nothing (control)": nil,
	} {
		cfg := &Config{NodeID: id(1), Secret: testSecret, TLS: mutual(t)}
		if change != nil {
			change(cfg)
		}
		if err := cfg.validate(); (err != nil) != (change != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConnLies: a peer that lies, within a good handshake, is found out, told why, and nothing of it is returned.
func TestConnLies(t *testing.T) {
	frame := func(h Header, m Message, change func([]byte)) func(*Conn) {
		return func(c *Conn) {
			c.sent++
			h.Sequence += c.sent
			b := AppendFrame(nil, h, m)
			if change != nil {
				change(b)
			}
			_, _ = c.nc.Write(b)
		}
	}
	good, beat := Header{Volume: id(9), Sender: id(1)}, &Heartbeat{Number: 1}
	ahead, behind := good, good
	ahead.Sequence, behind.Sequence = 1, ^uint64(0)
	for name, c := range map[string]struct {
		send func(*Conn)
		want error
		word string
	}{
		"bad CRC":       {frame(good, beat, func(b []byte) { b[HeaderBytes]++ }), ErrCorrupt, RefusedProtocol},
		"not ours":      {frame(good, beat, func(b []byte) { b[0]++ }), ErrMagic, RefusedProtocol},
		"version":       {frame(good, beat, func(b []byte) { b[frameVersionAt]++ }), ErrVersion, RefusedVersion},
		"oversize":      {frame(good, beat, func(b []byte) { binary.LittleEndian.PutUint32(b[frameLengthAt:], 1<<31) }), ErrTooLong, RefusedProtocol},
		"wrong UUID":    {frame(Header{Volume: id(8), Sender: id(1)}, beat, nil), ErrWrongVolume, RefusedVolume},
		"wrong sender":  {frame(Header{Volume: id(9), Sender: id(3)}, beat, nil), ErrWrongPeer, RefusedPeer},
		"wrong lane":    {frame(good, &Ack{}, nil), ErrUnexpected, RefusedProtocol},
		"hello again":   {frame(good, &Hello{Lane: LaneLog}, nil), ErrUnexpected, RefusedProtocol},
		"frame missing": {frame(ahead, beat, nil), ErrSequence, RefusedProtocol},
		"frame again":   {frame(behind, beat, nil), ErrSequence, RefusedProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			p := connectPair(t, testConfig(1, nil), testConfig(2, nil), testTarget(LaneControl), welcomeAll, nil)
			p.talk(t)
			c.send(p.near)
			_, m, err := p.far.Receive()
			if m != nil || !errors.Is(err, c.want) {
				t.Fatalf("%v, %v", m, err)
			}
			var all sync.WaitGroup
			all.Go(func() { p.far.Refuse(Header{}, &Refusal{Reason: Reason(err), Detail: err.Error()}) })
			_, _, err = p.near.Receive()
			if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal.Reason != c.word || !refused.Authentic {
				t.Errorf("the liar is told %v", err)
			}
			_ = p.near.Close()
			all.Wait()
		})
	}
}

// TestConnEnd: the end of a connection is told from one inside a frame, and from this side's own.
func TestConnEnd(t *testing.T) {
	p := connectPair(t, testConfig(1, nil), testConfig(2, nil), testTarget(LaneControl), welcomeAll, nil)
	_, _ = p.near.nc.Write(AppendFrame(nil, Header{}, &Heartbeat{})[:HeaderBytes+3])
	_ = p.near.Close()
	if _, _, err := p.far.Receive(); !errors.Is(err, ErrTorn) {
		t.Errorf("inside a frame: %v", err)
	}
	if err := p.near.Send(Header{}, &Heartbeat{}); !errors.Is(err, ErrClosed) {
		t.Errorf("send after Close: %v", err)
	}
	p = connectPair(t, testConfig(1, nil), testConfig(2, nil), testTarget(LaneControl), welcomeAll, nil)
	var all sync.WaitGroup
	all.Go(func() {
		if _, _, err := p.far.Receive(); !errors.Is(err, ErrClosed) {
			t.Errorf("receive while Close: %v", err)
		}
	})
	_ = p.far.Close()
	_ = p.far.Close()
	all.Wait()
}

// TestConnImpostor: a node that answers for another node or volume is left, and told why.
func TestConnImpostor(t *testing.T) {
	for name, answer := range map[string]Header{
		"node": {Volume: id(9), Sender: id(3)}, "volume": {Volume: id(8), Sender: id(2)}, "itself": {Volume: id(9), Sender: id(1)},
	} {
		a, b := net.Pipe()
		told := make(chan error, 1)
		go func() {
			far := newConn(b, testConfig(2, nil))
			_, _, _ = far.Receive()
			answer.Sequence = 1
			_, _ = b.Write(AppendFrame(nil, answer, &Challenge{}))
			_, _, err := far.Receive()
			told <- err
			_ = b.Close()
		}()
		near := newConn(a, testConfig(1, nil))
		near.lane, near.volume, near.peer = LaneLog, id(9), id(2)
		if err := near.connect(Header{}); !errors.Is(err, ErrWrongPeer) {
			t.Errorf("%s: %v", name, err)
		}
		if refused := new(RefusedError); !errors.As(<-told, &refused) || refused.Refusal.Reason != RefusedPeer {
			t.Errorf("%s: the impostor is told %v", name, refused)
		}
	}
}

// TestConnStranger: before it is known who a peer is, it can not have anything long received.
func TestConnStranger(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		long := AppendFrame(nil, Header{}, &Records{FirstLSN: 1, LastLSN: 1, Raw: make([]byte, MaxRecordsBytes)})
		_, _ = b.Write(long[:HeaderBytes])
	}()
	if _, err := (&Listener{cfg: testConfig(2, testSecret)}).handshake(t.Context(), a, welcomeAll); !errors.Is(err, ErrUnexpected) {
		t.Error(err)
	}
	_ = b.Close()
}

// TestRefuseArrives: one who goes on sending still learns why it was refused.
func TestRefuseArrives(t *testing.T) {
	p := connectPair(t, testConfig(1, nil), testConfig(2, nil), testTarget(LaneLog), welcomeAll, nil)
	var all sync.WaitGroup
	all.Go(func() {
		long := &Records{FirstLSN: 1, LastLSN: 1, Raw: make([]byte, 1<<20)}
		for range 16 {
			if err := p.near.Send(Header{}, long); err != nil {
				t.Error(err)
			}
		}
		_, _, err := p.near.Receive()
		if refused := new(RefusedError); !errors.As(err, &refused) || refused.Refusal.Reason != RefusedGap {
			t.Error(err)
		}
		_ = p.near.Close()
	})
	if _, _, err := p.far.Receive(); err != nil {
		t.Error(err)
	}
	p.far.Refuse(Header{}, &Refusal{Reason: RefusedGap})
	all.Wait()
}

// TestConnSilence: a peer that says nothing is given up, in the handshake and after it.
func TestConnSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		begun := time.Now()
		if _, err := (&Listener{cfg: testConfig(2, testSecret)}).handshake(t.Context(), a, welcomeAll); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("handshake: %v", err)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("the handshake is given up after %s", took)
		}
		_ = b.Close()
		a, b = net.Pipe()
		c := newConn(a, testConfig(2, nil))
		var silent net.Error
		if _, _, err := c.Receive(); !errors.As(err, &silent) || !silent.Timeout() {
			t.Errorf("receive: %v", err)
		}
		if err := c.Send(Header{}, &Heartbeat{}); !errors.As(err, &silent) || !silent.Timeout() {
			t.Errorf("send: %v", err)
		}
		_ = b.Close()
	})
}

// TestListener: peers are handled until the context ends, and Serve waits for them.
func TestListener(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, testConfig(2, testSecret), "tcp", "127.0.0.1:0", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	handled, ended := make(chan *Conn, 2), make(chan error, 2)
	served := make(chan error)
	go func() {
		served <- l.Serve(ctx, welcomeAll, func(_ context.Context, c *Conn) {
			handled <- c
			_, _, err := c.Receive()
			ended <- err
		})
	}()
	target := testTarget(LaneBase)
	target.Address = l.Addr().String()
	target.Header.Epoch = block.Epoch(3)
	c, err := Connect(ctx, testConfig(1, testSecret), target)
	if err != nil {
		t.Fatal(err)
	}
	if far := <-handled; far.Lane() != LaneBase {
		t.Errorf("%s lane", far.Lane())
	}
	cancel()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("handler: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, _, err := c.Receive(); err == nil {
		t.Error("the connection is open after Serve")
	}
	_ = c.Close()
}

// mutual is the TLS configuration of a node of a cluster; each call makes another cluster.
func mutual(t *testing.T) *tls.Config {
	t.Helper()
	ca := authority.New(t)
	reached, connecting := ca.Server("node").TLS(t), ca.Client("node").TLS(t)
	return &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &reached, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &connecting, nil },
		RootCAs:              ca.Pool(), ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	}
}
