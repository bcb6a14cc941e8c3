package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

const storySize = 32 << 10

// story is the life of two copies, in sync, of one volume, either of which may lead, and whose disks lose power.
type story struct {
	*rand.Rand
	disks     [2]*disk.Disk
	volumes   [2]*Volume
	leads     int // the one of them that does
	epoch     block.Epoch
	contents  [][]byte    // after each record of the present lineage, by LSN
	committed block.LSN   // durable on both
	told      []string    // what happened
	flushed   map[int]int // counts what was reached
}

func newStory(seed uint64) (*story, error) {
	s := &story{Rand: rand.New(rand.NewPCG(seed, 3)), contents: [][]byte{make([]byte, storySize)}, flushed: map[int]int{}}
	for i := range s.disks {
		s.disks[i] = disk.New(disk.Config{Seed: seed + uint64(i)})
		segment := int64(testSegmentBytes)
		if s.IntN(2) == 0 {
			segment = 256 << 10
		}
		if err := createCopyOf(s.disks[i], byte(i+1), segment, storySize); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *story) note(format string, args ...any) {
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

func (s *story) primary() *Volume  { return s.volumes[s.leads] }
func (s *story) follower() *Volume { return s.volumes[1-s.leads] }

// Commit is the primary's: it sends all there is, and has it synced.
func (s *story) Commit(_ context.Context, lsn block.LSN) error {
	if err := s.ship(); err != nil {
		return err
	}
	durable, err := s.follower().Sync()
	if err != nil {
		return err
	}
	if durable < lsn {
		return fmt.Errorf("%d of %d are durable", durable, lsn)
	}
	s.committed = max(s.committed, lsn)
	return nil
}

// ship sends all there is. Where the follower's log is full, what is durable on both is committed.
func (s *story) ship() error {
	for {
		err := ship(s.primary(), s.follower(), s.epoch, 1+s.IntN(20000))
		if !errors.Is(err, ErrUncommitted) {
			return err
		}
		s.flushed[0]++
		own, err := s.primary().Sync()
		if err != nil {
			return err
		}
		durable, err := s.follower().Sync()
		if err != nil {
			return err
		}
		s.committed = max(s.committed, min(own, durable))
		if err := s.follower().SetCommitted(s.epoch, s.committed); err != nil {
			return err
		}
	}
}

// config is that of a copy; its other copy is the story's.
func (s *story) config(i int) Config {
	cfg := followConfig(s.disks[i], byte(i+1))
	cfg.Committer = s
	return cfg
}

// fork returns up to where two logs agree.
func fork(a, b Facts) block.LSN {
	lsn := min(a.Head, b.Head)
	for i := 0; i < max(len(a.Lineage), len(b.Lineage)); i++ {
		switch {
		case i >= len(a.Lineage):
			return min(lsn, b.Lineage[i].First-1)
		case i >= len(b.Lineage):
			return min(lsn, a.Lineage[i].First-1)
		case a.Lineage[i] != b.Lineage[i]:
			return min(lsn, a.Lineage[i].First-1, b.Lineage[i].First-1)
		}
	}
	return lsn
}

// begin opens both copies and makes one of them the primary of a new epoch, which takes a longer tail from the other, or can
// not reach it. Then that one follows, with its log cut where it has what the primary has not.
func (s *story) begin() error {
	for i := range s.volumes {
		var err error
		if s.volumes[i], err = OpenFollower(s.config(i)); err != nil {
			return err
		}
	}
	s.leads = s.IntN(2)
	s.epoch++
	p, f := s.primary(), s.follower()
	if err := p.Follow(s.epoch, epochID(s.epoch)); err != nil {
		return err
	}
	at := fork(p.Facts(), f.Facts())
	if f.Facts().Head > at && at == p.Facts().Head && s.IntN(3) > 0 {
		s.flushed[1]++
		if err := ship(f, p, s.epoch, 1); err != nil && !errors.Is(err, ErrUncommitted) {
			return fmt.Errorf("join the longer tail: %w", err)
		}
	}
	head := p.Facts().Head
	s.note("epoch %d: copy %d leads from %d, committed %d", s.epoch, s.leads, head, s.committed)
	if head < s.committed {
		return fmt.Errorf("%w: the primary has %d, and %d were committed", disk.ErrContradiction, head, s.committed)
	}
	if err := s.take(f); err != nil { // what was joined may be news
		return err
	}
	if _, err := p.Lead(s.epoch, epochID(s.epoch)); err != nil {
		if errors.Is(err, ErrUncommitted) {
			s.flushed[2]++
			return s.stop()
		}
		return err
	}
	if err := s.cut(); err != nil {
		return err
	}
	return s.check(p)
}

// take makes contents what the primary's log is up to its head: a new tail is that of the copy it was read from.
func (s *story) take(from *Volume) error {
	head := int(s.primary().log.Head())
	if len(s.contents) > head+1 {
		s.contents = s.contents[:head+1]
	}
	return s.learn()
}

// learn adds what the primary's log has beyond contents.
func (s *story) learn() error {
	r, err := s.primary().log.NewReader(block.LSN(len(s.contents)))
	if err != nil {
		return err
	}
	raw, _, _, err := r.Read(nil, 1<<30)
	if err != nil {
		return err
	}
	changes, err := wal.DecodeRecords(raw, testBlock)
	if err != nil {
		return err
	}
	for i := range changes {
		s.contents = append(s.contents, applied(s.contents[len(s.contents)-1], &changes[i]))
	}
	return nil
}

// cut makes the other copy a follower.
func (s *story) cut() error {
	p, i := s.primary().Facts(), 1-s.leads
	f := s.volumes[i].Facts()
	if at := fork(p, f); f.Head > at {
		s.flushed[3]++
		s.note("copy %d is cut from %d to %d", i, f.Head, at)
		if s.IntN(2) == 0 {
			if err := s.volumes[i].Follow(s.epoch, epochID(s.epoch)); err != nil {
				return err
			}
		}
		if err := s.volumes[i].Close(); err != nil {
			return err
		}
		e, _ := epochOf(p.Lineage, at)
		t := Truncation{Epoch: s.epoch, ID: epochID(s.epoch), To: at, Fork: e}
		if _, err := Truncate(s.config(i), t); err != nil {
			return err // S10, S12, S7: nothing that is cut is in the base image, or was committed
		}
		var err error
		if s.volumes[i], err = OpenFollower(s.config(i)); err != nil {
			return err
		}
	}
	return s.volumes[i].Follow(s.epoch, epochID(s.epoch))
}

// check compares what a copy reads as with the record that it is as of.
func (s *story) check(v *Volume) error {
	if v == s.primary() {
		if err := s.learn(); err != nil {
			return err
		}
	}
	head := v.log.Head()
	got := make([]byte, storySize)
	if err := v.Read(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, s.contents[head]) {
		return fmt.Errorf("%w: it is not as of record %d", disk.ErrContradiction, head)
	}
	if f := v.Facts(); f.BaseHigh > s.committed || f.Committed > s.committed || f.Checkpoint > f.BaseHigh || f.Durable > f.Head {
		return fmt.Errorf("%w: committed %d: %+v", disk.ErrContradiction, s.committed, f)
	}
	return nil
}

// work does something at random.
func (s *story) work() error {
	p, f := s.primary(), s.follower()
	switch s.IntN(10) {
	case 0:
		if err := p.Flush(); err != nil {
			return err
		}
		return f.SetCommitted(s.epoch, s.committed)
	case 1:
		_, err := checkpointNow(f)
		if errors.Is(err, ErrUncommitted) {
			err = nil
		}
		return err
	case 2:
		return p.Checkpoint(context.Background())
	case 3:
		return errors.Join(s.ship(), s.check(f))
	case 4:
		return failure(f.Sync())
	case 5:
		return failure(p.Sync())
	case 6:
		return s.check(p)
	default:
		at := s.Int64N(storySize - 1)
		n := 1 + s.Int64N(min(storySize-at, 20000))
		c := filled(at, n, byte(s.Uint32()))
		if s.IntN(4) == 0 {
			c.Kind, c.Data = Trim, nil
		}
		if err := applyOne(p, c); err != nil {
			return err
		}
		return s.learn()
	}
}

// stop ends both processes, in any way.
func (s *story) stop() error {
	choices := []disk.Choice{disk.KeepNone(), disk.KeepSectors(), disk.KeepAll(), disk.KeepLater(), disk.KeepWrites()}
	for i, d := range s.disks {
		crashed := d.Crashed()
		d.SetPlan(nil)
		switch n := s.IntN(4); {
		case n == 0 && !crashed && s.volumes[i] != nil && s.volumes[i].Err() == nil:
			if err := s.volumes[i].Close(); err != nil {
				return err
			}
			d.Kill()
		case n == 1:
			d.Kill()
		default:
			c := choices[s.IntN(len(choices))]
			s.note("copy %d: %v", i, c)
			d.Recover(c)
		}
		s.volumes[i] = nil
	}
	return nil
}

// chapter is one life of both processes, in the middle of which a disk may fail.
func (s *story) chapter() error {
	if i := s.IntN(3); i < 2 {
		d := s.disks[i]
		d.SetPlan(disk.CrashAt(d.Ops() + 1 + s.IntN(150)))
	}
	err := s.begin()
	for n := s.IntN(90); n > 0 && err == nil && s.volumes[0] != nil; n-- {
		err = s.work()
	}
	if err != nil && (errors.Is(err, disk.ErrContradiction) || !s.disks[0].Crashed() && !s.disks[1].Crashed()) {
		return err
	}
	return s.stop()
}

// TestS13TwoCopiesAndCrashes: two copies in sync, of which either leads next, with power cuts on both sides at any operation:
// what was committed is never lost (I1); what has to be cut never is in a base image, and never was committed (S10, S12, S7); and each is
// always as of one record of the one history (I5). LOCKSTEP_SEEDS sets how many stories.
func TestS13TwoCopiesAndCrashes(t *testing.T) {
	t.Parallel()
	seeds := uint64(60)
	if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	reached := map[int]int{}
	for seed := range seeds {
		s, err := newStory(seed + 1)
		for range 12 {
			if err == nil {
				err = s.chapter()
			}
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%v\n%s\n%s", seed+1, err, s.told, s.disks[0].Trace(), s.disks[1].Trace())
		}
		for k, n := range s.flushed {
			reached[k] += n
		}
	}
	t.Logf("full logs %d, tails joined %d, no room to lead %d, cuts %d", reached[0], reached[1], reached[2], reached[3])
	if reached[1] == 0 || reached[3] == 0 {
		t.Error("nothing was joined, or cut")
	}
}
