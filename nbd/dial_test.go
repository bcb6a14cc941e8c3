package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestChoose(t *testing.T) {
	f := start(t, Config{},
		Export{Name: "disk", Description: "a disk", Device: newMemory(testSize)},
		Export{Name: "still", ReadOnly: true, Device: newMemory(testSize)})
	w := f.dial()
	offer, err := Choose(t.Context(), w.conn, "")
	if err != nil {
		t.Fatal(err)
	}
	want := Offer{Name: "disk", Description: "a disk", SizeBytes: testSize, Flags: terms{}.exportFlags(),
		MinBlockBytes: 1, PreferredBlockBytes: 4096, MaxPayloadBytes: maxPayloadBytes}
	if offer != want || offer.ReadOnly() || !offer.MultiConn() {
		t.Errorf("got %+v, want %+v", offer, want)
	}
	// The connection is in transmission, and nothing of it was read.
	w.conn.Write(encoded(request{kind: cmdFlush, cookie: 7}))
	var b [simpleBytes]byte
	if _, err := io.ReadFull(w.conn, b[:]); err != nil {
		t.Fatal(err)
	}
	if r, err := decodeReply(b[:]); err != nil || r.cookie != 7 || r.code != codeOK {
		t.Errorf("flush was answered with %+v, %v", r, err)
	}
	if offer, err := Choose(t.Context(), f.dial().conn, "still"); err != nil || !offer.ReadOnly() {
		t.Errorf("still: %+v, %v", offer, err)
	}
}

func TestAskLeavesNothingBehind(t *testing.T) {
	f := start(t, Config{}, Export{Name: "disk", Device: newMemory(testSize)})
	w := f.dial()
	if offer, err := Ask(t.Context(), w.conn, "disk"); err != nil || offer.SizeBytes != testSize {
		t.Fatalf("%+v, %v", offer, err)
	}
	// The server ends the connection itself, after it has acknowledged that.
	if rest, err := io.ReadAll(w.conn); err != nil || len(rest) != optionReplyBytes {
		t.Errorf("%x, %v", rest, err)
	}
	f.exports.awaitIdle()
}

func TestChooseUnknown(t *testing.T) {
	f := start(t, Config{}, Export{Name: "disk", Device: newMemory(testSize)})
	_, err := Choose(t.Context(), f.dial().conn, "disc")
	var refused *RefusedError
	if !errors.Is(err, ErrUnknownExport) || !errors.As(err, &refused) || !strings.Contains(err.Error(), `"disc`) {
		t.Errorf("%v", err)
	}
	if _, err := Choose(t.Context(), f.dial().conn, "a\x00b"); err == nil || errors.Is(err, ErrUnknownExport) {
		t.Errorf("a name that the protocol forbids: %v", err)
	}
}

// A server that says nothing holds a client no longer than its context.
func TestChooseEndsWithItsContext(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Choose(ctx, ours, "disk"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// said is what a server says up to the replies, and these.
func said(flags uint16, replies ...[]byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicGreeting)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flags)
	return append(b, bytes.Join(replies, nil)...)
}

func sizeInfo(size uint64) []byte {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, size)
	return binary.BigEndian.AppendUint16(b, exportHasFlags)
}

func blockInfo(sizes ...uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	for _, n := range sizes {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func TestChooseRefusesBadServers(t *testing.T) {
	info := func(b []byte) []byte { return appendOptionReply(nil, optGo, repInfo, b) }
	ack := appendOptionReply(nil, optGo, repAck)
	good := info(sizeInfo(1 << 20))
	oversized := appendOptionReply(nil, optGo, repInfo)
	binary.BigEndian.PutUint32(oversized[optionReplyLengthAt:], 1<<31)
	for name, c := range map[string]struct {
		says string
		want error
	}{
		"good":             {string(said(3, good, ack)), nil},
		"unknown info":     {string(said(3, info([]byte{0xff, 0xff, 1, 2, 3}), good, ack)), nil},
		"nothing":          {"", io.EOF},
		"another protocol": {"HTTP/1.1 400 Bad Request\r\n\r\n", ErrHandshake},
		"old style":        {string(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, magicGreeting), magicOldstyle)) + "\x00\x00", ErrHandshake},
		"other option":     {string(append(said(3)[:8], make([]byte, 10)...)), ErrHandshake},
		"not fixed":        {string(said(2, good, ack)), ErrHandshake},
		"no size":          {string(said(3, ack)), ErrHandshake},
		"cut":              {string(said(3, good)), io.EOF},
		"cut in a reply":   {string(said(3, good[:30])), io.ErrUnexpectedEOF},
		"wrong magic":      {string(said(3, make([]byte, 20))), ErrHandshake},
		"wrong option":     {string(said(3, good, appendOptionReply(nil, optList, repAck))), ErrHandshake},
		"strange reply":    {string(said(3, good, appendOptionReply(nil, optGo, repServer))), ErrHandshake},
		"oversized":        {string(said(3, oversized)), ErrHandshake},
		"endless":          {string(said(3, bytes.Repeat(good, 65), ack)), ErrHandshake},
		"negative size":    {string(said(3, info(sizeInfo(1<<63)), ack)), ErrHandshake},
		"short size":       {string(said(3, info(sizeInfo(1)[:8]), ack)), ErrHandshake},
		"long size":        {string(said(3, info(append(sizeInfo(1), 0)), ack)), ErrHandshake},
		"empty info":       {string(said(3, info(nil), good, ack)), ErrHandshake},
		"bad name":         {string(said(3, info([]byte{0, 1, 0xff}), good, ack)), ErrHandshake},
		"long description": {string(said(3, info(append([]byte{0, 2}, bytes.Repeat([]byte("x"), 4097)...)), good, ack)), ErrHandshake},
		"blocks of 0":      {string(said(3, info(blockInfo(0, 0, 0)), good, ack)), ErrHandshake},
		"blocks of 768":    {string(said(3, info(blockInfo(1, 768, 1<<20)), good, ack)), ErrHandshake},
		"blocks that fall": {string(said(3, info(blockInfo(4096, 512, 1<<20)), good, ack)), ErrHandshake},
		"short blocks":     {string(said(3, info(blockInfo(1, 512)), good, ack)), ErrHandshake},
		"TLS":              {string(said(3, appendOptionReply(nil, optGo, repErrBit|5, []byte("no")))), ErrTLSRequired},
		"ack with data":    {string(said(3, good, appendOptionReply(nil, optGo, repAck, []byte("x")))), ErrHandshake},
		"unknown":          {string(said(3, appendOptionReply(nil, optGo, repErrUnknown))), ErrUnknownExport},
	} {
		conn := &script{Reader: strings.NewReader(c.says)}
		offer, err := Choose(t.Context(), conn, "disk")
		if !errors.Is(err, c.want) || c.want == nil && offer.SizeBytes != 1<<20 {
			t.Errorf("%s: %+v, %v; want %v", name, offer, err, c.want)
		}
	}
}

func TestRefusalQuotesTheServer(t *testing.T) {
	err := &RefusedError{Code: repErrBit | 2, Message: "no \x1b[2J way"}
	if got := err.Error(); strings.Contains(got, "\x1b") || !strings.Contains(got, "policy") || !strings.Contains(got, "way") {
		t.Errorf("%q", got)
	}
}

// FuzzChoose plays any bytes as a server: the client must not panic, and must not read beyond the last reply.
func FuzzChoose(f *testing.F) {
	info := func(b []byte) []byte { return appendOptionReply(nil, optGo, repInfo, b) }
	ack := appendOptionReply(nil, optGo, repAck)
	f.Add(said(3, info(sizeInfo(1<<30)), info([]byte{0, 2, 'd'}), info(blockInfo(1, 4096, 32<<20)), ack))
	f.Add(said(1, appendOptionReply(nil, optGo, repErrUnknown, []byte("no such export"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(append(bytes.Clone(b), "transmission"...))
		offer, err := Choose(t.Context(), &script{Reader: r}, "disk")
		if err != nil {
			return
		}
		if offer.SizeBytes < 0 || len(offer.Description) > maxStringBytes || offer.PreferredBlockBytes < offer.MinBlockBytes {
			t.Fatalf("%+v", offer)
		}
		if read := len(b) + len("transmission") - r.Len(); read <= len(b) && !bytes.HasSuffix(b[:read], ack) {
			t.Fatalf("%x was read, which does not end with the last reply", b[:read])
		}
	})
}

// Other people's servers. They need nbdkit and qemu-utils, and fail where one is missing.
func TestChooseOtherServers(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"nbdkit", "-U", "SOCKET", "-P", "PID", "memory", "1M"},
		{"qemu-nbd", "--fork", "-t", "-f", "raw", "-x", "disk", "-k", "SOCKET", "--pid-file=PID", image},
	} {
		t.Run(args[0], func(t *testing.T) {
			dir := t.TempDir()
			socket, pid := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
			for i := range args {
				args[i] = strings.NewReplacer("SOCKET", socket, "PID", pid).Replace(args[i])
			}
			// Both return when they listen, and go on in the background.
			if err := exec.Command(args[0], args[1:]...).Run(); err != nil {
				t.Fatal(err)
			}
			defer killServer(t, pid)
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if offer, err := Choose(t.Context(), conn, "disk"); err != nil || offer.SizeBytes != 1<<20 || offer.ReadOnly() {
				t.Errorf("%+v, %v", offer, err)
			}
		})
	}
}

// killServer ends the process whose ID a file has.
func killServer(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
