package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// What servers and clients in the wild get wrong in the handshake, and what is right.

// impatient ends a test that waits for an answer which does not come.
func (w *wire) impatient() *wire {
	w.tb.Helper()
	if err := w.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		w.tb.Fatal(err)
	}
	return w
}

// TestInfoHasSizeAndFlags: a server that answers INFO with a size of 0 makes clients believe in an empty disk.
func TestInfoHasSizeAndFlags(t *testing.T) {
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial().impatient()
	w.greet(flagFixedNewstyle)
	want := binary.BigEndian.AppendUint16(nil, infoExport)
	want = binary.BigEndian.AppendUint64(want, testSize)
	want = binary.BigEndian.AppendUint16(want, terms{}.exportFlags())
	for _, o := range []uint32{optInfo, optInfo, optGo} { // asked for or not, before GO and in it
		w.option(o, infoRequest{name: "a"}.encode())
		if got := w.wantReply(o, repInfo); !bytes.Equal(got, want) {
			t.Errorf("option %d is answered with %x, want %x", o, got, want)
		}
		w.wantReply(o, repAck)
	}
}

// TestInfoAnswersWhatIsAsked asks for each kind of information, for kinds that do not exist, and for some twice.
func TestInfoAnswersWhatIsAsked(t *testing.T) {
	block := []byte{0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 0x02, 0, 0, 0} // 1, 4096, 32 MiB
	for name, c := range map[string]struct {
		asked []uint16
		want  [][]byte // besides the export's size and flags
	}{
		"nothing":           {},
		"name":              {[]uint16{infoName}, [][]byte{[]byte("\x00\x01disk")}},
		"description":       {[]uint16{infoDescription}, [][]byte{[]byte("\x00\x02a disk")}},
		"block size":        {[]uint16{infoBlockSize}, [][]byte{block}},
		"what nobody knows": {[]uint16{4, 99, 0xffff}, nil},
		"twice":             {[]uint16{infoName, infoExport, infoName, infoExport}, [][]byte{[]byte("\x00\x01disk")}},
		"all":               {[]uint16{infoBlockSize, 7, infoName, infoExport, infoDescription}, [][]byte{block, []byte("\x00\x01disk"), []byte("\x00\x02a disk")}},
	} {
		w := start(t, Config{}, Export{Name: "disk", Description: "a disk", Device: newMemory(testSize)}).dial().impatient()
		w.greet(flagFixedNewstyle)
		w.option(optInfo, infoRequest{infos: c.asked}.encode()) // the default export, under its own name
		if got := w.wantReply(optInfo, repInfo); len(got) != 12 {
			t.Errorf("%s: size and flags are %x", name, got)
		}
		for _, want := range c.want {
			if got := w.wantReply(optInfo, repInfo); !bytes.Equal(got, want) {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		w.wantReply(optInfo, repAck)
	}
}

// TestListTellsDescriptions finds behind each name what people are to read.
func TestListTellsDescriptions(t *testing.T) {
	w := start(t, Config{}, Export{Name: "disk", Description: "a disk", Device: newMemory(testSize)}, Export{Name: "x", Device: newMemory(testSize)}).dial().impatient()
	w.greet(flagFixedNewstyle)
	w.option(optList, nil)
	got := map[string]string{}
	for range 2 {
		name, rest, err := cutString(w.wantReply(optList, repServer))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(rest)
	}
	w.wantReply(optList, repAck)
	if len(got) != 2 || got["disk"] != "a disk" || got["x"] != "" {
		t.Errorf("listed are %q", got)
	}
}

// TestAbortIsAcknowledged: a server that just closes leaves its client to guess.
func TestAbortIsAcknowledged(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)})
	for _, data := range [][]byte{nil, []byte("why not"), make([]byte, maxOptionBytes+1)} {
		w := f.dial().impatient()
		w.greet(flagFixedNewstyle)
		w.option(optAbort, data)
		if got := w.wantReply(optAbort, repAck); len(got) != 0 {
			t.Errorf("an acknowledgement with data: %q", got)
		}
		w.wantEnd()
	}
}

// TestShortInfoIsAnswered: a server that reads the name it was told of waits for bytes that nobody sends.
func TestShortInfoIsAnswered(t *testing.T) {
	whole := infoRequest{name: "a", infos: []uint16{infoName}}.encode()
	w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial().impatient()
	w.greet(flagFixedNewstyle)
	for _, code := range []uint32{optInfo, optGo} {
		for n := range len(whole) {
			w.option(code, whole[:n])
			if text := w.wantReply(code, repErrInvalid); len(text) == 0 {
				t.Errorf("%d bytes of option %d are refused without a word", n, code)
			}
		}
	}
	w.option(optGo, whole)
	w.wantReply(optGo, repInfo)
}

// TestNamesAtTheLimit: the longest name that the protocol allows is looked up, one byte more is refused.
func TestNamesAtTheLimit(t *testing.T) {
	longest := strings.Repeat("n", maxStringBytes)
	f := start(t, Config{}, Export{Name: longest, Device: newMemory(testSize)})
	w := f.dial().impatient()
	w.greet(flagFixedNewstyle)
	w.option(optInfo, infoRequest{name: longest}.encode())
	w.wantReply(optInfo, repInfo)
	w.wantReply(optInfo, repAck)
	w.option(optInfo, infoRequest{name: longest[1:]}.encode())
	w.wantReply(optInfo, repErrUnknown)
	w.option(optInfo, infoRequest{name: longest + "n"}.encode())
	w.wantReply(optInfo, repErrInvalid)
	w.option(optExportName, []byte(longest))
	w.read(10 + exportZeroes)
	w.want(codeOK, request{kind: cmdFlush})
	for name, data := range map[string]string{
		"too long": longest + "n", "NUL": "a\x00", "not UTF-8": "\xc3\x28", "unknown": "x", "far too long": strings.Repeat("n", maxOptionBytes+1),
	} {
		t.Run(name, func(t *testing.T) {
			w := f.dial().impatient()
			w.greet(flagFixedNewstyle | flagNoZeroes)
			w.option(optExportName, []byte(data))
			w.wantEnd()
		})
	}
}

// TestHostileLengthsTakeNoMemory: a server that trusts a length hands gigabytes to whoever asks.
func TestHostileLengthsTakeNoMemory(t *testing.T) {
	exports := newExports(Export{Name: "a", Device: newMemory(testSize)})
	dropped := make([]byte, maxOptionDrainBytes)
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, code := range []uint32{optExportName, optAbort, optList, optStartTLS, optInfo, optGo, optStructuredReply,
		optListMetaContext, optSetMetaContext, optExtendedHeaders, 77} {
		header := func(length uint32, data ...[]byte) []byte {
			b := make([]byte, optionBytes)
			option{code: code, length: length}.encode(b)
			return append(b, bytes.Join(data, nil)...)
		}
		for name, sent := range map[string][]byte{
			"4 GiB":           header(0xffffffff),
			"2 GiB":           header(1<<31, make([]byte, 1000)),
			"more than drops": header(maxOptionDrainBytes + 1),
			"as it drops":     header(maxOptionDrainBytes),
			"name":            header(6, u32(0xffffffff), []byte{0, 0}),
			"queries":         header(8, u32(0), u32(0xffffffff)),
			"query":           header(12, u32(0), u32(1), u32(0xffffffff)),
			"count":           header(6, u32(0), []byte{0xff, 0xff}),
		} {
			from := io.MultiReader(bytes.NewReader([]byte{0, 0, 0, byte(flagFixedNewstyle)}), bytes.NewReader(sent))
			if name == "as it drops" {
				from = io.MultiReader(from, bytes.NewReader(dropped))
			}
			h := handshake{conn: &script{Reader: from}, exports: exports, logger: func(string, error) {}}
			before := allocated()
			_, _, err := h.run()
			if n := allocated() - before; n > 256<<10 {
				t.Errorf("option %d, %s: %d bytes were allocated", code, name, n)
			}
			if err == nil {
				t.Errorf("option %d, %s: entered transmission", code, name)
			}
			if strings.Contains(name, "GiB") || name == "more than drops" {
				if !errors.Is(err, errOptionSize) {
					t.Errorf("option %d, %s: ends with %v", code, name, err)
				}
			}
		}
	}
}

// allocated is how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
