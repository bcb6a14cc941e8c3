package nbd

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peer says who is at the other end of a connection: host:port, or the process that connected to a Unix socket.
func peer(conn net.Conn) string {
	if u, ok := conn.(*net.UnixConn); ok {
		if pid, err := peerPID(u); err == nil {
			return fmt.Sprintf("process %d", pid)
		}
	}
	return conn.RemoteAddr().String()
}

func peerPID(conn *net.UnixConn) (int32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { who, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return who.Pid, nil
}
