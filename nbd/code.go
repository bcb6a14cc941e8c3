package nbd

import (
	"errors"
	"syscall"
)

// Error codes of the protocol. They are its own numbers, though most systems use the same.
const (
	codeOK       uint32 = 0
	codePerm     uint32 = 1
	codeIO       uint32 = 5
	codeNoMem    uint32 = 12
	codeInvalid  uint32 = 22
	codeNoSpace  uint32 = 28
	codeOverflow uint32 = 75
	codeNotSup   uint32 = 95
	codeShutdown uint32 = 108
)

// errorCode turns an error of a Device into an NBD error code: 0 for nil, EIO for what the protocol has no word for.
func errorCode(err error) uint32 {
	if err == nil {
		return codeOK
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return codeIO
	}
	switch errno {
	case syscall.EPERM, syscall.EROFS:
		return codePerm
	case syscall.ENOMEM:
		return codeNoMem
	case syscall.EINVAL:
		return codeInvalid
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return codeNoSpace
	case syscall.EOVERFLOW:
		return codeOverflow
	case syscall.ENOTSUP:
		return codeNotSup
	case syscall.ESHUTDOWN:
		return codeShutdown
	}
	return codeIO
}

// codeText says what a code means, for people. At most maxCodeText bytes.
func codeText(code uint32) string {
	switch code {
	case codePerm:
		return "the export is read-only"
	case codeNoMem:
		return "out of memory"
	case codeInvalid:
		return "invalid request"
	case codeNoSpace:
		return "no space left on the export"
	case codeOverflow:
		return "request too large"
	case codeNotSup:
		return "not supported"
	case codeShutdown:
		return "server is shutting down"
	}
	return "input/output error"
}

const maxCodeText = 32
