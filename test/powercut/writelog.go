package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The log of dm-log-writes (Linux, Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c).
// Numbers are little-endian. The first sector has
//
//	 0  8  magic
//	 8  8  version, 1
//	16  8  number of entries
//	24  4  bytes of a sector, the unit of all else
//
// and then each entry is one sector, followed by the data that were written:
//
//	 0  8  sector of the device
//	 8  8  number of sectors
//	16  8  flags
//	24  8  bytes of the text of a mark, which stands behind this, in the same sector
const (
	logMagic       = 0x6a736677736872
	logVersion     = 1
	logHeaderBytes = 28

	entryHeaderBytes = 32
)

// Flags of an entry.
const (
	entryFlush   = 1 << iota // everything before it was on stable storage
	entryFUA                 // it is itself
	entryDiscard             // without data
	entryMark                // a text, and no write
)

// maxEntries and maxSectors are limits of what is believed of a log.
const (
	maxEntries = 1 << 24
	maxSectors = 1 << 20 // of one write
)

var (
	errNoLog      = errors.New("no log of dm-log-writes")
	errBadVersion = errors.New("a log of an unknown version")
	errBadEntry   = errors.New("a bad entry")
)

// writeLog is an opened log.
type writeLog struct {
	r           io.ReaderAt
	sectorBytes int64
	entries     []entry
}

// entry is one write, flush, discard or mark.
type entry struct {
	flags  uint64
	offset int64 // of the device, in bytes
	length int64 // in bytes
	data   int64 // where in the log they are
	mark   string
}

func (e entry) is(flag uint64) bool { return e.flags&flag != 0 }

// openLog reads what a log has, without the data.
func openLog(r io.ReaderAt) (*writeLog, error) {
	var b [logHeaderBytes]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return nil, fmt.Errorf("read the log's first sector: %w", err)
	}
	if binary.LittleEndian.Uint64(b[:]) != logMagic {
		return nil, errNoLog
	}
	if v := binary.LittleEndian.Uint64(b[8:]); v != logVersion {
		return nil, fmt.Errorf("%w: %d", errBadVersion, v)
	}
	count := binary.LittleEndian.Uint64(b[16:])
	l := &writeLog{r: r, sectorBytes: int64(binary.LittleEndian.Uint32(b[24:]))}
	if l.sectorBytes < 512 || l.sectorBytes > 1<<16 || count > maxEntries {
		return nil, fmt.Errorf("%w: %d entries, sectors of %d bytes", errNoLog, count, l.sectorBytes)
	}
	at := l.sectorBytes
	for i := range int(count) {
		e, err := l.readEntry(at)
		if err != nil {
			return nil, fmt.Errorf("entry %d of the log, at %d: %w", i, at, err)
		}
		l.entries = append(l.entries, e)
		at = e.data
		if !e.is(entryDiscard) {
			at += e.length
		}
	}
	return l, nil
}

func (l *writeLog) readEntry(at int64) (entry, error) {
	b := make([]byte, l.sectorBytes)
	if _, err := l.r.ReadAt(b, at); err != nil {
		return entry{}, err
	}
	sector, sectors := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	e := entry{flags: binary.LittleEndian.Uint64(b[16:]), data: at + l.sectorBytes}
	text := binary.LittleEndian.Uint64(b[24:])
	limit := uint64(maxSectors)
	if e.is(entryDiscard) {
		limit = 1 << 40
	}
	if sectors > limit || sector > 1<<40 || text > uint64(len(b)-entryHeaderBytes) {
		return entry{}, fmt.Errorf("%w: %d sectors at %d, %d bytes of text", errBadEntry, sectors, sector, text)
	}
	e.offset, e.length = int64(sector)*l.sectorBytes, int64(sectors)*l.sectorBytes
	if e.is(entryMark) {
		e.mark = string(b[entryHeaderBytes:][:text])
	}
	return e, nil
}

// lastFlush returns the entry after which nothing before a cut is certain to be there: the last flush, or -1.
func (l *writeLog) lastFlush(cut int) int {
	for i := cut - 1; i >= 0; i-- {
		if l.entries[i].is(entryFlush) {
			return i
		}
	}
	return -1
}

// required returns what the marks before a cut say has to be there, and whether there is one.
func (l *writeLog) required(cut int) (required vector, marked bool, err error) {
	for _, e := range l.entries[:cut] {
		if !ours(e) {
			continue
		}
		v, err := parseVector(e.mark)
		if err != nil {
			return required, false, err
		}
		required.raise(v)
		marked = true
	}
	return required, marked, nil
}

// ours tells marks of the workload from that which dm-log-writes makes itself at the end.
func ours(e entry) bool { return e.is(entryMark) && e.mark != "dm-log-writes-end" }
