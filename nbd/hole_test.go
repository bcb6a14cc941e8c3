package nbd

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// patterned is a device's content: for each letter of the pattern 16 KiB, zeroes for a dot.
func patterned(pattern string) []byte {
	const n = 16 << 10
	b := make([]byte, n*len(pattern))
	for i, letter := range pattern {
		if letter != '.' {
			copy(b[n*i:n*(i+1)], bytes.Repeat([]byte{byte(letter)}, n))
		}
	}
	return b
}

func TestHolesOfARead(t *testing.T) {
	const k = 16 << 10
	for _, row := range []struct {
		pattern string
		offset  int
		length  int
		flags   uint16
		want    []int
	}{
		{"....", 0, 4 * k, 0, []int{-4 * k}},
		{"...", 0, 3 * k, 0, []int{3 * k}},            // a short read
		{"...a", 0, 4 * k, 0, []int{4 * k}},           // a short run
		{"aaaa", 0, 4 * k, 0, []int{4 * k}},           // data
		{"....a", 0, 5 * k, 0, []int{-4 * k, k}},      // at the front
		{"a....", 0, 5 * k, 0, []int{k, -4 * k}},      // at the end
		{"a.....b", 0, 7 * k, 0, []int{k, -5 * k, k}}, // in the middle
		{"....a.....b", 0, 11 * k, 0, []int{-4 * k, k, -5 * k, k}},
		{"....a.....b....", 0, 15 * k, 0, []int{-4 * k, k, -5 * k, k, -4 * k}},
		{"....a.....b....", 0, 15 * k, cmdFlagDF, []int{15 * k}},
		{"........", 0, 8 * k, cmdFlagDF, []int{8 * k}},
		{"......", 7, 5 * k, 0, []int{-5 * k}}, // not aligned, no data
		{"a......", 7, 6 * k, 0, []int{k - 7, -5*k - 7}},
		{"......a", 5, 6*k - 4, 0, []int{-(6*k - 5), 1}},
		{"a.....b", k - 1, 5*k + 2, 0, []int{1, -5 * k, 1}},
	} {
		content := patterned(row.pattern)
		for _, s := range []style{styleStructured, styleExtended} {
			for _, cold := range []bool{false, true} {
				name := fmt.Sprintf("%s+%d,%d,flags=%d,style=%d,cold=%v", row.pattern, row.offset, row.length, row.flags, s, cold)
				t.Run(name, func(t *testing.T) {
					m := newMemory(len(content))
					copy(m.data, content)
					m.cold.Store(cold)
					w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(s)
					r := request{flags: row.flags, cookie: 3, offset: uint64(row.offset), length: uint64(row.length)}
					w.send(r)
					data, chunks := w.nextRead(r)
					if !bytes.Equal(data, content[row.offset:][:row.length]) {
						t.Error("read differs from what the device has")
					}
					if !slices.Equal(chunks, row.want) {
						t.Errorf("chunks %v, want %v", chunks, row.want)
					}
				})
			}
		}
	}
}

// TestNoHolesInSimpleReplies reads zeroes as a client that knows no chunks.
func TestNoHolesInSimpleReplies(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).connect(false)
	if a := w.want(codeOK, request{kind: cmdRead, length: testSize}); !bytes.Equal(a.payload, make([]byte, testSize)) {
		t.Fatal("wrong data")
	}
}

// TestHolesShareABuffer sends reads of which some are cut, in one batch, so that they lie in one buffer.
func TestHolesShareABuffer(t *testing.T) {
	content := patterned("abcd....efgh.......ijk....lm")
	for _, s := range []style{styleStructured, styleExtended} {
		m := newMemory(len(content))
		copy(m.data, content)
		w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(s)
		var burst []byte
		var sent []request
		for i := range 40 {
			r := request{cookie: uint64(i), offset: uint64(i * 5003), length: uint64(1 + i%3*70000)}
			sent = append(sent, r)
			burst = append(burst, w.encoded(r)...)
		}
		for range 3 {
			w.write(burst)
			for range sent {
				r := sent[w.peek().cookie]
				if data, _ := w.nextRead(r); !bytes.Equal(data, content[r.offset:][:r.length]) {
					t.Fatalf("style %d: wrong data for %+v", s, r)
				}
			}
		}
	}
}

// FuzzCarve cuts answers to reads of which each byte of pattern describes a piece, and expects chunks that say what was
// read, and nothing else in between.
func FuzzCarve(f *testing.F) {
	f.Add([]byte{0, 0xff, 0, 0x80}, uint16(0), true)
	f.Add([]byte{0x7f, 1, 0x7f, 1, 0x7f, 0x7f}, uint16(511), false)
	f.Fuzz(func(t *testing.T, pattern []byte, offset uint16, extended bool) {
		s := styleStructured
		if extended {
			s = styleExtended
		}
		var content []byte
		for _, p := range pattern[:min(len(pattern), 64)] { // 7 bits of length, then the kind
			piece := make([]byte, (int(p&0x7f)+1)*1021)
			if p&0x80 != 0 {
				piece[len(piece)/2] = p
			}
			content = append(content, piece...)
		}
		if len(content) == 0 {
			return
		}
		const before = 77
		r := request{cookie: 9, offset: uint64(offset), length: uint64(len(content))}
		n := s.readHeaderBytes() + len(content)
		b := &buffer{mem: bytes.Repeat([]byte{0x5a}, before+n+1), filled: before}
		copy(encodeRead(b.mem[before:before+n], s, r), content)
		b.addRead(n, s, r)
		sent := bytes.Join(b.appendParts(nil), nil)
		if len(sent) != b.dataBytes() || !bytes.Equal(sent[:before], b.mem[:before]) || b.mem[before+n] != 0x5a {
			t.Fatal("bytes before, after or in between are wrong")
		}
		w := &wire{tb: t, conn: &script{Reader: bytes.NewReader(sent[before:])}, style: s}
		data, chunks := w.nextRead(r)
		if !bytes.Equal(data, content) {
			t.Fatalf("chunks %v say something else", chunks)
		}
		for _, c := range chunks {
			if c < 0 && -c < minHoleBytes {
				t.Fatalf("a hole of %d bytes", -c)
			}
		}
	})
}

// content is a Device that is the same megabyte all over.
type content struct {
	null
	data []byte
}

func (c content) ReadNoWait(p []byte, _ int64) (bool, error) { copy(p, c.data); return true, nil }

// BenchmarkHoles compares reads of data and of zeroes with the same in one chunk, which nobody looks through. Worst are
// grains whose last byte alone is data.
func BenchmarkHoles(b *testing.B) {
	worst := make([]byte, 1<<20)
	for i := holeGrainBytes - 1; i < len(worst); i += holeGrainBytes {
		worst[i] = 1
	}
	for name, data := range map[string][]byte{"data": randomBytes(1 << 20), "zeroes": make([]byte, 1<<20), "worst": worst} {
		f := prepare(b, Config{}, Export{Name: "a", Device: content{data: data}})
		f.serve()
		w := f.connectWith(styleStructured)
		for _, length := range []uint64{64 << 10, 1 << 20} {
			for _, flags := range []uint16{0, cmdFlagDF} {
				b.Run(fmt.Sprintf("%s/%dKiB/df=%v", name, length>>10, flags != 0), func(b *testing.B) {
					w.tb = b
					r := request{kind: cmdRead, flags: flags, length: length}
					w.send(r)
					size := int(w.nextHeader().length) + chunkBytes
					w.read(size - chunkBytes)
					burst, answers := bytes.Repeat(encoded(r), 4), make([]byte, 4*size)
					b.SetBytes(int64(length))
					for n := 0; n < b.N; n += 4 {
						if err := exchange(w.conn, burst, answers); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
