package replication

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// How two nodes of a cluster show each other that they know its secret.
//
//	connecting (I)                 reached (R)
//	Hello      nonce I  ──────▶
//	           ◀──────  Challenge  nonce R, HMAC(secret, "reached"    ‖ transcript)
//	Proof      HMAC(secret, "connecting" ‖ transcript)  ──────▶
//	           ◀──────  Welcome    the first frame with a tag
//
// The transcript is SHA-256 of the whole Hello frame, SHA-256 of the whole Challenge frame with its proof zeroed and,
// inside TLS, a value that only the two ends of that TLS connection can know (RFC 8446, 7.5). The frames have in them the
// volume, the lane, the node ID of either side as it sees itself, whom I means to reach, and both nonces.
//
//   - Nothing can be replayed: either proof covers a nonce that its verifier has just made.
//   - Nothing can be reflected: the proofs of the two roles have different labels, so that R's proof is never one of I's,
//     also when I and R are made to talk to themselves; and a node refuses its own ID as a peer's.
//   - Nothing can be moved: a proof given for one lane, volume or pair of nodes is none for another, so that whoever sits
//     in the middle can pass bytes on, unchanged, and nothing else. Inside TLS not even that.
//   - Afterwards every frame carries a tag under a key of its direction, HKDF-SHA256(secret, nonces, label ‖ transcript),
//     with the frame's sequence as nonce: whoever is in the middle can not change, drop, repeat, reorder or add a frame
//     without being seen. It can end the connection.
//
// The tag is AES-256-GMAC, 16 bytes. It needs a key and a nonce that are never used twice: the keys are of nonces that
// either side has just made, a direction has a key of its own, and a connection ends at the first frame that is wrong. It
// is four times as fast as HMAC-SHA256, which would cost each side of a catch-up most of a core at 1 GB/s. Inside TLS there
// is no tag, for TLS has one.
//
// What is not hidden without TLS are the data. Nor is a guessable secret safe: proofs let it be tried offline. It has to
// be random.
const (
	labelReached    = "lockstep replication 1 reached"
	labelConnecting = "lockstep replication 1 connecting"
	labelKeys       = "lockstep replication 1 keys"
	labelTLS        = "EXPORTER-lockstep-replication"

	keyBytes = 32
	tagBytes = 16
	// MinSecretBytes is the least length of a cluster secret.
	MinSecretBytes = 16
)

var (
	// ErrSecret means that a peer does not know the cluster secret, or knows another one.
	ErrSecret = errors.New("the peer does not know this cluster's secret")
	// ErrTag means that a frame was changed on its way, or is not the peer's.
	ErrTag = errors.New("a frame is not the peer's: its tag is wrong")
)

func newNonce() (n [nonceBytes]byte) {
	rand.Read(n[:]) // does not fail
	return n
}

// transcript is what both sides prove to have seen.
func transcript(hello, challenge []byte, nc any) ([]byte, error) {
	h, c := sha256.Sum256(hello), sha256.Sum256(challenge)
	all := slices.Concat(h[:], c[:])
	conn, ok := nc.(*tls.Conn)
	if !ok {
		return all, nil
	}
	state := conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial(labelTLS, nil, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("bind to the TLS connection: %w", err)
	}
	return append(all, binding...), nil
}

// prove returns the proof of one role; it is zero where there is no secret.
func prove(secret []byte, label string, transcript []byte) (p [proofBytes]byte) {
	if len(secret) == 0 {
		return p
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(label))
	mac.Write(transcript)
	mac.Sum(p[:0])
	return p
}

// verify returns an error that wraps ErrSecret where a proof is not what it should be.
func verify(secret []byte, label string, transcript []byte, got [proofBytes]byte) error {
	want := prove(secret, label, transcript)
	if hmac.Equal(want[:], got[:]) {
		return nil
	}
	switch got == [proofBytes]byte{} {
	case len(secret) == 0:
		return fmt.Errorf("%w: it has one, and this node has none", ErrSecret)
	case true:
		return fmt.Errorf("%w: it has none", ErrSecret)
	}
	return fmt.Errorf("%w: it has another one", ErrSecret)
}

// seal makes and checks the tags of one direction. A nil seal is that of a connection without tags.
type seal struct{ aead cipher.AEAD }

// newSeals returns the seals of what the connecting side sends and of what the reached side sends.
func newSeals(secret []byte, connecting, reached [nonceBytes]byte, transcript []byte) (fromConnecting, fromReached *seal, err error) {
	salt := slices.Concat(connecting[:], reached[:])
	keys, err := hkdf.Key(sha256.New, secret, salt, labelKeys+string(transcript), 2*keyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive keys: %w", err)
	}
	if fromConnecting, err = newSeal(keys[:keyBytes]); err != nil {
		return nil, nil, err
	}
	fromReached, err = newSeal(keys[keyBytes:])
	return fromConnecting, fromReached, err
}

func newSeal(key []byte) (*seal, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	aead, err := cipher.NewGCM(c)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return &seal{aead}, nil
}

// nonce is used once with a key: sequences are.
func (s *seal) nonce(sequence uint64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, s.aead.NonceSize()-8, s.aead.NonceSize()), sequence)
}

// size returns the length of a tag.
func (s *seal) size() int {
	if s == nil {
		return 0
	}
	return tagBytes
}

// append appends the tag of a frame to dst.
func (s *seal) append(dst, frame []byte, sequence uint64) []byte {
	if s == nil {
		return dst
	}
	return s.aead.Seal(dst, s.nonce(sequence), nil, frame)
}

// check returns ErrTag where the tag is not that of the frame.
func (s *seal) check(frame, tag []byte, sequence uint64) error {
	if s == nil {
		return nil
	}
	if _, err := s.aead.Open(nil, s.nonce(sequence), tag, frame); err != nil {
		return ErrTag
	}
	return nil
}
