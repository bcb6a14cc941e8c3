package nbd

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestCrowdHarmsNobody has many connections of every bad kind, none of which runs into a time limit in the length of a
// test, and expects another client's requests, up to what a reserve holds, to be carried out.
func TestCrowdHarmsNobody(t *testing.T) {
	for name, kinds := range map[string][]troublemaker{
		"in the middle of small writes": {halfWrite(4<<10, 1000)},
		"in the middle of writes":       {halfWrite(100<<10, 99<<10)},
		"in the middle of large writes": {halfWrite(32<<20, 150<<10), halfWrite(256<<10, 200<<10)},
		"before small answers":          {stalledReader(4<<10, 100)},
		"before large answers":          {stalledReader(1<<20, 8), stalledReader(32<<20, 8)},
	} {
		t.Run(name, func(t *testing.T) { besideCrowd(t, 100, false, kinds) })
		t.Run(name+", cold", func(t *testing.T) { besideCrowd(t, 100, true, kinds) })
	}
	t.Run("everywhere", func(t *testing.T) { besideCrowd(t, 1000, false, allTroublemakers()) })
}

func allTroublemakers() []troublemaker {
	all := make([]troublemaker, len(crowdKinds))
	for i, k := range crowdKinds {
		all[i] = k.play
	}
	return all
}

func besideCrowd(t *testing.T, crowd int, cold bool, kinds []troublemaker) {
	m := newMemory(64 << 20)
	m.cold.Store(cold)
	hour := Config{HandshakeTimeout: time.Hour, ReceiveTimeout: time.Hour, WriteTimeout: time.Hour, BufferBytes: 8 << 20}
	f := prepare(t, hour, Export{Name: "a", Device: m})
	f.pressedTimeout = time.Hour
	f.serve()
	w := f.connect(false)
	dismiss := gather(t, "unix", f.path, crowd, kinds)
	defer dismiss()
	for i := range 200 {
		data := bytes.Repeat([]byte{byte(i + 1)}, 4<<10)
		if i%10 == 0 {
			data = bytes.Repeat(data, 32)
		}
		n := uint64(len(data))
		offset := uint64(len(m.data)/2 + i%200*(128<<10))
		w.want(codeOK, request{kind: cmdWrite, cookie: 1, offset: offset, length: n}, data...)
		if a := w.want(codeOK, request{kind: cmdRead, cookie: 2, offset: offset, length: n}); !bytes.Equal(a.payload, data) {
			t.Fatal("read differs from what was written")
		}
		w.want(codeOK, request{kind: cmdFlush, cookie: 3})
	}
}

// TestPressedClientsAreCut has clients that stall with memory until somebody needs it, who gets it.
func TestPressedClientsAreCut(t *testing.T) {
	hour := Config{ReceiveTimeout: time.Hour, WriteTimeout: time.Hour, BufferBytes: 4 << 20}
	for name, play := range map[string]troublemaker{
		"in the middle of a write": halfWrite(3<<20, 1<<20),
		"before answers":           stalledReader(2<<20, 4),
	} {
		t.Run(name, func(t *testing.T) {
			f := prepare(t, hour, Export{Name: "a", Device: newMemory(64 << 20)})
			f.pressedTimeout = time.Millisecond
			f.serve()
			ended := make(chan error, 3)
			for range cap(ended) {
				c, err := net.Dial("unix", f.path)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				go func() { ended <- play(c, func() {}) }()
			}
			// Two are cut, of which each had all of a quota that the next one wants.
			<-ended
			<-ended
			w := f.connect(false)
			data := randomBytes(2 << 20)
			w.want(codeOK, request{kind: cmdWrite, cookie: 1, length: 2 << 20}, data...)
			if a := w.want(codeOK, request{kind: cmdRead, cookie: 1, length: 2 << 20}); !bytes.Equal(a.payload, data) {
				t.Fatal("read differs from what was written")
			}
		})
	}
}

// TestBlockedDevice has clients of a device that blocks, more than there are buffers to receive in, and expects those of
// another device to be served, with requests larger than a reserve as well.
func TestBlockedDevice(t *testing.T) {
	blocked, healthy := newMemory(testSize), newMemory(testSize)
	blocked.applyGate = newGate()
	f := start(t, Config{BufferBytes: 16 << 20}, Export{Name: "healthy", Device: healthy}, Export{Name: "blocked", Device: blocked})
	defer close(blocked.applyGate.open)
	for range 60 {
		w := f.dial()
		w.greet(flagFixedNewstyle | flagNoZeroes)
		w.option(optGo, infoRequest{name: "blocked"}.encode())
		w.wantReply(optGo, repInfo)
		w.wantReply(optGo, repAck)
		w.send(request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
		<-blocked.applyGate.entered
		w.send(request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
	}
	w := f.connect(false)
	for range 100 {
		w.want(codeOK, request{kind: cmdWrite, length: 4096}, make([]byte, 4096)...)
		w.want(codeOK, request{kind: cmdWrite, length: 200 << 10}, make([]byte, 200<<10)...)
	}
}

// TestStandBack: who waits for the rest of a small request gives a buffer of the quota back while it is tight, keeps
// what has arrived, and keeps the buffer where it is not tight.
func TestStandBack(t *testing.T) {
	p := newPool()
	small := newQuota(p, 2*int64(classBytes(bufferClass(receiveBufferBytes))))
	in := newInput(nil, small, newQuota(p, 1), newReserve(p))
	in.buf = in.tryBuffer()
	in.end = copy(in.buf.mem, "what has arrived")
	in.standBack()
	if in.buf.quota != small {
		t.Error("the buffer was given back without need")
	}
	other := small.try(receiveBufferBytes)
	in.standBack()
	if in.buf.quota != in.reserve || string(in.bytes()) != "what has arrived" {
		t.Errorf("while it is tight, the buffer has %q", in.bytes())
	}
	other.release()
	if small.usedBytes.Load() != 0 {
		t.Error("the buffer of the quota was not given back")
	}
	in.drop()
}

// takesAll is a stream whose client takes everything.
type takesAll struct{ stream }

func (takesAll) send([][]byte, bool) ([][]byte, error) { return nil, nil }
func (takesAll) setWriteDeadline(time.Time) error      { return nil }

// TestOnlyMemoryThatIsWantedHurries: a client that is behind with its own reserve is not cut for memory that others want.
func TestOnlyMemoryThatIsWantedHurries(t *testing.T) {
	p := newPool()
	defer p.close()
	shared := newQuota(p, reserveBytes)
	taken := shared.try(1)
	for name, from := range map[string]*quota{"reserve": newReserve(p), "shared": shared} {
		b := taken
		if from != shared {
			b = from.try(1)
		}
		shared.waiting.Add(1)
		s := sender{socket: takesAll{}, timeout: time.Hour, memory: shared, parts: [][]byte{b.mem[:1]}}
		s.writing = []*answers{{buffers: []*buffer{b}}}
		if err := s.await(); (err == nil) != (from != shared) {
			t.Errorf("with memory of the %s quota: %v", name, err)
		}
		shared.waiting.Add(-1)
		b.release()
	}
}
