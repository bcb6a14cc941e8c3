package attach

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's generic netlink family "nbd", version 1, as include/uapi/linux/nbd-netlink.h has it. A message is a generic
// netlink header and attributes; numbers are in the machine's byte order:
//
//	command          attributes that we send
//	1 CONNECT        INDEX u32, SIZE_BYTES u64, BLOCK_SIZE_BYTES u64, TIMEOUT u64 (seconds), SERVER_FLAGS u64,
//	                 DEAD_CONN_TIMEOUT u64 (seconds), BACKEND_IDENTIFIER string, SOCKETS
//	2 DISCONNECT     INDEX
//	3 RECONFIGURE    INDEX, BACKEND_IDENTIFIER, and SIZE_BYTES, or TIMEOUT, DEAD_CONN_TIMEOUT and SOCKETS
//	4 LINK_DEAD      from the kernel, to the group nbd_mc_group: INDEX
//
// SOCKETS is a list of SOCK_ITEM (1), each a list with one SOCK_FD (1), u32: a descriptor of the sender.
const (
	familyName = "nbd"
	groupName  = "nbd_mc_group"
	version    = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4

	attrIndex       = 1
	attrSizeBytes   = 2
	attrBlockBytes  = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadTimeout = 8
	attrBackend     = 10

	sockItem = 1
	sockFD   = 1
)

var (
	// ErrNoModule means that the kernel has no NBD client.
	ErrNoModule = errors.New("the kernel has no NBD client: modprobe nbd (in the machine's own network namespace)")
	// ErrPermission means that the process may not configure devices.
	ErrPermission = errors.New("not allowed to configure NBD devices: run as root (CAP_SYS_ADMIN)")
	// ErrInUse means that a device is not free: attached, used or supervised by somebody else.
	ErrInUse = errors.New("device is in use")
)

// findFamily asks the kernel for the numbers of the family and of its multicast group.
func findFamily() (id uint16, group uint32, err error) {
	f, err := netlink.GenlFamilyGet(familyName)
	if errors.Is(err, unix.ENOENT) {
		return 0, 0, ErrNoModule
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look up the netlink family of NBD: %w", err)
	}
	for _, g := range f.Groups {
		if g.Name == groupName {
			return f.ID, g.ID, nil
		}
	}
	return 0, 0, errors.New("the kernel's NBD client does not say when connections end (Linux before 4.12)")
}

// message begins a request to the family.
func message(family uint16, command uint8, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(int(family), flags)
	r.AddData(header{command, version})
	return r
}

// header is the generic netlink header: command, version, and two bytes that are reserved and 0. (The library's own
// leaves these two to chance.)
type header [nl.SizeofGenlmsg]byte

// Len is nl.NetlinkRequestData's.
func (h header) Len() int { return len(h) }

// Serialize is nl.NetlinkRequestData's.
func (h header) Serialize() []byte { return h[:] }

func addUint32(r *nl.NetlinkRequest, attr int, v uint32) {
	r.AddData(nl.NewRtAttr(attr, nl.Uint32Attr(v)))
}

func addUint64(r *nl.NetlinkRequest, attr int, v uint64) {
	r.AddData(nl.NewRtAttr(attr, nl.Uint64Attr(v)))
}

func addString(r *nl.NetlinkRequest, attr int, s string) {
	r.AddData(nl.NewRtAttr(attr, nl.ZeroTerminated(s)))
}

func addTimeouts(r *nl.NetlinkRequest, s Setup) {
	addUint64(r, attrTimeout, seconds(s.Timeout))
	addUint64(r, attrDeadTimeout, seconds(s.DeadTimeout))
}

func addSockets(r *nl.NetlinkRequest, links []Link) {
	sockets := nl.NewRtAttr(attrSockets, nil)
	for _, l := range links {
		sockets.AddRtAttr(sockItem, nil).AddRtAttr(sockFD, nl.Uint32Attr(uint32(l.FD())))
	}
	r.AddData(sockets)
}

// seconds rounds up: 0 has a meaning of its own.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func connectMessage(family uint16, index int, s Setup, links []Link) *nl.NetlinkRequest {
	r := message(family, cmdConnect, 0) // answered by the index that it got
	addUint32(r, attrIndex, uint32(index))
	addUint64(r, attrSizeBytes, uint64(s.SizeBytes))
	addUint64(r, attrBlockBytes, uint64(s.BlockBytes))
	addUint64(r, attrServerFlags, uint64(s.Flags))
	addString(r, attrBackend, s.Backend)
	addTimeouts(r, s)
	addSockets(r, links)
	return r
}

func replaceMessage(family uint16, index int, s Setup, links []Link) *nl.NetlinkRequest {
	r := message(family, cmdReconfigure, unix.NLM_F_ACK)
	addUint32(r, attrIndex, uint32(index))
	addString(r, attrBackend, s.Backend)
	addTimeouts(r, s)
	addSockets(r, links)
	return r
}

func resizeMessage(family uint16, index int, backend string, sizeBytes int64) *nl.NetlinkRequest {
	r := message(family, cmdReconfigure, unix.NLM_F_ACK)
	addUint32(r, attrIndex, uint32(index))
	addString(r, attrBackend, backend)
	addUint64(r, attrSizeBytes, uint64(sizeBytes))
	return r
}

func disconnectMessage(family uint16, index int) *nl.NetlinkRequest {
	r := message(family, cmdDisconnect, unix.NLM_F_ACK)
	addUint32(r, attrIndex, uint32(index))
	return r
}

// execute sends a request and waits for its answer.
func execute(r *nl.NetlinkRequest) error {
	_, err := r.Execute(unix.NETLINK_GENERIC, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return ErrPermission
	case errors.Is(err, unix.EBUSY):
		return ErrInUse
	}
	return err
}

// deadIndex reads a message of the multicast group: the index of the device of which a link died.
func deadIndex(data []byte) (index int, ok bool) {
	// Attributes are padded to 4 bytes; the library's parser relies on it.
	if len(data) < nl.SizeofGenlmsg || len(data)%4 != 0 || data[0] != cmdLinkDead {
		return 0, false
	}
	attrs, err := nl.ParseRouteAttr(data[nl.SizeofGenlmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type == attrIndex && len(a.Value) == 4 {
			return int(nl.NativeEndian().Uint32(a.Value)), true
		}
	}
	return 0, false
}
