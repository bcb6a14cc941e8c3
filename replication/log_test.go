package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
	"lockstep/wal"
)

const testBlockBytes = 512

// primaryLog is a real log in memory, of node 1, in epoch 7.
type primaryLog struct {
	testing.TB
	*wal.Log
	lineage []block.EpochStart
}

func memoryLog() wal.Config {
	return wal.Config{
		FS: wal.NewMemoryDir(), VolumeID: id(9), CopyID: id(20), BlockBytes: testBlockBytes,
		SegmentBytes: 4 << 20, BudgetBytes: 256 << 20, Logger: zerolog.Nop(),
	}
}

func newPrimaryLog(t testing.TB) *primaryLog {
	t.Helper()
	cfg := memoryLog()
	if err := wal.Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := errors.Join(l.Harden(), l.Start(1)); err != nil {
		t.Fatal(err)
	}
	p := &primaryLog{TB: t, Log: l}
	p.epoch(7, id(8), id(1))
	return p
}

func (p *primaryLog) epoch(e block.Epoch, epochID, primary uuid.UUID) {
	p.Helper()
	s, err := p.StartEpoch(e, epochID, primary, 1)
	if err != nil {
		p.Fatal(err)
	}
	p.lineage = append(p.lineage, s)
}

// write appends n records of a block each.
func (p *primaryLog) write(n int) {
	p.Helper()
	for range n {
		data := bytes.Repeat([]byte{byte(p.Head())}, testBlockBytes)
		if err := p.Append([]wal.Change{{Type: wal.RecordWrite, Range: block.Range{Start: uint64(p.Head()), Count: 1}, Payload: data}}, 2); err != nil {
			p.Fatal(err)
		}
	}
}

func (p *primaryLog) sync() block.LSN {
	p.Helper()
	lsn, err := p.Sync()
	if err != nil {
		p.Fatal(err)
	}
	return lsn
}

func (p *primaryLog) from(lsn block.LSN) *wal.Reader {
	p.Helper()
	r, err := p.NewReader(lsn)
	if err != nil {
		p.Fatal(err)
	}
	return r
}

// raw returns records first to last.
func (p *primaryLog) raw(first, last block.LSN) []byte {
	p.Helper()
	b, _, _, err := p.from(first).Read(nil, 1<<30)
	if err != nil {
		p.Fatal(err)
	}
	return slices.Concat(split(b)[:last-first+1]...)
}

// message is the message that has records first to last.
func (p *primaryLog) message(stream uint64, first, last block.LSN) *Records {
	return &Records{Stream: stream, FirstLSN: first, LastLSN: last, Raw: p.raw(first, last)}
}

// link is to one record.
func (p *primaryLog) link(lsn block.LSN) Link {
	if lsn == 0 {
		return Link{}
	}
	return linkOf(lsn, p.lineage, p.from(lsn+1).Before())
}

func linkOf(lsn block.LSN, lineage []block.EpochStart, crc uint32) Link {
	l := Link{LSN: lsn, CRC: crc}
	for _, e := range lineage {
		if e.First <= lsn {
			l.EpochID = e.ID
		}
	}
	return l
}

// split cuts bytes of a log into its records.
func split(b []byte) (records [][]byte) {
	for len(b) > 0 {
		n := wal.RecordHeaderBytes + int(binary.LittleEndian.Uint32(b[48:]))
		records = append(records, b[:n])
		b = b[n:]
	}
	return records
}

// fakeCopy is a replica's log: what it is told to append, and how much of that a crash leaves.
type fakeCopy struct {
	records [][]byte
	durable block.LSN
}

func (c *fakeCopy) head() block.LSN { return block.LSN(len(c.records)) }

// receive compares what is there, and appends the rest.
func (c *fakeCopy) receive(first block.LSN, raw []byte) error {
	for i, r := range split(raw) {
		lsn := first + block.LSN(i)
		switch {
		case lsn > c.head()+1:
			return fmt.Errorf("%w: %d after %d", wal.ErrGap, lsn, c.head())
		case lsn == c.head()+1:
			c.records = append(c.records, bytes.Clone(r))
		case !bytes.Equal(c.records[lsn-1], r):
			return fmt.Errorf("record %d: %w", lsn, ErrDiverged)
		}
	}
	return nil
}

func (c *fakeCopy) link(lsn block.LSN) Link {
	if lsn == 0 || lsn > c.head() {
		return Link{}
	}
	var lineage []block.EpochStart
	for _, r := range c.records {
		changes, err := wal.DecodeRecords(r[:min(len(r), 200)], testBlockBytes)
		if err == nil && changes[0].Type == wal.RecordEpochStart { // a longer one is cut here, and is none
			lineage = append(lineage, changes[0].EpochStart())
		}
	}
	return linkOf(lsn, lineage, binary.LittleEndian.Uint32(c.records[lsn-1][4:]))
}
