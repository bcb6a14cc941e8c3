package attach

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a connection whose one end became a link.
func pair(t *testing.T, network, address string) (*link, net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := newLink(conn)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestLink(t *testing.T) {
	for network, address := range map[string]string{"unix": filepath.Join(t.TempDir(), "s"), "tcp": "127.0.0.1:0"} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := pair(t, network, address)
			theirs.Write([]byte("reply")) // is the kernel's, and no sign of death
			if !ours.Alive() {
				t.Error("a link with something to read counts as dead")
			}
			theirs.Close()
			p := []unix.PollFd{{Fd: int32(ours.FD()), Events: unix.POLLRDHUP}}
			if _, err := unix.Poll(p, 5000); err != nil {
				t.Fatal(err)
			}
			if ours.Alive() {
				t.Error("a link that the server closed counts as alive")
			}

			ours, theirs = pair(t, network, address)
			held, err := syscall.Dup(ours.FD()) // as the kernel does
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(held)
			ours.Cut()
			if ours.Alive() {
				t.Error("a link that was cut counts as alive")
			}
			if n, err := theirs.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the server reads %d, %v on a link that was cut", n, err)
			}

			// Closing ours leaves the connection to whoever else has it.
			ours, theirs = pair(t, network, address)
			other, err := syscall.Dup(ours.FD())
			if err != nil {
				t.Fatal(err)
			}
			kept := os.NewFile(uintptr(other), "kept")
			defer kept.Close()
			ours.Close()
			ours.Close() // once more is nothing
			if _, err := kept.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if n, err := theirs.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

func TestTaker(t *testing.T) {
	ours, _ := pair(t, "unix", filepath.Join(t.TempDir(), "s"))
	if taken, err := taker(ours.FD()); err != nil || taken {
		t.Errorf("fresh: %v, %v", taken, err)
	}
	tv := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(ours.FD(), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	if taken, err := taker(ours.FD()); err != nil || !taken {
		t.Errorf("with a timeout: %v, %v", taken, err)
	}
}
