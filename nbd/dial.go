package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

var (
	// ErrHandshake is what Choose and Ask wrap where a server does not keep to the fixed newstyle handshake, or is too
	// old for it. Nothing that came over that connection can be trusted.
	ErrHandshake = errors.New("not a fixed newstyle NBD handshake")
	// ErrTLSRequired is what Choose and Ask wrap where a server wants TLS, which they do not speak.
	ErrTLSRequired = errors.New("the server wants TLS")
)

// magicOldstyle is what a server of the old style sends in place of magicOption.
const magicOldstyle uint64 = 0x00420281861253

// maxOptionReplies is the most replies that a server may send to one option.
const maxOptionReplies = 64

// Choose does the client's side of the handshake on a fresh connection, up to where transmission begins: simple
// replies, no metadata contexts. When it returns nil, not one byte beyond the handshake has been read, and the
// connection has no deadline. Otherwise the connection is of no use any more; the caller closes it either way.
//
// Errors wrap ErrUnknownExport, ErrTLSRequired or ErrHandshake where that is the reason, a *RefusedError where the
// server said no, else what the connection or ctx said.
func Choose(ctx context.Context, conn net.Conn, export string) (Offer, error) {
	return bounded(ctx, conn, func() (Offer, error) {
		return (&dialog{conn: conn}).ask(optGo, export)
	})
}

// Ask is like Choose, but only looks: the server is told to end the connection, which the caller closes.
func Ask(ctx context.Context, conn net.Conn, export string) (Offer, error) {
	return bounded(ctx, conn, func() (Offer, error) {
		d := &dialog{conn: conn}
		offer, err := d.ask(optInfo, export)
		if err == nil {
			err = d.send(optAbort, nil)
		}
		return offer, err
	})
}

// bounded runs a handshake that ends with ctx.
func bounded(ctx context.Context, conn net.Conn, run func() (Offer, error)) (Offer, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // wakes run; a connection that fails here fails there too
	})
	offer, err := run()
	if !stop() {
		return Offer{}, fmt.Errorf("nbd handshake: %w", context.Cause(ctx))
	}
	if err != nil {
		return Offer{}, fmt.Errorf("nbd handshake: %w", err)
	}
	return offer, nil
}

// dialog is the client's side of a handshake.
type dialog struct{ conn net.Conn }

// ask greets, and sends INFO or GO.
func (d *dialog) ask(code uint32, export string) (Offer, error) {
	if _, err := decodeString([]byte(export)); err != nil {
		return Offer{}, fmt.Errorf("export name %w", err)
	}
	if err := d.greet(); err != nil {
		return Offer{}, err
	}
	r := infoRequest{name: export, infos: []uint16{infoName, infoDescription, infoBlockSize}}
	if err := d.send(code, r.encode()); err != nil {
		return Offer{}, err
	}
	return d.offer(code)
}

// greet reads the greeting and answers with the flags that both sides know.
func (d *dialog) greet() error {
	var b [greetingBytes]byte
	if _, err := io.ReadFull(d.conn, b[:]); err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	switch second := binary.BigEndian.Uint64(b[8:]); {
	case binary.BigEndian.Uint64(b[:]) != magicGreeting:
		return fmt.Errorf("%w: this is no NBD server", ErrHandshake)
	case second == magicOldstyle:
		return fmt.Errorf("%w: the server speaks the old style", ErrHandshake)
	case second != magicOption:
		return fmt.Errorf("%w: wrong magic number in the greeting", ErrHandshake)
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return fmt.Errorf("%w: the server does not speak fixed newstyle", ErrHandshake)
	}
	ours := binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := d.conn.Write(ours); err != nil {
		return fmt.Errorf("write client flags: %w", err)
	}
	return nil
}

func (d *dialog) send(code uint32, data []byte) error {
	b := make([]byte, optionBytes, optionBytes+len(data))
	option{code: code, length: uint32(len(data))}.encode(b)
	if _, err := d.conn.Write(append(b, data...)); err != nil {
		return fmt.Errorf("send option %d: %w", code, err)
	}
	return nil
}

// offer reads the replies to INFO or GO.
func (d *dialog) offer(code uint32) (Offer, error) {
	var o Offer
	sized := false
	for range maxOptionReplies {
		kind, data, err := d.readReply(code)
		if err != nil {
			return Offer{}, err
		}
		switch {
		case kind == repInfo:
			isSize, err := o.decode(data)
			if err != nil {
				return Offer{}, fmt.Errorf("%w: %w", ErrHandshake, err)
			}
			sized = sized || isSize
		case kind == repAck && !sized:
			return Offer{}, fmt.Errorf("%w: the server does not say how large the export is", ErrHandshake)
		case kind == repAck && len(data) > 0:
			return Offer{}, fmt.Errorf("%w: acknowledgement with %d bytes of data", ErrHandshake, len(data))
		case kind == repAck:
			return o, nil
		case kind&repErrBit != 0:
			return Offer{}, &RefusedError{Code: kind, Message: string(data)}
		default:
			return Offer{}, fmt.Errorf("%w: reply of type %d to option %d", ErrHandshake, kind, code)
		}
	}
	return Offer{}, fmt.Errorf("%w: more than %d replies to option %d", ErrHandshake, maxOptionReplies, code)
}

// readReply reads one reply to an option. Its data are at most maxOptionBytes.
func (d *dialog) readReply(code uint32) (kind uint32, data []byte, err error) {
	var b [optionReplyBytes]byte
	if _, err := io.ReadFull(d.conn, b[:]); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", code, err)
	}
	kind = binary.BigEndian.Uint32(b[optionReplyKindAt:])
	length := binary.BigEndian.Uint32(b[optionReplyLengthAt:])
	switch answered := binary.BigEndian.Uint32(b[optionReplyCodeAt:]); {
	case binary.BigEndian.Uint64(b[:]) != magicOptionReply:
		return 0, nil, fmt.Errorf("%w: wrong magic number in the reply to option %d", ErrHandshake, code)
	case answered != code:
		return 0, nil, fmt.Errorf("%w: reply to option %d, but option %d was sent", ErrHandshake, answered, code)
	case length > maxOptionBytes:
		return 0, nil, fmt.Errorf("%w: reply of %d bytes to option %d", ErrHandshake, length, code)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(d.conn, data); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", code, err)
	}
	return kind, data, nil
}
