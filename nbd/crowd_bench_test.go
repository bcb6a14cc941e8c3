package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A crowd is connections that do nothing good, while another client does its work. Each comes again when it is cut.

// troublemaker plays one connection until the server ends it, or the crowd is sent home. It calls ready when it has done
// its worst.
type troublemaker func(conn net.Conn, ready func()) error

// comeAgain is how long one that was cut stays away.
const comeAgain = 100 * time.Millisecond

// crowdKinds has one of each kind; the connections of a crowd take them in turn.
var crowdKinds = []struct {
	name string
	play troublemaker
}{
	{"idle before the handshake", readOn},
	{"half a handshake", func(c net.Conn, ready func()) error {
		if _, err := c.Write([]byte{0, 0, 0, 3, 'I', 'H', 'A'}); err != nil {
			return err
		}
		return readOn(c, ready)
	}},
	{"garbage", func(c net.Conn, ready func()) error {
		if _, err := c.Write(bytes.Repeat([]byte{0x5a}, 4096)); err != nil {
			return err
		}
		return readOn(c, ready)
	}},
	{"idle", func(c net.Conn, ready func()) error {
		if err := enterRaw(c); err != nil {
			return err
		}
		return readOn(c, ready)
	}},
	{"half a small write", halfWrite(4096, 1000)},
	{"half a write", halfWrite(128<<10, 100<<10)},
	{"half a large write", halfWrite(32<<20, 150<<10)},
	{"garbage after the handshake", func(c net.Conn, ready func()) error {
		if err := enterRaw(c); err != nil {
			return err
		}
		if _, err := c.Write(bytes.Repeat([]byte{0x5a}, 4096)); err != nil {
			return err
		}
		return readOn(c, ready)
	}},
	{"reader of nothing", stalledReader(4096, 1000)},
	{"reader of nothing large", stalledReader(1<<20, 32)},
}

// readOn reads until the server ends the connection.
func readOn(c net.Conn, ready func()) error {
	ready()
	_, err := io.Copy(io.Discard, c)
	return err
}

// enterRaw enters transmission with the default export and no structured replies.
func enterRaw(c net.Conn) error {
	b := []byte{0, 0, 0, 3}
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, optExportName)
	b = binary.BigEndian.AppendUint32(b, 0)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, greetingBytes+10))
	return err
}

// halfWrite begins a write of length bytes and sends only some of them.
func halfWrite(length, sent int) troublemaker {
	request := encoded(request{kind: cmdWrite, length: uint64(length)}, make([]byte, sent)...)
	return func(c net.Conn, ready func()) error {
		if err := enterRaw(c); err != nil {
			return err
		}
		if _, err := c.Write(request); err != nil {
			return err
		}
		return readOn(c, ready)
	}
}

// stalledReader sends reads, as many as the server takes, and takes no answer.
func stalledReader(length, depth int) troublemaker {
	requests := bytes.Repeat(encoded(request{kind: cmdRead, length: uint64(length)}), depth)
	return func(c net.Conn, ready func()) error {
		if err := enterRaw(c); err != nil {
			return err
		}
		for {
			if _, err := c.Write(requests); err != nil {
				return err
			}
			ready()
		}
	}
}

// gather makes n connections, those of kinds in turn, and waits until each has done its worst once. It returns how to
// send them home.
func gather(tb testing.TB, network, address string, n int, kinds []troublemaker) (dismiss func()) {
	var wg, arrived sync.WaitGroup
	home := make(chan struct{})
	arrived.Add(n)
	for i := range n {
		wg.Go(func() {
			first := sync.OnceFunc(arrived.Done)
			defer first()
			for {
				c, err := net.Dial(network, address)
				if err != nil {
					tb.Errorf("dial: %v", err)
					return
				}
				done := make(chan struct{})
				go func() {
					select {
					case <-home:
						c.Close()
					case <-done:
					}
				}()
				_ = kinds[i%len(kinds)](c, first) // it ends when the connection does
				close(done)
				c.Close()
				select {
				case <-home:
					return
				case <-time.After(comeAgain): // else the crowd's own work is what is measured
				}
			}
		})
	}
	arrived.Wait()
	return func() { close(home); wg.Wait() }
}

// percentile sends the request n times and returns the 99th percentile of the time that answers took: the least of
// several rounds, since other work on the machine only makes it longer.
func percentile(b *testing.B, w *wire, n int, request []byte, answer int) time.Duration {
	const rounds = 5
	least := time.Duration(math.MaxInt64)
	times := make([]time.Duration, n)
	answers := make([]byte, answer)
	for range rounds {
		for i := range times {
			begin := time.Now()
			if err := exchange(w.conn, request, answers); err != nil {
				b.Fatal(err)
			}
			times[i] = time.Since(begin)
		}
		slices.Sort(times)
		least = min(least, times[n*99/100])
	}
	return least
}

// BenchmarkCrowd reports the 99th percentile of a client's requests alone, beside 1,000 connections of every bad kind,
// and the ratio.
func BenchmarkCrowd(b *testing.B) {
	all := make([]troublemaker, len(crowdKinds))
	for i, k := range crowdKinds {
		all[i] = k.play
	}
	b.Run("all", func(b *testing.B) { benchmarkCrowd(b, all) })
	for _, k := range crowdKinds {
		b.Run(k.name, func(b *testing.B) { benchmarkCrowd(b, []troublemaker{k.play}) })
	}
}

func benchmarkCrowd(b *testing.B, kinds []troublemaker) {
	m := newMemory(64 << 20)
	f := prepare(b, Config{}, Export{Name: "a", Device: m})
	f.serve()
	w := f.connect(false)
	loads := []struct {
		name         string
		kind         uint16
		length, each int
	}{{"write-4k", cmdWrite, 4 << 10, 2000}, {"read-4k", cmdRead, 4 << 10, 2000}, {"write-64k", cmdWrite, 64 << 10, 500},
		{"read-64k", cmdRead, 64 << 10, 500}, {"write-256k", cmdWrite, 256 << 10, 200}, {"read-256k", cmdRead, 256 << 10, 200}}
	measure := func() map[string]time.Duration {
		times := make(map[string]time.Duration)
		for _, l := range loads {
			r, payload, answer := request{kind: l.kind, length: uint64(l.length)}, l.length, simpleBytes
			if l.kind == cmdRead {
				payload, answer = 0, answer+l.length
			}
			times[l.name] = percentile(b, w, l.each, encoded(r, make([]byte, payload)...), answer)
		}
		return times
	}
	for b.Loop() {
		measure()
		alone := measure()
		dismiss := gather(b, "unix", f.path, 1000, kinds)
		measure() // the crowd settles
		beside := measure()
		dismiss()
		for _, l := range loads {
			b.ReportMetric(float64(alone[l.name].Microseconds()), fmt.Sprintf("%s-alone-µs", l.name))
			b.ReportMetric(float64(beside[l.name].Microseconds()), fmt.Sprintf("%s-beside-µs", l.name))
			b.ReportMetric(float64(beside[l.name])/float64(alone[l.name]), l.name+"-ratio")
		}
	}
}
