package replication

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// copyFrames carries whole frames, with their tags once there are any, through a function that returns what goes on.
func copyFrames(dst io.Writer, src io.Reader, tagged bool, untagged int, change func(n int, frame []byte) [][]byte) {
	for n := 0; ; n++ {
		b := make([]byte, HeaderBytes)
		if _, err := io.ReadFull(src, b); err != nil {
			return
		}
		size, err := frameLength(b)
		if err != nil {
			return
		}
		if tagged && n >= untagged {
			size += tagBytes
		}
		b = append(b, make([]byte, size-HeaderBytes)...)
		if _, err := io.ReadFull(src, b[HeaderBytes:]); err != nil {
			return
		}
		for _, out := range change(n, b) {
			if _, err := dst.Write(out); err != nil {
				return
			}
		}
	}
}

// between is somebody in the middle of a connection, who sees frames and changes those of the connecting side.
func between(tagged bool, change func(n int, frame []byte) [][]byte) func(near, far net.Conn) {
	return func(near, far net.Conn) {
		var all sync.WaitGroup
		all.Go(func() { copyFrames(far, near, tagged, 2, change); _ = far.Close() })
		all.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
		all.Wait()
	}
}

// TestMiddle: whoever is in the middle of an authenticated connection can end it, and can not make either side believe
// anything that the other did not say.
func TestMiddle(t *testing.T) {
	var held []byte
	forge := func(n int, m Message) []byte {
		b := AppendFrame(nil, Header{Volume: id(9), Sender: id(1), Sequence: uint64(n + 1)}, m)
		return append(b, make([]byte, tagBytes)...)
	}
	for name, c := range map[string]struct {
		change func(n int, f []byte) [][]byte // the handshake has frames 0 and 1
		want   error
	}{
		"changed with its CRC": {func(n int, f []byte) [][]byte {
			if n == 3 {
				f[HeaderBytes] ^= 1
				tag := bytes.Clone(f[len(f)-tagBytes:])
				reseal(f[:len(f)-tagBytes])
				copy(f[len(f)-tagBytes:], tag)
			}
			return [][]byte{f}
		}, ErrTag},
		"added": {func(n int, f []byte) [][]byte {
			if n == 3 {
				return [][]byte{forge(n, &Heartbeat{}), f}
			}
			return [][]byte{f}
		}, ErrTag},
		"repeated": {func(n int, f []byte) [][]byte {
			if n == 3 {
				return [][]byte{f, f}
			}
			return [][]byte{f}
		}, ErrSequence},
		"dropped": {func(n int, f []byte) [][]byte {
			if n == 3 {
				return nil
			}
			return [][]byte{f}
		}, ErrSequence},
		"swapped": {func(n int, f []byte) [][]byte {
			switch n {
			case 3:
				held = f
				return nil
			case 4:
				return [][]byte{f, held}
			}
			return [][]byte{f}
		}, ErrSequence},
		"a refusal": {func(n int, f []byte) [][]byte {
			if n == 3 {
				return [][]byte{forge(n, &Refusal{Reason: "superseded"}), f}
			}
			return [][]byte{f}
		}, ErrTag},
	} {
		t.Run(name, func(t *testing.T) {
			p := connectPair(t, testConfig(1, testSecret), testConfig(2, testSecret), testTarget(LaneControl), welcomeAll, between(true, c.change))
			if p.nearErr != nil || p.farErr != nil {
				t.Fatal(p.nearErr, p.farErr)
			}
			for n := range uint64(6) {
				_ = p.near.Send(Header{}, &Heartbeat{Number: n})
			}
			var believed []uint64
			var err error
			for err == nil {
				var m Message
				if _, m, err = p.far.Receive(); err == nil {
					believed = append(believed, m.(*Heartbeat).Number)
				}
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if want := []uint64{0, 1, 2, 3, 4, 5}; len(believed) > 2 || !slices.Equal(believed, want[:len(believed)]) {
				t.Errorf("believed %v", believed)
			}
		})
	}
}

// TestMiddleHandshake: nothing of a handshake can be changed, so that a proof is one for what both sides mean.
func TestMiddleHandshake(t *testing.T) {
	for name, change := range map[string]func(n int, f []byte){
		"lane":   func(n int, f []byte) { setAt(n == 0, f, HeaderBytes+helloLaneAt, byte(LaneLog)) },
		"volume": func(n int, f []byte) { setAt(n == 0, f, frameVolumeAt, 1) },
		"sender": func(n int, f []byte) { setAt(n == 0, f, frameSenderAt, 1) },
		"epoch":  func(n int, f []byte) { setAt(n == 0, f, frameEpochAt, 99) },
		"nonce":  func(n int, f []byte) { setAt(n == 0, f, HeaderBytes, f[HeaderBytes]+1) },
		"proof":  func(n int, f []byte) { setAt(n == 1, f, HeaderBytes, f[HeaderBytes]+1) },
	} {
		p := connectPair(t, testConfig(1, testSecret), testConfig(2, testSecret), testTarget(LaneControl),
			func(h Header, lane Lane) (Header, *Refusal) {
				t.Errorf("%s: node %s is admitted", name, h.Sender)
				return h, nil
			}, between(true, func(n int, f []byte) [][]byte { change(n, f); return [][]byte{f} }))
		if p.nearErr == nil || p.farErr == nil {
			t.Errorf("%s: %v, %v", name, p.nearErr, p.farErr)
		}
	}
}

func setAt(when bool, f []byte, at int, value byte) {
	if when {
		f[at] = value
		reseal(f)
	}
}

// TestReplay: what was recorded of a connection opens no other.
func TestReplay(t *testing.T) {
	var recorded [][]byte
	p := connectPair(t, testConfig(1, testSecret), testConfig(2, testSecret), testTarget(LaneControl), welcomeAll,
		between(true, func(_ int, f []byte) [][]byte {
			recorded = append(recorded, bytes.Clone(f))
			return [][]byte{f}
		}))
	p.talk(t)
	_ = p.near.Close()
	_, _, _ = p.far.Receive()
	if len(recorded) < 5 {
		t.Fatalf("%d frames were recorded", len(recorded))
	}
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	go func() {
		for _, f := range recorded {
			if _, err := b.Write(f); err != nil {
				return
			}
		}
	}()
	_, err := (&Listener{cfg: testConfig(2, testSecret)}).handshake(t.Context(), a, func(h Header, _ Lane) (Header, *Refusal) {
		t.Error("a recording is admitted")
		return h, nil
	})
	if !errors.Is(err, ErrSecret) {
		t.Error(err)
	}
	_ = b.Close()
}

// TestReflection: one who knows no secret and sends back what it is sent gets nowhere, and the proof of one role is not
// one of the other, also over the same transcript.
func TestReflection(t *testing.T) {
	seen := []byte("what both have seen")
	if err := verify(testSecret, labelConnecting, seen, prove(testSecret, labelReached, seen)); !errors.Is(err, ErrSecret) {
		t.Error(err)
	}
	if err := verify(testSecret, labelReached, seen, prove(testSecret, labelReached, seen)); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var mirror sync.WaitGroup
	mirror.Go(func() {
		if nc, err := l.Accept(); err == nil {
			_, _ = io.Copy(nc, nc)
			_ = nc.Close()
		}
	})
	target := testTarget(LaneControl)
	target.Address = l.Addr().String()
	if _, err := Connect(t.Context(), testConfig(1, testSecret), target); !errors.Is(err, ErrUnexpected) {
		t.Errorf("a mirror: %v", err)
	}
	mirror.Wait()
}
