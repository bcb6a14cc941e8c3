package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// epochID is the ID of an epoch in tests.
func epochID(e block.Epoch) uuid.UUID {
	return uuid.UUID(binary.BigEndian.AppendUint64([]byte("epoch ID"), uint64(e)))
}

// followConfig is that of a copy of the pair, which its nodes' numbers tell apart; a follower's reads are answered.
func followConfig(d *disk.Disk, node byte) Config {
	cfg := testConfig(d)
	cfg.NodeID = uuid.UUID{15: node}
	made := cfg.NewID
	cfg.NewID = func() uuid.UUID {
		id := made()
		id[0] = node
		return id
	}
	cfg.ReadFollower = true
	return cfg
}

// createCopy makes a copy of one volume, with a log of four segments of that size.
func createCopy(d *disk.Disk, node byte, segmentBytes int64) error {
	return createCopyOf(d, node, segmentBytes, testSize)
}

func createCopyOf(d *disk.Disk, node byte, segmentBytes, sizeBytes int64) error {
	g := Geometry{ID: uuid.UUID{1}, SizeBytes: sizeBytes, BlockSize: testBlock, LogBudgetBytes: 4 * segmentBytes}
	return create(followConfig(d, node), g, segmentBytes)
}

// pair is a primary and a follower of it, on disks of their own.
type pair struct {
	testing.TB
	pd, fd *disk.Disk
	p, f   *Volume
	epoch  block.Epoch
}

// newPair makes both copies, with logs of segments of so many bytes, and has one follow the other in epoch 1.
func newPair(t testing.TB, primarySegments, followerSegments int64) *pair {
	t.Helper()
	x := &pair{TB: t, pd: disk.New(disk.Config{}), fd: disk.New(disk.Config{}), epoch: 1}
	x.must(createCopy(x.pd, 1, primarySegments), createCopy(x.fd, 2, followerSegments))
	x.p = x.open(x.pd, 1)
	x.lead(x.p)
	x.f = x.open(x.fd, 2)
	x.must(x.f.Follow(x.epoch, epochID(x.epoch)))
	return x
}

func (x *pair) must(errs ...error) {
	x.Helper()
	if err := errors.Join(errs...); err != nil {
		x.Fatal(err)
	}
}

func (x *pair) open(d *disk.Disk, node byte) *Volume {
	x.Helper()
	v, err := OpenFollower(followConfig(d, node))
	x.must(err)
	return v
}

func (x *pair) lead(v *Volume) block.EpochStart {
	x.Helper()
	e, err := v.Lead(x.epoch, epochID(x.epoch))
	x.must(err)
	return e
}

// write writes count blocks that hold b, each, at the primary.
func (x *pair) write(at, count int64, b byte) {
	x.Helper()
	mustApply(x, x.p, filled(at*testBlock, count*testBlock, b))
}

// ship sends all that the follower lacks.
func (x *pair) ship() {
	x.Helper()
	x.must(ship(x.p, x.f, x.epoch, 1<<30))
}

// ship joins f's log to p's and sends what it lacks, about atLeast bytes at a time.
func ship(p, f *Volume, epoch block.Epoch, atLeast int) error {
	head := f.Facts().Head
	if err := join(p, f, epoch, head); err != nil {
		return err
	}
	return send(p, f, epoch, head+1, atLeast)
}

// join tells f what p's log has at a record.
func join(p, f *Volume, epoch block.Epoch, at block.LSN) error {
	r, err := p.log.NewReader(at + 1)
	if err != nil {
		return err
	}
	e, _ := epochOf(p.Facts().Lineage, at)
	return f.Join(epoch, at, e.ID, r.Before())
}

// send has f receive p's records from one on.
func send(p, f *Volume, epoch block.Epoch, from block.LSN, atLeast int) error {
	r, err := p.log.NewReader(from)
	if err != nil {
		return err
	}
	for last := from - 1; last < p.log.Head(); {
		var raw []byte
		if raw, _, last, err = r.Read(nil, atLeast); err != nil {
			return err
		}
		applied, err := f.Receive(epoch, raw)
		if err != nil {
			return err
		}
		if applied != last {
			return fmt.Errorf("applied %d of %d", applied, last)
		}
	}
	return nil
}

// records returns the bytes of the records from one on.
func records(t testing.TB, v *Volume, from block.LSN) []byte {
	t.Helper()
	r, err := v.log.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	b, _, last, err := r.Read(nil, 1<<30)
	if err != nil || last != v.log.Head() {
		t.Fatalf("read up to %d of %d: %v", last, v.log.Head(), err)
	}
	return b
}

// same compares what the copies read as, and their lineages.
func (x *pair) same() {
	x.Helper()
	if a, b := mustRead(x, x.p, 0, x.p.Size()), mustRead(x, x.f, 0, x.f.Size()); !bytes.Equal(a, b) {
		x.Fatal("the copies read differently")
	}
	if a, b := x.p.Facts(), x.f.Facts(); a.Head != b.Head || fmt.Sprint(a.Lineage) != fmt.Sprint(b.Lineage) {
		x.Fatalf("%+v\n%+v", a, b)
	}
}

// commitAll makes all durable on both and tells the follower that it is committed.
func (x *pair) commitAll() {
	x.Helper()
	x.must(x.p.Flush())
	durable, err := x.f.Sync()
	x.must(err, x.f.SetCommitted(x.epoch, durable))
}

func (x *pair) close() {
	x.Helper()
	x.must(x.p.Close(), x.f.Close())
}

// reopenFollower ends the follower's process, and opens it again.
func (x *pair) reopenFollower(end func(*disk.Disk)) {
	x.Helper()
	end(x.fd)
	x.f = x.open(x.fd, 2)
}

// fill writes at random at the primary, in n changes.
func (x *pair) fill(n int, seed uint64) {
	x.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	blocks := x.p.Size() / testBlock
	for i := range n {
		count := 1 + r.Int64N(20)
		at := r.Int64N(blocks - count)
		switch r.IntN(6) {
		case 0:
			mustApply(x, x.p, Change{Kind: Trim, Offset: at * testBlock, Length: count * testBlock})
		case 1:
			mustApply(x, x.p, filled(at*testBlock+100, 300, byte(i+1)))
		default:
			x.write(at, count, byte(i+1))
		}
	}
}

// checkpointNow tries a checkpoint without waiting for anybody.
func checkpointNow(v *Volume) (bool, error) {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	return v.checkpointLocked(context.Background())
}

// failure returns the error of a call that returns something beside it.
func failure[T any](_ T, err error) error { return err }

// applied is what a volume of that content holds after a record.
func applied(content []byte, c *wal.Change) []byte {
	content = bytes.Clone(content)
	part := content[c.Range.Start*testBlock : c.Range.End()*testBlock]
	switch c.Type {
	case wal.RecordWrite:
		copy(part, c.Payload)
	case wal.RecordZero, wal.RecordTrim:
		clear(part)
	}
	return content
}

// contents are what a volume holds after each record, from none on; raw are all its records.
func contents(t testing.TB, raw []byte, sizeBytes int64) [][]byte {
	t.Helper()
	changes, err := wal.DecodeRecords(raw, testBlock)
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{make([]byte, sizeBytes)}
	for i := range changes {
		all = append(all, applied(all[i], &changes[i]))
	}
	return all
}
