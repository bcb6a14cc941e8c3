package replication

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/engine"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

var frameErrors = []error{ErrMagic, ErrVersion, ErrTooLong, ErrTorn, ErrCorrupt}

func id(n byte) uuid.UUID { return uuid.UUID{0: 0xaa, 15: n} }

func testHeader() Header {
	return Header{Volume: id(1), Epoch: 7, EpochID: id(2), Sender: id(3), Session: 7<<32 + 1, Sequence: 9}
}

// testMessages has one message of each kind, with no field zero.
func testMessages() []Message {
	session := engine.SessionID(7<<32 + 1)
	link := Link{LSN: 99, EpochID: id(4), CRC: 0xfeedbeef}
	return []Message{
		&Hello{Nonce: [32]byte{1, 31: 2}, Peer: id(5), Lane: LaneLog},
		&Challenge{Nonce: [32]byte{3, 31: 4}, Proof: [32]byte{5, 31: 6}},
		&Proof{Proof: [32]byte{7, 31: 8}},
		&Welcome{},
		&Refusal{Reason: engine.ReasonEpochMismatch, Detail: "epoch 6 is over", Primary: id(6)},
		&Heartbeat{Number: 10, Answer: true},
		&SyncRequest{Number: 11},
		&SyncAck{Number: 11, Facts: engine.SyncAck{
			DurableLSN: 1, AppliedLSN: 2, ReceivedLSN: 3, WALTail: 4, CheckpointLSN: 5, BaseHighLSN: 6, CommittedLSN: 7,
			CopyID: id(7), SeenEpoch: 8, Inconsistent: true, LogDamaged: true, BaseDamaged: true, ActiveSession: &session,
			Rebuild: engine.RebuildMark{ConsistentLSN: 9, BaseLSN: 10, SourceHighLSN: 11, Cursor: 12},
			Lineage: []block.EpochStart{{Epoch: 1, ID: id(8), Primary: id(9), First: 1}, {Epoch: 8, ID: id(10), Primary: id(11), First: 2}},
		}},
		&StartCatchUp{FirstLSN: 100, TargetLSN: 120, Truncate: true, ForkLSN: 99, Before: link},
		&StartRebuild{
			TargetLSN: 120, ForkLSN: 30, SinceLSN: 20, BaseLSN: 99, Before: link, ChunkBytes: 1 << 16, Resume: true, ResumeLSN: 15,
			Cursor: 17, OwnMapUntrusted: true,
		},
		&SessionProgress{DurableLSN: 110, TargetLSN: 120, ChunksDone: 5, ChunksTotal: 6, BaseLane: engine.BaseLaneEnded},
		&SessionCompleted{DurableLSN: 120},
		&SessionFailed{Reason: engine.ReasonNoSpace},
		&CancelSession{Reason: engine.ReasonSuperseded},
		&BarrierRequest{LSN: 118},
		&BarrierAck{LSN: 118, DurableLSN: 119},
		&Committed{LSN: 117},
		&StartStream{Stream: 3, FirstLSN: 100, TargetLSN: 120, Before: link},
		&Records{Stream: 3, FirstLSN: 100, LastLSN: 101, Raw: []byte("two records")},
		&Ack{Stream: 3, ReceivedLSN: 103, AppliedLSN: 102, DurableLSN: 101},
		&ChunkData{Chunk: 4, Start: 64, LSN: 90, Data: []byte("blocks")},
		&ZeroRange{Chunk: 5, Range: block.Range{Start: 80, Count: 16}, LSN: 91},
		&HashList{Number: 2, Chunks: []ChunkHash{{Chunk: 6, LSN: 92, Sum: [32]byte{9}}, {Chunk: 8, LSN: 93, Sum: [32]byte{31: 10}}}},
		&HashAnswer{Number: 2, Needed: []bool{true, false, true, false, false, false, false, false, true}},
		&EndOfBase{TargetLSN: 130, BaseHighLSN: 125},
	}
}

// reseal gives a frame that a test changed the CRC that it should have.
func reseal(b []byte) {
	binary.LittleEndian.PutUint32(b[frameCRCAt:], crc32.Checksum(b[frameVersionAt:], castagnoli))
}

// golden compares bytes with testdata, where they stand in hex, 32 bytes a line.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var b strings.Builder
		for line := range slices.Chunk(got, 32) {
			b.WriteString(hex.EncodeToString(line) + "\n")
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the frame is\n%x\nand was\n%x", name, got, want)
	}
}

// wantError checks that err wraps one sentinel, and none of the others.
func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	for _, other := range frameErrors {
		if other != want && errors.Is(err, other) {
			t.Errorf("%s: %v is also %v", what, err, other)
		}
	}
}

// TestFrameGolden: what is written today is understood by a program of tomorrow, and the other way round.
func TestFrameGolden(t *testing.T) {
	seen := map[Kind]bool{}
	for _, want := range testMessages() {
		name := strings.NewReplacer(" ", "_", "-", "_").Replace(want.Kind().String())
		b := AppendFrame([]byte("before"), testHeader(), want)[6:]
		golden(t, name, b)
		h, m, n, err := DecodeFrame(append(slices.Clone(b), "after"...))
		if err != nil || n != len(b) || h != testHeader() || !reflect.DeepEqual(m, want) {
			t.Errorf("%s: decoded %d of %d bytes to %+v, %+v, %v", name, n, len(b), h, m, err)
		}
		seen[want.Kind()] = true
	}
	for k := range Kind(100) {
		if (k.empty() != nil) != seen[k] || strings.HasPrefix(k.String(), "type ") == seen[k] {
			t.Errorf("%s is known: %v, tested: %v", k, k.empty() != nil, seen[k])
		}
	}
}

// TestFrameFlips: no bit of a frame can change unseen.
func TestFrameFlips(t *testing.T) {
	for _, m := range testMessages() {
		b := AppendFrame(nil, testHeader(), m)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				if _, _, _, err := DecodeFrame(b); err == nil {
					t.Fatalf("%s with bit %d of byte %d flipped decodes", m.Kind(), bit, i)
				}
				b[i] ^= 1 << bit
			}
		}
	}
}

// TestFrameTorn: every prefix of a frame is torn, not corrupt.
func TestFrameTorn(t *testing.T) {
	for _, m := range testMessages() {
		b := AppendFrame(nil, testHeader(), m)
		for n := range b {
			_, _, _, err := DecodeFrame(b[:n])
			wantError(t, m.Kind().String(), err, ErrTorn)
		}
	}
}

// refusals are frames of a right CRC that are refused for what they say.
func refusals() map[string]struct {
	message Message
	change  func(b, body []byte)
	want    error
} {
	type refused = struct {
		message Message
		change  func(b, body []byte)
		want    error
	}
	le := binary.LittleEndian
	of := map[Kind]Message{}
	for _, m := range testMessages() {
		of[m.Kind()] = m
	}
	body := func(k Kind, at int, value byte, want error) refused {
		return refused{of[k], func(_, b []byte) { b[at] = value }, want}
	}
	return map[string]refused{
		"not ours":                 {of[KindAck], func(b, _ []byte) { b[0]++; b[frameVersionAt]++ }, ErrMagic},
		"zeroes":                   {of[KindAck], func(b, _ []byte) { clear(b) }, ErrMagic},
		"future version":           {of[KindAck], func(b, _ []byte) { b[frameVersionAt]++ }, ErrVersion},
		"future type":              {of[KindAck], func(b, _ []byte) { b[frameTypeAt] = 200 }, ErrVersion},
		"future flag":              {of[KindAck], func(b, _ []byte) { b[frameFlagsAt+3] = 1 }, ErrVersion},
		"future header field":      {of[KindAck], func(b, _ []byte) { b[frameReservedAt] = 1 }, ErrVersion},
		"4 GiB":                    {of[KindRecords], func(b, _ []byte) { le.PutUint32(b[frameLengthAt:], 1<<32-1) }, ErrTooLong},
		"a byte too long":          {of[KindRecords], func(b, _ []byte) { le.PutUint32(b[frameLengthAt:], recordsBytes+MaxRecordsBytes+1) }, ErrTooLong},
		"ack too long":             {of[KindAck], func(b, _ []byte) { b[frameLengthAt]++ }, ErrTooLong},
		"ack too short":            {of[KindAck], func(b, _ []byte) { b[frameLengthAt]-- }, ErrCorrupt},
		"no records":               {of[KindRecords], func(b, _ []byte) { b[frameLengthAt] = recordsBytes }, ErrCorrupt},
		"unknown lane":             body(KindHello, helloLaneAt, 4, ErrVersion),
		"hello's reserve":          body(KindHello, helloReservedAt, 4, ErrVersion),
		"refusal's reason":         body(KindRefusal, refusalReasonLengthAt, 0, ErrCorrupt),
		"refusal's detail":         body(KindRefusal, refusalDetailLengthAt+1, 1, ErrCorrupt),
		"heartbeat's answer":       body(KindHeartbeat, heartbeatAnswerAt, 2, ErrVersion),
		"heartbeat's reserve":      body(KindHeartbeat, heartbeatReservedAt, 2, ErrVersion),
		"sync ack's flags":         body(KindSyncAck, syncAckFlagsAt, 31, ErrVersion),
		"session without flag":     body(KindSyncAck, syncAckFlagsAt, 7, ErrCorrupt),
		"lineage":                  body(KindSyncAck, syncAckEntriesAt, 3, ErrCorrupt),
		"lineage of 2^32":          body(KindSyncAck, syncAckEntriesAt+3, 0xff, ErrCorrupt),
		"catch-up's flags":         body(KindStartCatchUp, catchUpFlagsAt, 2, ErrVersion),
		"catch-up's link":          body(KindStartCatchUp, catchUpLinkAt, 98, ErrCorrupt),
		"rebuild's flags":          body(KindStartRebuild, rebuildFlagsAt, 4, ErrVersion),
		"rebuild's link":           body(KindStartRebuild, rebuildLinkAt, 98, ErrCorrupt),
		"rebuild's reserve":        body(KindStartRebuild, rebuildReservedAt, 98, ErrVersion),
		"base lane's state":        body(KindSessionProgress, progressLaneAt, 3, ErrVersion),
		"progress' reserve":        body(KindSessionProgress, progressReservedAt, 3, ErrVersion),
		"reason too long":          body(KindSessionFailed, reasonLengthAt, 200, ErrCorrupt),
		"reason too short":         body(KindCancelSession, reasonLengthAt, 1, ErrCorrupt),
		"barrier below":            body(KindBarrierAck, barrierDurableAt, 117, ErrCorrupt),
		"stream's link":            body(KindStartStream, startLinkAt, 100, ErrCorrupt),
		"stream from 0":            {of[KindStartStream], func(_, b []byte) { clear(b[startFirstAt : startLinkAt+8]) }, ErrCorrupt},
		"stream from 1, linked":    {of[KindStartStream], func(_, b []byte) { b[startFirstAt] = 1; b[startLinkAt] = 0 }, ErrCorrupt},
		"stream's reserve":         body(KindStartStream, startReservedAt, 100, ErrVersion),
		"records backwards":        body(KindRecords, recordsLastAt, 99, ErrCorrupt),
		"records from 0":           body(KindRecords, recordsFirstAt, 0, ErrCorrupt),
		"durable above applied":    body(KindAck, ackDurableAt, 103, ErrCorrupt),
		"applied above received":   body(KindAck, ackAppliedAt, 104, ErrCorrupt),
		"zero range of nothing":    body(KindZeroRange, zeroCountAt, 0, ErrCorrupt),
		"zero range overflows":     {of[KindZeroRange], func(_, b []byte) { le.PutUint64(b[zeroCountAt:], 1<<64-1) }, ErrCorrupt},
		"hash list not whole":      {of[KindHashList], func(b, _ []byte) { b[frameLengthAt]-- }, ErrCorrupt},
		"hash list turns back":     body(KindHashList, hashListBytes+hashEntryBytes, 6, ErrCorrupt),
		"more answers than bits":   body(KindHashAnswer, answerCountAt, 17, ErrCorrupt),
		"more bits than answers":   body(KindHashAnswer, hashAnswerBytes+1, 3, ErrCorrupt),
		"answers of 2^32":          {of[KindHashAnswer], func(_, b []byte) { le.PutUint32(b[answerCountAt:], 1<<32-1) }, ErrCorrupt},
		"answer's reserve":         body(KindHashAnswer, answerReservedAt, 3, ErrVersion),
		"base high above a target": body(KindEndOfBase, endBaseHighAt, 131, ErrCorrupt),
	}
}

func TestFrameRefused(t *testing.T) {
	for name, c := range refusals() {
		b := AppendFrame(nil, testHeader(), c.message)
		c.change(b, b[HeaderBytes:])
		if n := HeaderBytes + int(binary.LittleEndian.Uint32(b[frameLengthAt:])); n < len(b) && n >= HeaderBytes {
			b = b[:n]
		}
		reseal(b)
		_, _, _, err := DecodeFrame(b)
		wantError(t, name, err, c.want)
	}
}

// TestFrameText: a text that is too long is cut, not refused: it is the last that a connection says.
func TestFrameText(t *testing.T) {
	long := strings.Repeat("why ", 1000)
	_, m, _, err := DecodeFrame(AppendFrame(nil, Header{}, &Refusal{Reason: long, Detail: long}))
	if r, ok := m.(*Refusal); !ok || r.Reason != long[:maxReasonBytes] || r.Detail != long[:maxReasonBytes] {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestFrameLineage: of a lineage that is too long the newest entries are told.
func TestFrameLineage(t *testing.T) {
	lineage := make([]block.EpochStart, MaxLineage+3)
	for i := range lineage {
		lineage[i] = block.EpochStart{Epoch: block.Epoch(i + 1), First: block.LSN(2*i + 1)}
	}
	_, m, _, err := DecodeFrame(AppendFrame(nil, Header{}, &SyncAck{Facts: engine.SyncAck{Lineage: lineage}}))
	if ack, ok := m.(*SyncAck); !ok || !slices.Equal(ack.Facts.Lineage, lineage[3:]) {
		t.Errorf("%v", err)
	}
}

// FuzzDecodeFrame: whatever the bytes, decoding does not panic, and what decodes encodes to the same bytes.
func FuzzDecodeFrame(f *testing.F) {
	for _, m := range testMessages() {
		f.Add(AppendFrame(nil, testHeader(), m))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecode(t, b) })
}

// FuzzDecodeBody is the same for bodies in a frame that has nothing wrong.
func FuzzDecodeBody(f *testing.F) {
	for _, m := range testMessages() {
		f.Add(uint16(m.Kind()), AppendFrame(nil, testHeader(), m)[HeaderBytes:])
	}
	for _, c := range refusals() {
		b := AppendFrame(nil, testHeader(), c.message)
		c.change(b, b[HeaderBytes:])
		f.Add(uint16(c.message.Kind()), b[HeaderBytes:])
	}
	f.Fuzz(func(t *testing.T, kind uint16, body []byte) {
		b := append(AppendFrame(nil, testHeader(), &Welcome{}), body...)
		binary.LittleEndian.PutUint16(b[frameTypeAt:], kind)
		binary.LittleEndian.PutUint32(b[frameLengthAt:], uint32(len(body)))
		reseal(b)
		checkDecode(t, b)
	})
}

func checkDecode(t *testing.T, b []byte) {
	h, m, n, err := DecodeFrame(b)
	if err != nil {
		if !slices.ContainsFunc(frameErrors, func(kind error) bool { return errors.Is(err, kind) }) {
			t.Fatalf("an error of no kind: %v", err)
		}
		return
	}
	if n > len(b) || !bytes.Equal(AppendFrame(nil, h, m), b[:n]) {
		t.Fatalf("%+v %+v is not what stands in % x", h, m, b)
	}
}
