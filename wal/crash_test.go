package wal_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

const shelfBlocks = 64

// place is where the newest content of a block is: in the log, or nowhere because it reads as zeroes.
type place struct {
	kind     wal.RecordType
	position wal.Position
	lsn      block.LSN
}

// mini is the least volume that a log can be tested as: an index of 64 blocks, and a base image that a checkpoint
// writes. It tells the model what it does.
type mini struct {
	*disk.Case
	log    *wal.Log
	super  superblock
	index  map[uint64]place
	failed error // the log takes no more changes
}

// openMini recovers. A superblock that was read from the page cache is made durable before anything relies on it.
func openMini(c *disk.Case) (*mini, error) {
	v := &mini{Case: c, index: map[uint64]place{}}
	var err error
	if v.super, err = readSuper(c.Disk); err != nil {
		return nil, v.ended(err)
	}
	if err := v.super.write(c.Disk); err != nil {
		return nil, v.ended(err)
	}
	next := v.super.Checkpoint + 1
	v.log, err = wal.Open(logConfig(c.Disk, v.super), func(r wal.Record, p wal.Position) error {
		if r.LSN != next {
			return fmt.Errorf("%w: record %d is replayed where %d follows", disk.ErrContradiction, r.LSN, next)
		}
		next++
		v.note([]wal.Change{{Type: r.Type, Range: r.Range, LSN: r.LSN, Position: p}})
		return nil
	})
	if err != nil {
		return nil, v.ended(err)
	}
	v.super.Epoch = v.log.Epoch() + 1
	if err := startLog(c.Disk, v.log, &v.super); err != nil {
		return nil, v.ended(err)
	}
	return v, v.step(v.startEpoch())
}

func (v *mini) startEpoch() error {
	start := func() error {
		_, err := v.log.StartEpoch(v.super.Epoch, uuid.UUID{byte(v.super.Epoch)}, uuid.UUID{15: 1}, 1)
		return err
	}
	err := start()
	if errors.Is(err, wal.ErrFull) {
		if err := v.checkpoint(); err != nil || v.failed != nil {
			return err
		}
		err = start()
	}
	return err
}

// ended is what an error of opening is to the driver: a power cut in whatever disguise, or a contradiction.
func (v *mini) ended(err error) error {
	if v.Disk.Crashed() {
		return disk.ErrCrashed
	}
	if errors.Is(err, wal.ErrFailed) {
		return errors.Join(err, syscall.ENOSPC) // which fault it was does not come through a log that failed
	}
	return err
}

// step takes an error of the log. It returns what ends the history; a log that failed only takes no more changes.
func (v *mini) step(err error) error {
	switch {
	case v.Disk.Crashed():
		return disk.ErrCrashed
	case err == nil, errors.Is(err, wal.ErrFull), errors.Is(err, syscall.ENOSPC):
		return nil
	case errors.Is(err, disk.ErrContradiction):
		return err
	case v.failed == nil:
		v.failed = err
	}
	return nil
}

func (v *mini) note(changes []wal.Change) {
	for _, c := range changes {
		for i := range c.Range.Count {
			p := c.Position
			p.Offset += int64(i) * testBlock
			v.index[c.Range.Start+i] = place{c.Type, p, c.LSN}
		}
	}
}

// apply appends changes at once, all or none.
func (v *mini) apply(changes ...disk.Change) error {
	if v.failed != nil {
		return nil
	}
	var ids []disk.ChangeID
	var records []wal.Change
	for _, c := range changes {
		r := wal.Change{Type: wal.RecordTrim, Range: block.Range{Start: uint64(c.Offset / testBlock), Count: uint64(c.Length / testBlock)}}
		if c.Data != nil {
			r.Type = wal.RecordWrite
			r.Payload = v.Model.Write(c.Offset, c.Length).Data // stamped for the change it is now
			c.Data = r.Payload
		}
		ids = append(ids, v.Model.Begin(c))
		records = append(records, r)
	}
	err := v.log.Append(records, 1)
	for _, id := range ids {
		switch {
		case err == nil:
			v.Model.Acked(id)
		case errors.Is(err, wal.ErrFull):
			v.Model.Rejected(id)
		}
	}
	if err == nil {
		v.note(records)
	}
	return v.step(err)
}

func (v *mini) flush() error {
	if v.failed != nil {
		return nil
	}
	f := v.Model.FlushBegun()
	head := v.log.Head()
	durable, err := v.log.Sync()
	if err == nil {
		v.Model.FlushAcked(f)
		if durable < head || v.log.Durable() != durable {
			return fmt.Errorf("%w: sync up to %d of %d", disk.ErrContradiction, durable, head)
		}
	}
	return v.step(err)
}

// checkpoint moves everything that is durable into the base image: data, sync, superblock, sync, reclaim.
func (v *mini) checkpoint() error {
	if err := v.flush(); err != nil || v.failed != nil {
		return err
	}
	base := v.base()
	for b, p := range v.index {
		data := make([]byte, testBlock)
		if err := v.readPlace(data, p); err != nil {
			return v.ended(err)
		}
		if _, err := base.WriteAt(data, int64(b)*testBlock); err != nil {
			return v.step(err)
		}
	}
	if err := base.Sync(); err != nil {
		return v.step(err)
	}
	next := v.super
	next.Checkpoint, next.Durable = v.log.Durable(), v.log.Durable()
	if err := next.write(v.Disk); err != nil {
		return v.step(err)
	}
	v.super = next
	clear(v.index)
	v.log.Reclaim(next.Checkpoint)
	return nil
}

func (v *mini) base() *disk.Base { return v.Disk.Base("base", shelfBlocks*testBlock) }

func (v *mini) readPlace(p []byte, at place) error {
	clear(p)
	if at.kind != wal.RecordWrite {
		return nil
	}
	s := v.log.Pin(at.position.Segment)
	defer s.Unpin()
	return s.ReadAt(p, at.position.Offset)
}

// read reads as CheckRecovered wants it.
func (v *mini) read(p []byte, off int64) error {
	if _, err := v.base().ReadAt(p, off); err != nil {
		return err
	}
	for b := off / testBlock; b*testBlock < off+int64(len(p)); b++ {
		at, ok := v.index[uint64(b)]
		if !ok {
			continue
		}
		if err := v.readPlace(p[b*testBlock-off:][:testBlock], at); err != nil {
			return err
		}
	}
	return nil
}

func (v *mini) readAll() error {
	p := make([]byte, shelfBlocks*testBlock)
	if err := v.read(p, 0); err != nil {
		return v.ended(err)
	}
	return v.Model.CheckRead(0, p)
}

// checkBudget checks I10.
func (v *mini) checkBudget() error {
	names, err := v.Disk.Dir("log").List()
	if err != nil {
		return v.ended(err)
	}
	if len(names)*testSegment > testBudget {
		return fmt.Errorf("%w: %d files are above the budget", disk.ErrContradiction, len(names))
	}
	return nil
}

func (v *mini) close() error {
	if v.failed != nil {
		if !errors.Is(v.log.Err(), wal.ErrFailed) && v.log.Err() != nil {
			return fmt.Errorf("%w: the log failed with %w", disk.ErrContradiction, v.log.Err())
		}
	}
	return v.ended(v.log.Close())
}

func each(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

func write(at, blocks int64) disk.Change {
	return disk.Change{Offset: at * testBlock, Length: blocks * testBlock, Data: []byte{}}
}

func trim(at, blocks int64) disk.Change {
	return disk.Change{Offset: at * testBlock, Length: blocks * testBlock}
}

func (v *mini) mark() error    { return v.step(v.log.Mark()) }
func (v *mini) prepare() error { return v.step(v.log.Prepare()) }

// next begins another epoch, as a new primary does.
func (v *mini) nextEpoch() error {
	if v.failed != nil {
		return nil
	}
	v.super.Epoch++
	return v.step(v.startEpoch())
}

// random takes steps at random.
func (v *mini) random(steps int) error {
	for range steps {
		n := 1 + v.Rand.Int64N(40)
		at := v.Rand.Int64N(shelfBlocks - n)
		var err error
		switch v.Rand.IntN(16) {
		case 0, 1:
			err = v.flush()
		case 2:
			err = v.mark()
		case 3:
			err = v.prepare()
		case 4:
			if v.Rand.IntN(3) == 0 {
				err = v.checkpoint()
			}
		case 5:
			err = v.apply(trim(at, n))
		case 6, 7:
			err = v.apply(write(at, n), trim(at/2, n), write(at/3, n), write(0, 1))
		case 8:
			if v.Rand.IntN(3) == 0 {
				err = v.nextEpoch()
			}
		case 9:
			err = v.readAll()
		case 10:
			if v.Rand.IntN(4) == 0 {
				v.Disk.SetCapacity(int64(v.Rand.IntN(2)) * (shelfBlocks*testBlock + 8<<10 + 4*testSegment))
			}
		default:
			err = v.apply(write(at, n))
		}
		if err := errors.Join(err, v.checkBudget()); err != nil {
			return err
		}
	}
	return v.readAll()
}

// history has Run as it is given, and a Recover that checks, changes something and flushes.
func history(run func(v *mini) error, again func(v *mini) error) disk.History {
	life := func(work func(v *mini) error) func(*disk.Case) error {
		return func(c *disk.Case) error {
			c.Disk.SetCapacity(0)
			v, err := openMini(c)
			if err != nil {
				return err
			}
			if err := c.Model.CheckRecovered(v.read); err != nil {
				return errors.Join(err, v.ended(nil))
			}
			if err := work(v); err != nil {
				return err
			}
			return v.close()
		}
	}
	return disk.History{
		Model:   disk.ModelConfig{SizeBytes: shelfBlocks * testBlock, BlockSize: testBlock},
		Setup:   func(c *disk.Case) error { return wal.Create(logConfig(c.Disk, superblock{})) },
		Run:     life(run),
		Recover: life(again),
	}
}

// afterwards is the work of a Recover that is short.
func afterwards(v *mini) error {
	return each(
		func() error { return v.apply(write(3, 2), trim(4, 9)) },
		v.readAll,
		v.flush,
		v.mark,
		func() error { return v.apply(write(1, 30)) },
		v.checkBudget,
		v.readAll,
	)
}

// TestCrashAtEveryOperation: I1, I2, I5, L2, L4: whatever operation of these short lives the power cut or kill falls
// on, and whatever survives of what was not synced, recovery finds a prefix that holds all that was flushed.
func TestCrashAtEveryOperation(t *testing.T) {
	for name, run := range map[string]func(v *mini) error{
		"frames": func(v *mini) error {
			return each(
				func() error { return v.apply(write(0, 1)) },
				func() error { return v.apply(write(1, 3), trim(2, 1)) },
				v.flush,
				func() error { return v.apply(write(0, 2)) },
				v.mark,
				func() error { return v.apply(write(5, 1)) },
				func() error { return v.apply(write(6, 1)) },
			)
		},
		"segments": func(v *mini) error {
			for i := range int64(4) {
				if err := each(
					func() error { return v.apply(write(i, 60), write(i, 50)) },
					v.flush,
					v.prepare,
				); err != nil {
					return err
				}
			}
			return v.readAll()
		},
		"laps": func(v *mini) error {
			for i := range int64(2) {
				if err := each(
					func() error { return v.apply(write(i, 50), write(i, 60), write(i+1, 40)) },
					v.checkpoint,
				); err != nil {
					return err
				}
			}
			return v.nextEpoch()
		},
	} {
		t.Run(name, func(t *testing.T) { disk.Exhaustive(t, history(run, afterwards)) })
	}
}

// TestCrashTwiceAtEveryOperation: the same with a second crash at each operation of the recovery.
func TestCrashTwiceAtEveryOperation(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	h := history(func(v *mini) error {
		return each(func() error { return v.apply(write(0, 1)) }, v.flush, func() error { return v.apply(write(1, 60)) })
	}, func(v *mini) error {
		return v.apply(write(2, 1))
	})
	h.Depth = 2
	disk.Exhaustive(t, h)
}

// TestFaultAtEveryOperation: I7, I9, L4: one operation fails; whatever was acknowledged is there after a kill, and
// whatever was flushed after a power cut.
func TestFaultAtEveryOperation(t *testing.T) {
	disk.Faults(t, history(func(v *mini) error { return v.random(25) }, afterwards), syscall.EIO, syscall.ENOSPC)
}

// TestRandomCrashes: long lives of several crashes. LOCKSTEP_SEEDS sets how many lives.
func TestRandomCrashes(t *testing.T) {
	for _, unordered := range []bool{false, true} {
		h := history(func(v *mini) error { return v.random(80) }, func(v *mini) error { return v.random(40) })
		h.Disk.UnorderedDirs = unordered
		h.Seeds = 40
		disk.Random(t, h)
	}
}

// TestTheMiniVolumeIsJudged: the tests above can fail: a volume that forgets to log a trim, or to sync, is found out.
func TestTheMiniVolumeIsJudged(t *testing.T) {
	for name, wrong := range map[string]func(v *mini) error{
		"a trim is forgotten": func(v *mini) error {
			v.Model.Acked(v.Model.Begin(trim(0, 4)))
			return nil
		},
		"a flush is forgotten": func(v *mini) error {
			f := v.Model.FlushBegun()
			v.Model.FlushAcked(f)
			return nil
		},
	} {
		d := disk.New(disk.Config{})
		c := &disk.Case{Disk: d, Model: disk.NewModel(disk.ModelConfig{SizeBytes: shelfBlocks * testBlock, BlockSize: testBlock})}
		if err := wal.Create(logConfig(d, superblock{})); err != nil {
			t.Fatal(err)
		}
		v, err := openMini(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := each(func() error { return v.apply(write(0, 8)) }, func() error { return wrong(v) }); err != nil {
			t.Fatal(err)
		}
		d.Recover(disk.KeepNone())
		c.Model.PowerCut()
		if v, err = openMini(c); err != nil {
			t.Fatal(err)
		}
		err = c.Model.CheckRecovered(v.read)
		if name == "a trim is forgotten" {
			// After the power cut nothing need be there: read it while it runs instead.
			err = errors.Join(v.apply(write(0, 8)), wrong(v), v.readAll())
		}
		if !errors.Is(err, disk.ErrContradiction) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
