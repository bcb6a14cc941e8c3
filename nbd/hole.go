package nbd

import "bytes"

// Zeroes in the answer to a read do not travel: in chunks, a long run of them becomes an offset-hole chunk. They are
// found in the data that was read, so that a hole chunk can not say anything else than a data chunk would have, whatever
// changes the device meanwhile; looking costs one cache line for a grain that is not zeroes. The answer stays where it
// was read to: headers are written over the zeroes, and what is left of them is a gap, which is not sent.

const (
	// minHoleBytes is the shortest run of zeroes that is worth a chunk; shorter reads are not looked at.
	minHoleBytes = 64 << 10
	// holeGrainBytes is the unit of looking. Runs begin and end at multiples of it, or where the read does.
	holeGrainBytes = 4 << 10
)

// gap is a range of a buffer's bytes.
type gap struct{ from, to int }

// carves reports whether zeroes may be left out of the answer to r.
func (r request) carves(s style) bool {
	return r.length >= minHoleBytes && s.chunked() && r.flags&cmdFlagDF == 0
}

// addRead adds the answer to r, which was written to the n bytes after b.filled.
func (b *buffer) addRead(n int, s style, r request) {
	start := b.filled
	b.filled += n
	if r.carves(s) {
		b.carve(start, s, r)
	}
}

// carve replaces runs of zeroes in the answer to r, which fills b from start on, and moves b.filled to its new end.
func (b *buffer) carve(start int, s style, r request) {
	data := b.mem[start+s.readHeaderBytes() : b.filled]
	c := carving{buffer: b, style: s, request: r, data: data, base: start + s.readHeaderBytes(), end: start}
	for from := 0; from < len(data); {
		n := zeroesAt(data[from:], r.offset+uint64(from))
		if n >= minHoleBytes {
			c.hole(from, from+n)
		}
		from += max(n, grainAt(len(data)-from, r.offset+uint64(from)))
	}
	c.finish()
}

// grainAt is how many of length bytes at offset are in the first grain.
func grainAt(length int, offset uint64) int {
	return min(length, holeGrainBytes-int(offset%holeGrainBytes))
}

// zeroesAt is the length of the run of grains that are zeroes at the start of data, the bytes at offset.
func zeroesAt(data []byte, offset uint64) int {
	n := 0
	for n < len(data) {
		grain := data[n:][:grainAt(len(data)-n, offset+uint64(n))]
		if grain[0] != 0 || !bytes.Equal(grain[1:], grain[:len(grain)-1]) {
			break
		}
		n += len(grain)
	}
	return n
}

// carving is one answer while it is cut into chunks, from its front to its end.
type carving struct {
	buffer  *buffer
	style   style
	request request
	data    []byte // that were read
	base    int    // their place in buffer.mem
	done    int    // Invariant: chunks stand for data[:done]
	end     int    // of these chunks in buffer.mem; end <= base + done
}

// hole makes chunks of the data before data[from:to], which are zeroes, and of those.
func (c *carving) hole(from, to int) {
	if from > c.done {
		c.put(from)
	}
	mem := c.buffer.mem[:c.end]
	mem = c.style.appendHole(mem, c.flags(to), c.request.tag(), c.request.offset+uint64(from), to-from)
	c.done, c.end = to, len(mem)
}

// put makes a chunk of the data up to data[to]: its header goes right before them, where zeroes or the header of the
// whole answer were.
func (c *carving) put(to int) {
	header := c.base + c.done - c.style.readHeaderBytes()
	c.style.appendData(c.buffer.mem[:header], c.flags(to), c.request.tag(), c.request.offset+uint64(c.done), to-c.done)
	if header > c.end {
		c.buffer.gaps = append(c.buffer.gaps, gap{c.end, header})
	}
	c.done, c.end = to, c.base+to
}

func (c *carving) flags(to int) uint16 {
	if to == len(c.data) {
		return replyFlagDone
	}
	return 0
}

// finish makes a chunk of what is left. An answer without holes is as it was.
func (c *carving) finish() {
	if c.done < len(c.data) {
		c.put(len(c.data))
	}
	c.buffer.filled = c.end
}

// dataBytes is how much of b is to be sent.
func (b *buffer) dataBytes() int {
	n := b.filled
	for _, g := range b.gaps {
		n -= g.to - g.from
	}
	return n
}

// appendParts appends what of b is to be sent.
func (b *buffer) appendParts(parts [][]byte) [][]byte {
	from := 0
	for _, g := range b.gaps {
		if g.from > from {
			parts = append(parts, b.mem[from:g.from])
		}
		from = g.to
	}
	if b.filled > from {
		parts = append(parts, b.mem[from:b.filled])
	}
	return parts
}
