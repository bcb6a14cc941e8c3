package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// marker puts marks into the log of a log-writes device.
type marker struct {
	control *os.File
	target  string
}

func newMarker(target string) (*marker, error) {
	if len(target) >= unix.DM_NAME_LEN {
		return nil, fmt.Errorf("device-mapper name %q is too long", target)
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	return &marker{control, target}, err
}

// message is what the kernel is sent: a message to the first sector of a device.
type message struct {
	header unix.DmIoctl
	sector uint64
	text   [256]byte
}

// mark returns once the mark has its place in the log: behind everything that was durable before.
func (m *marker) mark(v vector) error {
	var b message
	b.header.Version = [3]uint32{4, 0, 0}
	b.header.Data_size = uint32(unsafe.Sizeof(b))
	b.header.Data_start = uint32(unsafe.Offsetof(b.sector))
	copy(b.header.Name[:], m.target)
	copy(b.text[:len(b.text)-1], "mark "+v.String())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.control.Fd(), unix.DM_TARGET_MSG, uintptr(unsafe.Pointer(&b)))
	if errno != 0 {
		return fmt.Errorf("mark the log of device %s: %w", m.target, errno)
	}
	return nil
}

func (m *marker) close() error { return m.control.Close() }

// String is how a vector stands in a mark.
func (v vector) String() string {
	var text []string
	for _, n := range v {
		text = append(text, strconv.Itoa(n))
	}
	return strings.Join(text, ",")
}

func parseVector(text string) (v vector, err error) {
	parts := strings.Split(text, ",")
	if len(parts) != len(v) {
		return v, fmt.Errorf("mark %q: not %d numbers", text, len(v))
	}
	for i, p := range parts {
		n, failed := strconv.Atoi(p)
		v[i], err = n, errors.Join(err, failed)
	}
	return v, err
}

// raise makes each number at least that of other.
func (v *vector) raise(other vector) {
	for i, n := range other {
		v[i] = max(v[i], n)
	}
}
