package nbd

// terms are what one connection agreed on in its handshake.
type terms struct {
	sizeBytes  uint64
	readOnly   bool
	structured bool // structured replies
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
	if t.structured {
		flags |= exportSendDF
	}
	return flags
}

// commandFlags are the flags that a client may set on a command.
func (t terms) commandFlags(kind uint16) uint16 {
	switch kind {
	case cmdRead:
		if t.structured {
			return cmdFlagFUA | cmdFlagDF
		}
	case cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero
	case cmdBlockStatus:
		return cmdFlagFUA | cmdFlagReqOne
	}
	return cmdFlagFUA
}

// check returns codeOK for a request that may be carried out, or the code to refuse it with.
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
		if !t.allocation || r.length == 0 || t.outside(r) {
			return codeInvalid
		}
		return codeOK
	}
	return codeInvalid
}

func (t terms) checkRead(r request) uint32 {
	switch {
	case t.outside(r):
		return codeInvalid
	case r.length <= maxPayloadBytes:
		return codeOK
	case t.structured:
		return codeOverflow
	}
	return codeInvalid
}

func (t terms) checkChange(r request, outside uint32) uint32 {
	switch {
	case t.readOnly:
		return codePerm
	case t.outside(r):
		return outside
	case r.payloadBytes() > maxPayloadBytes:
		return codeInvalid
	}
	return codeOK
}

// outside reports whether a request reaches beyond the export, without overflow for any offset and length.
func (t terms) outside(r request) bool {
	return r.offset > t.sizeBytes || uint64(r.length) > t.sizeBytes-r.offset
}
