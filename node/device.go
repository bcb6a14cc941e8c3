package node

import (
	"sync"

	"lockstep/nbd"
	"lockstep/volume"
)

// device makes an NBD device of a volume.
type device struct {
	volume *volume.Volume
	// changes holds slices that requests are translated into, so that a batch costs no allocation.
	changes sync.Pool
}

func newDevice(v *volume.Volume) *device {
	return &device{volume: v, changes: sync.Pool{New: func() any { return new([]volume.Change) }}}
}

// The method set of nbd.Device.
func (d *device) Size() int64                    { return d.volume.Size() }
func (d *device) BlockSize() int                 { return d.volume.BlockSize() }
func (d *device) Read(p []byte, off int64) error { return d.volume.Read(p, off) }
func (d *device) Flush() error                   { return d.volume.Flush() }
func (d *device) ReadNoWait(p []byte, off int64) (bool, error) {
	return d.volume.ReadNoWait(p, off)
}

// Apply hands the batch on as one, so that it is logged with one write.
func (d *device) Apply(changes []nbd.Change) {
	batch := d.changes.Get().(*[]volume.Change)
	defer d.changes.Put(batch)
	translated := (*batch)[:0]
	for i := range changes {
		translated = append(translated, translate(&changes[i]))
	}
	*batch = translated
	d.volume.Apply(translated)
	for i := range changes {
		changes[i].Err = translated[i].Err
	}
	clear(translated) // the pool keeps no request's data alive
}

func translate(c *nbd.Change) volume.Change {
	return volume.Change{Kind: kind(c), FUA: c.FUA, Offset: c.Offset, Length: c.Length, Data: c.Data}
}

func kind(c *nbd.Change) volume.Kind {
	switch {
	case c.Op == nbd.OpWrite:
		return volume.Write
	case c.Op == nbd.OpWriteZeroes && c.NoHole:
		return volume.Zero
	case c.Op == nbd.OpWriteZeroes, c.Op == nbd.OpTrim:
		return volume.Trim
	}
	panic("node: unknown kind of NBD change")
}

func (d *device) Extents(off, length int64, max int) ([]nbd.Extent, error) {
	extents, err := d.volume.Extents(off, length, max)
	if err != nil {
		return nil, err
	}
	out := make([]nbd.Extent, len(extents))
	for i, e := range extents {
		out[i] = nbd.Extent(e)
	}
	return out, nil
}
