package nbd

// terms are what one connection agreed on in its handshake.
type terms struct {
	sizeBytes  uint64
	readOnly   bool
	style      style
	allocation bool // the context base:allocation is selected
}

// allocationContext is the context ID of base:allocation.
const allocationContext uint32 = 1

// exportFlags are the transmission flags.
func (t terms) exportFlags() uint16 {
	flags := exportHasFlags | exportSendFlush | exportSendFUA | exportCanMultiConn | exportSendCache
	if t.readOnly {
		flags |= exportReadOnly
	} else {
		// Zeroing is one log record, whatever its length, so it is always fast.
		flags |= exportSendTrim | exportSendWriteZeroes | exportSendFastZero
	}
	if t.style.chunked() {
		flags |= exportSendDF
	}
	if t.filters() {
		flags |= exportBlockStatusPayload
	}
	return flags
}

// filters reports whether a block-status request may choose its contexts.
func (t terms) filters() bool { return t.style == styleExtended && t.allocation }

// commandFlags are the flags that a client may set on a command.
func (t terms) commandFlags(kind uint16) uint16 {
	switch kind {
	case cmdRead:
		if t.style.chunked() {
			return cmdFlagFUA | cmdFlagDF
		}
	case cmdWrite:
		if t.style == styleExtended {
			return cmdFlagFUA | cmdFlagPayloadLen
		}
	case cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero
	case cmdBlockStatus:
		if t.filters() {
			return cmdFlagFUA | cmdFlagReqOne | cmdFlagPayloadLen
		}
		return cmdFlagFUA | cmdFlagReqOne
	}
	return cmdFlagFUA
}

// check returns codeOK for a request that may be carried out, or the code to refuse it with. What a block-status
// request says in its payload is judged by checkFilter.
func (t terms) check(r request) uint32 {
	if r.flags&^t.commandFlags(r.kind) != 0 {
		return codeInvalid
	}
	switch r.kind {
	case cmdRead:
		return t.checkRead(r)
	case cmdWrite, cmdWriteZeroes:
		return t.checkChange(r, codeNoSpace)
	case cmdTrim:
		return t.checkChange(r, codeInvalid)
	case cmdFlush:
		if r.offset != 0 || r.length != 0 {
			return codeInvalid
		}
		return codeOK
	case cmdCache:
		if t.outside(r) {
			return codeInvalid
		}
		return codeOK
	case cmdBlockStatus:
		if r.flags&cmdFlagPayloadLen == 0 {
			return t.checkStatus(r)
		}
		// There is one context, so another length means that one is named twice, or not known, or none at all.
		if r.payload == filterBytes {
			return codeOK
		}
	}
	return codeInvalid
}

func (t terms) checkStatus(r request) uint32 {
	if !t.allocation || r.length == 0 || t.outside(r) {
		return codeInvalid
	}
	return codeOK
}

// checkFilter judges a block-status request by its payload, and returns it with the length that it is about.
func (t terms) checkFilter(r request, payload []byte) (request, uint32) {
	f := decodeFilter(payload)
	r.length = f.length
	if f.context != allocationContext {
		return r, codeInvalid
	}
	return r, t.checkStatus(r)
}

func (t terms) checkRead(r request) uint32 {
	switch {
	case t.outside(r):
		return codeInvalid
	case r.length <= maxPayloadBytes:
		return codeOK
	case t.style.chunked():
		return codeOverflow
	}
	return codeInvalid
}

func (t terms) checkChange(r request, outside uint32) uint32 {
	switch {
	case t.readOnly:
		return codePerm
	case r.kind == cmdWrite && r.payload != r.length:
		return codeInvalid // an extended write without PAYLOAD_LEN
	case t.outside(r):
		return outside
	case r.payload > maxPayloadBytes:
		return codeInvalid
	}
	return codeOK
}

// drainBytes is the longest payload of a refused request that is read and dropped.
func (t terms) drainBytes() uint64 {
	if t.style == styleExtended {
		return maxPayloadBytes
	}
	return maxDrainBytes
}

// outside reports whether a request reaches beyond the export, without overflow for any offset and length.
func (t terms) outside(r request) bool {
	return r.offset > t.sizeBytes || r.length > t.sizeBytes-r.offset
}
