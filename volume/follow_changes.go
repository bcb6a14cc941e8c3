package volume

import (
	"iter"

	"lockstep/block"
)

// ChunkBytes returns the size of a chunk, the unit of ChangedSince, in bytes. A resize may double it, and so on.
func (v *Volume) ChunkBytes() int64 {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	return v.changes.ChunkBytes()
}

// ChangedSince returns the chunks that records after since may have changed in the base image, in order, as blocks of the
// volume, each with the LSN of the last record that touched it, or a later one. It covers the base image as of upTo, the
// checkpoint at the moment of the call, for which it waits where one runs; what is newer is in the log. The blocks of the last chunk end
// with the volume.
func (v *Volume) ChangedSince(since block.LSN) (upTo block.LSN, changed iter.Seq2[block.Range, block.LSN]) {
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	m := v.changes
	perChunk := uint64(m.ChunkBytes() / v.blockBytes)
	end := uint64(v.header.current.SizeBytes / v.blockBytes)
	return v.header.current.Checkpoint, func(yield func(block.Range, block.LSN) bool) {
		more := true
		m.Scan(since, func(chunk uint64, lsn block.LSN) {
			if start := chunk * perChunk; more && start < end {
				more = yield(block.Range{Start: start, Count: min(perChunk, end-start)}, lsn)
			}
		})
	}
}
