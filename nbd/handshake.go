package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

var (
	errAborted     = errors.New("client aborted the handshake")
	errClientFlags = errors.New("client sets unknown flags")
	errNotFixed    = errors.New("client without fixed newstyle sends another option than the export's name")
	errExportName  = errors.New("client with extended headers sends an export's name instead of GO")
	errOptionSize  = errors.New("option longer than the server drops")
)

// handshake is a connection's first phase: options, one after the other, until the client has chosen an export.
type handshake struct {
	conn    net.Conn
	exports Exports
	logger  func(name string, err error) // of a Lookup that failed otherwise than by ErrUnknownExport
	data    []byte                       // of the option at hand
	out     []byte                       // its replies, sent in one write

	tls     *TLS        // nil: STARTTLS is refused
	mustTLS bool        // nothing else is answered before it
	records *recordPool // for the connection inside TLS
	secure  *tlsSocket  // nil: in plaintext

	starting bool  // STARTTLS was acknowledged; the next bytes are TLS
	shunned  bool  // the client was refused something for being in plaintext
	refused  error // why the newest export that was asked for was refused; nil where it was not

	fixed, noZeroes bool // the client's flags
	agreement
}

// agreement is what the options agreed on so far. STARTTLS forgets all of it: whoever sits between client and server
// can have had a say in it.
type agreement struct {
	style style

	// The context base:allocation is selected for contextExport; selected or not, only the last choice counts.
	allocation    bool
	contextExport string
}

// run negotiates until the client enters transmission. The export it returns must be released by the caller.
func (h *handshake) run() (Export, terms, error) {
	if err := h.greet(); err != nil {
		return Export{}, terms{}, err
	}
	for {
		o, err := h.readOption()
		if err != nil {
			return Export{}, terms{}, err
		}
		if o.code == optExportName {
			return h.exportName()
		}
		if !h.fixed {
			return Export{}, terms{}, fmt.Errorf("%w: option %d", errNotFixed, o.code)
		}
		export, agreed, chosen := h.answer(o)
		if err := h.flush(); err != nil {
			if chosen {
				export.release()
			}
			return Export{}, terms{}, err
		}
		switch {
		case chosen:
			return export, agreed, nil
		case o.code == optAbort:
			return Export{}, terms{}, errAborted
		case h.starting:
			if err := h.startTLS(); err != nil {
				return Export{}, terms{}, err
			}
		}
	}
}

// greet exchanges the greeting and the flags.
func (h *handshake) greet() error {
	b := binary.BigEndian.AppendUint64(nil, magicGreeting)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("write the greeting: %w", err)
	}
	var flags [clientFlagsBytes]byte
	if _, err := io.ReadFull(h.conn, flags[:]); err != nil {
		return fmt.Errorf("read client flags: %w", err)
	}
	got := binary.BigEndian.Uint32(flags[:])
	if got&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("%w: %#x", errClientFlags, got)
	}
	h.fixed = got&uint32(flagFixedNewstyle) != 0
	h.noZeroes = got&uint32(flagNoZeroes) != 0
	return nil
}

// readOption reads an option and its data. Data of more than maxOptionBytes are dropped, and h.data is nil.
func (h *handshake) readOption() (option, error) {
	var header [optionBytes]byte
	if _, err := io.ReadFull(h.conn, header[:]); err != nil {
		return option{}, fmt.Errorf("read an option: %w", err)
	}
	o, err := decodeOption(header[:])
	if err != nil {
		return option{}, fmt.Errorf("decode an option: %w", err)
	}
	if o.length > maxOptionBytes {
		return o, h.dropData(o)
	}
	h.data = make([]byte, o.length)
	if _, err := io.ReadFull(h.conn, h.data); err != nil {
		return option{}, fmt.Errorf("read %d bytes of option %d: %w", o.length, o.code, err)
	}
	return o, nil
}

func (h *handshake) dropData(o option) error {
	h.data = nil
	if o.length > maxOptionDrainBytes {
		return fmt.Errorf("%w: option %d with %d bytes", errOptionSize, o.code, o.length)
	}
	if _, err := io.CopyN(io.Discard, h.conn, int64(o.length)); err != nil {
		return fmt.Errorf("drop %d bytes of option %d: %w", o.length, o.code, err)
	}
	return nil
}

// answer appends the replies to an option. chosen: it was GO, and succeeded.
func (h *handshake) answer(o option) (export Export, agreed terms, chosen bool) {
	if h.mustTLS && h.secure == nil && o.code != optAbort && o.code != optStartTLS {
		h.shunned = true
		h.refuse(o, repErrTLSReqd, tlsRequired)
		return
	}
	tooBig := o.length > maxOptionBytes
	switch o.code {
	case optAbort: // data are ignored
		h.reply(o, repAck)
	case optStartTLS:
		h.acceptTLS(o)
	case optList:
		h.list(o)
	case optStructuredReply:
		if o.length != 0 {
			h.refuse(o, repErrInvalid, "option takes no data")
			return
		}
		if h.style == styleExtended {
			h.refuse(o, repErrExtHeaderReqd, "extended headers are in use already")
			return
		}
		h.style = styleStructured
		h.reply(o, repAck)
	case optExtendedHeaders: // takes precedence over structured replies
		if o.length != 0 {
			h.refuse(o, repErrInvalid, "option takes no data")
			return
		}
		h.style = styleExtended
		h.reply(o, repAck)
	case optInfo, optGo:
		if tooBig {
			h.refuse(o, repErrTooBig, "option too large")
			return
		}
		return h.info(o)
	case optListMetaContext, optSetMetaContext:
		if o.code == optSetMetaContext {
			h.allocation = false // also where it fails
		}
		if tooBig {
			h.refuse(o, repErrTooBig, "option too large")
			return
		}
		h.contexts(o)
	default:
		h.refuse(o, repErrUnsup, "option not supported")
	}
	return
}

func (h *handshake) reply(o option, kind uint32, data ...[]byte) {
	h.out = appendOptionReply(h.out, o.code, kind, data...)
}

func (h *handshake) refuse(o option, kind uint32, message string) {
	h.reply(o, kind, []byte(message))
}

func (h *handshake) flush() error {
	_, err := h.conn.Write(h.out)
	h.out = h.out[:0]
	if err != nil {
		return fmt.Errorf("reply to an option: %w", err)
	}
	return nil
}

// list answers LIST: every export by name, and with what it says of itself to people.
func (h *handshake) list(o option) {
	if o.length != 0 {
		h.refuse(o, repErrInvalid, "option takes no data")
		return
	}
	for _, l := range h.exports.List() {
		h.reply(o, repServer, appendString(nil, l.Name), []byte(l.Description))
	}
	h.reply(o, repAck)
}

// exportName answers EXPORT_NAME, which has no way to say no but to end the connection.
func (h *handshake) exportName() (Export, terms, error) {
	if h.style == styleExtended {
		return Export{}, terms{}, errExportName
	}
	if h.mustTLS && h.secure == nil {
		h.shunned = true
		return Export{}, terms{}, errPlaintext
	}
	if h.data == nil {
		return Export{}, terms{}, fmt.Errorf("export name: %w", errOptionSize)
	}
	name, err := decodeString(h.data)
	if err != nil {
		return Export{}, terms{}, fmt.Errorf("export name %w", err)
	}
	export, err := h.exports.Lookup(name)
	if h.refused = err; err != nil {
		return Export{}, terms{}, fmt.Errorf("look up export %q: %w", name, err)
	}
	agreed := h.agree(name, export)
	h.out = binary.BigEndian.AppendUint64(h.out, agreed.sizeBytes)
	h.out = binary.BigEndian.AppendUint16(h.out, agreed.exportFlags())
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, exportZeroes)...)
	}
	if err := h.flush(); err != nil {
		export.release()
		return Export{}, terms{}, err
	}
	return export, agreed, nil
}

// agree fixes the terms for an export that the client named so.
func (h *handshake) agree(name string, e Export) terms {
	return terms{
		sizeBytes:  uint64(e.Device.Size()),
		readOnly:   e.ReadOnly,
		style:      h.style,
		allocation: h.allocation && h.contextExport == name,
	}
}

// info answers INFO and GO; chosen: it was GO, and export is the caller's to release.
func (h *handshake) info(o option) (export Export, agreed terms, chosen bool) {
	r, err := decodeInfoRequest(h.data)
	if err != nil {
		h.refuse(o, repErrInvalid, err.Error())
		return Export{}, terms{}, false
	}
	if export, err = h.lookup(o, r.name); err != nil {
		return Export{}, terms{}, false
	}
	agreed = h.agree(r.name, export)
	h.replyInfos(o, r.infos, export, agreed)
	h.reply(o, repAck)
	if o.code == optInfo {
		export.release()
		return Export{}, terms{}, false
	}
	return export, agreed, true
}

// replyInfos sends what was asked for, each once, and always the export's size and flags.
func (h *handshake) replyInfos(o option, wanted []uint16, e Export, agreed terms) {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, agreed.sizeBytes)
	h.reply(o, repInfo, binary.BigEndian.AppendUint16(b, agreed.exportFlags()))
	var sent [infoBlockSize + 1]bool
	for _, info := range wanted {
		if info > infoBlockSize || sent[info] {
			continue
		}
		sent[info] = true
		b := binary.BigEndian.AppendUint16(nil, info)
		switch info {
		case infoName:
			h.reply(o, repInfo, b, []byte(e.Name))
		case infoDescription:
			if e.Description != "" {
				h.reply(o, repInfo, b, []byte(e.Description))
			}
		case infoBlockSize:
			b = binary.BigEndian.AppendUint32(b, 1)
			b = binary.BigEndian.AppendUint32(b, uint32(max(e.Device.BlockSize(), 512)))
			h.reply(o, repInfo, binary.BigEndian.AppendUint32(b, maxPayloadBytes))
		}
	}
}

// lookup finds an export, or replies why not.
func (h *handshake) lookup(o option, name string) (Export, error) {
	export, err := h.exports.Lookup(name)
	if h.refused = err; err != nil {
		if !errors.Is(err, ErrUnknownExport) {
			h.logger(name, err)
		}
		h.refuse(o, repErrUnknown, refusal(err))
	}
	return export, err
}

// refusal is what a client is told of an export that it can not have: the reason, cut to what a message may hold.
func refusal(err error) string {
	text := err.Error()
	if len(text) > maxRefusal {
		text = strings.ToValidUTF8(text[:maxRefusal], "") + "…"
	}
	return text
}

// maxRefusal is a reasonable length for a message to a person, in bytes. Strings of the protocol end at 4096.
const maxRefusal = 1024

const (
	contextNamespace  = "base:"
	contextAllocation = "base:allocation"
)

// contexts answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) contexts(o option) {
	if !h.style.chunked() {
		h.refuse(o, repErrInvalid, "structured replies or extended headers are needed first")
		return
	}
	r, err := decodeContextRequest(h.data)
	if err != nil {
		h.refuse(o, repErrInvalid, err.Error())
		return
	}
	matched, err := matchContexts(r.queries, o.code == optListMetaContext)
	if err != nil {
		h.refuse(o, repErrInvalid, err.Error())
		return
	}
	export, err := h.lookup(o, r.name)
	if err != nil {
		return
	}
	export.release()
	var id uint32 // reserved in a list
	if o.code == optSetMetaContext {
		h.allocation, h.contextExport = matched, r.name
		id = allocationContext
	}
	if matched {
		h.reply(o, repMetaContext, binary.BigEndian.AppendUint32(nil, id), []byte(contextAllocation))
	}
	h.reply(o, repAck)
}

// errQuery is a query without a namespace.
var errQuery = errors.New("query without a namespace")

// matchContexts reports whether base:allocation is among what the queries ask for. A list takes wildcards, and with no
// query at all it is a list of everything.
func matchContexts(queries []string, list bool) (bool, error) {
	matched := list && len(queries) == 0
	for _, q := range queries {
		if strings.IndexByte(q, ':') < 1 {
			return false, errQuery
		}
		if q == contextAllocation || list && q == contextNamespace {
			matched = true
		}
	}
	return matched, nil
}
