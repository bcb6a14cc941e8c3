package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one that was found to hold something.
type process struct {
	PID     int
	Command string
}

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// portOwner finds the process that listens on the port of a host:port address, whatever the host: any of them may be
// what keeps us from it. proc is where the proc file system is mounted.
func portOwner(proc, address string) (process, error) {
	_, service, err := net.SplitHostPort(address)
	if err != nil {
		return process{}, err
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return process{}, err
	}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		inode, err := listeningInode(filepath.Join(proc, table), port)
		if err != nil {
			continue // a kernel without IPv6 has no tcp6
		}
		return socketOwner(proc, inode)
	}
	return process{}, fmt.Errorf("no listener on port %d", port)
}

// listeningInode returns the inode of the first socket in a table of TCP sockets that listens on the port. The
// columns are: number, local address:port, remote address:port, state, queues, timer, retransmits, uid, timeout, inode.
func listeningInode(table string, port int) (string, error) {
	f, err := os.Open(table)
	if err != nil {
		return "", err
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 10 && strings.HasSuffix(fields[1], suffix) && fields[3] == tcpListen {
			return fields[9], nil
		}
	}
	return "", errors.Join(fmt.Errorf("no listener on port %d in %s", port, table), lines.Err())
}

// socketOwner returns the first process that has the socket open.
func socketOwner(proc, inode string) (process, error) {
	want := "socket:[" + inode + "]"
	links, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return process{}, err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != want {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return process{}, err
		}
		return process{PID: pid, Command: command(dir)}, nil
	}
	return process{}, fmt.Errorf("no process with socket %s", inode)
}

// command returns the command line of the process whose proc directory is dir.
func command(dir string) string {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return "command unknown"
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '}))
}
