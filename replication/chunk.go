package replication

import (
	"encoding/binary"
	"fmt"

	"lockstep/block"
)

// Bodies of the base lane.
//
// Chunk data, a run of blocks of one chunk:
//
//	 0 8  chunk
//	 8 8  first block, of the volume
//	16 8  LSN of the source's change map for the chunk, when it was read (S18)
//	24    data
//
// Zero range, the same for blocks that are a hole (S16):
//
//	 0 8  chunk
//	 8 8  first block
//	16 8  number of blocks
//	24 8  LSN of the source's change map
//
// Hash list:
//
//	0 8  number of the list, which its answer repeats
//	8    chunks, 48 bytes each:
//	 0  8  chunk
//	 8  8  LSN of the source's change map
//	16 32  SHA-256 of the chunk's content (S20)
//
// Hash answer:
//
//	 0 8  number of the list
//	 8 4  number of its chunks
//	12 4  reserved, 0
//	16    a bit for each chunk, the first in the lowest bit: 1 where the replica needs its data
//
// End of base, the last frame of a base lane (S21):
//
//	0 8  final target LSN
//	8 8  the source's base high LSN at its last read
const (
	chunkNumberAt  = 0
	chunkFirstAt   = 8
	chunkLSNAt     = 16
	chunkDataBytes = 24
	// MaxChunkDataBytes is the most data that one message carries.
	MaxChunkDataBytes = 1 << 20

	zeroCountAt    = 16
	zeroLSNAt      = 24
	zeroRangeBytes = 32

	hashListNumberAt = 0
	hashListBytes    = 8
	hashChunkAt      = 0
	hashLSNAt        = 8
	hashSumAt        = 16
	hashEntryBytes   = 48
	hashBytes        = 32
	// MaxHashes is the most chunks of one hash list.
	MaxHashes = 4096

	answerNumberAt   = 0
	answerCountAt    = 8
	answerReservedAt = 12
	hashAnswerBytes  = 16

	endTargetAt   = 0
	endBaseHighAt = 8
	endBytes      = 16
)

// ChunkData is data of the base image.
type ChunkData struct {
	Chunk uint64
	Start uint64    // first block, of the volume
	LSN   block.LSN // of the source's change map for the chunk (S18)
	Data  []byte    // whole blocks
}

// ZeroRange is a hole of the base image (S16).
type ZeroRange struct {
	Chunk uint64
	Range block.Range
	LSN   block.LSN // of the source's change map for the chunk (S18)
}

// ChunkHash is the SHA-256 of a chunk's content.
type ChunkHash struct {
	Chunk uint64
	LSN   block.LSN // of the source's change map for the chunk (S18)
	Sum   [hashBytes]byte
}

// HashList asks a replica which chunks it has already.
type HashList struct {
	Number uint64
	Chunks []ChunkHash // ascending
}

// HashAnswer tells which chunks of a HashList a replica needs.
type HashAnswer struct {
	Number uint64
	Needed []bool // one for each chunk of the list
}

// EndOfBase ends a base lane (S21).
type EndOfBase struct {
	TargetLSN   block.LSN
	BaseHighLSN block.LSN // not above the target (I20, S12)
}

// Kind returns KindChunkData.
func (*ChunkData) Kind() Kind  { return KindChunkData }
func (m *ChunkData) size() int { return chunkDataBytes + len(m.Data) }
func (m *ChunkData) put(b []byte) {
	binary.LittleEndian.PutUint64(b[chunkNumberAt:], m.Chunk)
	binary.LittleEndian.PutUint64(b[chunkFirstAt:], m.Start)
	putLSN(b[chunkLSNAt:], m.LSN)
	copy(b[chunkDataBytes:], m.Data)
}
func (m *ChunkData) take(b []byte) error {
	*m = ChunkData{
		Chunk: binary.LittleEndian.Uint64(b[chunkNumberAt:]), Start: binary.LittleEndian.Uint64(b[chunkFirstAt:]),
		LSN: takeLSN(b[chunkLSNAt:]), Data: b[chunkDataBytes:],
	}
	return nil
}

// Kind returns KindZeroRange.
func (*ZeroRange) Kind() Kind { return KindZeroRange }
func (*ZeroRange) size() int  { return zeroRangeBytes }
func (m *ZeroRange) put(b []byte) {
	binary.LittleEndian.PutUint64(b[chunkNumberAt:], m.Chunk)
	binary.LittleEndian.PutUint64(b[chunkFirstAt:], m.Range.Start)
	binary.LittleEndian.PutUint64(b[zeroCountAt:], m.Range.Count)
	putLSN(b[zeroLSNAt:], m.LSN)
}
func (m *ZeroRange) take(b []byte) error {
	le := binary.LittleEndian
	*m = ZeroRange{
		Chunk: le.Uint64(b[chunkNumberAt:]), LSN: takeLSN(b[zeroLSNAt:]),
		Range: block.Range{Start: le.Uint64(b[chunkFirstAt:]), Count: le.Uint64(b[zeroCountAt:])},
	}
	if m.Range.Count == 0 || m.Range.End() < m.Range.Start {
		return fmt.Errorf("%w: blocks %d+%d", ErrCorrupt, m.Range.Start, m.Range.Count)
	}
	return nil
}

// Kind returns KindHashList.
func (*HashList) Kind() Kind  { return KindHashList }
func (m *HashList) size() int { return hashListBytes + len(m.Chunks)*hashEntryBytes }
func (m *HashList) put(b []byte) {
	binary.LittleEndian.PutUint64(b[hashListNumberAt:], m.Number)
	for i := range m.Chunks {
		c, at := &m.Chunks[i], b[hashListBytes+i*hashEntryBytes:]
		binary.LittleEndian.PutUint64(at[hashChunkAt:], c.Chunk)
		putLSN(at[hashLSNAt:], c.LSN)
		copy(at[hashSumAt:], c.Sum[:])
	}
}
func (m *HashList) take(b []byte) error {
	*m = HashList{Number: binary.LittleEndian.Uint64(b[hashListNumberAt:])}
	b = b[hashListBytes:]
	if len(b)%hashEntryBytes != 0 {
		return fmt.Errorf("%w: %d bytes of hashes", ErrCorrupt, len(b))
	}
	m.Chunks = make([]ChunkHash, len(b)/hashEntryBytes)
	for i := range m.Chunks {
		at := b[i*hashEntryBytes:]
		m.Chunks[i] = ChunkHash{
			Chunk: binary.LittleEndian.Uint64(at[hashChunkAt:]), LSN: takeLSN(at[hashLSNAt:]), Sum: [hashBytes]byte(at[hashSumAt:]),
		}
		if i > 0 && m.Chunks[i].Chunk <= m.Chunks[i-1].Chunk {
			return fmt.Errorf("%w: chunk %d after %d", ErrCorrupt, m.Chunks[i].Chunk, m.Chunks[i-1].Chunk)
		}
	}
	return nil
}

// Kind returns KindHashAnswer.
func (*HashAnswer) Kind() Kind  { return KindHashAnswer }
func (m *HashAnswer) size() int { return hashAnswerBytes + (len(m.Needed)+7)/8 }
func (m *HashAnswer) put(b []byte) {
	binary.LittleEndian.PutUint64(b[answerNumberAt:], m.Number)
	binary.LittleEndian.PutUint32(b[answerCountAt:], uint32(len(m.Needed)))
	for i, needed := range m.Needed {
		if needed {
			b[hashAnswerBytes+i/8] |= 1 << (i % 8)
		}
	}
}
func (m *HashAnswer) take(b []byte) error {
	count := binary.LittleEndian.Uint32(b[answerCountAt:])
	bits := b[hashAnswerBytes:]
	if (uint64(count)+7)/8 != uint64(len(bits)) || count%8 != 0 && bits[len(bits)-1]>>(count%8) != 0 {
		return fmt.Errorf("%w: %d answers in %d bytes", ErrCorrupt, count, len(bits))
	}
	*m = HashAnswer{Number: binary.LittleEndian.Uint64(b[answerNumberAt:]), Needed: make([]bool, count)}
	for i := range m.Needed {
		m.Needed[i] = bits[i/8]&(1<<(i%8)) != 0
	}
	return wantZero(b[answerReservedAt:hashAnswerBytes])
}

// Kind returns KindEndOfBase.
func (*EndOfBase) Kind() Kind { return KindEndOfBase }
func (*EndOfBase) size() int  { return endBytes }
func (m *EndOfBase) put(b []byte) {
	putLSN(b[endTargetAt:], m.TargetLSN)
	putLSN(b[endBaseHighAt:], m.BaseHighLSN)
}
func (m *EndOfBase) take(b []byte) error {
	*m = EndOfBase{TargetLSN: takeLSN(b[endTargetAt:]), BaseHighLSN: takeLSN(b[endBaseHighAt:])}
	if m.BaseHighLSN > m.TargetLSN {
		return fmt.Errorf("%w: base high %d above the target %d", ErrCorrupt, m.BaseHighLSN, m.TargetLSN)
	}
	return nil
}
