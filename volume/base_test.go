package volume

import (
	"errors"
	"testing"

	"lockstep/backend"
	"lockstep/block"
)

// zeroCounter is a base image of any size without content that knows what was zeroed.
type zeroCounter struct {
	backend.Backend
	t       *testing.T
	base    *base
	next    int64
	longest int64
	failAt  int64 // calls from that byte on fail
}

var errZero = errors.New("no zeroes")

func (z *zeroCounter) ZeroAt(off, length int64, _ bool) error {
	if off != z.next {
		z.t.Errorf("zeroes at %d, the ones before end at %d", off, z.next)
	}
	for i := range z.base.stripes {
		if z.base.stripes[i].TryRLock() {
			z.t.Fatalf("stripe %d can be read while it is zeroed", i)
		}
	}
	if z.failAt != 0 && off >= z.failAt {
		return errZero
	}
	z.next, z.longest = off+length, max(z.longest, length)
	return nil
}

// Size is beyond all that is zeroed.
func (z *zeroCounter) Size() (int64, error) { return 1 << 50, nil }

// TestL10LongZeroingLetsReadsIn: the zeroing of a long range goes in slices, in order and without a gap, and after it,
// failed or not, everything can be read.
func TestL10LongZeroingLetsReadsIn(t *testing.T) {
	const tib = 1 << 40
	for punch, slice := range map[bool]int64{true: 1 << 30, false: 64 << 20} {
		for _, failAt := range []int64{0, tib / 2} {
			z := &zeroCounter{t: t, next: DataOffset + 3*4096, failAt: failAt}
			b := &base{backend: z, blockBytes: 4096}
			z.base = b
			err := b.zero(block.Range{Start: 3, Count: tib / 4096}, punch)
			if failAt == 0 && (err != nil || z.next != DataOffset+3*4096+tib) || failAt != 0 && !errors.Is(err, errZero) {
				t.Fatalf("zeroed up to %d: %v", z.next, err)
			}
			if z.longest != slice {
				t.Errorf("punch %v: %d bytes at a time", punch, z.longest)
			}
			for i := range b.stripes {
				if !b.stripes[i].TryLock() {
					t.Fatalf("stripe %d is locked after", i)
				}
			}
		}
	}
}
