package disk_test

import (
	"errors"
	"fmt"

	"lockstep/test/disk"
)

// A crash test by hand, on a log that is also a volume of 512-byte blocks: stop it at its first operation, at its
// second, and so on until it comes to its end; after each power cut, what it recovers must be what the model allows.
// Exhaustive does the same with every kind of choice.
func Example() {
	k := 1
	for ; ; k++ {
		d := disk.New(disk.Config{Seed: uint64(k)})
		m := disk.NewModel(disk.ModelConfig{SizeBytes: blocks * sector, BlockSize: sector, RecordBytes: 2 * sector})
		d.SetPlan(disk.CrashAt(k))
		if err := writeAndFlush(d, m); err != nil && !errors.Is(err, disk.ErrCrashed) {
			fmt.Println(err)
			return
		}
		ended := !d.Crashed()

		d.SetPlan(nil)
		d.Recover(disk.KeepSectors())
		m.PowerCut()
		l, err := openLedger(d, sound)
		if err == nil {
			err = m.CheckRecovered(l.read)
		}
		if err != nil {
			fmt.Printf("crash at operation %d: %v\n%s", k, err, d.Trace())
			return
		}
		if ended {
			break
		}
	}
	fmt.Printf("survived a crash at each of %d operations\n", k-1)
	// Output: survived a crash at each of 8 operations
}

func writeAndFlush(d *disk.Disk, m *disk.Model) error {
	l, err := openLedger(d, sound)
	if err != nil {
		return err
	}
	change := m.Write(0, 3*sector)
	id := m.Begin(change)
	if err := l.apply(change); err != nil {
		return err
	}
	m.Acked(id)
	f := m.FlushBegun()
	if err := l.flush(); err != nil {
		return err
	}
	m.FlushAcked(f)
	return l.close()
}
