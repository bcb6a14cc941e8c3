package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors of the sockets that a node listens on.
var (
	ErrSocketPath = errors.New("path not fit for a Unix socket")
	ErrInUse      = errors.New("in use")
)

// maxSocketPathBytes is what the kernel's sockaddr_un holds, less the terminating zero.
const maxSocketPathBytes = len(syscall.RawSockaddrUnix{}.Path) - 1

// checkSocketPath returns an error that wraps ErrSocketPath where the kernel would refuse the path for its length.
func checkSocketPath(path, flag string) error {
	if len(path) > maxSocketPathBytes {
		return fmt.Errorf("%w: %s is %d bytes long, the kernel takes at most %d; give a shorter one with %s",
			ErrSocketPath, path, len(path), maxSocketPathBytes, flag)
	}
	return nil
}

// listenUnix listens on a Unix socket that only this user may use. What a dead process left there is removed; where
// somebody answers, or the file is no socket, it returns an error that wraps ErrInUse. Closing the listener removes
// the file.
func listenUnix(ctx context.Context, path, flag string) (net.Listener, error) {
	if err := checkSocketPath(path, flag); err != nil {
		return nil, err
	}
	if err := removeStaleSocket(ctx, path); err != nil {
		return nil, err
	}
	// The mode is set before the file exists: the kernel makes it with the mode of the socket's descriptor.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var mode error
		err := c.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, mode)
	}}
	l, err := private.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; give a path in a directory that is there, and yours, with %s", path, cause(err), flag)
	}
	return l, nil
}

// removeStaleSocket removes a socket file on which nobody listens.
func removeStaleSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is %w: it is a file, not a socket, and is left alone", path, ErrInUse)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is %w: another process answers there", path, ErrInUse), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

// listenTCP listens on a host:port. Where the port is taken, the error wraps ErrInUse and names the process that has
// it, if that may be seen, and the flag that gives another one.
func listenTCP(ctx context.Context, address, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is %w%s; give another address with %s", address, ErrInUse, byWhom(address), flag)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; give an address of this machine, and a port that is free to this user, with %s",
			address, cause(err), flag)
	}
	return l, nil
}

// cause is what an error of package net is about, without the address, which our own error has.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func byWhom(address string) string {
	owner, err := portOwner("/proc", address)
	if err != nil {
		return "" // the holder may be another user's, and then cannot be seen
	}
	return fmt.Sprintf(" by process %d (%q)", owner.PID, owner.Command)
}

// absolute makes a path independent of the working directory.
func absolute(path string) (string, error) {
	p, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("absolute path of %s: %w", path, err)
	}
	return p, nil
}
