package nbd

import "encoding/binary"

// style is which headers a connection agreed on.
type style uint8

const (
	// styleSimple: compact requests and simple replies.
	styleSimple style = iota
	// styleStructured: compact requests; reads, block status and errors are answered in chunks.
	styleStructured
	// styleExtended: extended requests and extended chunks, and nothing else.
	styleExtended
)

// chunked reports whether reads are answered in chunks.
func (s style) chunked() bool { return s != styleSimple }

// requestBytes is the length of a request's header.
func (s style) requestBytes() int {
	if s == styleExtended {
		return extendedRequestBytes
	}
	return requestBytes
}

// decodeRequest reads the header at b[:s.requestBytes()].
func (s style) decodeRequest(b []byte) (request, error) {
	if s == styleExtended {
		return decodeExtended(b)
	}
	return decodeRequest(b)
}

// readHeaderBytes is what stands before the data in an answer to a read.
func (s style) readHeaderBytes() int {
	switch s {
	case styleExtended:
		return extendedChunkBytes + dataHeaderBytes
	case styleStructured:
		return chunkBytes + dataHeaderBytes
	}
	return simpleBytes
}

// statusReplyBytes is the length of a block-status chunk.
func (s style) statusReplyBytes(extents int) int {
	if s == styleExtended {
		return extendedChunkBytes + statusExtHeaderBytes + extentExtBytes*extents
	}
	return chunkBytes + statusHeaderBytes + extentBytes*extents
}

// appendSimple appends a simple reply without data.
func appendSimple(b []byte, cookie uint64, code uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, code)
	return binary.BigEndian.AppendUint64(b, cookie)
}

// appendChunk appends the header of a chunk with a payload of length bytes. Not for styleSimple.
func (s style) appendChunk(b []byte, flags, kind uint16, to tag, length int) []byte {
	magic := magicChunk
	if s == styleExtended {
		magic = magicExtendedChunk
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, to.cookie)
	if s == styleExtended {
		b = binary.BigEndian.AppendUint64(b, to.offset)
		return binary.BigEndian.AppendUint64(b, uint64(length))
	}
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendAnswer appends an answer without data to anything but a read.
func (s style) appendAnswer(b []byte, to tag, code uint32) []byte {
	switch {
	case s.chunked() && code != codeOK:
		return s.appendFailure(b, to, code)
	case s == styleExtended:
		return s.appendChunk(b, replyFlagDone, chunkNone, to, 0)
	}
	return appendSimple(b, to.cookie, code)
}

// appendEmptyRead answers a read of no bytes, which in chunks has no data chunk at all.
func (s style) appendEmptyRead(b []byte, to tag) []byte {
	if s.chunked() {
		return s.appendChunk(b, replyFlagDone, chunkNone, to, 0)
	}
	return appendSimple(b, to.cookie, codeOK)
}

// appendFailure appends an error chunk that ends its reply, with a message for people.
func (s style) appendFailure(b []byte, to tag, code uint32) []byte {
	message := codeText(code)
	b = s.appendChunk(b, replyFlagDone, chunkError, to, failureHeaderBytes+len(message))
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// appendReadHeader appends what stands before the data of a whole read of length bytes.
func (s style) appendReadHeader(b []byte, to tag, length int) []byte {
	if s.chunked() {
		return s.appendData(b, replyFlagDone, to, to.offset, length)
	}
	return appendSimple(b, to.cookie, codeOK)
}

// appendData appends the header of an offset-data chunk; length bytes of data, those at offset, follow it.
func (s style) appendData(b []byte, flags uint16, to tag, offset uint64, length int) []byte {
	b = s.appendChunk(b, flags, chunkOffsetData, to, dataHeaderBytes+length)
	return binary.BigEndian.AppendUint64(b, offset)
}

// appendHole appends an offset-hole chunk: length bytes at offset are zeroes.
func (s style) appendHole(b []byte, flags uint16, to tag, offset uint64, length int) []byte {
	b = s.appendChunk(b, flags, chunkOffsetHole, to, holePayloadBytes)
	b = binary.BigEndian.AppendUint64(b, offset)
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendStatus appends a block-status chunk that ends its reply.
func (s style) appendStatus(b []byte, to tag, context uint32, extents []Extent) []byte {
	if s == styleExtended {
		return s.appendStatusExt(b, to, context, extents)
	}
	b = s.appendChunk(b, replyFlagDone, chunkBlockStatus, to, statusHeaderBytes+extentBytes*len(extents))
	b = binary.BigEndian.AppendUint32(b, context)
	for _, e := range extents {
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		b = binary.BigEndian.AppendUint32(b, extentState(e))
	}
	return b
}

func (s style) appendStatusExt(b []byte, to tag, context uint32, extents []Extent) []byte {
	b = s.appendChunk(b, replyFlagDone, chunkBlockStatusExt, to, statusExtHeaderBytes+extentExtBytes*len(extents))
	b = binary.BigEndian.AppendUint32(b, context)
	b = binary.BigEndian.AppendUint32(b, uint32(len(extents)))
	for _, e := range extents {
		b = binary.BigEndian.AppendUint64(b, uint64(e.Length))
		b = binary.BigEndian.AppendUint64(b, uint64(extentState(e)))
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

// reply is a simple reply or the header of a chunk as a client reads it.
type reply struct {
	style  style
	done   bool
	kind   uint16 // chunk type; 0 for a simple reply
	cookie uint64
	offset uint64 // in an extended chunk
	code   uint32 // error of a simple reply
	length uint64 // payload of a chunk
}

// decodeReply reads the header of a reply at b, which has at least simpleBytes, and all of the chunk's header where it
// is one. It is the inverse of appendSimple and appendChunk.
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
		r := decodeChunk(b)
		r.style, r.length = styleStructured, uint64(binary.BigEndian.Uint32(b[chunkLengthAt:]))
		return r, nil
	case magicExtendedChunk:
		if len(b) < extendedChunkBytes {
			return reply{}, errShort
		}
		r := decodeChunk(b)
		r.style = styleExtended
		r.offset = binary.BigEndian.Uint64(b[extendedOffsetAt:])
		r.length = binary.BigEndian.Uint64(b[extendedLengthAt:])
		return r, nil
	}
	return reply{}, ErrMagic
}

// decodeChunk reads what both layouts of a chunk share.
func decodeChunk(b []byte) reply {
	return reply{
		done:   binary.BigEndian.Uint16(b[chunkFlagsAt:])&replyFlagDone != 0,
		kind:   binary.BigEndian.Uint16(b[chunkTypeAt:]),
		cookie: binary.BigEndian.Uint64(b[chunkCookieAt:]),
	}
}
