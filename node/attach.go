package node

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
)

// WriteAttach tells a person how to attach the volumes that a server serves: for each one the commands, ready to paste.
func WriteAttach(w io.Writer, e Endpoints) error {
	for _, v := range e.Volumes {
		if err := writeVolumeAttach(w, e, v); err != nil {
			return err
		}
	}
	return nil
}

func writeVolumeAttach(w io.Writer, e Endpoints, v VolumeStatus) error {
	if v.State != StateServed {
		_, err := fmt.Fprintf(w, "\n%s  NOT SERVED (%s): %s\n", v.Name, v.State, v.Error)
		return err
	}
	if _, err := fmt.Fprintf(w, "\n%s  %s, block size %d\n", v.Name, humanBytes(v.SizeBytes), v.BlockSize); err != nil {
		return err
	}
	options := fmt.Sprintf("-N %s -b %d", v.Name, v.BlockSize)
	lines := []string{fmt.Sprintf("lockstep attach %s --unix %s", v.Name, shellWord(e.Unix)),
		fmt.Sprintf("nbd-client -unix %s %s /dev/nbd0", shellWord(e.Unix), options)}
	for _, address := range e.TCP {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if e.TLS == TLSRequire {
			lines = append(lines, fmt.Sprintf("nbdinfo 'nbds://%s/%s?tls-certificates=DIR'", address, v.Name))
			continue
		}
		lines = append(lines, fmt.Sprintf("nbd-client %s %s %s /dev/nbd0", host, port, options),
			fmt.Sprintf("nbdinfo nbd://%s/%s", address, v.Name))
	}
	lines = append(lines, fmt.Sprintf("qemu-img info '%s'", unixURI(e.Unix, v.Name)))
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "    %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// unixURI is the NBD URI of an export on a Unix socket.
func unixURI(socket, export string) string {
	query := strings.NewReplacer("%2F", "/", "+", "%20").Replace(url.QueryEscape(socket))
	return "nbd+unix:///" + url.PathEscape(export) + "?socket=" + query
}

// shellWord quotes a path that a shell would take apart.
func shellWord(path string) string {
	if plain, _ := regexp.MatchString(`^[A-Za-z0-9/._-]+$`, path); plain {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
