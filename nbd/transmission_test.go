package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
)

const testSize = 1 << 20

var allStyles = []style{styleSimple, styleStructured, styleExtended}

func TestReadsWhatWasWritten(t *testing.T) {
	for _, s := range allStyles {
		for _, cold := range []bool{false, true} {
			t.Run(fmt.Sprintf("style=%d,cold=%v", s, cold), func(t *testing.T) {
				m := newMemory(testSize)
				m.cold.Store(cold)
				w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(s)
				data := randomBytes(1000)
				w.want(codeOK, request{kind: cmdWrite, cookie: 7, offset: 13, length: 1000}, data...)
				a := w.want(codeOK, request{kind: cmdRead, cookie: 8, offset: 13, length: 1000})
				got := a.payload
				if s.chunked() {
					if a.kind != chunkOffsetData || !a.done || binary.BigEndian.Uint64(got) != 13 {
						t.Fatalf("chunk %+v", a.reply)
					}
					got = got[8:]
				}
				if !bytes.Equal(got, data) {
					t.Fatal("read differs from what was written")
				}
			})
		}
	}
}

func TestCodes(t *testing.T) {
	type row struct {
		name    string
		request request
		payload int
		code    uint32
		ro      uint32 // on a read-only export
	}
	beyond := uint64(testSize)
	rows := []row{
		{"read", request{kind: cmdRead, length: 1}, 0, codeOK, codeOK},
		{"read nothing", request{kind: cmdRead}, 0, codeOK, codeOK},
		{"read nothing at the end", request{kind: cmdRead, offset: beyond}, 0, codeOK, codeOK},
		{"read nothing past the end", request{kind: cmdRead, offset: beyond + 1}, 0, codeInvalid, codeInvalid},
		{"read past the end", request{kind: cmdRead, offset: beyond - 1, length: 2}, 0, codeInvalid, codeInvalid},
		{"read overflow", request{kind: cmdRead, offset: math.MaxUint64, length: 2}, 0, codeInvalid, codeInvalid},
		{"read FUA", request{kind: cmdRead, flags: cmdFlagFUA, length: 1}, 0, codeOK, codeOK},
		{"read DF", request{kind: cmdRead, flags: cmdFlagDF, length: 65536}, 0, codeOK, codeOK},
		{"read bad flag", request{kind: cmdRead, flags: cmdFlagNoHole, length: 1}, 0, codeInvalid, codeInvalid},
		{"write", request{kind: cmdWrite, length: 3}, 3, codeOK, codePerm},
		{"write FUA", request{kind: cmdWrite, flags: cmdFlagFUA, length: 3}, 3, codeOK, codePerm},
		{"write nothing", request{kind: cmdWrite}, 0, codeOK, codePerm},
		{"write past the end", request{kind: cmdWrite, offset: beyond - 1, length: 2}, 2, codeNoSpace, codePerm},
		{"write overflow", request{kind: cmdWrite, offset: math.MaxUint64, length: 2}, 2, codeNoSpace, codePerm},
		{"write bad flag", request{kind: cmdWrite, flags: cmdFlagDF, length: 2}, 2, codeInvalid, codeInvalid},
		{"write unknown flag", request{kind: cmdWrite, flags: 1 << 6, length: 2}, 2, codeInvalid, codeInvalid},
		{"write too much", request{kind: cmdWrite, length: maxPayloadBytes + 1}, maxPayloadBytes + 1, codeNoSpace, codePerm},
		{"flush", request{kind: cmdFlush}, 0, codeOK, codeOK},
		{"flush a range", request{kind: cmdFlush, length: 1}, 0, codeInvalid, codeInvalid},
		{"flush bad flag", request{kind: cmdFlush, flags: cmdFlagReqOne}, 0, codeInvalid, codeInvalid},
		{"trim", request{kind: cmdTrim, length: 4096}, 0, codeOK, codePerm},
		{"trim FUA", request{kind: cmdTrim, flags: cmdFlagFUA, length: 4096}, 0, codeOK, codePerm},
		{"trim past the end", request{kind: cmdTrim, offset: beyond, length: 1}, 0, codeInvalid, codePerm},
		{"zero", request{kind: cmdWriteZeroes, length: testSize}, 0, codeOK, codePerm},
		{"zero without hole, fast", request{kind: cmdWriteZeroes, flags: cmdFlagNoHole | cmdFlagFastZero, length: 9}, 0, codeOK, codePerm},
		{"zero past the end", request{kind: cmdWriteZeroes, offset: 1, length: testSize}, 0, codeNoSpace, codePerm},
		{"zero bad flag", request{kind: cmdWriteZeroes, flags: cmdFlagDF, length: 1}, 0, codeInvalid, codeInvalid},
		{"cache", request{kind: cmdCache, length: 4096}, 0, codeOK, codeOK},
		{"cache past the end", request{kind: cmdCache, offset: beyond, length: 1}, 0, codeInvalid, codeInvalid},
		{"cache bad flag", request{kind: cmdCache, flags: cmdFlagDF, length: 1}, 0, codeInvalid, codeInvalid},
		{"status", request{kind: cmdBlockStatus, length: 4096}, 0, codeOK, codeOK},
		{"status of nothing", request{kind: cmdBlockStatus}, 0, codeInvalid, codeInvalid},
		{"status past the end", request{kind: cmdBlockStatus, offset: beyond, length: 1}, 0, codeInvalid, codeInvalid},
		{"status bad flag", request{kind: cmdBlockStatus, flags: cmdFlagNoHole, length: 1}, 0, codeInvalid, codeInvalid},
		{"resize", request{kind: 8, length: 4}, 0, codeInvalid, codeInvalid},
		{"unknown", request{kind: 0xffff, offset: 1, length: 1}, 0, codeInvalid, codeInvalid},
	}
	check := func(s style, readOnly bool) {
		f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize), ReadOnly: readOnly})
		w := f.connectWith(s)
		for i, r := range rows {
			code := r.code
			if readOnly {
				code = r.ro
			}
			if s == styleExtended && r.payload > maxPayloadBytes {
				continue // ends the connection
			}
			t.Run(fmt.Sprintf("%s,style=%d,readonly=%v", r.name, s, readOnly), func(t *testing.T) {
				r.request.cookie = uint64(i) + 1
				w.tb = t
				w.want(code, r.request, make([]byte, r.payload)...)
				w.want(codeOK, request{kind: cmdRead, cookie: 1 << 40, length: 1}) // still in step
			})
		}
	}
	for _, s := range []style{styleStructured, styleExtended} {
		check(s, false)
		check(s, true)
	}
}

func TestWithoutStructuredReplies(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(64 << 20)}).connect(false)
	w.want(codeInvalid, request{kind: cmdRead, flags: cmdFlagDF, length: 1})
	w.want(codeInvalid, request{kind: cmdBlockStatus, length: 1})
	w.want(codeInvalid, request{kind: cmdWrite, flags: cmdFlagPayloadLen, length: 3}, 1, 2, 3)
	w.want(codeInvalid, request{kind: cmdTrim, flags: cmdFlagPayloadLen, length: 3})
	w.want(codeInvalid, request{kind: cmdRead, length: maxPayloadBytes + 1})
	w.want(codeInvalid, request{kind: cmdWrite, length: maxPayloadBytes + 1}, make([]byte, maxPayloadBytes+1)...)
	if a := w.want(codeOK, request{kind: cmdRead}); a.style.chunked() {
		t.Fatal("structured reply to a client without them")
	}
}

func TestReadTooLargeForOneReply(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(64 << 20)}).connect(true)
	w.want(codeOverflow, request{kind: cmdRead, length: maxPayloadBytes + 1})
	if a := w.want(codeOK, request{kind: cmdRead}); a.kind != chunkNone {
		t.Fatalf("a read of nothing is answered by chunk %d", a.kind)
	}
}

func TestLargestRequests(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(33 << 20)}).connect(true)
	data := randomBytes(maxPayloadBytes)
	for range 3 {
		w.want(codeOK, request{kind: cmdWrite, cookie: 1, offset: 5, length: maxPayloadBytes}, data...)
		a := w.want(codeOK, request{kind: cmdRead, cookie: 2, offset: 5, length: maxPayloadBytes})
		if !bytes.Equal(a.payload[8:], data) {
			t.Fatal("read differs from what was written")
		}
	}
}

func TestRequestLargerThanTheBudget(t *testing.T) {
	f := start(t, Config{BufferBytes: 64 << 10, InFlightBytes: 1}, Export{Name: "a", Device: newMemory(testSize)})
	data := randomBytes(700 << 10)
	for range 2 {
		w := f.connect(false)
		w.want(codeOK, request{kind: cmdWrite, length: 700 << 10}, data...)
		if a := w.want(codeOK, request{kind: cmdRead, length: 700 << 10}); !bytes.Equal(a.payload, data) {
			t.Fatal("read differs from what was written")
		}
	}
}

func TestPayloadNobodyDropsEndsTheConnection(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).connect(false)
	w.send(request{kind: cmdWrite, length: maxDrainBytes + 1})
	w.wantEnd()
}

func TestWrongMagicEndsTheConnectionAfterWhatCameBefore(t *testing.T) {
	m := newMemory(testSize)
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(false)
	garbage := bytes.Repeat([]byte{0x5a}, 100)
	w.write(append(encoded(request{kind: cmdWrite, cookie: 5, length: 1}, 'x'), garbage...))
	if a := w.next(0); a.cookie != 5 || a.code != codeOK {
		t.Fatalf("answer %+v", a)
	}
	w.wantEnd()
	if m.contents(0, 1)[0] != 'x' {
		t.Fatal("write before the garbage is lost")
	}
}

func TestDeviceErrors(t *testing.T) {
	codes := map[error]uint32{
		syscall.ENOSPC:                   codeNoSpace,
		syscall.EDQUOT:                   codeNoSpace,
		syscall.EFBIG:                    codeNoSpace,
		syscall.EPERM:                    codePerm,
		syscall.EROFS:                    codePerm,
		syscall.ENOMEM:                   codeNoMem,
		syscall.EINVAL:                   codeInvalid,
		syscall.EOVERFLOW:                codeOverflow,
		syscall.ENOTSUP:                  codeNotSup,
		syscall.ESHUTDOWN:                codeShutdown,
		syscall.EBADF:                    codeIO,
		errors.New("something else"):     codeIO,
		fmt.Errorf("x: %w", syscall.EIO): codeIO,
	}
	for _, s := range allStyles {
		for _, cold := range []bool{false, true} {
			m := newMemory(testSize)
			m.cold.Store(cold)
			w := start(t, Config{}, Export{Name: "a", Device: m}).connectWith(s)
			for err, code := range codes {
				m.fail(fmt.Errorf("device: %w", err))
				w.want(code, request{kind: cmdRead, length: 10})
				w.want(code, request{kind: cmdWrite, length: 1}, 1)
				w.want(code, request{kind: cmdTrim, length: 1})
				w.want(code, request{kind: cmdWriteZeroes, length: 1})
				w.want(code, request{kind: cmdFlush})
				if s.chunked() {
					w.want(code, request{kind: cmdBlockStatus, length: 1})
				}
			}
		}
	}
}

func TestBlockStatus(t *testing.T) {
	m := newMemory(testSize)
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(true)
	w.want(codeOK, request{kind: cmdWrite, offset: 8192, length: 4096}, make([]byte, 4096)...)
	golden := []byte{0, 0, 0, 1, 0, 0, 0x1f, 0, 0, 0, 0, 3, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 3}
	a := w.want(codeOK, request{kind: cmdBlockStatus, offset: 256, length: 8192 - 256 + 4096 + 10})
	if a.kind != chunkBlockStatus || !bytes.Equal(a.payload, golden) {
		t.Fatalf("chunk %d: %x", a.kind, a.payload)
	}
	a = w.want(codeOK, request{kind: cmdBlockStatus, flags: cmdFlagReqOne, offset: 256, length: 100})
	if !bytes.Equal(a.payload, []byte{0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0, 3}) {
		t.Fatalf("one extent: %x", a.payload)
	}
}

func TestExtentsThatBreakThePromise(t *testing.T) {
	for name, extents := range map[string][]Extent{
		"none":    nil,
		"empty":   {{Length: 5}, {Length: 0}},
		"beyond":  {{Length: 5}, {Length: 6}},
		"toomany": {{Length: 1}, {Length: 1}, {Length: 1}},
	} {
		if describes(extents, 10, 2) {
			t.Errorf("%s: accepted", name)
		}
	}
	if !describes([]Extent{{Length: 4}, {Length: 6}}, 10, 2) {
		t.Error("refused what is right")
	}
}

// TestOneReadIsOneBatch sends many requests in one write and expects the device to see one Apply and one Flush.
func TestOneReadIsOneBatch(t *testing.T) {
	m := newMemory(testSize)
	w := start(t, Config{}, Export{Name: "a", Device: m}).connect(false)
	var b []byte
	for i := range 32 {
		payload := bytes.Repeat([]byte{byte(i)}, 512)
		b = append(b, encoded(request{kind: cmdWrite, cookie: uint64(i), offset: 0, length: 512}, payload...)...)
		b = append(b, encoded(request{kind: cmdFlush, cookie: 100 + uint64(i)})...)
	}
	w.write(b)
	seen := make(map[uint64]bool)
	for range 64 {
		a := w.next(0)
		if a.code != codeOK || seen[a.cookie] {
			t.Fatalf("answer %+v", a)
		}
		seen[a.cookie] = true
	}
	if m.applies.Load() != 1 || m.changes.Load() != 32 || m.flushes.Load() != 1 {
		t.Fatalf("%d Apply with %d changes, %d Flush", m.applies.Load(), m.changes.Load(), m.flushes.Load())
	}
	if m.contents(0, 1)[0] != 31 {
		t.Fatal("changes of a batch were not made in order")
	}
}

// TestAnySplit sends the same stream cut at every place and expects the same answers.
func TestAnySplit(t *testing.T) {
	m := newMemory(testSize)
	f := start(t, Config{}, Export{Name: "a", Device: m})
	for _, s := range []style{styleSimple, styleExtended} {
		f.connectWith(s).wantAnySplit()
	}
}

func (w *wire) wantAnySplit() {
	w.tb.Helper()
	var b []byte
	b = append(b, w.encoded(request{kind: cmdWrite, cookie: 1, length: 40}, make([]byte, 40)...)...)
	b = append(b, w.encoded(request{kind: cmdWrite, cookie: 2, offset: testSize, length: 30}, make([]byte, 30)...)...)
	b = append(b, w.encoded(request{kind: cmdFlush, cookie: 3})...)
	for cut := 1; cut < len(b); cut++ {
		w.write(b[:cut])
		w.write(b[cut:])
		codes := make(map[uint64]uint32)
		for range 3 {
			a := w.next(0)
			codes[a.cookie] = a.code
		}
		if len(codes) != 3 || codes[1] != codeOK || codes[2] != codeNoSpace || codes[3] != codeOK {
			w.tb.Fatalf("style %d, cut at %d: %v", w.style, cut, codes)
		}
	}
}

// TestRandomRequestsAgainstAModel keeps many requests in flight on one connection, in ranges that do not overlap while
// in flight, and compares every read with a plain array.
func TestRandomRequestsAgainstAModel(t *testing.T) {
	for _, s := range allStyles {
		t.Run(fmt.Sprintf("style=%d", s), func(t *testing.T) {
			m := newMemory(8 << 20)
			f := prepare(t, Config{BufferBytes: 4 << 20, InFlightBytes: 2 << 20, ReadWorkers: 3}, Export{Name: "a", Device: m})
			f.takeoverDelay = 1 // take over at every chance
			f.pool.mapMemory = func(n int) ([]byte, error) { return make([]byte, n), nil }
			f.pool.unmapMemory, f.pool.poison = func([]byte) {}, true
			f.serve()
			w := f.connectWith(s)
			model := make([]byte, m.Size())
			random := rand.New(rand.NewPCG(1, 2))
			for round := range 150 {
				m.cold.Store(round%3 == 0)
				w.randomRound(random, model)
			}
			if !bytes.Equal(m.contents(0, len(model)), model) {
				t.Fatal("device differs from the model")
			}
		})
	}
}

// randomRound sends a burst of requests, one in each slot of the device, and checks the answers.
func (w *wire) randomRound(random *rand.Rand, model []byte) {
	w.tb.Helper()
	const slots = 16
	slot := len(model) / slots
	var b []byte
	sent := make(map[uint64]request)
	for i := range slots {
		length := 1 + random.IntN(8<<10)
		if random.IntN(10) == 0 {
			length = 1 + random.IntN(slot)
		}
		r := request{cookie: uint64(i), length: uint64(length)}
		r.offset = uint64(i*slot + random.IntN(slot-length+1))
		part := model[r.offset : r.offset+uint64(length)]
		var payload []byte
		switch random.IntN(6) {
		case 0, 1:
			r.kind = cmdWrite
			payload = make([]byte, length)
			for j := range payload {
				payload[j] = byte(random.Uint32())
			}
			copy(part, payload)
		case 2:
			r.kind = cmdWriteZeroes
			clear(part)
		case 3:
			r = request{kind: cmdFlush, cookie: r.cookie}
		default:
			r.kind = cmdRead
		}
		sent[r.cookie] = r
		b = append(b, w.encoded(r, payload...)...)
	}
	go func() { _, _ = w.conn.Write(b) }() // a failure shows in the answers
	for len(sent) > 0 {
		w.checkRandomAnswer(sent, model)
	}
}

func (w *wire) checkRandomAnswer(sent map[uint64]request, model []byte) {
	w.tb.Helper()
	a := w.peek()
	r, ok := sent[a.cookie]
	if !ok {
		w.tb.Fatalf("answer %+v to nothing", a)
	}
	delete(sent, a.cookie)
	if r.kind != cmdRead {
		if a := w.next(0); a.code != codeOK {
			w.tb.Fatalf("answer %+v to %+v", a, r)
		}
		return
	}
	if data, _ := w.nextRead(r); !bytes.Equal(data, model[r.offset:r.offset+r.length]) {
		w.tb.Fatalf("wrong data for %+v", r)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}
