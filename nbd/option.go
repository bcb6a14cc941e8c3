package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// The handshake on the wire. Every number is big-endian.
//
// Greeting, from the server:
//
//	 0  8  "NBDMAGIC"
//	 8  8  "IHAVEOPT"
//	16  2  handshake flags
//
// and 4 bytes of client flags in return. Option, followed by its data:
//
//	 0  8  "IHAVEOPT"
//	 8  4  option
//	12  4  length of the data
//
// Option reply, followed by its data:
//
//	 0  8  magic 0x3e889045565a9
//	 8  4  option that it answers
//	12  4  reply type
//	16  4  length of the data
//
// Answer to EXPORT_NAME: 8 bytes size, 2 bytes transmission flags, 124 zeroes unless the client declined them.
const (
	magicGreeting    uint64 = 0x4e42444d41474943
	magicOption      uint64 = 0x49484156454f5054
	magicOptionReply uint64 = 0x0003e889045565a9

	greetingBytes    = 18
	clientFlagsBytes = 4

	optionMagicAt  = 0
	optionCodeAt   = 8
	optionLengthAt = 12
	optionBytes    = 16

	exportZeroes = 124
)

// Handshake flags; a client sends those that it accepts.
const (
	flagFixedNewstyle uint16 = 1 << 0
	flagNoZeroes      uint16 = 1 << 1
)

// Options.
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optStartTLS        uint32 = 5
	optInfo            uint32 = 6
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optListMetaContext uint32 = 9
	optSetMetaContext  uint32 = 10
	optExtendedHeaders uint32 = 11
)

// Option reply types.
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repErrUnsup    uint32 = 1<<31 + 1
	repErrPolicy   uint32 = 1<<31 + 2
	repErrInvalid  uint32 = 1<<31 + 3
	repErrTLSReqd  uint32 = 1<<31 + 5
	repErrUnknown  uint32 = 1<<31 + 6
	repErrShutdown uint32 = 1<<31 + 7
	repErrTooBig   uint32 = 1<<31 + 9

	repErrExtHeaderReqd uint32 = 1<<31 + 10
)

// Information types.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// Transmission flags.
const (
	exportHasFlags        uint16 = 1 << 0
	exportReadOnly        uint16 = 1 << 1
	exportSendFlush       uint16 = 1 << 2
	exportSendFUA         uint16 = 1 << 3
	exportSendTrim        uint16 = 1 << 5
	exportSendWriteZeroes uint16 = 1 << 6
	exportSendDF          uint16 = 1 << 7
	exportCanMultiConn    uint16 = 1 << 8
	exportSendCache       uint16 = 1 << 10
	exportSendFastZero    uint16 = 1 << 11

	exportBlockStatusPayload uint16 = 1 << 12
)

const (
	// maxStringBytes is the protocol's limit on names and queries.
	maxStringBytes = 4096
	// maxOptionBytes is the longest option data that is looked at.
	maxOptionBytes = 64 << 10
	// maxOptionDrainBytes is the longest option data that is read and dropped; more ends the connection.
	maxOptionDrainBytes = 32 << 20
)

var (
	errShort  = errors.New("ends too early")
	errLong   = errors.New("has bytes after its end")
	errString = errors.New("is not a string of at most 4096 bytes of UTF-8 without NUL")
)

// option is one option's header.
type option struct {
	code   uint32
	length uint32 // of the data, in bytes
}

// encode writes the header to b[:optionBytes].
func (o option) encode(b []byte) {
	binary.BigEndian.PutUint64(b[optionMagicAt:], magicOption)
	binary.BigEndian.PutUint32(b[optionCodeAt:], o.code)
	binary.BigEndian.PutUint32(b[optionLengthAt:], o.length)
}

// decodeOption reads the header at b[:optionBytes].
func decodeOption(b []byte) (option, error) {
	if binary.BigEndian.Uint64(b[optionMagicAt:]) != magicOption {
		return option{}, ErrMagic
	}
	return option{
		code:   binary.BigEndian.Uint32(b[optionCodeAt:]),
		length: binary.BigEndian.Uint32(b[optionLengthAt:]),
	}, nil
}

// appendOptionReply appends one reply to an option.
func appendOptionReply(b []byte, code, kind uint32, data ...[]byte) []byte {
	length := 0
	for _, d := range data {
		length += len(d)
	}
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	for _, d := range data {
		b = append(b, d...)
	}
	return b
}

// infoRequest is the data of INFO and GO: 4 bytes length of the name, the name, 2 bytes count, 2 bytes for each
// information asked for.
type infoRequest struct {
	name  string
	infos []uint16
}

func (r infoRequest) encode() []byte {
	b := appendString(nil, r.name)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.infos)))
	for _, i := range r.infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func decodeInfoRequest(b []byte) (infoRequest, error) {
	name, b, err := cutString(b)
	if err != nil {
		return infoRequest{}, fmt.Errorf("export name %w", err)
	}
	if len(b) < 2 {
		return infoRequest{}, fmt.Errorf("list of information %w", errShort)
	}
	count := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) < 2*count {
		return infoRequest{}, fmt.Errorf("list of information %w", errShort)
	}
	if len(b) > 2*count {
		return infoRequest{}, fmt.Errorf("list of information %w", errLong)
	}
	r := infoRequest{name: name}
	for ; len(b) > 0; b = b[2:] {
		r.infos = append(r.infos, binary.BigEndian.Uint16(b))
	}
	return r, nil
}

// contextRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT: 4 bytes length of the name, the name, 4 bytes
// count, and for each query 4 bytes length and the query.
type contextRequest struct {
	name    string
	queries []string
}

func (r contextRequest) encode() []byte {
	b := appendString(nil, r.name)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.queries)))
	for _, q := range r.queries {
		b = appendString(b, q)
	}
	return b
}

func decodeContextRequest(b []byte) (contextRequest, error) {
	name, b, err := cutString(b)
	if err != nil {
		return contextRequest{}, fmt.Errorf("export name %w", err)
	}
	if len(b) < 4 {
		return contextRequest{}, fmt.Errorf("list of queries %w", errShort)
	}
	r := contextRequest{name: name}
	count := binary.BigEndian.Uint32(b)
	b = b[4:]
	for ; count > 0; count-- {
		var query string
		if query, b, err = cutString(b); err != nil {
			return contextRequest{}, fmt.Errorf("query %d %w", len(r.queries), err)
		}
		r.queries = append(r.queries, query)
	}
	if len(b) > 0 {
		return contextRequest{}, fmt.Errorf("list of queries %w", errLong)
	}
	return r, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// cutString takes a 4-byte length and a string of that length from the front of b.
func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, errShort
	}
	length := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(length) > uint64(len(b)) {
		return "", nil, errShort
	}
	if s, err = decodeString(b[:length]); err != nil {
		return "", nil, err
	}
	return s, b[length:], nil
}

// decodeString checks the protocol's rules for strings.
func decodeString(b []byte) (string, error) {
	if len(b) > maxStringBytes || !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return "", errString
	}
	return string(b), nil
}
