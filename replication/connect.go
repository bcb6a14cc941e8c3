package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"

	"lockstep/engine"
)

// Words of refusals that are not the engine's.
const (
	RefusedSecret   = "wrong_secret"
	RefusedPeer     = "wrong_peer"
	RefusedVolume   = "wrong_volume"
	RefusedProtocol = "protocol_error" // bad frames, and messages without a place
	RefusedGap      = "gap"
	RefusedDiverged = "diverged"
	RefusedStale    = "stale_session" // of another session, or of an older stream
	RefusedVersion  = "unknown_version"
)

// Reason returns the word that the other side is told for an error.
func Reason(err error) string {
	for _, r := range []struct {
		err  error
		word string
	}{
		{ErrSecret, RefusedSecret}, {ErrTag, RefusedSecret}, {ErrWrongPeer, RefusedPeer}, {ErrWrongVolume, RefusedVolume},
		{ErrVersion, RefusedVersion}, {ErrGap, RefusedGap}, {ErrStale, RefusedStale}, {ErrDiverged, RefusedDiverged},
		{ErrOldEpoch, engine.ReasonEpochMismatch}, {ErrNewerEpoch, engine.ReasonEpochMismatch}, {ErrOtherPrimary, engine.ReasonSplitBrain},
	} {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return RefusedProtocol
}

// keepAlive finds a peer whose machine is gone, also where nobody waits for a message.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// Target is whom to connect to, and for what.
type Target struct {
	Address string    // HOST:PORT, or the path of a Unix socket
	Network string    // "tcp" or "unix"; "" is tcp
	Peer    uuid.UUID // node ID that has to be there
	Lane    Lane
	Header  Header // volume, epoch and session as this node knows them
}

// Connect connects to a peer. Without secret and TLS the address has to be this machine's (ErrInsecure). A *RefusedError
// is the peer's answer; ErrSecret and ErrWrongPeer are this node's, and the peer was told.
func Connect(ctx context.Context, cfg *Config, t Target) (*Conn, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	network := t.Network
	if network == "" {
		network = "tcp"
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.handshakeTimeout())
	defer cancel()
	d := net.Dialer{KeepAliveConfig: keepAlive}
	nc, err := d.DialContext(ctx, network, t.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	if err := cfg.allow(nc.RemoteAddr()); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	if cfg.TLS != nil {
		host, _, _ := net.SplitHostPort(t.Address)
		nc = tls.Client(nc, cfg.tls(host))
	}
	c := newConn(nc, cfg)
	c.lane, c.volume, c.peer = t.Lane, t.Header.Volume, t.Peer
	if err := c.within(ctx, func() error { return c.connect(t.Header) }); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	return c, nil
}

// within runs a handshake, which ends with the context, and closes the connection after an error.
func (c *Conn) within(ctx context.Context, handshake func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err := c.startTLS(ctx)
	if err == nil {
		err = handshake()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	_ = c.Close()
	return err
}

func (c *Conn) startTLS(ctx context.Context) error {
	t, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	return nil
}

// connect is the connecting side's handshake.
func (c *Conn) connect(h Header) error {
	hello := &Hello{Nonce: newNonce(), Peer: c.peer, Lane: c.lane}
	if err := c.Send(h, hello); err != nil {
		return err
	}
	helloFrame := append([]byte(nil), c.out...)
	got, m, err := c.Receive()
	if err != nil {
		return err
	}
	challenge, ok := m.(*Challenge)
	if !ok {
		return fmt.Errorf("%w: %s instead of a challenge", ErrUnexpected, m.Kind())
	}
	if err := c.checkChallenge(h, got, hello, challenge, helloFrame); err != nil {
		c.Refuse(h, &Refusal{Reason: Reason(err), Detail: err.Error()})
		return err
	}
	if got, m, err = c.Receive(); err != nil {
		return err
	}
	if m.Kind() != KindWelcome || got.Volume != c.volume || got.Sender != c.peer {
		return fmt.Errorf("%w: %s of node %s about %s instead of a welcome", ErrUnexpected, m.Kind(), got.Sender, got.Volume)
	}
	c.welcome = true
	return nil
}

// checkChallenge decides whether this is the one that is meant, and proves to it who this node is.
func (c *Conn) checkChallenge(ours, got Header, hello *Hello, challenge *Challenge, helloFrame []byte) error {
	if got.Sender != c.peer || got.Sender == c.cfg.NodeID || got.Volume != c.volume {
		return fmt.Errorf("%w: node %s answers for volume %s", ErrWrongPeer, got.Sender, got.Volume)
	}
	seen, err := transcript(helloFrame, AppendFrame(nil, got, &Challenge{Nonce: challenge.Nonce}), c.nc)
	if err != nil {
		return err
	}
	if err := verify(c.cfg.Secret, labelReached, seen, challenge.Proof); err != nil {
		return err
	}
	if err := c.Send(ours, &Proof{Proof: prove(c.cfg.Secret, labelConnecting, seen)}); err != nil {
		return err
	}
	return c.agree(hello.Nonce, challenge.Nonce, seen, true)
}

// agree sets the keys of both directions, where there are to be tags.
func (c *Conn) agree(connecting, reached [nonceBytes]byte, seen []byte, connects bool) error {
	if c.cfg.Secret == nil || c.cfg.TLS != nil {
		return nil
	}
	fromConnecting, fromReached, err := newSeals(c.cfg.Secret, connecting, reached, seen)
	if err != nil {
		return err
	}
	c.sealSent, c.sealReceived = fromReached, fromConnecting
	if connects {
		c.sealSent, c.sealReceived = fromConnecting, fromReached
	}
	return nil
}

// Admission decides on a peer that is known to be one: it returns the header that a welcome has, or why there is none. A
// *Refusal is told to the peer as it is, with the header.
type Admission func(h Header, lane Lane) (Header, *Refusal)

// accept is the reached side's handshake.
func (c *Conn) accept(admit Admission) error {
	h, m, err := c.Receive()
	if errors.Is(err, ErrVersion) {
		c.Refuse(Header{}, &Refusal{Reason: Reason(err), Detail: err.Error()})
	}
	if err != nil {
		return err
	}
	hello, ok := m.(*Hello)
	if !ok {
		return fmt.Errorf("%w: %s instead of a hello", ErrUnexpected, m.Kind())
	}
	helloFrame := append([]byte(nil), c.frame...)
	c.lane, c.volume, c.peer = hello.Lane, h.Volume, h.Sender
	if err := c.challenge(h, *hello, helloFrame); err != nil {
		if !errors.As(err, new(*RefusedError)) {
			c.Refuse(Header{}, &Refusal{Reason: Reason(err), Detail: err.Error()})
		}
		return err
	}
	ours, refusal := admit(h, c.lane)
	if refusal != nil {
		c.Refuse(ours, refusal)
		return fmt.Errorf("refused node %s on the %s lane: %s: %s", c.peer, c.lane, refusal.Reason, refusal.Detail)
	}
	c.welcome = true
	return c.Send(ours, &Welcome{})
}

// challenge lets the connecting side prove who it is.
func (c *Conn) challenge(h Header, hello Hello, helloFrame []byte) error {
	switch {
	case hello.Peer != c.cfg.NodeID:
		return fmt.Errorf("%w: it means node %s, and this is node %s", ErrWrongPeer, hello.Peer, c.cfg.NodeID)
	case h.Sender == c.cfg.NodeID:
		return fmt.Errorf("%w: it says that it is this node, %s", ErrWrongPeer, h.Sender)
	}
	challenge := &Challenge{Nonce: newNonce()}
	bare := AppendFrame(nil, Header{Volume: c.volume, Sender: c.cfg.NodeID, Sequence: c.sent + 1}, challenge)
	seen, err := transcript(helloFrame, bare, c.nc)
	if err != nil {
		return err
	}
	challenge.Proof = prove(c.cfg.Secret, labelReached, seen)
	if err := c.Send(Header{}, challenge); err != nil {
		return err
	}
	_, m, err := c.Receive()
	if err != nil {
		return err
	}
	proof, ok := m.(*Proof)
	if !ok {
		return fmt.Errorf("%w: %s instead of a proof", ErrUnexpected, m.Kind())
	}
	if err := verify(c.cfg.Secret, labelConnecting, seen, proof.Proof); err != nil {
		return err
	}
	return c.agree(hello.Nonce, challenge.Nonce, seen, false)
}
