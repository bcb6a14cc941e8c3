package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxRegularBytes is more than a certificate or a configuration ever has.
const maxRegularBytes = 1 << 20

// ErrNotRegular is returned for what should be a file that can be read at once: a pipe would be waited for.
var ErrNotRegular = errors.New("not a regular file")

// ReadRegular returns the content of a small regular file, at most 1 MiB. Anything else, like a pipe, is ErrNotRegular, and
// not waited for.
func ReadRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	content, err := readRegular(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

func readRegular(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, syscall.EISDIR
	}
	if !info.Mode().IsRegular() {
		return nil, ErrNotRegular
	}
	content, err := io.ReadAll(io.LimitReader(f, maxRegularBytes+1))
	if err == nil && len(content) > maxRegularBytes {
		err = fmt.Errorf("more than %d bytes", maxRegularBytes)
	}
	return content, err
}
