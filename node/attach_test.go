package node

import (
	"strings"
	"testing"
)

func TestWriteAttach(t *testing.T) {
	e := Endpoints{TLS: TLSOn, TCP: []string{"127.0.0.1:10809", "[::1]:10809"}, Unix: "/srv/my disks/it's.sock", Volumes: []VolumeStatus{
		{Name: "db", State: StateServed, SizeBytes: 10 << 30, BlockSize: 512},
		{Name: "bad", State: StateFailed, Error: "the log is damaged"},
	}}
	var b strings.Builder
	if err := WriteAttach(&b, e); err != nil {
		t.Fatal(err)
	}
	want := `
db  10GiB, block size 512
    lockstep attach db --unix '/srv/my disks/it'\''s.sock'
    nbd-client -unix '/srv/my disks/it'\''s.sock' -N db -b 512 /dev/nbd0
    nbd-client 127.0.0.1 10809 -N db -b 512 /dev/nbd0
    nbdinfo nbd://127.0.0.1:10809/db
    nbd-client ::1 10809 -N db -b 512 /dev/nbd0
    nbdinfo nbd://[::1]:10809/db
    qemu-img info 'nbd+unix:///db?socket=/srv/my%20disks/it%27s.sock'

bad  NOT SERVED (failed): the log is damaged
`
	if b.String() != want {
		t.Errorf("got %s\nwant %s", b.String(), want)
	}
}

func TestWriteAttachWhereTLSIsRequired(t *testing.T) {
	e := Endpoints{TLS: TLSRequire, TCP: []string{"10.0.0.5:10809"}, Unix: "/s", Volumes: []VolumeStatus{
		{Name: "db", State: StateServed, SizeBytes: 10 << 30, BlockSize: 4096},
	}}
	var b strings.Builder
	if err := WriteAttach(&b, e); err != nil {
		t.Fatal(err)
	}
	want := `
db  10GiB, block size 4096
    lockstep attach db --unix /s
    nbd-client -unix /s -N db -b 4096 /dev/nbd0
    nbdinfo 'nbds://10.0.0.5:10809/db?tls-certificates=DIR'
    qemu-img info 'nbd+unix:///db?socket=/s'
`
	if b.String() != want {
		t.Errorf("got %s\nwant %s", b.String(), want)
	}
}
