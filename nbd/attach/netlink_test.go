package attach

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
)

// numbered is a Link that is nothing but a number.
type numbered struct {
	Link
	fd int
}

func (n numbered) FD() int { return n.fd }

// What goes to the kernel, byte for byte, on a little-endian machine. In each message the sequence number is cut out.
func TestMessages(t *testing.T) {
	if nl.NativeEndian().Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes here are those of a little-endian machine")
	}
	s := Setup{Backend: "lockstep:d:-:2", SizeBytes: 1 << 30, BlockBytes: 4096, Flags: 0x0125,
		Timeout: 1500 * time.Millisecond, DeadTimeout: 5 * time.Minute}
	links := []Link{numbered{fd: 7}, numbered{fd: 8}}
	const (
		index   = " 0800 0100 03000000"
		backend = " 1300 0a00 6c6f636b737465703a643a2d3a3200 00"
		waits   = " 0c00 0400 0200000000000000  0c00 0800 2c01000000000000"
		sockets = " 1c00 0700  0c00 0100 0800 0100 07000000  0c00 0100 0800 0100 08000000"
	)
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"connect": {connectMessage(0x1d, 3, s, links).Serialize(), "88000000 1d00 0100" + " 01010000" + index +
			" 0c00 0200 0000004000000000  0c00 0300 0010000000000000  0c00 0500 2501000000000000" + backend + waits + sockets},
		"replace": {replaceMessage(0x1d, 3, s, links).Serialize(), "64000000 1d00 0500" + " 03010000" + index + backend + waits + sockets},
		"resize":  {resizeMessage(0x1d, 3, s.Backend, 2<<30).Serialize(), "3c000000 1d00 0500" + " 03010000" + index + backend + " 0c00 0200 0000008000000000"},
		"detach":  {disconnectMessage(0x1d, 3).Serialize(), "1c000000 1d00 0500" + " 02010000" + index},
	} {
		got := slices.Delete(slices.Clone(c.got), 8, 16) // sequence number and port
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", name, got, want)
		}
	}
}

func TestDeadIndex(t *testing.T) {
	for text, want := range map[string]int{
		"04010000 08000100 05000000":                   5,
		"04010000 08000200 05000000 08000100 06000000": 6,
		"01010000 08000100 05000000":                   -1, // another command
		"04010000 06000100 05000000":                   -1, // not 4 bytes
		"04010000 ff000100 05000000":                   -1,
		"04010000":                                     -1,
		"0401":                                         -1,
		"":                                             -1,
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		index, ok := deadIndex(b)
		if ok != (want >= 0) || ok && index != want {
			t.Errorf("%q: %d, %v; want %d", text, index, ok, want)
		}
	}
}

func FuzzDeadIndex(f *testing.F) {
	f.Add([]byte{4, 1, 0, 0, 8, 0, 1, 0, 5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if index, ok := deadIndex(b); ok && index < 0 {
			t.Fatalf("%x: %d", b, index)
		}
	})
}
