package wal_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

const (
	testBlock   = 512
	testSegment = 72 << 10
	testBudget  = 6 * testSegment
	firstName   = "00000001.seg"
)

// superblock is what a volume's superblock says of the log. One sector holds it, so it is never torn.
type superblock struct {
	Incarnation         uint64
	Checkpoint, Durable block.LSN
	Epoch               block.Epoch
	Cuts                []wal.Cut
}

func superBase(d *disk.Disk) *disk.Base { return d.Base("super", 4096) }

func (s superblock) write(d *disk.Disk) error {
	b, err := json.Marshal(s)
	if err != nil || len(b) > disk.SectorSize {
		return fmt.Errorf("superblock of %d bytes: %w", len(b), err)
	}
	base := superBase(d)
	if _, err := base.WriteAt(append(b, make([]byte, disk.SectorSize-len(b))...), 0); err != nil {
		return err
	}
	return base.Sync()
}

func readSuper(d *disk.Disk) (s superblock, err error) {
	b := make([]byte, disk.SectorSize)
	if _, err := superBase(d).ReadAt(b, 0); err != nil {
		return s, err
	}
	if b = bytes.TrimRight(b, "\x00"); len(b) == 0 {
		return s, nil
	}
	return s, json.Unmarshal(b, &s)
}

func logConfig(d *disk.Disk, s superblock) wal.Config {
	return wal.Config{
		FS: d.Dir("log"), VolumeID: uuid.UUID{15: 1}, CopyID: uuid.UUID{15: 2}, BlockBytes: testBlock,
		SegmentBytes: testSegment, BudgetBytes: testBudget, Logger: zerolog.Nop(),
		Incarnation: s.Incarnation, Checkpoint: s.Checkpoint, Durable: max(s.Durable, s.Checkpoint), Epoch: s.Epoch, Cuts: s.Cuts,
	}
}

// startLog does with an open log what a volume does: what was found is made durable and noted, then a new incarnation
// begins.
func startLog(d *disk.Disk, l *wal.Log, s *superblock) error {
	if err := l.Harden(); err != nil {
		return err
	}
	s.Incarnation++
	s.Durable = l.Head()
	if err := s.write(d); err != nil {
		return err
	}
	return l.Start(s.Incarnation)
}

// entry is a record as a test sent it, or found it.
type entry struct {
	kind     wal.RecordType
	blocks   block.Range
	payload  []byte
	position wal.Position
}

// machine is a log on a fake disk, in the life of one process after the other. It knows what was appended, and checks
// what each open finds against it.
type machine struct {
	testing.TB
	disk   *disk.Disk
	super  superblock
	log    *wal.Log
	stamps uint64
	sent   map[block.LSN]entry // what may still be found, newest of each LSN
	found  map[block.LSN]entry // by the last open
}

// newMachine has a new, open and empty log.
func newMachine(t testing.TB, cfg disk.Config) *machine {
	t.Helper()
	m := &machine{TB: t, disk: disk.New(cfg), sent: map[block.LSN]entry{}}
	if err := wal.Create(logConfig(m.disk, superblock{})); err != nil {
		t.Fatal(err)
	}
	m.open()
	return m
}

// recover opens the log and checks what it finds: records that were sent, byte for byte, without a gap.
func (m *machine) recover() error {
	m.Helper()
	var err error
	if m.super, err = readSuper(m.disk); err != nil {
		m.Fatal(err)
	}
	m.found = map[block.LSN]entry{}
	next := m.super.Checkpoint + 1
	m.log, err = wal.Open(logConfig(m.disk, m.super), func(r wal.Record, p wal.Position) error {
		if r.LSN != next {
			m.Errorf("record %d is replayed where %d follows", r.LSN, next)
		}
		next = r.LSN + 1
		e := entry{r.Type, r.Range, bytes.Clone(r.Payload), p}
		if s, ok := m.sent[r.LSN]; !ok || s.kind != e.kind || s.blocks != e.blocks || !bytes.Equal(s.payload, e.payload) {
			m.Errorf("record %d is not the one that was sent last under this LSN", r.LSN)
		}
		m.found[r.LSN] = e
		return nil
	})
	if err != nil {
		if open := m.disk.OpenHandles(); len(open) > 0 {
			m.Errorf("left open: %v", open)
		}
		return err
	}
	if m.log.Head() != next-1 {
		m.Errorf("head is %d after replay up to %d", m.log.Head(), next-1)
	}
	return nil
}

// open recovers and starts the log. What was sent and is not found is gone for ever.
func (m *machine) open() {
	m.Helper()
	if err := m.recover(); err != nil {
		m.Fatalf("open: %v\n%s", err, m.disk.Trace())
	}
	for lsn := range m.sent {
		if lsn > m.log.Head() {
			delete(m.sent, lsn)
		}
	}
	if err := startLog(m.disk, m.log, &m.super); err != nil {
		m.Fatalf("start: %v\n%s", err, m.disk.Trace())
	}
	m.readRetained()
}

// readRetained reads the log from its tail on, and returns the newest record that it read: what is read is what was sent,
// up to the head, or up to where a crash cut into the recycling of segments behind the checkpoint.
func (m *machine) readRetained() block.LSN {
	m.Helper()
	for from := m.log.Tail(); ; from = m.super.Checkpoint + 1 {
		last, err := m.readFrom(from)
		if err == nil && last == m.log.Head() {
			return last
		}
		if !errors.Is(err, wal.ErrNotRetained) || from > m.super.Checkpoint {
			m.Fatalf("read from record %d to %d of %d: %v\n%s", from, last, m.log.Head(), err, m.disk.Trace())
		}
	}
}

func (m *machine) readFrom(from block.LSN) (last block.LSN, err error) {
	m.Helper()
	r, err := m.log.NewReader(from)
	if err != nil {
		return from - 1, err
	}
	for last = from - 1; last < m.log.Head(); {
		b, first, to, err := r.Read(nil, 1)
		changes, decodeErr := wal.DecodeRecords(b, testBlock)
		if decodeErr != nil || first != last+1 || to != last+block.LSN(len(changes)) {
			m.Fatalf("%d records from %d to %d after %d: %v", len(changes), first, to, last, decodeErr)
		}
		for _, c := range changes {
			if s, ok := m.sent[c.LSN]; !ok || s.kind != c.Type || s.blocks != c.Range || !bytes.Equal(s.payload, c.Payload) {
				m.Errorf("record %d reads as one that was not sent last under this LSN", c.LSN)
			}
		}
		if last = to; err != nil {
			return last, err
		}
	}
	return last, nil
}

// powerCut cuts the power; kill ends the process. Then open.
func (m *machine) powerCut(c disk.Choice) {
	m.disk.SetPlan(nil)
	m.disk.Recover(c)
}

func (m *machine) kill() {
	m.disk.SetPlan(nil)
	m.disk.Kill()
}

func (m *machine) close() {
	m.Helper()
	if err := m.log.Close(); err != nil {
		m.Fatal(err)
	}
}

// stamped returns blocks that no other call returns.
func (m *machine) stamped(blocks int) []byte {
	m.stamps++
	p := make([]byte, blocks*testBlock)
	for i := 0; i < len(p); i += 8 {
		binary.BigEndian.PutUint64(p[i:], m.stamps<<20|uint64(i))
	}
	return p
}

// writes makes one write of each of these numbers of blocks; 0 is a trim.
func (m *machine) writes(blocks ...int) []wal.Change {
	changes := make([]wal.Change, len(blocks))
	for i, n := range blocks {
		m.stamps++
		changes[i] = wal.Change{Type: wal.RecordTrim, Range: block.Range{Start: m.stamps, Count: 3}}
		if n > 0 {
			p := m.stamped(n)
			changes[i] = wal.Change{Type: wal.RecordWrite, Range: block.Range{Start: m.stamps, Count: uint64(n)}, Payload: p}
		}
	}
	return changes
}

// try appends and notes what was appended.
func (m *machine) try(changes []wal.Change) error {
	m.Helper()
	before := m.log.Head()
	err := m.log.Append(changes, 1)
	if errors.Is(err, wal.ErrFull) && m.log.Head() != before {
		m.Errorf("a refused append took %d records", m.log.Head()-before)
	}
	if err != nil && !errors.Is(err, wal.ErrFailed) {
		return err
	}
	for i := range changes {
		c := &changes[i]
		lsn := before + 1 + block.LSN(i)
		if err == nil && c.LSN != lsn {
			m.Errorf("record %d got LSN %d", lsn, c.LSN)
		}
		m.sent[lsn] = entry{c.Type, c.Range, c.Payload, c.Position} // after a failure it may be there
	}
	return err
}

// append appends one frame of writes of so many blocks each, and returns the LSN of its last record.
func (m *machine) append(blocks ...int) block.LSN {
	m.Helper()
	if err := m.try(m.writes(blocks...)); err != nil {
		m.Fatalf("append: %v\n%s", err, m.disk.Trace())
	}
	return m.log.Head()
}

func (m *machine) sync() {
	m.Helper()
	if lsn, err := m.log.Sync(); err != nil || lsn != m.log.Head() {
		m.Fatalf("sync up to %d of %d: %v", lsn, m.log.Head(), err)
	}
}

func (m *machine) mark() {
	m.Helper()
	all := m.log.Durable() == m.log.Head()
	if err := m.log.Mark(); err != nil {
		m.Fatalf("mark: %v", err)
	}
	if all && !m.log.Marked() {
		m.Fatal("not marked after Mark")
	}
}

// checkpoint makes the superblock say that everything up to lsn is in the base image, and reclaims the log.
func (m *machine) checkpoint(lsn block.LSN) {
	m.Helper()
	m.super.Checkpoint, m.super.Durable = lsn, max(m.super.Durable, lsn)
	if err := m.super.write(m.disk); err != nil {
		m.Fatal(err)
	}
	m.log.Reclaim(lsn)
}

func (m *machine) wantHead(want block.LSN) {
	m.Helper()
	if got := m.log.Head(); got != want {
		m.Fatalf("the log ends at %d, want %d\n%s", got, want, m.disk.Trace())
	}
}

// wantReadable checks that every record sent after the checkpoint can be read at its position.
func (m *machine) wantReadable() {
	m.Helper()
	for lsn, e := range m.sent {
		if lsn <= m.super.Checkpoint || lsn > m.log.Head() || e.kind != wal.RecordWrite {
			continue
		}
		if err := readAt(m.log, e); err != nil {
			m.Errorf("record %d: %v", lsn, err)
		}
	}
}

// readAt reads an entry's payload at its position and compares.
func readAt(l *wal.Log, e entry) error {
	s := l.Pin(e.position.Segment)
	defer s.Unpin()
	got := make([]byte, len(e.payload))
	if err := s.ReadAt(got, e.position.Offset); err != nil {
		return err
	}
	if !bytes.Equal(got, e.payload) {
		return fmt.Errorf("at %+v stands something else", e.position)
	}
	return nil
}

// inspect looks at the log that is not open, and returns its frames.
func (m *machine) inspect() (*wal.Inspection, []wal.FrameInfo) {
	m.Helper()
	s, err := readSuper(m.disk)
	if err != nil {
		m.Fatal(err)
	}
	var frames []wal.FrameInfo
	in, err := wal.Inspect(logConfig(m.disk, s), wal.Visitor{Frame: func(f wal.FrameInfo) { frames = append(frames, f) }})
	if err != nil {
		m.Fatalf("inspect: %v", err)
	}
	return in, frames
}

// fork is the machine with its disk as it stands, for trying what would happen.
func (m *machine) fork() *machine {
	f := *m
	f.disk, f.sent, f.log = m.disk.Clone(), map[block.LSN]entry{}, nil
	for lsn, e := range m.sent {
		f.sent[lsn] = e
	}
	return &f
}
