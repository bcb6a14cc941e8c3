package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Option reply header, as appendOptionReply writes it.
const (
	optionReplyCodeAt   = 8
	optionReplyKindAt   = 12
	optionReplyLengthAt = 16
	optionReplyBytes    = 20

	// repErrBit is set in every reply type that is an error.
	repErrBit uint32 = 1 << 31
)

// Offer is what a server says of an export in the handshake.
type Offer struct {
	Name        string // canonical; "" where the server does not say
	Description string // "" where the server does not say
	SizeBytes   int64
	Flags       uint16 // transmission flags, as sent

	// Sizes of requests in bytes; all 0 where the server does not say. The first two are powers of two.
	MinBlockBytes, PreferredBlockBytes, MaxPayloadBytes uint32
}

// ReadOnly reports whether the server refuses changes.
func (o Offer) ReadOnly() bool { return o.Flags&exportReadOnly != 0 }

// MultiConn reports whether a flush on one connection covers what was acknowledged on another, so that a client may
// use several.
func (o Offer) MultiConn() bool { return o.Flags&exportCanMultiConn != 0 }

var errInfo = errors.New("information of an impossible length or value")

// decode takes in one INFO reply. Information of unknown types is ignored.
func (o *Offer) decode(b []byte) (isSize bool, err error) {
	if len(b) < 2 {
		return false, errInfo
	}
	kind, b := binary.BigEndian.Uint16(b), b[2:]
	switch kind {
	case infoExport:
		return true, o.decodeSize(b)
	case infoName:
		o.Name, err = decodeString(b)
	case infoDescription:
		o.Description, err = decodeString(b)
	case infoBlockSize:
		err = o.decodeBlockSize(b)
	}
	if err != nil {
		return false, fmt.Errorf("information %d: %w", kind, err)
	}
	return false, nil
}

func (o *Offer) decodeSize(b []byte) error {
	if len(b) != 10 {
		return fmt.Errorf("size and flags: %w", errInfo)
	}
	size := binary.BigEndian.Uint64(b)
	if size > math.MaxInt64 {
		return fmt.Errorf("size of %d bytes: %w", size, errInfo)
	}
	o.SizeBytes, o.Flags = int64(size), binary.BigEndian.Uint16(b[8:])
	return nil
}

func (o *Offer) decodeBlockSize(b []byte) error {
	if len(b) != 12 {
		return errInfo
	}
	least, preferred, most := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	if bits.OnesCount32(least) != 1 || bits.OnesCount32(preferred) != 1 || preferred < least || most < least {
		return fmt.Errorf("block sizes %d, %d and %d: %w", least, preferred, most, errInfo)
	}
	o.MinBlockBytes, o.PreferredBlockBytes, o.MaxPayloadBytes = least, preferred, most
	return nil
}

// RefusedError is a server's no to the export that a client asked for.
type RefusedError struct {
	Code    uint32 // reply type; its highest bit is set
	Message string // the server's words, for people; may be empty
}

// Error says what the server refused, with its words quoted: they are somebody else's bytes.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("the server refuses: %s", e.reason())
	if e.Message != "" {
		text += fmt.Sprintf(" (%q)", e.Message)
	}
	return text
}

func (e *RefusedError) reason() string {
	switch e.Code &^ repErrBit {
	case 1:
		return "it does not know this way to choose an export"
	case 2:
		return "its policy forbids it"
	case 3:
		return "it takes the option for invalid"
	case 4:
		return "it cannot on its platform"
	case 5:
		return "it wants TLS"
	case 6:
		return "it has no such export, or not now"
	case 7:
		return "it is shutting down"
	case 8:
		return "it wants to be told a block size"
	}
	return fmt.Sprintf("error %d", e.Code&^repErrBit)
}

// Unwrap returns ErrUnknownExport or ErrTLSRequired where that is what the code means.
func (e *RefusedError) Unwrap() error {
	switch e.Code &^ repErrBit {
	case 5:
		return ErrTLSRequired
	case 6:
		return ErrUnknownExport
	}
	return nil
}
