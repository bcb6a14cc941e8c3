package attach

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"lockstep/nbd"
)

// link is a Link. It is a bare descriptor, because Go's poller would wake at every byte that the kernel receives on it.
type link struct{ fd int }

// newLink takes a connection over; conn is closed.
func newLink(conn net.Conn) (*link, error) {
	defer conn.Close()
	holder, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T has no descriptor for the kernel", conn)
	}
	raw, err := holder.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take the descriptor of %v: %w", conn.RemoteAddr(), err)
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(original uintptr) {
		fd, dupErr = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("take the descriptor of %v: %w", conn.RemoteAddr(), err)
	}
	return &link{fd: fd}, nil
}

// FD is Link's.
func (l *link) FD() int { return l.fd }

// Alive is Link's.
func (l *link) Alive() bool {
	p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 0
	}
}

// Cut is Link's.
func (l *link) Cut() { _ = unix.Shutdown(l.fd, unix.SHUT_RDWR) } // one that fails is dead already

// Close is Link's.
func (l *link) Close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd) // nothing was written by us
		l.fd = -1
	}
}

// network is the Network of this machine.
type network struct{ dialer net.Dialer }

// NewNetwork returns the network of this machine.
func NewNetwork() Network { return &network{} }

// Dial is Network's.
func (n *network) Dial(ctx context.Context, a Address, export string) (Link, nbd.Offer, error) {
	conn, err := n.dialer.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, nbd.Offer{}, fmt.Errorf("reach the server: %w", err)
	}
	offer, err := nbd.Choose(ctx, conn, export)
	if err != nil {
		conn.Close()
		return nil, nbd.Offer{}, fmt.Errorf("export %q at %v: %w", export, a, err)
	}
	l, err := newLink(conn)
	if err != nil {
		return nil, nbd.Offer{}, err
	}
	return l, offer, nil
}

// Ask is Network's.
func (n *network) Ask(ctx context.Context, a Address, export string) (nbd.Offer, error) {
	conn, err := n.dialer.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nbd.Offer{}, fmt.Errorf("reach the server: %w", err)
	}
	defer conn.Close()
	offer, err := nbd.Ask(ctx, conn, export)
	if err != nil {
		return nbd.Offer{}, fmt.Errorf("export %q at %v: %w", export, a, err)
	}
	return offer, nil
}
