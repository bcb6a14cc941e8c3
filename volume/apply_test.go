package volume

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

const fuzzSize = 128 << 10

// applyProgram runs a program against a volume and a plain array. Each operation takes six bytes: what it is, how many
// changes go together, offset and length.
func applyProgram(t *testing.T, blockBytes int, program []byte) {
	cfg, _, _ := memoryConfig(fuzzSize)
	v := openMemory(t, cfg, fuzzSize, blockBytes, 256<<10)
	v.pacer.fill = func() float64 { return 0 } // nobody is slowed down
	want := make([]byte, fuzzSize)
	var batch []Change
	apply := func() {
		mustApply(t, v, batch...)
		batch = batch[:0]
	}
	for n := 1; len(program) >= 6; n++ {
		op, more := program[0]%8, program[1]%4 != 0
		off := int64(binary.LittleEndian.Uint16(program[2:])) * 2
		length := min(int64(binary.LittleEndian.Uint16(program[4:]))%20000, fuzzSize-off)
		if program[1]&0x40 != 0 {
			off, length = off&^4095, length&^4095
		}
		program = program[6:]
		c := Change{Kind: Kind(1 + op%3), FUA: n%5 == 0, Offset: off, Length: length}
		if c.Kind == Write {
			c = filled(off, length, byte(n))
		}
		switch op {
		case 6:
			apply()
			if err := v.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 7:
			apply()
			if got := mustRead(t, v, off, length); !bytes.Equal(got, want[off:off+length]) {
				t.Fatalf("operation %d, read of %d at %d: %s", n, length, off, firstDifference(got, want[off:]))
			}
		default:
			batch = append(batch, c)
			overlay(want, c)
			if !more {
				apply()
			}
		}
	}
	apply()
	if got := mustRead(t, v, 0, fuzzSize); !bytes.Equal(got, want) {
		t.Fatal(firstDifference(got, want))
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, v, 0, fuzzSize); !bytes.Equal(got, want) {
		t.Errorf("after a restart %s", firstDifference(got, want))
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestApplyAgainstModel runs random programs with both ends of the range of block sizes.
func TestApplyAgainstModel(t *testing.T) {
	for _, blockBytes := range []int{512, 1024, 4096} {
		for seed := range uint64(10) {
			rng := rand.New(rand.NewPCG(seed, 0))
			program := make([]byte, 6*300)
			for i := range program {
				program[i] = byte(rng.Uint32())
			}
			applyProgram(t, blockBytes, program)
		}
	}
}

// FuzzApply runs whatever program the bytes are, on blocks of 4096 or, where the first byte is odd, 512 bytes.
func FuzzApply(f *testing.F) {
	f.Add([]byte("0AAAAAAAAAAAAABBBBBBBBBBBBBBCCCCCCCCCCCCC"))
	f.Add([]byte("1\x00\x00\x10\x00\x10\x00\x06\x00\x00\x00\x00\x00\x02\x00\x12\x00\x03\x00\x07\x00\x00\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) == 0 || len(program) > 6000 {
			return
		}
		blockBytes := 4096
		if program[0]%2 == 1 {
			blockBytes = 512
		}
		applyProgram(t, blockBytes, program[1:])
	})
}
