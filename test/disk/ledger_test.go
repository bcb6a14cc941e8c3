package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"lockstep/test/disk"
	"lockstep/wal"
)

const (
	sector      = 512
	ledgerMagic = 0x1ed9e7
	recordMost  = 2 // blocks of one record
	blocks      = 16
)

// flaw is something a ledger does wrong.
type flaw int

const (
	sound flaw = iota
	forgetSync
	forgetDirSync
	forgetChain
	forgetChecksum
	forgetTrim
	skipBadRecords
	acknowledgeEarly
	readStale
	retrySync
	trustPageCache
	proveNothing
	leakFile
)

// ledger is a small volume of 512-byte blocks that is nothing but a log: an example of what is tested with this
// package. A record is a header sector and up to two blocks; it holds the CRC of its predecessor.
type ledger struct {
	flaw    flaw
	dir     wal.FS
	file    wal.File
	content map[int64][]byte
	stale   map[int64][]byte // content one change ago
	held    []byte           // acknowledged before it is written
	end     int64            // of the log, in bytes
	next    uint64           // sequence number
	chain   uint32           // CRC of the last record
	failed  error
}

func openLedger(d *disk.Disk, f flaw) (*ledger, error) {
	l := &ledger{flaw: f, dir: d.Dir("log"), content: map[int64][]byte{}, stale: map[int64][]byte{}}
	var err error
	if l.file, err = l.dir.Open("ledger"); errors.Is(err, fs.ErrNotExist) {
		return l, l.create()
	} else if err != nil {
		return nil, err
	}
	return l, l.recover()
}

func (l *ledger) create() (err error) {
	if err := l.dir.Remove("new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.file, err = l.dir.Create("new"); err != nil {
		return err
	}
	if err := l.file.Allocate(0, 64*sector); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	if err := l.dir.Rename("new", "ledger"); err != nil {
		return err
	}
	if l.flaw == forgetDirSync {
		return nil
	}
	return l.dir.Sync()
}

// recover reads the log up to the first bad record and proves it durable by writing it again.
func (l *ledger) recover() error {
	size, err := l.file.Size()
	if err != nil {
		return err
	}
	log := make([]byte, size)
	if _, err := l.file.ReadAt(log, 0); err != nil {
		return err
	}
	for at := int64(0); at+sector <= size; {
		n := l.replay(log[at:])
		switch {
		case n > 0:
			at += n
			l.end = at
		case l.flaw == skipBadRecords:
			at += sector
		default:
			at = size
		}
	}
	if l.flaw == proveNothing {
		return nil
	}
	if l.flaw != trustPageCache && l.end > 0 {
		if _, err := l.file.WriteAt(log[:l.end], 0); err != nil {
			return err
		}
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	return l.dir.Sync()
}

// replay takes the record at the beginning of p and returns its length, 0 if it is none.
func (l *ledger) replay(p []byte) int64 {
	be := binary.BigEndian
	count := int64(be.Uint32(p[16:]))
	length := (count + 1) * sector
	if be.Uint32(p) != ledgerMagic || count < 1 || count > recordMost || length > int64(len(p)) {
		return 0
	}
	seq, start, chain, sum := be.Uint64(p[4:]), int64(be.Uint32(p[12:])), be.Uint32(p[20:]), be.Uint32(p[24:])
	if l.flaw != forgetChecksum && sum != checksum(p[:length]) {
		return 0
	}
	if seq != l.next && l.flaw != skipBadRecords {
		return 0
	}
	if chain != l.chain && l.flaw != skipBadRecords && l.flaw != forgetChain {
		return 0
	}
	l.next, l.chain = seq+1, sum
	for i := range count {
		l.content[start+i] = bytes.Clone(p[(i+1)*sector : (i+2)*sector])
	}
	return length
}

func checksum(record []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(record[:24]), crc32.IEEETable, record[sector:])
}

func (l *ledger) encode(start int64, data []byte) []byte {
	be := binary.BigEndian
	p := make([]byte, sector, sector+len(data))
	be.PutUint32(p, ledgerMagic)
	be.PutUint64(p[4:], l.next)
	be.PutUint32(p[12:], uint32(start))
	be.PutUint32(p[16:], uint32(len(data)/sector))
	be.PutUint32(p[20:], l.chain)
	p = append(p, data...)
	l.chain = checksum(p)
	be.PutUint32(p[24:], l.chain)
	l.next++
	return p
}

// apply logs a change, and makes it durable if it has FUA.
func (l *ledger) apply(c disk.Change) error {
	if l.failed != nil {
		return l.failed
	}
	start, end := c.Offset/sector, (c.Offset+c.Length+sector-1)/sector
	whole := l.widen(c, start, end)
	if l.flaw == forgetTrim && c.Data == nil {
		return nil
	}
	var records [][]byte
	for b := start; b < end; b += recordMost {
		records = append(records, l.encode(b, whole[(b-start)*sector:min(end-start, b-start+recordMost)*sector]))
	}
	if err := l.append(records); err != nil {
		return err
	}
	for b := start; b < end; b++ {
		l.stale[b] = l.content[b]
		l.content[b] = whole[(b-start)*sector : (b-start+1)*sector]
	}
	if c.FUA {
		return l.flush()
	}
	return nil
}

// widen returns whole blocks with the change in them.
func (l *ledger) widen(c disk.Change, start, end int64) []byte {
	whole := make([]byte, 0, (end-start)*sector)
	for b := start; b < end; b++ {
		block := make([]byte, sector)
		copy(block, l.content[b])
		whole = append(whole, block...)
	}
	part := whole[c.Offset-start*sector:][:c.Length]
	clear(part)
	copy(part, c.Data)
	return whole
}

func (l *ledger) append(records [][]byte) error {
	if l.flaw == acknowledgeEarly {
		l.held = append(l.held, bytes.Join(records, nil)...)
		return nil
	}
	if err := l.file.WriteVecAt(records, l.end); err != nil {
		l.failed = fmt.Errorf("append: %w", err)
		return l.failed
	}
	for _, r := range records {
		l.end += int64(len(r))
	}
	return nil
}

func (l *ledger) flush() error {
	if l.failed != nil {
		return l.failed
	}
	if len(l.held) > 0 {
		if _, err := l.file.WriteAt(l.held, l.end); err != nil {
			return err
		}
		l.end, l.held = l.end+int64(len(l.held)), nil
	}
	if l.flaw == forgetSync {
		return nil
	}
	err := l.file.Sync()
	if err != nil && l.flaw == retrySync {
		err = l.file.Sync()
	}
	if err != nil {
		l.failed = fmt.Errorf("flush: %w", err)
	}
	return l.failed
}

func (l *ledger) read(p []byte, off int64) error {
	for b := off / sector; b*sector < off+int64(len(p)); b++ {
		block := make([]byte, sector)
		copy(block, l.content[b])
		if l.flaw == readStale && l.stale[b] != nil {
			copy(block, l.stale[b])
		}
		lo, hi := max(off, b*sector), min(off+int64(len(p)), (b+1)*sector)
		copy(p[lo-off:], block[lo-b*sector:hi-b*sector])
	}
	return nil
}

func (l *ledger) close() error {
	if l.flaw == leakFile {
		return nil
	}
	return l.file.Close()
}

// ledgerHistory is how a test of a ledger looks.
func ledgerHistory(f flaw) disk.History {
	return disk.History{
		Model: disk.ModelConfig{SizeBytes: blocks * sector, BlockSize: sector, RecordBytes: recordMost * sector},
		Run: func(c *disk.Case) error {
			l, err := openLedger(c.Disk, f)
			if err != nil {
				return err
			}
			fua := c.Model.Write(3*sector, sector)
			fua.FUA = true
			for _, change := range []disk.Change{
				c.Model.Write(0, 2*sector),
				{Offset: 300, Length: 400},
				fua,
			} {
				if err := tell(c, l, change); err != nil {
					return err
				}
			}
			return work(c, l)
		},
		Recover: func(c *disk.Case) error {
			l, err := openLedger(c.Disk, f)
			if err != nil {
				return err
			}
			if err := c.Model.CheckRecovered(l.read); err != nil {
				return err
			}
			if err := tell(c, l, c.Model.Write(c.Rand.Int64N(blocks)*sector, sector)); err != nil {
				return err
			}
			return work(c, l)
		},
	}
}

// tell hands a change to the ledger and the model.
func tell(c *disk.Case, l *ledger, change disk.Change) error {
	if change.Data != nil {
		change.Data = c.Model.Write(change.Offset, change.Length).Data // stamped for the change it is now
	}
	id := c.Model.Begin(change)
	if err := l.apply(change); err != nil {
		return err
	}
	c.Model.Acked(id)
	return nil
}

// work changes the ledger some more, with a flush in between, reads it all and closes it.
func work(c *disk.Case, l *ledger) error {
	flush := c.Model.FlushBegun()
	if err := l.flush(); err != nil {
		return err
	}
	c.Model.FlushAcked(flush)
	for range 3 {
		if err := tell(c, l, c.Model.Write(c.Rand.Int64N(blocks)*sector, sector)); err != nil {
			return err
		}
	}
	if err := tell(c, l, c.Model.Write(4*sector, 5*sector)); err != nil {
		return err
	}
	p := make([]byte, blocks*sector)
	if err := l.read(p, 0); err != nil {
		return err
	}
	if err := c.Model.CheckRead(0, p); err != nil {
		return err
	}
	return l.close()
}
