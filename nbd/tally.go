package nbd

import (
	"sync/atomic"
	"time"

	"lockstep/histogram"
)

// Requests are counted by their command. The number of a command is its slot; unknown commands share the one of
// Disconnect, which is no request.
const (
	commandSlots = 8
	unknownSlot  = int(cmdDisconnect)
)

// commandNames are the names of the slots.
func commandNames() [commandSlots]string {
	return [commandSlots]string{
		cmdRead: "read", cmdWrite: "write", unknownSlot: "unknown", cmdFlush: "flush", cmdTrim: "trim", cmdCache: "cache",
		cmdWriteZeroes: "write_zeroes", cmdBlockStatus: "block_status",
	}
}

func slotOf(kind uint16) int {
	if kind >= commandSlots {
		return unknownSlot
	}
	return int(kind)
}

// command is the command that asks for the change.
func (o Op) command() uint16 {
	switch o {
	case OpTrim:
		return cmdTrim
	case OpWriteZeroes:
		return cmdWriteZeroes
	}
	return cmdWrite
}

// tally counts what one connection does. Each has its own, so that no two share a cache line; what a former connection
// did is merged into one tally for each export.
type tally struct {
	requests, bytes [commandSlots]atomic.Uint64
	errors          [commandSlots][codeSlots]atomic.Uint64
	latency         [commandSlots]histogram.Latency
	batches         histogram.Size
}

// received counts the requests of a batch, before any of them is answered.
func (t *tally) received(b *batch) {
	for slot, n := range b.received {
		if n > 0 {
			t.requests[slot].Add(uint64(n))
			t.bytes[slot].Add(b.receivedBytes[slot])
		}
	}
	t.batches.Add(uint64(b.count))
}

// failed counts a request that is answered with an error; codeOK is none.
func (t *tally) failed(kind uint16, code uint32) {
	if code != codeOK {
		t.errors[slotOf(kind)][codeIndex(code)].Add(1)
	}
}

// answered counts how long the requests took whose answers left at now.
func (t *tally) answered(a *answers, now time.Duration) {
	for slot, n := range a.answered {
		if n > 0 {
			t.latency[slot].Add(now-a.parsed, int(n))
		}
	}
}

func (t *tally) merge(other *tally) {
	for slot := range commandSlots {
		t.requests[slot].Add(other.requests[slot].Load())
		t.bytes[slot].Add(other.bytes[slot].Load())
		t.latency[slot].Merge(&other.latency[slot])
		for code := range t.errors[slot] {
			t.errors[slot][code].Add(other.errors[slot][code].Load())
		}
	}
	t.batches.Merge(&other.batches)
}

// codeSlots is how many error codes there are.
const codeSlots = 8

// codeName is an error code and its name, as errno has it.
type codeName struct {
	code uint32
	name string
}

func codeNames() [codeSlots]codeName {
	return [codeSlots]codeName{
		{codeIO, "EIO"}, {codePerm, "EPERM"}, {codeNoMem, "ENOMEM"}, {codeInvalid, "EINVAL"}, {codeNoSpace, "ENOSPC"},
		{codeOverflow, "EOVERFLOW"}, {codeNotSup, "ENOTSUP"}, {codeShutdown, "ESHUTDOWN"},
	}
}

// codeIndex finds a code in codeNames; one that is not there counts as EIO.
func codeIndex(code uint32) int {
	for i, c := range codeNames() {
		if c.code == code {
			return i
		}
	}
	return 0
}
