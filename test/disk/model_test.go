package disk_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lockstep/test/disk"
)

// image is a volume's content that a test moves by hand.
type image struct {
	t     testing.TB
	model *disk.Model
	data  []byte
}

func newImage(t testing.TB, cfg disk.ModelConfig) *image {
	return &image{t: t, model: disk.NewModel(cfg), data: make([]byte, cfg.SizeBytes)}
}

// eightBlocks is an image of 8 blocks of one sector, with records of up to 2 blocks.
func eightBlocks(t testing.TB) *image {
	return newImage(t, disk.ModelConfig{SizeBytes: 8 * sector, BlockSize: sector, RecordBytes: 2 * sector})
}

// write begins and acknowledges a write of whole blocks. It does not change the image.
func (m *image) write(block, count int64) disk.Change {
	c, id := m.begin(block, count)
	m.model.Acked(id)
	return c
}

func (m *image) begin(block, count int64) (disk.Change, disk.ChangeID) {
	c := m.model.Write(block*sector, count*sector)
	return c, m.model.Begin(c)
}

func (m *image) flush() { m.model.FlushAcked(m.model.FlushBegun()) }

// put makes changes visible in the image, in the order given.
func (m *image) put(changes ...disk.Change) {
	for _, c := range changes {
		part := m.data[c.Offset : c.Offset+c.Length]
		clear(part)
		copy(part, c.Data)
	}
}

// head returns the first blocks of a change.
func head(c disk.Change, blocks int64) disk.Change {
	c.Length = blocks * sector
	c.Data = c.Data[:c.Length]
	return c
}

func (m *image) read(p []byte, off int64) error {
	copy(p, m.data[off:])
	return nil
}

// recovered checks the image as after a restart.
func (m *image) recovered() error { return m.model.CheckRecovered(m.read) }

func (m *image) afterPowerCut() error {
	m.model.PowerCut()
	return m.recovered()
}

// wantRefused wants a contradiction that says each of the words.
func wantRefused(t testing.TB, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, disk.ErrContradiction) {
		t.Fatalf("got %v, want a contradiction", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestModelTakesEveryPrefix(t *testing.T) {
	for end := range 5 {
		m := eightBlocks(t)
		long := m.write(2, 5) // three records
		all := []disk.Change{head(long, 2), head(long, 4), long, m.write(3, 1)}
		m.put(all[:end]...)
		must(t, m.afterPowerCut())
	}
}

func TestModelRefusesHalfARecord(t *testing.T) {
	m := eightBlocks(t)
	m.put(head(m.write(2, 5), 3))
	wantRefused(t, m.afterPowerCut(), "blocks 4 and 5", "not a prefix", "change 1")
}

func TestModelRefusesLostFlushedWrite(t *testing.T) {
	m := eightBlocks(t)
	one := m.write(0, 1)
	two := m.write(1, 1)
	m.flush()
	three := m.write(2, 1)
	m.put(one)
	wantRefused(t, m.afterPowerCut(), "block 1", "lost", "last flushed")
	m.put(two)
	must(t, m.afterPowerCut()) // the refusal changed nothing
	m.put(three)
	wantRefused(t, m.recovered(), "block 2", "change 3", "come back")
}

func TestModelRefusesLostFUA(t *testing.T) {
	m := eightBlocks(t)
	one := m.write(0, 1)
	c := m.model.Write(sector, sector)
	c.FUA = true
	m.model.Acked(m.model.Begin(c))
	m.put(c)
	wantRefused(t, m.afterPowerCut(), "block 0", "lost")
	m.put(one)
	must(t, m.recovered())
}

func TestModelFlushCoversWhatWasAckedBeforeIt(t *testing.T) {
	m := eightBlocks(t)
	one, id := m.begin(0, 1)
	f := m.model.FlushBegun()
	m.model.Acked(id)
	m.model.FlushAcked(f)
	must(t, m.afterPowerCut()) // acknowledged only after the flush began
	m.put(one)
	wantRefused(t, m.recovered(), "come back")
}

func TestModelRefusesLossAtKill(t *testing.T) {
	m := eightBlocks(t)
	one := m.write(0, 1)
	unacked, _ := m.begin(1, 1)
	fork := m.model.Clone()
	wantRefused(t, m.recovered(), "lost", "last acknowledged")
	m.put(one)
	must(t, m.recovered())
	m.put(unacked)
	must(t, fork.CheckRecovered(m.read)) // or it may be there
}

func TestModelRefusesGapAndReorder(t *testing.T) {
	m := eightBlocks(t)
	m.write(0, 1)
	m.put(m.write(1, 1))
	wantRefused(t, m.afterPowerCut(), "blocks 0 and 1", "not a prefix", "change 2")

	m = eightBlocks(t)
	first, second := m.write(0, 2), m.write(1, 2)
	m.put(second, first)
	wantRefused(t, m.afterPowerCut(), "blocks 1 and 2", "not a prefix")
}

func TestModelFindsTheEndAmongEqualContents(t *testing.T) {
	// Block 0 is zero at 0 and 2..3, block 1 is at 3: together only 3 explains them.
	for name, tc := range map[string]struct {
		zero bool // block 0 as after its trim
		ok   bool
	}{"with the trim": {true, true}, "without": {false, false}} {
		t.Run(name, func(t *testing.T) {
			m := eightBlocks(t)
			one := m.write(0, 1)
			trim := disk.Change{Length: sector}
			m.model.Acked(m.model.Begin(trim))
			m.put(one, m.write(1, 1))
			if tc.zero {
				m.put(trim)
			}
			if err := m.afterPowerCut(); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestModelRefusesEndsThatOnlyPairwiseAgree(t *testing.T) {
	m := eightBlocks(t)
	trim := func(block int64) {
		m.model.Acked(m.model.Begin(disk.Change{Offset: block * sector, Length: sector}))
	}
	m.write(2, 1)
	a := m.write(0, 1)
	m.write(1, 1)
	trim(2)
	m.write(2, 1)
	trim(1)
	trim(0)
	// Block 0 has data from 2 to 6, block 1 is zero to 2 and from 6 on, block 2 is zero at 0 and 4.
	m.put(a)
	wantRefused(t, m.afterPowerCut(), "no end of it explains them together")
}

func TestModelRefusesTornBlock(t *testing.T) {
	m := newImage(t, disk.ModelConfig{SizeBytes: 8 << 12})
	one := m.model.Write(0, 4096)
	m.model.Acked(m.model.Begin(one))
	copy(m.data, one.Data[:2048])
	wantRefused(t, m.afterPowerCut(), "block 0", "no change left there", "stamp of change 1 for sector 0")
}

func TestModelChainsCrashes(t *testing.T) {
	m := eightBlocks(t)
	one, two := m.write(0, 1), m.write(1, 1)
	m.put(one)
	must(t, m.afterPowerCut())
	three := m.write(2, 1)
	m.put(two, three)
	fork := m.model.Clone()
	fork.PowerCut()
	wantRefused(t, fork.CheckRecovered(m.read), "block 1", "change 2", "come back")
	clear(m.data)
	wantRefused(t, m.afterPowerCut(), "block 0", "zeroes") // change 1 was found, so it is durable
	m.put(one, three)
	must(t, m.recovered())
}

func TestModelReads(t *testing.T) {
	m := eightBlocks(t)
	check := func() error { return m.model.CheckRead(0, m.data) }
	must(t, check())
	one, id := m.begin(0, 2)
	must(t, check()) // not acknowledged: old
	m.put(one)
	must(t, check()) // or new
	m.model.Acked(id)
	must(t, check())
	m.put(disk.Change{Length: sector})
	wantRefused(t, check(), "block 0", "found what the last recovery found", "expected data of change 1")
	m.put(one)

	trim := disk.Change{Offset: 100, Length: sector}
	m.model.Acked(m.model.Begin(trim))
	wantRefused(t, check(), "block 0", "expected zeroes of change 2")
	m.put(trim)
	must(t, check())
	must(t, m.model.CheckRead(90, m.data[90:700]))
	wantRefused(t, m.model.CheckRead(90, m.data[91:701]), "block 0 from byte 90")
}

func TestModelCloneGoesItsOwnWay(t *testing.T) {
	m := eightBlocks(t)
	_, id := m.begin(0, 1)
	fork := m.model.Clone()
	m.model.Acked(id)
	must(t, fork.CheckRead(0, m.data))
	wantRefused(t, m.model.CheckRead(0, m.data), "block 0")
	fork.Acked(fork.Begin(fork.Write(0, sector)))
	m.put(m.write(0, 1))
	must(t, m.recovered())
}

func TestModelRejectedChangeHasNoEffect(t *testing.T) {
	m := eightBlocks(t)
	one := m.write(0, 1)
	two, rejectedID := m.begin(0, 1)
	part := disk.Change{Offset: 10, Length: 20}
	m.model.Acked(m.model.Begin(part)) // on top of what is rejected only now
	m.model.Rejected(rejectedID)
	m.put(one, part)
	must(t, m.model.CheckRead(0, m.data))
	m.put(two, part)
	wantRefused(t, m.model.CheckRead(0, m.data), "block 0")
}

func TestModelFailedChangeMayBeThereOrNot(t *testing.T) {
	part := disk.Change{Offset: 10, Length: 20}
	for name, tc := range map[string]struct {
		blocks int64 // of the failed change that were written
		clear  int64 // bytes that nothing has cleared
		ok     bool
	}{"not": {0, 0, true}, "half": {1, 0, true}, "whole": {2, 0, true}, "something else": {1, 8, false}} {
		t.Run(name, func(t *testing.T) {
			m := eightBlocks(t)
			one := m.write(0, 2)
			two, id := m.begin(0, 2)
			m.model.Failed(id)
			m.model.Acked(m.model.Begin(part))
			m.put(one, head(two, tc.blocks), part)
			clear(m.data[:tc.clear])
			if err := m.model.CheckRead(0, m.data); (err == nil) != tc.ok {
				t.Errorf("read: %v", err)
			}
			if err := m.recovered(); (err == nil) != tc.ok {
				t.Errorf("recovery: %v", err)
			}
		})
	}
}

func TestModelTrimIsOneRecordAndItsEdges(t *testing.T) {
	start := func() (*image, disk.Change) {
		m := eightBlocks(t)
		m.put(m.write(0, 2), m.write(2, 2), m.write(4, 2), m.write(6, 2))
		m.flush()
		trim := disk.Change{Offset: 100, Length: 6*sector + 100}
		m.model.Acked(m.model.Begin(trim))
		return m, trim
	}
	m, trim := start()
	must(t, m.model.Clone().CheckRecovered(func(p []byte, off int64) error { m.put(trim); return m.read(p, off) }))
	for end, ok := range map[int64]bool{1: true, 2: false, 5: false, 6: true} {
		m, _ := start()
		m.put(disk.Change{Offset: 100, Length: end*sector - 100})
		if err := m.afterPowerCut(); (err == nil) != ok {
			t.Errorf("trimmed to block %d: %v", end, err)
		}
	}
}

func TestModelReadError(t *testing.T) {
	m := eightBlocks(t)
	bad := fmt.Errorf("bad")
	err := m.model.CheckRecovered(func([]byte, int64) error { return bad })
	if !errors.Is(err, bad) || errors.Is(err, disk.ErrContradiction) {
		t.Errorf("got %v", err)
	}
}
