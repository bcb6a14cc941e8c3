package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// vast is a Device of a size that needs 64-bit lengths. It has one extent of data, from 5 GiB to 15 GiB.
type vast struct {
	null
	applied chan []Change
}

const gib = 1 << 30

func (vast) Size() int64 { return 1 << 60 }
func (v vast) Apply(changes []Change) {
	v.applied <- slices.Clone(changes)
}

func (vast) Extents(offset, length int64, limit int) ([]Extent, error) {
	var extents []Extent
	for end := offset + length; offset < end && len(extents) < limit; {
		e := Extent{Length: end - offset}
		switch {
		case offset < 5*gib:
			e = Extent{Length: min(e.Length, 5*gib-offset), Hole: true, Zero: true}
		case offset < 15*gib:
			e.Length = min(e.Length, 15*gib-offset)
		default:
			e.Zero = true
		}
		extents = append(extents, e)
		offset += e.Length
	}
	return extents, nil
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenExtended sends requests that were written down by hand from the protocol's text, and compares every byte
// of the answers.
func TestGoldenExtended(t *testing.T) {
	m := newMemory(testSize)
	w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(styleExtended)
	var got []byte
	for _, step := range []struct {
		request string
		answer  int // bytes
	}{
		{"21e41c71 0021 0001 0102030405060708 0000000000001000 0000000000000003 616263", 32},     // write, FUA
		{"21e41c71 0000 0000 1112131415161718 0000000000001000 0000000000000004", 32 + 8 + 4},    // read
		{"21e41c71 0004 0000 1112131415161718 0000000000001001 0000000000000001", 32 + 8 + 1},    // read, DF
		{"21e41c71 0000 0000 2122232425262728 0000000000001000 0000000000000000", 32},            // read of nothing
		{"21e41c71 0000 0003 3132333435363738 0000000000000000 0000000000000000", 32},            // flush
		{"21e41c71 0000 0007 4142434445464748 0000000000000000 0000000000003000", 32 + 8 + 3*16}, // block status
		{"21e41c71 0008 0007 4142434445464748 0000000000000000 0000000000003000", 32 + 8 + 16},   // of one extent
		{"21e41c71 0020 0007 5152535455565758 0000000000001000 000000000000000c" +
			"0000000000001000 00000001", 32 + 8 + 16}, // with a filter
		{"21e41c71 0012 0006 6162636465666768 0000000000001000 0000000000001000", 32}, // write zeroes
		{"21e41c71 0000 0004 7172737475767778 0000000000001000 0000000000001000", 32}, // trim
		{"21e41c71 0000 0005 8182838485868788 0000000000001000 0000000000001000", 32}, // cache
		{"21e41c71 0000 0000 9192939495969798 ffffffffffffffff ffffffffffffffff", 32 + 6 + len("invalid request")},
	} {
		w.write(unhex(t, step.request))
		got = append(got, w.read(step.answer)...)
	}
	w.write(unhex(t, "21e41c71 0000 0002 0000000000000000 0000000000000000 0000000000000000"))
	w.wantEnd()
	golden(t, "extended_replies", got)
}

func TestGoldenRequests(t *testing.T) {
	r := request{kind: cmdWrite, flags: cmdFlagFUA, cookie: 0x0102030405060708, offset: 0x1112131415161718, length: 5}
	golden(t, "compact_request", encoded(r, 'h', 'e', 'l', 'l', 'o'))
	golden(t, "extended_request", encodedExtended(r, 'h', 'e', 'l', 'l', 'o'))
	f := make([]byte, filterBytes)
	filter{length: 1 << 40, context: allocationContext}.encode(f)
	golden(t, "extended_filter", encodedExtended(request{kind: cmdBlockStatus, cookie: 1, offset: 4096}, f...))
}

// TestLengthsOf64Bits expects one change of the device for each request, whatever its length.
func TestLengthsOf64Bits(t *testing.T) {
	v := vast{applied: make(chan []Change, 1)}
	w := start(t, Config{}, Export{Name: "a", Device: v}).connectWith(styleExtended)
	for kind, op := range map[uint16]Op{cmdTrim: OpTrim, cmdWriteZeroes: OpWriteZeroes} {
		w.want(codeOK, request{kind: kind, cookie: 1, offset: 512, length: 1<<60 - 512})
		c := <-v.applied
		if len(c) != 1 || c[0].Op != op || c[0].Offset != 512 || c[0].Length != 1<<60-512 {
			t.Fatalf("command %d became %+v", kind, c)
		}
		outside := codeInvalid
		if op == OpWriteZeroes {
			outside = codeNoSpace
		}
		w.want(outside, request{kind: kind, cookie: 1, offset: 512, length: 1<<60 - 511})
		w.want(outside, request{kind: kind, cookie: 1, offset: 512, length: math.MaxUint64 - 511})
	}
	w.want(codeOK, request{kind: cmdCache, offset: 3, length: 1<<60 - 3})
	w.want(codeInvalid, request{kind: cmdCache, offset: 3, length: 1<<60 - 2})
	w.want(codeOverflow, request{kind: cmdRead, offset: 3, length: 1 << 40})
	w.want(codeOverflow, request{kind: cmdRead, flags: cmdFlagDF, offset: 3, length: 1 << 32})
	w.want(codeInvalid, request{kind: cmdRead, offset: 1 << 59, length: math.MaxUint64 - 1<<58})

	u64 := binary.BigEndian.Uint64
	a := w.want(codeOK, request{kind: cmdBlockStatus, length: 1 << 60})
	if a.kind != chunkBlockStatusExt || len(a.payload) != 8+3*16 || binary.BigEndian.Uint32(a.payload[4:]) != 3 {
		t.Fatalf("chunk %d: %x", a.kind, a.payload)
	}
	for i, want := range [][2]uint64{{5 * gib, 3}, {10 * gib, 0}, {1<<60 - 15*gib, 2}} {
		if e := a.payload[8+16*i:]; u64(e) != want[0] || u64(e[8:]) != want[1] {
			t.Errorf("extent %d: %x, want %v", i, e[:16], want)
		}
	}
}

// TestPayloadOfACommandThatTakesNone wants the payload dropped, EINVAL, and the stream in step.
func TestPayloadOfACommandThatTakesNone(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	for kind := cmdRead; kind <= cmdBlockStatus+1; kind++ {
		if kind == cmdWrite || kind == cmdDisconnect {
			continue
		}
		for _, n := range []int{1, 11, 13, 16, 100, 300 << 10, maxPayloadBytes} {
			t.Run(fmt.Sprintf("command %d with %d bytes", kind, n), func(t *testing.T) {
				w := f.connectWith(styleExtended)
				w.tb = t
				w.want(codeInvalid, request{kind: kind, cookie: 3}, bytes.Repeat([]byte{0x21}, n)...)
				w.want(codeOK, request{kind: cmdFlush, cookie: 4})
				w.send(request{kind: cmdDisconnect})
				w.wantEnd()
			})
		}
		w := f.connectWith(styleExtended) // the flag alone
		w.want(codeInvalid, request{kind: kind, flags: cmdFlagPayloadLen})
		w.want(codeOK, request{kind: cmdFlush, cookie: 4})
	}
}

// TestPayloadTooLong checks the bound on what is dropped: a longer payload ends the connection at once.
func TestPayloadTooLong(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	for _, kind := range []uint16{cmdWrite, cmdTrim, cmdBlockStatus, 0xffff} {
		for _, n := range []uint64{maxPayloadBytes + 1, 1 << 32, math.MaxInt64, math.MaxUint64} {
			w := f.connectWith(styleExtended)
			b := make([]byte, extendedRequestBytes)
			request{kind: kind, flags: cmdFlagPayloadLen, payload: n}.encodeExtended(b)
			w.write(b)
			w.wantEnd()
		}
	}
}

// TestWriteWithoutPayloadLen is refused as a request without a payload, which it is.
func TestWriteWithoutPayloadLen(t *testing.T) {
	m := newMemory(testSize)
	w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(styleExtended)
	for _, n := range []uint64{1, 512, maxPayloadBytes + 1, math.MaxUint64} {
		b := make([]byte, extendedRequestBytes)
		request{kind: cmdWrite, cookie: 9, length: n}.encodeExtended(b)
		w.write(b)
		if a := w.next(0); a.code != codeInvalid || a.cookie != 9 {
			t.Fatalf("answer %+v", a)
		}
	}
	w.want(codeOK, request{kind: cmdFlush})
	if m.changes.Load() != 0 {
		t.Fatal("the device was changed")
	}
}

func TestStatusFilter(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	w := f.connectWith(styleExtended)
	encode := func(length uint64, contexts ...uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, length)
		for _, c := range contexts {
			b = binary.BigEndian.AppendUint32(b, c)
		}
		return b
	}
	for name, row := range map[string]struct {
		payload []byte
		code    uint32
	}{
		"ours":              {encode(testSize, allocationContext), codeOK},
		"unknown":           {encode(testSize, allocationContext+1), codeInvalid},
		"ours twice":        {encode(testSize, allocationContext, allocationContext), codeInvalid},
		"ours and unknown":  {encode(testSize, allocationContext, 7), codeInvalid},
		"none":              {encode(testSize), codeInvalid},
		"of nothing":        {encode(0, allocationContext), codeInvalid},
		"past the end":      {encode(testSize+1, allocationContext), codeInvalid},
		"overflow":          {encode(math.MaxUint64, allocationContext), codeInvalid},
		"half a context":    {encode(testSize, allocationContext)[:10], codeInvalid},
		"length cut":        {encode(testSize)[:7], codeInvalid},
		"thousands of them": {encode(testSize, make([]uint32, 1<<16)...), codeInvalid},
		"a byte after ours": {append(encode(testSize, allocationContext), 0), codeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			w.tb = t
			a := w.want(row.code, request{kind: cmdBlockStatus, cookie: 2}, row.payload...)
			if row.code == codeOK && !bytes.Equal(a.payload, unhex(t, "00000001 00000001 0000000000100000 0000000000000003")) {
				t.Fatalf("chunk %d: %x", a.kind, a.payload)
			}
			w.want(codeOK, request{kind: cmdFlush, cookie: 3})
		})
	}
	w.tb = t
	w = f.dial() // without the context there is nothing to choose from
	w.greet(flagFixedNewstyle)
	w.option(optExtendedHeaders, nil)
	w.wantReply(optExtendedHeaders, repAck)
	w.option(optGo, infoRequest{}.encode())
	info := w.wantReply(optGo, repInfo)
	if flags := binary.BigEndian.Uint16(info[10:]); flags&exportBlockStatusPayload != 0 || flags&exportSendDF == 0 {
		t.Fatalf("transmission flags %#x", flags)
	}
	w.wantReply(optGo, repAck)
	w.style = styleExtended
	w.want(codeInvalid, request{kind: cmdBlockStatus}, encode(testSize, allocationContext)...)
	w.want(codeInvalid, request{kind: cmdBlockStatus, length: testSize})
}

// TestWrongLayout: a compact request after extended headers, or the other way round, is garbage.
func TestWrongLayout(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	for _, s := range allStyles {
		w := f.connectWith(s)
		if s == styleExtended {
			w.write(encoded(request{kind: cmdFlush}, 0, 0, 0, 0))
		} else {
			w.write(encodedExtended(request{kind: cmdFlush}))
		}
		w.wantEnd()
	}
}
