package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// replay is a log, and a disk that it is replayed onto.
type replay struct {
	log    *writeLog
	disk   io.WriterAt
	buffer []byte
}

// apply makes one entry's change; only sectors that keep allows, which gets the offset in the entry.
func (r *replay) apply(e entry, keep func(int64) bool) error {
	if e.is(entryMark) || e.length == 0 {
		return nil
	}
	if e.is(entryDiscard) {
		return r.zero(e)
	}
	r.buffer = slices.Grow(r.buffer[:0], int(e.length))[:e.length]
	if _, err := r.log.r.ReadAt(r.buffer, e.data); err != nil {
		return err
	}
	for begin := int64(0); begin < e.length; {
		end := begin
		for end < e.length && keep(end) {
			end += r.log.sectorBytes
		}
		if end > begin {
			if _, err := r.disk.WriteAt(r.buffer[begin:end], e.offset+begin); err != nil {
				return err
			}
		}
		begin = end + r.log.sectorBytes
	}
	return nil
}

func (r *replay) zero(e entry) error {
	zeroes := make([]byte, 1<<20)
	for at := int64(0); at < e.length; at += int64(len(zeroes)) {
		if _, err := r.disk.WriteAt(zeroes[:min(int64(len(zeroes)), e.length-at)], e.offset+at); err != nil {
			return err
		}
	}
	return nil
}

func whole(int64) bool { return true }

// settle replays what is certain to be there at a cut, beginning with entry from, and returns the first that is not.
func (r *replay) settle(from, cut int) (next int, err error) {
	flush := r.log.lastFlush(cut)
	for i := from; i < flush; i++ {
		if err := r.apply(r.log.entries[i], whole); err != nil {
			return i, fmt.Errorf("replay entry %d: %w", i, err)
		}
	}
	return max(from, flush), nil
}

// scatter replays what may be there of the entries from one up to a cut: FUA wholly, of the rest some wholly, some in parts,
// and some not.
func (r *replay) scatter(from, cut int, random *rand.Rand) (kept, torn, lost int, err error) {
	likely := []int{0, 30, 70, 100}[random.IntN(4)] // percent
	for i, e := range r.log.entries[from:cut] {
		keep := whole
		switch {
		case e.is(entryMark) || e.length == 0:
			continue
		case e.is(entryFUA):
			kept++
		case random.IntN(100) >= likely:
			lost++
			continue
		case e.length > r.log.sectorBytes && !e.is(entryDiscard) && likely < 100 && random.IntN(3) == 0:
			torn++
			keep = func(int64) bool { return random.IntN(2) == 0 }
		default:
			kept++
		}
		if err := r.apply(e, keep); err != nil {
			return kept, torn, lost, fmt.Errorf("replay entry %d: %w", from+i, err)
		}
	}
	return kept, torn, lost, nil
}

// withReplay opens what the arguments name, and makes what was replayed durable.
func withReplay(a arguments, do func(*replay) error) error {
	in, err := os.Open(a.log)
	if err != nil {
		return err
	}
	defer in.Close()
	l, err := openLog(in)
	if err != nil {
		return fmt.Errorf("%s: %w", a.log, err)
	}
	if a.from < 0 || a.cut < a.from || a.cut > len(l.entries) {
		return fmt.Errorf("entries %d to %d of %s: it has %d", a.from, a.cut, a.log, len(l.entries))
	}
	out, err := os.OpenFile(a.device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = do(&replay{log: l, disk: out})
	return errors.Join(err, out.Sync(), out.Close())
}

// advance prints the entry to go on with.
func advance(a arguments, out io.Writer) error {
	return withReplay(a, func(r *replay) error {
		next, err := r.settle(a.from, a.cut)
		fmt.Fprintln(out, next)
		return err
	})
}

// tear prints what it did.
func tear(a arguments, out io.Writer) error {
	return withReplay(a, func(r *replay) error {
		random := rand.New(rand.NewPCG(a.seed, uint64(a.cut)))
		kept, torn, lost, err := r.scatter(a.from, a.cut, random)
		fmt.Fprintf(out, "of the writes since the last flush, %d are kept, %d in parts, %d lost\n", kept, torn, lost)
		return err
	})
}
