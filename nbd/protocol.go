package nbd

import (
	"encoding/binary"
	"errors"
)

// The transmission phase on the wire. Every number is big-endian.
//
// Request, followed by length bytes of payload if it is a write:
//
//	 0  4  magic 0x25609513
//	 4  2  command flags
//	 6  2  command
//	 8  8  cookie
//	16  8  offset in bytes
//	24  4  length in bytes
//
// Simple reply, followed by the data if it answers a read without error:
//
//	0  4  magic 0x67446698
//	4  4  error
//	8  8  cookie
//
// Structured reply chunk, followed by its payload:
//
//	 0  4  magic 0x668e33ef
//	 4  2  reply flags
//	 6  2  chunk type
//	 8  8  cookie
//	16  4  length of the payload
//
// Payload of an offset-data chunk: 8 bytes offset, then the data. Of an error chunk: 4 bytes error, 2 bytes length of
// the message, the message. Of a block-status chunk: 4 bytes context ID, then for each extent 4 bytes length and
// 4 bytes state.
const (
	magicRequest uint32 = 0x25609513
	magicSimple  uint32 = 0x67446698
	magicChunk   uint32 = 0x668e33ef

	requestMagicAt  = 0
	requestFlagsAt  = 4
	requestKindAt   = 6
	requestCookieAt = 8
	requestOffsetAt = 16
	requestLengthAt = 24
	requestBytes    = 28

	simpleMagicAt  = 0
	simpleErrorAt  = 4
	simpleCookieAt = 8
	simpleBytes    = 16

	chunkMagicAt  = 0
	chunkFlagsAt  = 4
	chunkTypeAt   = 6
	chunkCookieAt = 8
	chunkLengthAt = 16
	chunkBytes    = 20

	dataOffsetAt = chunkBytes // offset-data chunk
	dataBytes    = chunkBytes + 8

	failureErrorAt  = chunkBytes // error chunk
	failureLengthAt = chunkBytes + 4
	failureBytes    = chunkBytes + 6

	statusContextAt = chunkBytes // block-status chunk
	statusBytes     = chunkBytes + 4
	extentLengthAt  = 0
	extentStateAt   = 4
	extentBytes     = 8
)

// Commands.
const (
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisconnect  uint16 = 2
	cmdFlush       uint16 = 3
	cmdTrim        uint16 = 4
	cmdCache       uint16 = 5
	cmdWriteZeroes uint16 = 6
	cmdBlockStatus uint16 = 7
)

// Command flags.
const (
	cmdFlagFUA      uint16 = 1 << 0
	cmdFlagNoHole   uint16 = 1 << 1
	cmdFlagDF       uint16 = 1 << 2
	cmdFlagReqOne   uint16 = 1 << 3
	cmdFlagFastZero uint16 = 1 << 4
)

// Structured replies.
const (
	replyFlagDone uint16 = 1 << 0

	chunkNone        uint16 = 0
	chunkOffsetData  uint16 = 1
	chunkBlockStatus uint16 = 5
	chunkError       uint16 = 1<<15 + 1
)

// States of an extent in the context base:allocation.
const (
	stateHole uint32 = 1 << 0
	stateZero uint32 = 1 << 1
)

// Limits on what a client may ask for.
const (
	// maxPayloadBytes is the most data that one read or write carries; it is told to clients.
	maxPayloadBytes = 32 << 20
	// maxDrainBytes is the longest refused write whose payload is read and dropped; longer ones end the connection.
	maxDrainBytes = 64 << 20
	// maxExtents is the most extents in one block-status reply.
	maxExtents = 4096
)

// ErrMagic means that bytes from a client do not start as the protocol says; nothing after them can be trusted.
var ErrMagic = errors.New("wrong magic number")

// request is one request's header.
type request struct {
	flags  uint16
	kind   uint16
	cookie uint64
	offset uint64 // bytes
	length uint32 // bytes
}

// encode writes the header to b[:requestBytes].
func (r request) encode(b []byte) {
	binary.BigEndian.PutUint32(b[requestMagicAt:], magicRequest)
	binary.BigEndian.PutUint16(b[requestFlagsAt:], r.flags)
	binary.BigEndian.PutUint16(b[requestKindAt:], r.kind)
	binary.BigEndian.PutUint64(b[requestCookieAt:], r.cookie)
	binary.BigEndian.PutUint64(b[requestOffsetAt:], r.offset)
	binary.BigEndian.PutUint32(b[requestLengthAt:], r.length)
}

// decodeRequest reads the header at b[:requestBytes]. Only the magic can be wrong; the rest is judged by terms.check.
func decodeRequest(b []byte) (request, error) {
	if binary.BigEndian.Uint32(b[requestMagicAt:]) != magicRequest {
		return request{}, ErrMagic
	}
	return request{
		flags:  binary.BigEndian.Uint16(b[requestFlagsAt:]),
		kind:   binary.BigEndian.Uint16(b[requestKindAt:]),
		cookie: binary.BigEndian.Uint64(b[requestCookieAt:]),
		offset: binary.BigEndian.Uint64(b[requestOffsetAt:]),
		length: binary.BigEndian.Uint32(b[requestLengthAt:]),
	}, nil
}

// payloadBytes is how many bytes follow the header.
func (r request) payloadBytes() int64 {
	if r.kind == cmdWrite {
		return int64(r.length)
	}
	return 0
}

// appendSimple appends a simple reply without data.
func appendSimple(b []byte, cookie uint64, code uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, code)
	return binary.BigEndian.AppendUint64(b, cookie)
}

// appendChunk appends the header of a chunk with a payload of length bytes.
func appendChunk(b []byte, flags, kind uint16, cookie uint64, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicChunk)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// appendFailure appends an error chunk that ends its reply, with a message for people.
func appendFailure(b []byte, cookie uint64, code uint32) []byte {
	message := codeText(code)
	b = appendChunk(b, replyFlagDone, chunkError, cookie, uint32(failureBytes-chunkBytes+len(message)))
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// appendData appends the header of an offset-data chunk that ends its reply; length bytes of data follow it.
func appendData(b []byte, cookie, offset uint64, length uint32) []byte {
	b = appendChunk(b, replyFlagDone, chunkOffsetData, cookie, uint32(dataBytes-chunkBytes)+length)
	return binary.BigEndian.AppendUint64(b, offset)
}

// appendStatus appends a block-status chunk that ends its reply.
func appendStatus(b []byte, cookie uint64, context uint32, extents []Extent) []byte {
	payload := statusBytes - chunkBytes + extentBytes*len(extents)
	b = appendChunk(b, replyFlagDone, chunkBlockStatus, cookie, uint32(payload))
	b = binary.BigEndian.AppendUint32(b, context)
	for _, e := range extents {
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		b = binary.BigEndian.AppendUint32(b, extentState(e))
	}
	return b
}

func extentState(e Extent) uint32 {
	var state uint32
	if e.Hole {
		state |= stateHole
	}
	if e.Zero {
		state |= stateZero
	}
	return state
}

// reply is a simple reply or a chunk as a client reads it.
type reply struct {
	structured bool
	done       bool
	kind       uint16 // chunk type; 0 for a simple reply
	cookie     uint64
	code       uint32 // error of a simple reply
	length     uint32 // payload of a chunk
}

// decodeReply reads the header of a reply at b, at least chunkBytes long where it is a chunk, simpleBytes else. It is
// the inverse of appendSimple and appendChunk.
func decodeReply(b []byte) (reply, error) {
	if len(b) < simpleBytes {
		return reply{}, errShort
	}
	switch binary.BigEndian.Uint32(b) {
	case magicSimple:
		return reply{
			done:   true,
			code:   binary.BigEndian.Uint32(b[simpleErrorAt:]),
			cookie: binary.BigEndian.Uint64(b[simpleCookieAt:]),
		}, nil
	case magicChunk:
		if len(b) < chunkBytes {
			return reply{}, errShort
		}
		return reply{
			structured: true,
			done:       binary.BigEndian.Uint16(b[chunkFlagsAt:])&replyFlagDone != 0,
			kind:       binary.BigEndian.Uint16(b[chunkTypeAt:]),
			cookie:     binary.BigEndian.Uint64(b[chunkCookieAt:]),
			length:     binary.BigEndian.Uint32(b[chunkLengthAt:]),
		}, nil
	}
	return reply{}, ErrMagic
}
