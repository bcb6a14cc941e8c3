package nbd

import (
	"encoding/binary"
	"errors"
)

// The transmission phase on the wire. Every number is big-endian.
//
// There are two layouts of requests, and three of replies; which are used was agreed on in the handshake (see style).
//
// Compact request, followed by length bytes of payload if it is a write:
//
//	 0  4  magic 0x25609513
//	 4  2  command flags
//	 6  2  command
//	 8  8  cookie
//	16  8  offset in bytes
//	24  4  length in bytes
//
// Extended request, followed by length bytes of payload if its flags have PAYLOAD_LEN:
//
//	 0  4  magic 0x21e41c71
//	 4  2  command flags
//	 6  2  command
//	 8  8  cookie
//	16  8  offset in bytes
//	24  8  length in bytes: of the payload if there is one, else of what the command is about
//
// Payload of an extended block-status request, which chooses among the contexts of the handshake:
//
//	0  8  length in bytes of what the command is about
//	8  4  context ID, any number of times
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
// Extended reply chunk, followed by its payload:
//
//	 0  4  magic 0x6e8a278c
//	 4  2  reply flags
//	 6  2  chunk type
//	 8  8  cookie
//	16  8  offset of the request
//	24  8  length of the payload
//
// Payload of an offset-data chunk: 8 bytes offset, then the data. Of an offset-hole chunk: 8 bytes offset, 4 bytes length
// of the zeroes. Of an error chunk: 4 bytes error, 2 bytes length of
// the message, the message. Of a block-status chunk: 4 bytes context ID, then for each extent 4 bytes length and
// 4 bytes state. Of an extended block-status chunk: 4 bytes context ID, 4 bytes count of extents, then for each 8 bytes
// length and 8 bytes state.
const (
	magicRequest         uint32 = 0x25609513
	magicExtendedRequest uint32 = 0x21e41c71
	magicSimple          uint32 = 0x67446698
	magicChunk           uint32 = 0x668e33ef
	magicExtendedChunk   uint32 = 0x6e8a278c

	requestMagicAt       = 0 // in both layouts
	requestFlagsAt       = 4
	requestKindAt        = 6
	requestCookieAt      = 8
	requestOffsetAt      = 16
	requestLengthAt      = 24
	requestBytes         = 28
	extendedRequestBytes = 32

	filterLengthAt  = 0
	filterContextAt = 8
	// filterBytes is the length of a payload that chooses one context.
	filterBytes = 12

	simpleMagicAt  = 0
	simpleErrorAt  = 4
	simpleCookieAt = 8
	simpleBytes    = 16

	chunkMagicAt         = 0 // in both layouts
	chunkFlagsAt         = 4
	chunkTypeAt          = 6
	chunkCookieAt        = 8
	chunkLengthAt        = 16
	chunkBytes           = 20
	extendedOffsetAt     = 16
	extendedLengthAt     = 24
	extendedChunkBytes   = 32
	dataHeaderBytes      = 8 // offset-data chunk: what stands before the data
	holePayloadBytes     = 12
	failureHeaderBytes   = 6 // error chunk: what stands before the message
	statusHeaderBytes    = 4 // block-status chunk: what stands before the extents
	extentBytes          = 8
	statusExtHeaderBytes = 8 // extended block-status chunk
	extentExtBytes       = 16
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
	cmdFlagFUA        uint16 = 1 << 0
	cmdFlagNoHole     uint16 = 1 << 1
	cmdFlagDF         uint16 = 1 << 2
	cmdFlagReqOne     uint16 = 1 << 3
	cmdFlagFastZero   uint16 = 1 << 4
	cmdFlagPayloadLen uint16 = 1 << 5 // extended requests only
)

// Chunks of structured and extended replies.
const (
	replyFlagDone uint16 = 1 << 0

	chunkNone           uint16 = 0
	chunkOffsetData     uint16 = 1
	chunkOffsetHole     uint16 = 2
	chunkBlockStatus    uint16 = 5
	chunkBlockStatusExt uint16 = 6
	chunkError          uint16 = 1<<15 + 1
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
	// maxDrainBytes is the longest payload of a refused compact request that is read and dropped; longer ones end the
	// connection. Of extended requests it is maxPayloadBytes, as the protocol says.
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
	// length is how many bytes it is about; of an extended block-status request with a payload, what that says.
	length uint64
	// payload is how many bytes follow the header.
	payload uint64
}

// tag is what a reply repeats of its request.
type tag struct {
	cookie uint64
	offset uint64 // in extended replies
}

func (r request) tag() tag { return tag{r.cookie, r.offset} }

// encode writes the compact header to b[:requestBytes]; length must fit 32 bits.
func (r request) encode(b []byte) {
	binary.BigEndian.PutUint32(b[requestMagicAt:], magicRequest)
	r.encodeCommon(b)
	binary.BigEndian.PutUint32(b[requestLengthAt:], uint32(r.length))
}

// encodeExtended writes the extended header to b[:extendedRequestBytes].
func (r request) encodeExtended(b []byte) {
	binary.BigEndian.PutUint32(b[requestMagicAt:], magicExtendedRequest)
	r.encodeCommon(b)
	length := r.length
	if r.flags&cmdFlagPayloadLen != 0 {
		length = r.payload
	}
	binary.BigEndian.PutUint64(b[requestLengthAt:], length)
}

func (r request) encodeCommon(b []byte) {
	binary.BigEndian.PutUint16(b[requestFlagsAt:], r.flags)
	binary.BigEndian.PutUint16(b[requestKindAt:], r.kind)
	binary.BigEndian.PutUint64(b[requestCookieAt:], r.cookie)
	binary.BigEndian.PutUint64(b[requestOffsetAt:], r.offset)
}

// decodeRequest reads the compact header at b[:requestBytes]. Only the magic can be wrong; the rest is judged by
// terms.check.
func decodeRequest(b []byte) (request, error) {
	if binary.BigEndian.Uint32(b[requestMagicAt:]) != magicRequest {
		return request{}, ErrMagic
	}
	r := decodeCommon(b)
	r.length = uint64(binary.BigEndian.Uint32(b[requestLengthAt:]))
	if r.kind == cmdWrite {
		r.payload = r.length
	}
	return r, nil
}

// decodeExtended is decodeRequest for the extended header at b[:extendedRequestBytes].
func decodeExtended(b []byte) (request, error) {
	if binary.BigEndian.Uint32(b[requestMagicAt:]) != magicExtendedRequest {
		return request{}, ErrMagic
	}
	r := decodeCommon(b)
	length := binary.BigEndian.Uint64(b[requestLengthAt:])
	if r.flags&cmdFlagPayloadLen != 0 {
		r.payload = length
	}
	if r.payload == 0 || r.kind == cmdWrite {
		r.length = length
	}
	return r, nil
}

func decodeCommon(b []byte) request {
	return request{
		flags:  binary.BigEndian.Uint16(b[requestFlagsAt:]),
		kind:   binary.BigEndian.Uint16(b[requestKindAt:]),
		cookie: binary.BigEndian.Uint64(b[requestCookieAt:]),
		offset: binary.BigEndian.Uint64(b[requestOffsetAt:]),
	}
}

// filter is the payload of a block-status request that chooses one context.
type filter struct {
	length  uint64 // bytes that the request is about
	context uint32
}

func (f filter) encode(b []byte) {
	binary.BigEndian.PutUint64(b[filterLengthAt:], f.length)
	binary.BigEndian.PutUint32(b[filterContextAt:], f.context)
}

// decodeFilter reads the payload at b[:filterBytes].
func decodeFilter(b []byte) filter {
	return filter{
		length:  binary.BigEndian.Uint64(b[filterLengthAt:]),
		context: binary.BigEndian.Uint32(b[filterContextAt:]),
	}
}
