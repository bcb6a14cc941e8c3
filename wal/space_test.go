package wal_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// logFiles returns how many segment files there are, and fails where these or what they take are above the budget.
func (m *machine) logFiles() int {
	m.Helper()
	names, err := m.disk.Dir("log").List()
	if err != nil {
		m.Fatal(err)
	}
	if n := int64(len(names)); n*testSegment > testBudget || m.disk.Used()-4096 > testBudget {
		m.Fatalf("%d files, %d bytes, above the budget of %d: %v", n, m.disk.Used(), testBudget, names)
	}
	return len(names)
}

// fillUp appends frames of so many blocks until there is no room, and returns how many it were.
func (m *machine) fillUp(blocks int) (appended int) {
	m.Helper()
	for ; ; appended++ {
		err := m.try(m.writes(blocks))
		if errors.Is(err, wal.ErrFull) {
			return appended
		}
		if err != nil {
			m.Fatal(err)
		}
		m.logFiles()
		if appended > 10000 {
			m.Fatal("the log is never full")
		}
	}
}

// TestI10BudgetIsNeverExceeded: I9, I10: segments made ahead included, the log takes no more than its budget. When it
// is full that is ErrFull and nothing is lost; it goes on when Reclaim has made room.
func TestI10BudgetIsNeverExceeded(t *testing.T) {
	for _, prepare := range []bool{false, true} {
		m := newMachine(t, disk.Config{})
		for lap := range 3 {
			if prepare {
				for range 10 {
					if err := m.log.Prepare(); err != nil {
						t.Fatal(err)
					}
					m.logFiles()
				}
			}
			if n := m.fillUp(20); n < 4*testSegment/(21*512) {
				t.Fatalf("lap %d: full after %d appends", lap, n)
			}
			if u := m.log.Usage(); u.UsedBytes > u.BudgetBytes || u.UsedBytes < u.BudgetBytes/2 || u.Segments != m.logFiles() {
				t.Errorf("a full log has usage %+v", u)
			}
			if n := m.logFiles(); n < testBudget/testSegment-1 {
				t.Errorf("full with %d segments", n)
			}
			m.sync()
			m.mark()
			m.wantReadable()
			m.checkpoint(m.log.Head())
			if u := m.log.Usage(); u.UsedBytes > u.BudgetBytes/4 {
				t.Errorf("an empty log has usage %+v", u)
			}
			if lap == 1 {
				m.close()
				m.open()
			}
		}
	}
}

// TestI9NoSpaceForSegments: I9: where the file system has no room for another segment the log makes do with what it
// has, does not fail, and grows again when there is room.
func TestI9NoSpaceForSegments(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.disk.SetCapacity(3*testSegment + 8<<10)
	m.fillUp(20)
	full := m.log.Head()
	if n := m.logFiles(); n > 3 {
		t.Fatalf("%d segments where there is room for three", n)
	}
	if err := m.log.Prepare(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("prepare without room: %v", err)
	}
	if err := m.log.Err(); err != nil {
		t.Fatalf("the log failed: %v", err)
	}
	m.sync()
	for range 3 { // laps through what there is
		m.checkpoint(m.log.Head())
		if n := m.fillUp(20); n == 0 {
			t.Fatal("no room after reclaim")
		}
		m.sync()
		m.wantReadable()
	}
	small := m.log.Usage()
	m.powerCut(disk.KeepNone())
	m.open()
	if m.log.Head() <= full {
		t.Fatalf("the log ends at %d", m.log.Head())
	}
	m.fillUp(20)
	m.disk.SetCapacity(0)
	if err := m.log.Prepare(); err != nil {
		t.Fatalf("prepare with room: %v", err)
	}
	if n := m.fillUp(20); n == 0 {
		t.Error("no room though the file system has some again")
	}
	if u := m.log.Usage(); u.BudgetBytes != testBudget/testSegment*(testSegment-4096) || u.Segments <= small.Segments {
		t.Errorf("usage is %+v, it was %+v without room", u, small)
	}
	m.sync()
	m.wantReadable()
	m.close()
}

// TestI10FailedSegmentsTakeNothing: I10: a segment that could not be made, whatever step failed, leaves no file behind
// that the budget does not know of.
func TestI10FailedSegmentsTakeNothing(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(1)
	for fails := 1; ; fails++ {
		at := m.disk.Ops() + fails
		m.disk.SetPlan(disk.FailAt(at, syscall.EIO))
		err := m.log.Prepare()
		m.disk.SetPlan(nil)
		if err == nil {
			if fails < 6 {
				t.Fatalf("a segment was made with %d operations", fails-1)
			}
			break
		}
		if !errors.Is(err, syscall.EIO) || m.log.Err() != nil {
			t.Fatalf("prepare with a failing operation %d: %v; the log: %v", fails, err, m.log.Err())
		}
		if n := m.logFiles(); n != 1 {
			t.Fatalf("operation %d failed and left %d files\n%s", fails, n, m.disk.Trace())
		}
	}
	m.fillUp(20)
}

// TestL11ReserveForTrims: L11: when data are refused, trims and zeroes are still taken; when these are, marks and an
// epoch start are, so that every log can be made durable, opened, and emptied by a checkpoint.
func TestL11ReserveForTrims(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.fillUp(1)
	if err := m.try(append(m.writes(0), m.writes(1)...)); !errors.Is(err, wal.ErrFull) {
		t.Errorf("trim and data in one append: %v", err)
	}
	trims := 0
	for ; ; trims++ {
		if err := m.try(m.writes(0)); errors.Is(err, wal.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if trims == 0 {
		t.Error("no trim after data were refused")
	}
	if err := m.log.Prepare(); err != nil {
		t.Error(err)
	}
	m.logFiles()
	for range 20 { // opened, flushed and closed again and again, without a checkpoint
		m.sync()
		m.mark()
		m.close()
		m.open()
		m.startEpoch()
		m.sync()
		m.mark()
	}
	m.checkpoint(m.log.Head())
	m.append(1)
	m.logFiles()
}

// startEpoch begins the next epoch.
func (m *machine) startEpoch() {
	m.Helper()
	before := m.log.Head()
	id := uuid.UUID{0: byte(m.log.Epoch()), 15: 9}
	e, err := m.log.StartEpoch(m.log.Epoch()+1, id, uuid.UUID{15: 8}, 1)
	if err != nil {
		m.Fatalf("start epoch: %v", err)
	}
	if e.First != before+1 || e.ID != id || e.Primary != (uuid.UUID{15: 8}) || e.Epoch != m.log.Epoch() {
		m.Errorf("lineage entry %+v after LSN %d", e, before)
	}
	m.sent[e.First] = entry{kind: wal.RecordEpochStart, payload: append(e.ID[:], e.Primary[:]...)}
}

// TestEpochAfterFull: an epoch that found no room is started again once there is some, and nothing was appended under
// it before.
func TestEpochAfterFull(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.startEpoch()
	m.fillUp(20)
	epoch := m.log.Epoch()
	for {
		e, err := m.log.StartEpoch(m.log.Epoch()+1, uuid.UUID{1}, uuid.UUID{2}, 1)
		if errors.Is(err, wal.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m.sent[e.First] = entry{kind: wal.RecordEpochStart, payload: append(e.ID[:], e.Primary[:]...)}
		epoch = e.Epoch
	}
	if got := m.log.Epoch(); got != epoch {
		t.Errorf("the epoch is %d after %d was refused", got, epoch+1)
	}
	m.sync()
	m.checkpoint(m.log.Head())
	if _, err := m.log.StartEpoch(epoch, uuid.UUID{1}, uuid.UUID{2}, 1); err == nil {
		t.Error("an epoch began twice")
	}
	m.startEpoch()
	if got := m.log.Epoch(); got != epoch+1 {
		t.Errorf("the epoch is %d, want %d", got, epoch+1)
	}
}

// TestL11NoAppendCrossesASegment: L11: every frame lies within its segment, a record that fits no more begins the next
// one, and many records in one append are spread over frames and segments with all their LSNs and positions.
func TestL11NoAppendCrossesASegment(t *testing.T) {
	m := newMachine(t, disk.Config{})
	m.append(130) // the most that a segment of this size holds is 136 - 1 blocks
	m.append(100, 30, 30, 0, 3, 100)
	m.append(4)
	m.append(135)
	m.wantReadable()
	m.sync()
	m.close()
	in, frames := m.inspect()
	if len(in.Segments) < 4 {
		t.Errorf("%d segments", len(in.Segments))
	}
	var next block.LSN = 1
	for _, f := range frames {
		if f.Offset < 4096 || f.Offset+f.Bytes > testSegment || f.First != next {
			t.Errorf("frame %+v where record %d follows", f, next)
		}
		next += block.LSN(f.Records)
	}
	m.open()
	m.wantHead(next - 1)
	m.wantReadable()
}

// TestL11LargestRecord: a payload of 1 MiB fits in the smallest segments that a volume uses, and one block more is the
// caller's error.
func TestL11LargestRecord(t *testing.T) {
	d := disk.New(disk.Config{})
	cfg := logConfig(d, superblock{})
	cfg.SegmentBytes, cfg.BudgetBytes = wal.MinSegmentBytes, wal.MinSegments*wal.MinSegmentBytes
	if err := wal.Create(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{TB: t, disk: d, log: l, sent: map[block.LSN]entry{}}
	if err := startLog(d, l, &m.super); err != nil {
		t.Fatal(err)
	}
	const most = wal.MaxPayloadBytes / testBlock
	m.append(most, most, most, 1)
	m.wantReadable()
	defer func() {
		if recover() == nil {
			t.Error("a payload above the limit was taken")
		}
	}()
	_ = m.log.Append(m.writes(most+1), 1)
}

const gatedEpochs = 94

// gatedDir is a directory whose next rename, and whose files' next sync, can be held up.
type gatedDir struct {
	wal.FS
	gate     func() error // of the next rename; nil lets it pass
	syncGate func()       // called before the next sync of a file that was there
}

// gatedFile is a file of a gatedDir.
type gatedFile struct {
	wal.File
	dir *gatedDir
}

func (d *gatedDir) Open(name string) (wal.File, error) {
	f, err := d.FS.Open(name)
	return &gatedFile{f, d}, err
}

func (f *gatedFile) Sync() error {
	if gate := f.dir.syncGate; gate != nil {
		f.dir.syncGate = nil
		gate()
	}
	return f.File.Sync()
}

func (d *gatedDir) Rename(oldName, newName string) error {
	if gate := d.gate; gate != nil {
		d.gate = nil
		if err := gate(); err != nil {
			return err
		}
	}
	return d.FS.Rename(oldName, newName)
}

// newGatedMachine has a log whose directory can be held up. Of its budget of six segments it has four, and the last has
// 15 KiB left: the next append of data needs both others, so it has to wait for a segment that Prepare is making. The
// last one is full of epoch starts, because these want no other segment at hand.
func newGatedMachine(t testing.TB) (*machine, *gatedDir) {
	t.Helper()
	m := newMachine(t, disk.Config{})
	m.append(20)
	m.append(130)
	m.append(130)
	m.append(10)
	for range gatedEpochs {
		m.startEpoch()
	}
	if n := m.logFiles(); n != testBudget/testSegment-2 {
		t.Fatalf("%d segments", n)
	}
	m.super.Epoch = gatedEpochs
	m.close()
	dir := &gatedDir{FS: m.disk.Dir("log")}
	cfg := logConfig(m.disk, m.super)
	cfg.FS = dir
	var err error
	if m.log, err = wal.Open(cfg, nil); err != nil {
		t.Fatal(err)
	}
	if err := startLog(m.disk, m.log, &m.super); err != nil {
		t.Fatal(err)
	}
	return m, dir
}

// appendBehindPrepare lets an append wait for the segment that Prepare is making, does what the test wants meanwhile,
// and lets both go on. It returns the append's error.
func (m *machine) appendBehindPrepare(dir *gatedDir, meanwhile func(), outcome error, changes []wal.Change) error {
	m.Helper()
	release, held := make(chan struct{}), make(chan struct{})
	dir.gate = func() error {
		close(held)
		<-release
		return outcome
	}
	prepared, appended := make(chan error, 1), make(chan error, 1)
	go func() { prepared <- m.log.Prepare() }()
	<-held
	go func() { appended <- m.log.Append(changes, 1) }()
	synctest.Wait()
	meanwhile()
	close(release)
	if err := <-prepared; !errors.Is(err, outcome) {
		m.Errorf("prepare: %v", err)
	}
	return <-appended
}

// TestI10AppendThatWaitedForPrepare: an append that waited for a segment being made looks at everything again: others
// may have appended, taken the segment, or closed the log, and it may have failed.
func TestI10AppendThatWaitedForPrepare(t *testing.T) {
	none := func(*machine) {}
	for name, c := range map[string]struct {
		meanwhile func(m *machine)
		outcome   error // of making the segment
		want      error
		more      block.LSN // records after
	}{
		"goes on": {none, nil, nil, 2},
		"others came between": {func(m *machine) {
			for range 20 { // epoch starts do not wait for a segment, and these leave no room for 20 blocks
				m.startEpoch()
			}
		}, nil, wal.ErrFull, 20}, // it would go on to two segments now, and leave none
		"no room": {none, syscall.ENOSPC, wal.ErrFull, 0},
		"closed":  {func(m *machine) { m.close() }, nil, wal.ErrClosed, 0},
		"failed": {func(m *machine) {
			m.startEpoch()
			m.disk.SetPlan(disk.FailAt(m.disk.Ops()+1, syscall.EIO))
			if _, err := m.log.Sync(); !errors.Is(err, wal.ErrFailed) {
				m.Fatal(err)
			}
		}, nil, wal.ErrFailed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, dir := newGatedMachine(t)
				before := m.log.Head()
				changes := m.writes(20, 130) // 20 blocks fit in the segment, with nothing between
				if err := m.appendBehindPrepare(dir, func() { c.meanwhile(m) }, c.outcome, changes); !errors.Is(err, c.want) {
					t.Errorf("append: %v, want %v", err, c.want)
				}
				m.wantHead(before + c.more)
				if c.want == wal.ErrClosed {
					if open := m.disk.OpenHandles(); len(open) > 0 {
						t.Errorf("left open: %v", open)
					}
					return
				}
				m.logFiles()
			})
		})
	}
}

// TestI10BudgetBehindPrepare: appends that wait for the last segment of the budget do not all get one: all or nothing
// is taken of each, and no file is made beyond the budget.
func TestI10BudgetBehindPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, dir := newGatedMachine(t)
		before := m.log.Head()
		release, held := make(chan struct{}), make(chan struct{})
		dir.gate = func() error {
			close(held)
			<-release
			return nil
		}
		go m.log.Prepare()
		<-held
		errs := make(chan error, 4)
		for range 4 {
			changes := m.writes(130)
			go func() { errs <- m.log.Append(changes, 1) }()
		}
		synctest.Wait()
		close(release)
		taken := 0
		for range 4 {
			if err := <-errs; err == nil {
				taken++
			} else if !errors.Is(err, wal.ErrFull) {
				t.Errorf("append: %v", err)
			}
		}
		if taken != 1 || m.log.Head() != before+1 {
			t.Errorf("%d appends succeeded, head %d after %d; there is room for one, and for the reserve", taken, m.log.Head(), before)
		}
		m.logFiles()
	})
}

// TestI10MarkBehindPrepare: a mark that needs the last segment of the budget waits for it, and makes none of its own.
func TestI10MarkBehindPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, dir := newGatedMachine(t)
		for range 15872/512 + (testSegment-4096)/512 { // the rest of this segment, and all of the next
			m.startEpoch()
		}
		m.sync()
		release, held := make(chan struct{}), make(chan struct{})
		dir.gate = func() error {
			close(held)
			<-release
			return nil
		}
		prepared, marked := make(chan error, 1), make(chan error, 1)
		go func() { prepared <- m.log.Prepare() }()
		<-held
		go func() { marked <- m.log.Mark() }()
		synctest.Wait()
		close(release)
		if err := errors.Join(<-prepared, <-marked); err != nil {
			t.Error(err)
		}
		if n := m.logFiles(); n != testBudget/testSegment || !m.log.Marked() {
			t.Errorf("%d files, marked %v", n, m.log.Marked())
		}
	})
}

// TestL12SegmentsAreMadeInOrder: L12: temporary name, contents, sync, rename, sync of the directory; so a segment's
// name is durable before any flush can rely on it.
func TestL12SegmentsAreMadeInOrder(t *testing.T) {
	m := newMachine(t, disk.Config{})
	var steps []string
	m.disk.SetPlan(func(op disk.Op) error {
		s := op.Kind.String()
		if len(steps) == 0 || steps[len(steps)-1] != s {
			steps = append(steps, s)
		}
		if !strings.HasSuffix(op.File, ".tmp") && op.Kind != disk.OpSyncDir {
			t.Errorf("%v before the file has its name", op)
		}
		if op.Kind == disk.OpRename && !strings.HasSuffix(op.NewName, ".seg") {
			t.Errorf("%v", op)
		}
		return nil
	})
	if err := m.log.Prepare(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(steps, ", "); got != "create, allocate, write, sync, rename, sync dir" {
		t.Errorf("a segment is made by: %s", got)
	}
	m.disk.SetPlan(nil)
	m.powerCut(disk.KeepNone())
	m.open()
	if n := m.logFiles(); n != 2 {
		t.Errorf("%d files after a segment was made", n)
	}
}

// TestL12LeftoversOfCreationAreRemoved: L12: whatever step a crash falls on, the next open leaves only segments, takes
// them all into account, and can make more.
func TestL12LeftoversOfCreationAreRemoved(t *testing.T) {
	before := newMachine(t, disk.Config{})
	before.append(1)
	before.sync()
	for step := 1; ; step++ {
		seen := false
		for _, kill := range []bool{true, false} {
			m := before.fork()
			if err := m.recover(); err != nil {
				t.Fatal(err)
			}
			if err := startLog(m.disk, m.log, &m.super); err != nil {
				t.Fatal(err)
			}
			m.disk.SetPlan(disk.CrashAt(m.disk.Ops() + step))
			_ = m.log.Prepare()
			seen = seen || m.disk.Crashed()
			if kill {
				m.kill()
			} else {
				m.powerCut(disk.KeepAll())
			}
			m.open()
			names, err := m.disk.Dir("log").List()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if !strings.HasSuffix(name, ".seg") {
					t.Errorf("a crash at step %d left %s", step, name)
				}
			}
			if n := m.log.Usage().Segments; n != len(names) {
				t.Errorf("%d segments, files %v", n, names)
			}
			m.fillUp(30)
			m.wantReadable()
			m.close()
		}
		if !seen {
			if step < 6 {
				t.Fatalf("a segment was made with %d operations", step-1)
			}
			return
		}
	}
}
