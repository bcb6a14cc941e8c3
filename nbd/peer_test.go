package nbd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestPeer(t *testing.T) {
	for network, address := range map[string]string{"unix": filepath.Join(t.TempDir(), "s"), "tcp": "127.0.0.1:0"} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		want := client.LocalAddr().String()
		if network == "unix" {
			want = fmt.Sprintf("process %d", os.Getpid())
		}
		if got := peer(conn); got != want {
			t.Errorf("%s: %q, want %q", network, got, want)
		}
	}
}
