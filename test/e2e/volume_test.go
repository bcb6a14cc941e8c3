package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// I3: what one connection was told is written, every other reads, over whatever socket it came.
func TestConnectionsAgree(t *testing.T) {
	n := served(t, "64MiB")
	var status struct {
		TCP []string `json:"tcp"`
	}
	if err := json.Unmarshal([]byte(n.must("status")), &status); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for pair := range 3 {
		writer, reader := n.dial("disk"), dial(t, "tcp", status.TCP[0], "disk")
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(pair)))
			for i := range 500 {
				// Each pair has every third sector, so that they share blocks.
				sector := int64(3*r.IntN(200) + pair)
				want, got := make([]byte, sectorBytes), make([]byte, sectorBytes)
				stamp(want, uint64(i+1), sector)
				if err := writer.write(want, sector*sectorBytes); err != nil {
					t.Error(err)
					return
				}
				if err := reader.read(got, sector*sectorBytes); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, want) {
					t.Errorf("pair %d, write %d of sector %d: another connection reads %x", pair, i, sector, got[:16])
					return
				}
				writer, reader = reader, writer
			}
		})
	}
	wg.Wait()
}

// I8, on a volume that is much larger than the disk.
func TestTrimHuge(t *testing.T) {
	n := served(t, "1TiB")
	nbdsh(t, n.uri("disk"), `
import os
size, at = h.get_size(), (700 << 30) + 12288
assert size == 1 << 40
h.pwrite(os.urandom(1 << 20), at)
step = (1 << 32) - 4096
for offset in range(0, size, step):
    h.trim(min(step, size - offset), offset)
h.flush()
assert h.pread(1 << 20, at) == bytes(1 << 20)
`)
	whole := regexp.MustCompile(`(?m)^ *1099511627776 +100.0% +3 hole,zero *$`)
	for _, when := range []string{"in the log", "in the base image", "after a restart"} {
		if out := tool(t, "nbdinfo", "--map", "--totals", n.uri("disk")); !whole.MatchString(out) {
			t.Errorf("%s: the map is\n%s", when, out)
		}
		switch when {
		case "in the log":
			n.must("volume", "checkpoint", "disk")
		case "in the base image":
			n.stop()
			n.start()
		}
	}
}

// A restart keeps everything, a second server is refused, SIGTERM ends with exit code 0.
func TestRestart(t *testing.T) {
	n := served(t, "64MiB")
	l := newLedger(0, 4096)
	c := n.dial("disk")
	for i := range 64 {
		change, r := l.send(i*64, 64, i%5 == 4)
		if err := c.one(r); err != nil {
			t.Fatal(err)
		}
		l.ack(change)
	}
	out, err := n.try("serve", "--listen", "127.0.0.1:0", "--unix", n.data+"/other.sock", "--admin", n.data+"/other-admin.sock")
	if err == nil || !strings.Contains(out, strconv.Itoa(n.process.Pid)) {
		t.Errorf("a second server: %v, %s", err, out)
	}
	for range 3 {
		n.stop()
		wantText(t, n.must("check"), "disk: ok")
		n.start()
		if err := l.verify(n.dial("disk")); err != nil {
			t.Fatal(err)
		}
	}
}

// memory returns a line of /proc/PID/status, in bytes.
func (n *node) memory(key string) int64 {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + key + `:\s+(\d+) kB$`).FindSubmatch(b)
	if m == nil {
		n.t.Fatalf("no %s in\n%s", key, b)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		n.t.Fatal(err)
	}
	return kib << 10
}

func TestMemory(t *testing.T) {
	n := served(t, "1TiB")
	if m := n.memory("VmRSS"); m > 200*mib {
		t.Errorf("idle with a volume of 1 TiB: %d MiB", m/mib)
	}
	// Writes all over it, so that every one is an entry of its own in each index and map.
	var wg sync.WaitGroup
	for i := range 4 {
		c := n.dial("disk")
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			p := make([]byte, 4096)
			stamp(p, 1, 0)
			for range 400 {
				var batch []request
				for range 32 {
					batch = append(batch, request{kind: cmdWrite, offset: r.Int64N(1<<40/4096) * 4096, data: p})
				}
				if _, err := c.do(batch...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if m := n.memory("VmHWM"); m > 512*mib {
		t.Errorf("under random writes to a volume of 1 TiB: %d MiB", m/mib)
	}
}
