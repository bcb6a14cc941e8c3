package volume

import (
	"fmt"
	"testing"

	"lockstep/test/disk"
)

// TestL2OldRecordsDoNotComeBack: a power cut loses a record and keeps those behind it. The log goes on from before the
// gap, in records of every length, so that some of them end where an old one begins whose number is next. It is not
// taken for part of the log.
func TestL2OldRecordsDoNotComeBack(t *testing.T) {
	for lost := int64(1); lost <= 16; lost++ {
		c := newCase(t, disk.Config{})
		d := mustOpen(t, c)
		d.must(t, func() error { return d.write(0, 3) }, d.flush, func() error { return d.write(10, lost) })
		for i := range int64(6) {
			d.must(t, func() error { return d.write(100+20*i, 1+7*(i%2)) })
		}
		powerCut(c, disk.KeepSubset(^uint64(1)))
		for n := int64(1); n <= 24; n++ {
			t.Run(fmt.Sprintf("%d blocks lost, %d written", lost, n), func(t *testing.T) {
				c := &disk.Case{Disk: c.Disk.Clone(), Model: c.Model.Clone()}
				c.Disk.Recover(disk.KeepAll())
				d := mustRecover(t, c)
				if p := mustRead(t, d.v, 10*testBlock, testBlock); !isZero(p) {
					t.Fatal("the record was not lost, so this proves nothing")
				}
				d.must(t, func() error { return d.write(300, n) })
				powerCut(c, disk.KeepAll())
				d = mustRecover(t, c)
				d.must(t, d.readAll, d.close)
			})
		}
	}
}
