package volume

import (
	"slices"
	"sync"

	"lockstep/block"
	"lockstep/wal"
)

// partial is a change under way that covers a part of some block. From the read of the old block until the merged
// one is published, no overlapping change of any kind is logged (L7).
type partial struct{ block.Range }

// partials are the partial changes under way. It is guarded by Volume.mu, which changed waits on.
type partials struct {
	ranges  []*partial
	changed *sync.Cond
}

func (p *partials) overlaps(r block.Range, own *partial) bool {
	for _, q := range p.ranges {
		if q != own && r.Start < q.End() && q.Start < r.End() {
			return true
		}
	}
	return false
}

// await waits until none of the records overlaps a partial change other than own.
func (p *partials) await(records []wal.Change, own *partial) {
	if len(p.ranges) == 0 {
		return
	}
	for slices.ContainsFunc(records, func(r wal.Change) bool { return p.overlaps(r.Range, own) }) {
		p.changed.Wait()
	}
}

// begin waits until the range is free and takes it.
func (p *partials) begin(r block.Range) *partial {
	for p.overlaps(r, nil) {
		p.changed.Wait()
	}
	own := &partial{r}
	p.ranges = append(p.ranges, own)
	return own
}

func (p *partials) end(own *partial) {
	i := slices.Index(p.ranges, own)
	p.ranges = slices.Delete(p.ranges, i, i+1)
	p.changed.Broadcast()
}

// applyPartial carries out a change that covers a part of its first or last block: these are read, merged and logged
// whole. b is empty and used for the records.
func (v *Volume) applyPartial(b *batch, c *Change) error {
	r := v.blocks(c.Offset, c.Length)
	if r.Count == 0 {
		return nil
	}
	v.mu.Lock()
	own := v.partials.begin(r)
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.partials.end(own)
	}()
	if err := v.merge(b, c, r); err != nil {
		return err
	}
	return v.logAll(b.reign, b.records, b.bytes, own)
}

// merge adds the records of a change that begins or ends within a block: the first block, whole blocks, the last.
func (v *Volume) merge(b *batch, c *Change, r block.Range) error {
	off, end := c.Offset, c.Offset+c.Length
	data := c.Data
	for off < end {
		start := off / v.blockBytes * v.blockBytes
		if start == off && end-off >= v.blockBytes {
			n := (end - off) / v.blockBytes * v.blockBytes
			whole := Change{Kind: c.Kind, Offset: off, Length: n}
			if c.Kind == Write {
				whole.Data, data = data[:n], data[n:]
			}
			b.add(&whole, v.blockBytes)
			off += n
			continue
		}
		merged := make([]byte, v.blockBytes)
		if err := v.read(merged, start, true); err != nil {
			return err
		}
		n := min(start+v.blockBytes, end) - off
		if c.Kind == Write {
			copy(merged[off-start:], data[:n])
			data = data[n:]
		} else {
			clear(merged[off-start:][:n])
		}
		b.addWrite(uint64(start/v.blockBytes), merged, v.blockBytes)
		off += n
	}
	return nil
}
