package disk

import (
	"fmt"
	"strings"
)

// OpKind is the kind of an operation.
type OpKind uint8

// The operations that have a number. Reads have one only with Config.CountReads.
const (
	OpCreate OpKind = iota + 1
	OpRename
	OpRemove
	OpSyncDir
	OpWrite    // WriteAt and WriteVecAt
	OpAllocate // reserving space
	OpZero     // ZeroAt
	OpSync     // of a file or base
	OpRead
	OpResize // of a base
)

// String returns the word for the kind in traces.
func (k OpKind) String() string {
	switch k {
	case OpCreate:
		return "create"
	case OpRename:
		return "rename"
	case OpRemove:
		return "remove"
	case OpSyncDir:
		return "sync dir"
	case OpWrite:
		return "write"
	case OpAllocate:
		return "allocate"
	case OpZero:
		return "zero"
	case OpSync:
		return "sync"
	case OpRead:
		return "read"
	case OpResize:
		return "resize"
	}
	return fmt.Sprintf("op kind %d", uint8(k))
}

// Op is one operation, as a Plan and a trace see it.
type Op struct {
	Number  int // 1, 2, 3 … over all files of the disk
	Kind    OpKind
	File    string // "log/000001" as it was opened, the name of a base, or of a directory for OpSyncDir
	NewName string // OpRename
	Offset  int64  // bytes
	Length  int64  // bytes
}

// String describes the operation in one line.
func (o Op) String() string {
	s := fmt.Sprintf("%d: %s %s", o.Number, o.Kind, o.File)
	switch o.Kind {
	case OpRename:
		s += " to " + o.NewName
	case OpResize:
		s += fmt.Sprintf(" to %d", o.Length)
	case OpWrite, OpAllocate, OpZero, OpRead:
		s += fmt.Sprintf(" [%d, +%d)", o.Offset, o.Length)
	}
	return s
}

// Plan decides the fate of each operation before it begins: nil lets it succeed, ErrCrashed cuts the power in the
// middle of it, any other error fails it. A failed write may still have written a part. A Plan is called for one
// operation at a time, and may call the disk's Clone, Trace, Ops and Pending, but nothing else of it.
type Plan func(Op) error

// CrashAt cuts the power in the middle of operation number.
func CrashAt(number int) Plan { return FailAt(number, ErrCrashed) }

// FailAt fails operation number with err.
func FailAt(number int, err error) Plan {
	return func(op Op) error {
		if op.Number == number {
			return err
		}
		return nil
	}
}

const traceLength = 64

// trace keeps the last operations. It is a value, so that a clone of the disk goes on with its own.
type trace struct {
	steps [traceLength]step
	next  int // number of steps ever taken
}

// step is an operation, or an event between operations where note is set.
type step struct {
	op   Op
	note string
	err  error
}

func (t *trace) add(s step) {
	t.steps[t.next%traceLength] = s
	t.next++
}

func (t *trace) String() string {
	var b strings.Builder
	if t.next > traceLength {
		fmt.Fprintf(&b, "… %d before\n", t.next-traceLength)
	}
	for i := max(0, t.next-traceLength); i < t.next; i++ {
		s := t.steps[i%traceLength]
		if s.note != "" {
			fmt.Fprintf(&b, "-- %s\n", s.note)
			continue
		}
		b.WriteString(s.op.String())
		if s.err != nil {
			fmt.Fprintf(&b, " = %v", s.err)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
