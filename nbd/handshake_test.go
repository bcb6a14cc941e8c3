package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

// golden compares what the server sent with testdata, where it stands in hex, 32 bytes a line.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	var text strings.Builder
	for rest := got; len(rest) > 0; {
		n := min(len(rest), 32)
		text.WriteString(hex.EncodeToString(rest[:n]) + "\n")
		rest = rest[n:]
	}
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Fatalf("%s: got\n%swant\n%s", name, text.String(), want)
	}
}

// TestGoldenHandshakes plays whole handshakes that a client disconnects from, and compares every byte of the server.
func TestGoldenHandshakes(t *testing.T) {
	option := func(code uint32, data []byte) []byte {
		b := make([]byte, optionBytes)
		option{code: code, length: uint32(len(data))}.encode(b)
		return append(b, data...)
	}
	all := infoRequest{name: "disk", infos: []uint16{infoExport, infoName, infoDescription, infoBlockSize, infoName, 99}}
	query := contextRequest{name: "disk", queries: []string{"base:", "x-other:thing", contextAllocation}}
	for name, sent := range map[string][][]byte{
		"export_name":           {{0, 0, 0, 1}, option(optExportName, []byte("disk"))},
		"export_name_no_zeroes": {{0, 0, 0, 3}, option(optExportName, nil)},
		"export_name_not_fixed": {{0, 0, 0, 0}, option(optExportName, []byte("disk"))},
		"export_name_unknown":   {{0, 0, 0, 3}, option(optExportName, []byte("nothing"))},
		"export_name_readonly":  {{0, 0, 0, 3}, option(optExportName, []byte("still"))},
		"list_and_abort":        {{0, 0, 0, 3}, option(optList, nil), option(optAbort, []byte("ignored"))},
		"info":                  {{0, 0, 0, 3}, option(optInfo, all.encode()), option(optInfo, infoRequest{name: "nothing"}.encode())},
		"go":                    {{0, 0, 0, 3}, option(optStructuredReply, nil), option(optGo, all.encode())},
		"extended": {
			{0, 0, 0, 3},
			option(optExtendedHeaders, []byte("x")), // refused: it takes no data
			option(optStructuredReply, nil),
			option(optExtendedHeaders, nil),
			option(optExtendedHeaders, nil),
			option(optStructuredReply, nil), // refused: there is no way back
			option(optInfo, infoRequest{name: "disk"}.encode()),
			option(optSetMetaContext, query.encode()),
			option(optGo, infoRequest{name: "disk"}.encode()),
		},
		"extended_first":       {{0, 0, 0, 3}, option(optExtendedHeaders, nil), option(optListMetaContext, query.encode()), option(optAbort, nil)},
		"extended_export_name": {{0, 0, 0, 3}, option(optExtendedHeaders, nil), option(optExportName, []byte("disk"))},
		"contexts": {
			{0, 0, 0, 3},
			option(optListMetaContext, query.encode()), // refused: structured replies come first
			option(optStructuredReply, nil),
			option(optListMetaContext, contextRequest{name: "disk"}.encode()),
			option(optListMetaContext, contextRequest{name: "disk", queries: []string{"base:"}}.encode()),
			option(optSetMetaContext, query.encode()),
			option(optSetMetaContext, contextRequest{name: "disk", queries: []string{"base:"}}.encode()),
			option(optSetMetaContext, contextRequest{name: "disk"}.encode()),
			option(optSetMetaContext, contextRequest{name: "nothing"}.encode()),
		},
		"unknown_options": {{0, 0, 0, 3}, option(5, nil), option(12, nil), option(4, []byte("x")), option(0xffffffff, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, Config{},
				Export{Name: "disk", Description: "a disk", Device: newMemory(testSize)})
			f.exports.byName["still"] = Export{Name: "still", ReadOnly: true, Device: newMemory(testSize)}
			if name == "list_and_abort" {
				f.exports.withdraw("still") // one name, so that the order is fixed
			}
			w := f.dial()
			w.write(bytes.Join(sent, nil))
			if err := w.conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(w.conn)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, got)
		})
	}
}

func TestMalformedOptions(t *testing.T) {
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	long := strings.Repeat("n", maxStringBytes+1)
	for name, o := range map[string]struct {
		code uint32
		data []byte
		kind uint32
	}{
		"list with data":            {optList, []byte{1}, repErrInvalid},
		"list with a lot of data":   {optList, make([]byte, 1<<20), repErrInvalid},
		"structured, a lot of data": {optStructuredReply, make([]byte, 1<<20), repErrInvalid},
		"info name one too long":    {optGo, join(u32(4), []byte("abc"), []byte{0, 0}), repErrInvalid},
		"info name one too short":   {optGo, join(u32(2), []byte("abc"), []byte{0, 0}), repErrInvalid},
		"contexts name NUL":         {optSetMetaContext, contextRequest{name: "a\x00"}.encode(), repErrInvalid},
		"contexts name not UTF-8":   {optSetMetaContext, contextRequest{name: "\xff"}.encode(), repErrInvalid},
		"contexts name too long":    {optSetMetaContext, contextRequest{name: long}.encode(), repErrInvalid},
		"contexts query NUL":        {optSetMetaContext, contextRequest{queries: []string{"base:\x00"}}.encode(), repErrInvalid},
		"contexts query not UTF-8":  {optListMetaContext, contextRequest{queries: []string{"x:\xff"}}.encode(), repErrInvalid},
		"contexts query too long":   {optListMetaContext, contextRequest{queries: []string{"x:" + long}}.encode(), repErrInvalid},
		"contexts query empty":      {optListMetaContext, contextRequest{queries: []string{""}}.encode(), repErrInvalid},
		"contexts one query less":   {optListMetaContext, join(u32(0), u32(0), u32(2), []byte("x:")), repErrInvalid},
		"contexts of no server's":   {optSetMetaContext, contextRequest{queries: []string{"x-any:thing"}}.encode(), repAck},
		"contexts without a query":  {optSetMetaContext, contextRequest{}.encode(), repAck},
		"structured with data":      {optStructuredReply, []byte{1}, repErrInvalid},
		"info empty":                {optInfo, nil, repErrInvalid},
		"info name beyond the end":  {optInfo, join(u32(100), []byte("a"), []byte{0, 0}), repErrInvalid},
		"info name length overflow": {optInfo, join(u32(0xffffffff), []byte{0, 0}), repErrInvalid},
		"info without a count":      {optGo, u32(0), repErrInvalid},
		"info count beyond the end": {optGo, join(u32(0), []byte{0, 9, 0, 1}), repErrInvalid},
		"info with bytes after":     {optGo, join(u32(0), []byte{0, 0, 7}), repErrInvalid},
		"info name too long":        {optGo, infoRequest{name: long}.encode(), repErrInvalid},
		"info name with NUL":        {optGo, infoRequest{name: "a\x00b"}.encode(), repErrInvalid},
		"info name not UTF-8":       {optGo, infoRequest{name: "\xff"}.encode(), repErrInvalid},
		"info unknown export":       {optGo, infoRequest{name: "nothing"}.encode(), repErrUnknown},
		"info too big":              {optGo, make([]byte, maxOptionBytes+1), repErrTooBig},
		"contexts empty":            {optSetMetaContext, nil, repErrInvalid},
		"contexts without a count":  {optSetMetaContext, u32(0), repErrInvalid},
		"contexts short of queries": {optListMetaContext, join(u32(0), u32(2), u32(1), []byte("a")), repErrInvalid},
		"contexts count overflow":   {optListMetaContext, join(u32(0), u32(0xffffffff)), repErrInvalid},
		"contexts query overflow":   {optListMetaContext, join(u32(0), u32(1), u32(0xfffffff0)), repErrInvalid},
		"contexts with bytes after": {optListMetaContext, join(u32(0), u32(0), []byte{1}), repErrInvalid},
		"contexts no namespace":     {optListMetaContext, contextRequest{queries: []string{"base"}}.encode(), repErrInvalid},
		"contexts unknown export":   {optSetMetaContext, contextRequest{name: "nothing"}.encode(), repErrUnknown},
		"contexts too big":          {optSetMetaContext, make([]byte, maxOptionBytes+1), repErrTooBig},
		"unknown":                   {77, []byte("abc"), repErrUnsup},
		"unknown, long":             {77, make([]byte, 1<<20), repErrUnsup},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial()
			w.greet(flagFixedNewstyle)
			w.option(optStructuredReply, nil)
			w.wantReply(optStructuredReply, repAck)
			w.option(o.code, o.data)
			w.wantReply(o.code, o.kind)
			w.option(optGo, infoRequest{}.encode()) // still in step
			w.wantReply(optGo, repInfo)
			w.wantReply(optGo, repAck)
			w.want(codeOK, request{kind: cmdFlush, cookie: 1})
		})
	}
}

func TestHandshakesThatEnd(t *testing.T) {
	header := func(code, length uint32) []byte {
		b := make([]byte, optionBytes)
		option{code: code, length: length}.encode(b)
		return b
	}
	for name, sent := range map[string][]byte{
		"unknown client flags":      {0, 0, 0, 4},
		"high client flags":         {0x80, 0, 0, 3},
		"not fixed":                 append([]byte{0, 0, 0, 0}, header(optGo, 0)...),
		"wrong option magic":        append([]byte{0, 0, 0, 3}, bytes.Repeat([]byte{1}, optionBytes)...),
		"endless option":            append([]byte{0, 0, 0, 3}, header(optList, maxOptionDrainBytes+1)...),
		"endless export name":       append([]byte{0, 0, 0, 3}, header(optExportName, 0xffffffff)...),
		"export name not UTF-8":     append(append([]byte{0, 0, 0, 3}, header(optExportName, 1)...), 0xff),
		"gone in the flags":         {0, 0},
		"gone in an option":         append([]byte{0, 0, 0, 3}, header(optGo, 9)[:7]...),
		"gone in an option's bytes": append([]byte{0, 0, 0, 3}, header(optGo, 9)...),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial()
			w.read(greetingBytes)
			w.write(sent)
			if strings.HasPrefix(name, "gone") {
				if err := w.conn.(*net.UnixConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			w.wantEnd()
		})
	}
}

// TestContextsBelongToOneExport selects a context for one export and enters another.
func TestContextsBelongToOneExport(t *testing.T) {
	f := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}, Export{Name: "b", Device: newMemory(testSize)})
	w := f.dial()
	w.greet(flagFixedNewstyle)
	w.style = styleStructured
	w.option(optStructuredReply, nil)
	w.wantReply(optStructuredReply, repAck)
	w.option(optSetMetaContext, contextRequest{name: "a", queries: []string{contextAllocation}}.encode())
	w.wantReply(optSetMetaContext, repMetaContext)
	w.wantReply(optSetMetaContext, repAck)
	w.option(optGo, infoRequest{name: "b"}.encode())
	w.wantReply(optGo, repInfo)
	w.wantReply(optGo, repAck)
	w.want(codeInvalid, request{kind: cmdBlockStatus, length: 1})
}

// TestFailedChoiceOfContextsClearsThem selects a context, then fails to select another.
func TestFailedChoiceOfContextsClearsThem(t *testing.T) {
	for name, failing := range map[string][]byte{
		"malformed": {1},
		"too big":   make([]byte, maxOptionBytes+1),
		"unknown":   contextRequest{name: "nothing", queries: []string{contextAllocation}}.encode(),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, Config{}, Export{Name: "a", Device: newMemory(testSize)}).dial()
			w.greet(flagFixedNewstyle)
			w.style = styleStructured
			w.option(optStructuredReply, nil)
			w.wantReply(optStructuredReply, repAck)
			w.option(optSetMetaContext, contextRequest{name: "a", queries: []string{contextAllocation}}.encode())
			w.wantReply(optSetMetaContext, repMetaContext)
			w.wantReply(optSetMetaContext, repAck)
			w.option(optSetMetaContext, failing)
			header := w.read(20)
			if header[12]&0x80 == 0 {
				t.Fatalf("reply %x is no error", header)
			}
			w.read(int(header[19]))
			w.option(optGo, infoRequest{name: "a"}.encode())
			w.wantReply(optGo, repInfo)
			w.wantReply(optGo, repAck)
			w.want(codeInvalid, request{kind: cmdBlockStatus, length: 1})
		})
	}
}
