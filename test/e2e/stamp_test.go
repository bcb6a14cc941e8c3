package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// sectorBytes is the unit of stamps: smaller than a block, so that parts of blocks are written too.
const sectorBytes = 512

// stamp fills p, sectors of a volume from the given one on, with a number.
func stamp(p []byte, number uint64, sector int64) {
	for ; len(p) > 0; p = p[sectorBytes:] {
		for i := 0; i < sectorBytes; i += 16 {
			binary.LittleEndian.PutUint64(p[i:], number)
			binary.LittleEndian.PutUint64(p[i+8:], uint64(sector))
		}
		sector++
	}
}

// ledger knows what the sectors of one client may hold. Each change has a number; numbers only grow.
type ledger struct {
	first   int64 // sector
	sectors []fate
	number  uint64
}

// fate is what became of one sector.
type fate struct {
	acked, sent uint64 // number of the newest change
	// ackedZero: the newest change that was acknowledged made it zero. pendingZero: so did one that was sent after it.
	ackedZero, pendingZero bool
}

func newLedger(first int64, sectors int) *ledger {
	l := &ledger{first: first, sectors: make([]fate, sectors)}
	for i := range l.sectors {
		l.sectors[i].ackedZero = true
	}
	return l
}

// change is one change of a ledger's sectors, as it was sent.
type change struct {
	number      uint64
	begin, size int // sectors of the ledger
	zero        bool
}

// send notes a change that is about to be sent, and returns its request.
func (l *ledger) send(begin, size int, zero bool) (change, request) {
	l.number++
	for i := begin; i < begin+size; i++ {
		l.sectors[i].sent = l.number
		l.sectors[i].pendingZero = l.sectors[i].pendingZero || zero
	}
	c := change{l.number, begin, size, zero}
	offset := (l.first + int64(begin)) * sectorBytes
	if zero {
		return c, request{kind: cmdTrim, offset: offset, length: size * sectorBytes}
	}
	data := make([]byte, size*sectorBytes)
	stamp(data, l.number, l.first+int64(begin))
	return c, request{kind: cmdWrite, offset: offset, data: data}
}

// ack notes that a change was acknowledged.
func (l *ledger) ack(c change) {
	for i := c.begin; i < c.begin+c.size; i++ {
		if f := &l.sectors[i]; c.number > f.acked {
			f.acked, f.ackedZero = c.number, c.zero
			f.pendingZero = f.pendingZero && f.sent > c.number
		}
	}
}

// verify reads all sectors and returns an error that names the first that is not what it may be. From then on what was
// found is what must be there: a change that was lost may not come back.
func (l *ledger) verify(c *client) error {
	const step = 2048 // sectors
	for begin := 0; begin < len(l.sectors); begin += step {
		size := min(step, len(l.sectors)-begin)
		p := make([]byte, size*sectorBytes)
		if err := c.read(p, (l.first+int64(begin))*sectorBytes); err != nil {
			return err
		}
		for i := range size {
			if err := l.found(begin+i, p[i*sectorBytes:][:sectorBytes]); err != nil {
				return fmt.Errorf("sector %d: %w", l.first+int64(begin+i), err)
			}
		}
	}
	return nil
}

func (l *ledger) found(i int, p []byte) error {
	f := &l.sectors[i]
	number := binary.LittleEndian.Uint64(p)
	zero := number == 0
	whole := make([]byte, sectorBytes)
	if !zero {
		stamp(whole, number, l.first+int64(i))
	}
	switch {
	case !bytes.Equal(p, whole):
		return fmt.Errorf("neither zeroes nor one stamp: it begins with %x", p[:32])
	case zero && !f.ackedZero && !f.pendingZero:
		return fmt.Errorf("zeroes, but change %d was acknowledged", f.acked)
	case !zero && (number < f.acked || number > f.sent || number == f.acked && f.ackedZero):
		return fmt.Errorf("change %d, but %d (zero: %v) was acknowledged and %d sent", number, f.acked, f.ackedZero, f.sent)
	}
	if zero {
		*f = fate{acked: f.sent, sent: f.sent, ackedZero: true}
	} else {
		*f = fate{acked: number, sent: number}
	}
	return nil
}
