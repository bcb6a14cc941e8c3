package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// ErrContradiction is wrapped by every error that says a volume broke its promises.
var ErrContradiction = errors.New("contradiction")

// ModelConfig describes the volume a Model stands for.
type ModelConfig struct {
	SizeBytes   int64 // multiple of BlockSize
	BlockSize   int   // bytes; 0 is 4096
	RecordBytes int64 // most payload of one record, multiple of BlockSize; 0 is 1 MiB
}

// Change is one alteration of the volume. Nil Data means that the range reads as zeroes afterwards: a trim or zero.
type Change struct {
	Offset, Length int64 // bytes
	Data           []byte
	FUA            bool
}

// ChangeID names a change: 1, 2, 3 … over the life of the model.
type ChangeID uint64

// Model knows which contents of a volume its promises allow. Changes are told to it in log order: Begin before they
// are handed to the volume, then one of Acked, Rejected, Failed, or nothing where the process died first.
type Model struct {
	size, record int64
	block        int64 // bytes

	mu       sync.Mutex
	settled  map[int64][]byte     // block to content as of the last recovery; absent is zeroes
	changes  []change             // since then, in log order
	first    ChangeID             // of changes[0]
	pieces   map[int64][]piece    // block to the parts of changes in it, in log order
	last     int                  // position of the last record; the first after a recovery has 1
	acked    int                  // Invariant: durable <= acked <= last
	durable  int                  // every record up to it survives a power cut
	powerCut bool                 // since the last recovery
	forgone  map[int64][]lostData // block to contents that a recovery has given up
	round    int                  // number of recoveries
}

type change struct {
	Change
	end    int // position of its last record
	status status
}

type status uint8

const (
	begun status = iota
	acked
	rejected
	failed
)

// piece is the part of a change that falls into one block.
type piece struct {
	change   int // index in changes
	position int // of its record
}

// lostData is content that may never be seen again.
type lostData struct {
	id   ChangeID
	data []byte
}

// Flush is a flush on its way, from FlushBegun to FlushAcked.
type Flush struct{ round, position int }

// NewModel makes the model of a volume that reads as zeroes. It panics on a config that makes no sense.
func NewModel(cfg ModelConfig) *Model {
	if cfg.BlockSize == 0 {
		cfg.BlockSize = 4096
	}
	if cfg.RecordBytes == 0 {
		cfg.RecordBytes = 1 << 20
	}
	block := int64(cfg.BlockSize)
	if block < 0 || cfg.SizeBytes <= 0 || cfg.SizeBytes%block != 0 || cfg.RecordBytes%block != 0 {
		panic(fmt.Sprintf("disk: no volume is like %+v", cfg))
	}
	return &Model{
		size:    cfg.SizeBytes,
		record:  cfg.RecordBytes,
		block:   block,
		settled: map[int64][]byte{},
		first:   1,
		pieces:  map[int64][]piece{},
		forgone: map[int64][]lostData{},
	}
}

// Clone returns a copy that goes its own way.
func (m *Model) Clone() *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Model{
		size: m.size, record: m.record, block: m.block,
		settled: maps.Clone(m.settled), changes: slices.Clone(m.changes), first: m.first,
		pieces: maps.Clone(m.pieces), last: m.last, acked: m.acked, durable: m.durable,
		powerCut: m.powerCut, forgone: maps.Clone(m.forgone), round: m.round,
	}
	for b, p := range c.pieces {
		c.pieces[b] = slices.Clip(p)
	}
	for b, l := range c.forgone {
		c.forgone[b] = slices.Clip(l)
	}
	return c
}

// Write makes a change whose data name it: every block of 512 bytes holds the stamp of the change that Begin will be
// told next and of its own place in the volume. So no two writes are alike, and a failure report can tell them apart.
func (m *Model) Write(off, length int64) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	data := make([]byte, length)
	Stamp(data, off, m.first+ChangeID(len(m.changes)))
	return Change{Offset: off, Length: length, Data: data}
}

// Stamp fills p, which lies at byte off of the volume, with the mark of a change.
func Stamp(p []byte, off int64, id ChangeID) {
	var word [16]byte
	for i := range p {
		at := off + int64(i)
		if i == 0 || at%16 == 0 {
			binary.BigEndian.PutUint64(word[:8], uint64(id))
			binary.BigEndian.PutUint64(word[8:], uint64(at/SectorSize)+1)
		}
		p[i] = word[at%16]
	}
}

// Begin tells that the change is about to be handed to the volume, after all those begun before it.
func (m *Model) Begin(c Change) ChangeID {
	if c.Offset < 0 || c.Length <= 0 || c.Length > m.size-c.Offset || c.Data != nil && int64(len(c.Data)) != c.Length {
		panic(fmt.Sprintf("disk: change [%d, +%d) with %d bytes of data", c.Offset, c.Length, len(c.Data)))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Data = slices.Clone(c.Data)
	first, end := c.Offset/m.block, (c.Offset+c.Length+m.block-1)/m.block
	for b := first; b < end; b++ {
		if b == first || m.newRecord(c, b-first, b) {
			m.last++
		}
		m.pieces[b] = append(m.pieces[b], piece{len(m.changes), m.last})
	}
	m.changes = append(m.changes, change{Change: c, end: m.last})
	return m.first + ChangeID(len(m.changes)) - 1
}

// newRecord tells whether block b, which is not the change's first, begins another record. Data is split by length; a
// trim or zero is one record, and its unaligned edges are writes of their own.
func (m *Model) newRecord(c Change, index, b int64) bool {
	if c.Data != nil {
		return index%(m.record/m.block) == 0
	}
	startsRagged := index == 1 && c.Offset%m.block != 0
	endsRagged := (b+1)*m.block > c.Offset+c.Length
	return startsRagged || endsRagged
}

// Acked tells that the change was carried out: it survives a kill, and if it has FUA, a power cut.
func (m *Model) Acked(id ChangeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.changeLocked(id)
	c.status = acked
	m.acked = max(m.acked, c.end)
	if c.FUA {
		m.durable = max(m.durable, c.end)
	}
}

// Rejected tells that the change was refused without any effect.
func (m *Model) Rejected(id ChangeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changeLocked(id).status = rejected
}

// Failed tells that the change ended with an error and the volume went on: each of its blocks may have it or not,
// until something else covers it. Where the volume takes no more changes, tell nothing: it may be a prefix of the log.
func (m *Model) Failed(id ChangeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changeLocked(id).status = failed
}

func (m *Model) changeLocked(id ChangeID) *change {
	if id < m.first || id >= m.first+ChangeID(len(m.changes)) {
		panic(fmt.Sprintf("disk: change %d is not one of this life, %d to %d", id, m.first, int(m.first)+len(m.changes)-1))
	}
	return &m.changes[id-m.first]
}

// FlushBegun tells that a flush is about to be asked for.
func (m *Model) FlushBegun() Flush {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Flush{m.round, m.acked}
}

// FlushAcked tells that it has succeeded: what was acknowledged before it began survives a power cut (I1).
func (m *Model) FlushAcked(f Flush) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.round != m.round {
		panic("disk: a flush acknowledged in another life than it began in")
	}
	m.durable = max(m.durable, f.position)
}

// PowerCut tells that the power was cut: at the next CheckRecovered what was not flushed may be missing. Without it,
// that is after a kill or a clean stop, all that was acknowledged must be there.
func (m *Model) PowerCut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.powerCut = true
}
