package nbd

import (
	"io"
	"net"
	"testing"
)

// null is a Device that does nothing, so that a benchmark measures the server alone.
type null struct{}

func (null) Size() int64                            { return 1 << 40 }
func (null) BlockSize() int                         { return 4096 }
func (null) Read([]byte, int64) error               { return nil }
func (null) ReadNoWait([]byte, int64) (bool, error) { return true, nil }
func (null) Apply([]Change)                         {}
func (null) Flush() error                           { return nil }
func (null) Extents(_, length int64, _ int) ([]Extent, error) {
	return []Extent{{Length: length}}, nil
}

func benchConnection(b *testing.B) *wire {
	f := prepare(b, Config{}, Export{Name: "a", Device: null{}})
	f.serve()
	return f.connect(false)
}

// benchmark sends bursts of depth requests and reads their answers; ns/op is for one request, both sides.
func benchmark(b *testing.B, r request, payload, data, depth int) {
	burst(b, benchConnection(b), r, payload, data, depth)
}

func burst(b *testing.B, w *wire, r request, payload, data, depth int) {
	var sent []byte
	for range depth {
		sent = append(sent, encoded(r, make([]byte, payload)...)...)
	}
	answers := make([]byte, depth*(simpleBytes+data))
	b.ReportAllocs()
	b.SetBytes(int64(payload + data))
	b.ResetTimer()
	for n := 0; n < b.N; n += depth {
		if err := exchange(w.conn, sent, answers); err != nil {
			b.Fatal(err)
		}
	}
}

func exchange(conn net.Conn, burst, answers []byte) error {
	if _, err := conn.Write(burst); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answers)
	return err
}

func BenchmarkWriteDepth32(b *testing.B) {
	benchmark(b, request{kind: cmdWrite, length: 4096}, 4096, 0, 32)
}

func BenchmarkReadDepth32(b *testing.B) {
	benchmark(b, request{kind: cmdRead, length: 4096}, 0, 4096, 32)
}

func BenchmarkFlushDepth1(b *testing.B) { benchmark(b, request{kind: cmdFlush}, 0, 0, 1) }

func BenchmarkWriteDepth1(b *testing.B) {
	benchmark(b, request{kind: cmdWrite, length: 4096}, 4096, 0, 1)
}

func BenchmarkWriteMegabyte(b *testing.B) {
	benchmark(b, request{kind: cmdWrite, length: 1 << 20}, 1<<20, 0, 4)
}

func BenchmarkReadMegabyte(b *testing.B) {
	benchmark(b, request{kind: cmdRead, length: 1 << 20}, 0, 1<<20, 4)
}

// TestNoAllocationForEachRequest checks what the benchmarks report: the hot path allocates nothing.
func TestNoAllocationForEachRequest(t *testing.T) {
	f := prepare(t, Config{}, Export{Name: "a", Device: null{}})
	f.serve()
	w := f.connect(false)
	for name, r := range map[string]request{
		"write": {kind: cmdWrite, length: 4096},
		"read":  {kind: cmdRead, length: 4096},
		"flush": {kind: cmdFlush},
	} {
		const depth = 32
		payload, data := 0, 0
		switch r.kind {
		case cmdWrite:
			payload = 4096
		case cmdRead:
			data = 4096
		}
		var burst []byte
		for range depth {
			burst = append(burst, encoded(r, make([]byte, payload)...)...)
		}
		answers := make([]byte, depth*(simpleBytes+data))
		allocations := testing.AllocsPerRun(200, func() {
			if err := exchange(w.conn, burst, answers); err != nil {
				t.Fatal(err)
			}
		})
		// The collector empties a sync.Pool now and then, the race detector more often; that costs a few for a burst.
		if allocations >= depth/2 {
			t.Errorf("%s: %v allocations for %d requests", name, allocations, depth)
		}
	}
}
