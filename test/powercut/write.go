package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// workload is what the connections of one run share.
type workload struct {
	marker  *marker
	history history // each connection's part is its own

	mu    sync.Mutex
	acked vector
}

// write changes a volume over several connections at once, and notes what it sent. The first mark, of nothing, says that the
// volume exists.
func write(a arguments, out io.Writer) error {
	m, err := newMarker(a.target)
	if err != nil {
		return err
	}
	w := &workload{marker: m}
	if err := m.mark(vector{}); err != nil {
		return errors.Join(err, m.close())
	}
	var running sync.WaitGroup
	failed := make([]error, connections)
	for i := range connections {
		running.Go(func() {
			if err := w.connection(a, i); err != nil {
				failed[i] = fmt.Errorf("connection %d: %w", i, err)
			}
		})
	}
	running.Wait()
	err = errors.Join(append(failed, m.close())...)
	if err == nil {
		err = w.history.save(a.history)
	}
	fmt.Fprintf(out, "%d requests on %d connections\n", connections*a.changes, connections)
	return err
}

// connection sends the changes of one connection.
func (w *workload) connection(a arguments, index int) error {
	c, err := dial(a.socket, a.volume)
	if err != nil {
		return err
	}
	if want := int64(connections * regionBytes); c.size < want {
		return errors.Join(fmt.Errorf("the volume has %d bytes, not %d", c.size, want), c.close())
	}
	random := rand.New(rand.NewPCG(a.seed, uint64(index)))
	for number := 1; number <= a.changes && err == nil; number++ {
		chosen, flags := choose(random)
		err = w.request(c, index, number, chosen, flags)
	}
	return errors.Join(err, c.close())
}

// choose draws a request, and its flags.
func choose(random *rand.Rand) (change, uint16) {
	c := change{Kind: kindWrite}
	switch p := random.IntN(100); {
	case p < 10:
		return change{Kind: kindFlush}, 0
	case p < 18:
		c.Kind = kindTrim
	case p < 24:
		c.Kind = kindZero
	}
	c.Size = blockSectors * (1 + random.IntN(16))
	c.Begin = blockSectors * random.IntN((regionSectors-c.Size)/blockSectors+1)
	if random.IntN(4) == 0 { // parts of blocks
		c.Size = 1 + random.IntN(20)
		c.Begin = random.IntN(regionSectors - c.Size + 1)
	}
	if random.IntN(12) == 0 {
		return c, flagFUA
	}
	return c, 0
}

// request sends one change, waits for its answer, and marks what that promises.
func (w *workload) request(c *client, index, number int, chosen change, flags uint16) error {
	w.mu.Lock()
	chosen.After = w.acked
	w.mu.Unlock()
	w.history[index] = append(w.history[index], chosen)

	at := index*regionSectors + chosen.Begin
	length := chosen.Size * sectorBytes
	var data []byte
	if chosen.Kind == kindWrite {
		data = make([]byte, length)
		stamp(data, number, at)
	}
	if chosen.Kind == kindFlush {
		at = 0 // as the protocol wants it
	}
	if err := c.do(chosen.Kind, flags, int64(at)*sectorBytes, length, data); err != nil {
		return fmt.Errorf("change %d: %w", number, err)
	}
	w.mu.Lock()
	w.acked[index] = number
	w.mu.Unlock()

	switch {
	case chosen.Kind == kindFlush:
		return w.marker.mark(chosen.After)
	case flags&flagFUA != 0:
		var promised vector
		promised[index] = number
		return w.marker.mark(promised)
	}
	return nil
}
