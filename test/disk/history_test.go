package disk_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"lockstep/test/disk"
)

func TestSoundLedgerPassesExhaustive(t *testing.T) {
	h := ledgerHistory(sound)
	h.Depth = 2
	disk.Exhaustive(t, h)
}

func TestSoundLedgerPassesExhaustiveWithUnorderedDirs(t *testing.T) {
	h := ledgerHistory(sound)
	h.Disk.UnorderedDirs = true
	disk.Exhaustive(t, h)
}

func TestSoundLedgerPassesFaults(t *testing.T) {
	disk.Faults(t, ledgerHistory(sound), syscall.EIO, syscall.ENOSPC, syscall.EDQUOT)
}

func TestSoundLedgerPassesRandom(t *testing.T) {
	h := ledgerHistory(sound)
	h.Seeds = 300
	disk.Random(t, h)
}

func TestFlawsAreCaught(t *testing.T) {
	exhaustive := func(h disk.History) error {
		_, err := h.Exhaust(1)
		return err
	}
	faults := func(h disk.History) error {
		_, err := h.Fault(1, syscall.EIO)
		return err
	}
	for name, tc := range map[string]struct {
		flaw  flaw
		drive func(disk.History) error
		says  string
	}{
		"a flush without sync loses data":             {forgetSync, exhaustive, "lost"},
		"an unsynced name vanishes":                   {forgetDirSync, exhaustive, "lost"},
		"a stale record follows a new one":            {forgetChain, exhaustive, "come back"},
		"a torn record is taken":                      {forgetChecksum, exhaustive, "not a prefix"},
		"a trim is not logged":                        {forgetTrim, exhaustive, "lost"},
		"a gap is skipped":                            {skipBadRecords, exhaustive, "not a prefix"},
		"an acknowledged write dies with its process": {acknowledgeEarly, exhaustive, "lost"},
		"a read is stale":                             {readStale, exhaustive, "read of block"},
		"a file is left open":                         {leakFile, exhaustive, "left open: [log/"},
		"recovery proves nothing durable":             {proveNothing, exhaustive, "what the last recovery found"},
		"a failed sync is tried again":                {retrySync, faults, "lost"},
		"the page cache is trusted":                   {trustPageCache, faults, "what the last recovery found"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.drive(ledgerHistory(tc.flaw))
			if err == nil {
				t.Fatal("not caught")
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("caught, but it does not say %q: %v", tc.says, err)
			}
			if tc.flaw != leakFile && !errors.Is(err, disk.ErrContradiction) {
				t.Errorf("not an ErrContradiction: %v", err)
			}
		})
	}
}

func TestRandomFindsStaleRecord(t *testing.T) {
	for seed := range uint64(2000) {
		if err := ledgerHistory(forgetChain).Live(seed); err != nil {
			if !strings.Contains(err.Error(), "come back") {
				t.Fatalf("seed %d: %v", seed, err)
			}
			return
		}
	}
	t.Fatal("2000 random lives did not find it")
}

func TestSameSeedSameFailure(t *testing.T) {
	first := ledgerHistory(forgetSync).Live(7)
	second := ledgerHistory(forgetSync).Live(7)
	if first == nil || second == nil || first.Error() != second.Error() {
		t.Fatalf("one seed, two failures:\n%v\n\n%v", first, second)
	}
}

func BenchmarkExhaustive(b *testing.B) {
	lives := 0
	for b.Loop() {
		n, err := ledgerHistory(sound).Exhaust(1)
		if err != nil {
			b.Fatal(err)
		}
		lives += n
	}
	b.ReportMetric(float64(lives)/b.Elapsed().Seconds(), "lives/s")
}
