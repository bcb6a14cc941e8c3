package nbd

import (
	"crypto/tls"
	"testing"
)

// BenchmarkTLS compares plaintext and TLS over TCP, in one run. ns/op is for one request, both sides, and the client's
// side of TLS is as expensive as the server's.
func BenchmarkTLS(b *testing.B) {
	for _, r := range []struct {
		name          string
		request       request
		payload, data int
	}{
		{"Read4K", request{kind: cmdRead, length: 4096}, 0, 4096},
		{"Write4K", request{kind: cmdWrite, length: 4096}, 4096, 0},
		{"Flush", request{kind: cmdFlush}, 0, 0},
	} {
		for _, depth := range []int{1, 32} {
			compare(b, r.name, r.request, r.payload, r.data, depth)
		}
	}
	compare(b, "Read1M", request{kind: cmdRead, length: 1 << 20}, 0, 1<<20, 4)
	compare(b, "Write1M", request{kind: cmdWrite, length: 1 << 20}, 1<<20, 0, 4)
}

func compare(b *testing.B, name string, r request, payload, data, depth int) {
	name += map[int]string{1: "/depth=1", 4: "/depth=4", 32: "/depth=32"}[depth]
	b.Run(name+"/plain", func(b *testing.B) { burst(b, networkConnection(b, false), r, payload, data, depth) })
	b.Run(name+"/tls", func(b *testing.B) { burst(b, networkConnection(b, true), r, payload, data, depth) })
}

// networkConnection enters transmission over TCP.
func networkConnection(b *testing.B, secure bool) *wire {
	offered, client := mutualTLS(b)
	client.DynamicRecordSizingDisabled = true // as other clients do it
	f := prepare(b, Config{TLS: offered}, Export{Name: "a", Device: null{}})
	f.serve()
	w := f.network()()
	w.greet(flagFixedNewstyle)
	if secure {
		w.startTLS(client)
		if _, ok := w.conn.(*tls.Conn); !ok {
			b.Fatal("not inside TLS")
		}
	}
	w.enter()
	return w
}
