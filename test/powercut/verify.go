package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// verify compares what a server has after a cut with what was sent before.
func verify(a arguments, out io.Writer) error {
	h, err := loadHistory(a.history)
	if err != nil {
		return err
	}
	required, err := requiredAt(a.log, a.cut)
	if err != nil {
		return err
	}
	found, err := readRegions(a.socket, a.volume)
	if err != nil {
		return err
	}
	has, err := h.check(found, required)
	if err != nil {
		return fmt.Errorf("cut %d: %w", a.cut, err)
	}
	fmt.Fprintf(out, "has changes up to %v; acknowledged as durable were those up to %v\n", has, required)
	return nil
}

func requiredAt(path string, cut int) (vector, error) {
	in, err := os.Open(path)
	if err != nil {
		return vector{}, err
	}
	defer in.Close()
	l, err := openLog(in)
	if err != nil {
		return vector{}, fmt.Errorf("%s: %w", path, err)
	}
	if cut > len(l.entries) {
		return vector{}, fmt.Errorf("cut %d of %s: it has %d entries", cut, path, len(l.entries))
	}
	required, marked, err := l.required(cut)
	if err == nil && !marked {
		err = fmt.Errorf("cut %d of %s: nothing was written yet", cut, path)
	}
	return required, err
}

// readRegions reads what each connection wrote.
func readRegions(socket, volume string) (found [connections][]int, err error) {
	c, err := dial(socket, volume)
	if err != nil {
		return found, err
	}
	data := make([]byte, regionBytes)
	for i := range found {
		if err = c.do(kindRead, 0, int64(i)*regionBytes, regionBytes, data); err != nil {
			break
		}
		if found[i], err = stamps(data, i*regionSectors); err != nil {
			break
		}
	}
	return found, errors.Join(err, c.close())
}
