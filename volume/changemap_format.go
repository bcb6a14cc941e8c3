package volume

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/google/uuid"

	"lockstep/block"
)

// The file of a change map. Little endian, in units of 4 KiB:
//
//	unit           content
//	0, 1           head slots; a generation's head is in slot generation mod 2
//	2 .. 2+p-1     page slots 0 of the p pages
//	2+p .. 2+2p-1  page slots 1
//
// A head, 4 KiB:
//
//	offset size field
//	     0    8 magic "LSCHGMAP"
//	     8    4 version, 1
//	    12    4 CRC32C of all 4096 bytes, with this field zero
//	    16    8 compatible feature flags
//	    24    8 incompatible feature flags
//	    32   16 volume ID
//	    48    8 generation
//	    56    8 floor: an LSN no chunk is below
//	    64    8 chunk size, in bytes
//	    72    8 chunks
//	    80  936 reserved: zero; preserved when a newer program has put something there
//	  1016 1536 bitmap: bit i set = page i is on disk (byte i/8, bit i%8); unset = all its entries are 0
//	  2552 1536 bitmap: bit i = the slot of page i
//	  4088    8 generation again: where it differs, the write was torn
//
// A page, 4 KiB:
//
//	offset size field
//	     0    8 magic "LSMAPPAG"
//	     8    4 page index
//	    12    4 CRC32C of all 4096 bytes, with this field zero
//	    16    8 generation that wrote it
//	    24    8 first 8 bytes of the volume ID
//	    32 4064 508 LSNs, of chunks 508*index and following; 0 past the last chunk
const (
	mapMagic     = "LSCHGMAP"
	mapPageMagic = "LSMAPPAG"
	mapVersion   = 1

	mapUnitBytes   = 4096
	mapHeadSlots   = 2
	mapBitmapBytes = 1536

	mapVersionAt    = 8
	mapCRCAt        = 12
	mapCompatAt     = 16
	mapIncompatAt   = 24
	mapVolumeAt     = 32
	mapGenerationAt = 48
	mapFloorAt      = 56
	mapChunkBytesAt = 64
	mapChunksAt     = 72
	mapReservedAt   = 80
	mapPresentAt    = 1016
	mapSlotAt       = mapPresentAt + mapBitmapBytes
	mapEndAt        = mapSlotAt + mapBitmapBytes

	pageIndexAt      = 8
	pageCRCAt        = 12
	pageGenerationAt = 16
	pageVolumeAt     = 24
	pageEntriesAt    = 32

	_ = uint(mapBitmapBytes*8 - maxPages)                        // every page has a bit
	_ = uint(mapUnitBytes - mapEndAt - 8)                        // the head fits its unit
	_ = uint(mapUnitBytes - pageEntriesAt - pageEntries*8)       // a page fits its unit
	_ = uint(-(mapUnitBytes - pageEntriesAt - pageEntries*8))    // and fills it
	_ = uint(maxPages*pageEntries - maxChunks)                   // and there are enough
	_ = uint(mapPresentAt - mapReservedAt - mapReservedBytes)    // no overlap
	_ = uint(-(mapPresentAt - mapReservedAt - mapReservedBytes)) // no gap

	mapReservedBytes = 936
)

// mapHead is a decoded head.
type mapHead struct {
	compat     uint64 // unknown flags are preserved
	volumeID   uuid.UUID
	generation uint64
	floor      block.LSN
	chunkBytes int64
	chunks     uint64
	reserved   [mapReservedBytes]byte
	present    bitmap // pages on disk
	slot       bitmap // the slot of each
}

// encode fills b, which is of one unit.
func (h *mapHead) encode(b []byte) {
	le := binary.LittleEndian
	clear(b)
	copy(b, mapMagic)
	le.PutUint32(b[mapVersionAt:], mapVersion)
	le.PutUint64(b[mapCompatAt:], h.compat)
	copy(b[mapVolumeAt:], h.volumeID[:])
	le.PutUint64(b[mapGenerationAt:], h.generation)
	le.PutUint64(b[mapFloorAt:], uint64(h.floor))
	le.PutUint64(b[mapChunkBytesAt:], uint64(h.chunkBytes))
	le.PutUint64(b[mapChunksAt:], h.chunks)
	copy(b[mapReservedAt:], h.reserved[:])
	copy(b[mapPresentAt:mapSlotAt], h.present)
	copy(b[mapSlotAt:mapEndAt], h.slot)
	le.PutUint64(b[mapEndAt:], h.generation)
	le.PutUint32(b[mapCRCAt:], checksum(b, mapCRCAt))
}

// decodeMapHead reads a head of one unit. The error wraps ErrForeign, ErrVersion, ErrTorn, ErrCorrupt or
// ErrIncompatible.
func decodeMapHead(b []byte) (*mapHead, error) {
	if len(b) != mapUnitBytes || string(b[:len(mapMagic)]) != mapMagic {
		return nil, fmt.Errorf("%w: no magic", ErrForeign)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[mapVersionAt:]); v != mapVersion {
		return nil, fmt.Errorf("%w %d, this program knows %d", ErrVersion, v, mapVersion)
	}
	begin, end := le.Uint64(b[mapGenerationAt:]), le.Uint64(b[mapEndAt:])
	crcBad := le.Uint32(b[mapCRCAt:]) != checksum(b, mapCRCAt)
	switch {
	case crcBad && begin != end:
		return nil, fmt.Errorf("%w: generation %d at the begin, %d at the end", ErrTorn, begin, end)
	case crcBad:
		return nil, fmt.Errorf("%w: checksum", ErrCorrupt)
	case begin != end:
		return nil, fmt.Errorf("%w: generation %d at the begin, %d at the end", ErrCorrupt, begin, end)
	}
	if err := refuseUnknown(le.Uint64(b[mapIncompatAt:]), nil); err != nil {
		return nil, err
	}
	h := &mapHead{
		compat:     le.Uint64(b[mapCompatAt:]),
		volumeID:   uuid.UUID(b[mapVolumeAt:mapGenerationAt]),
		generation: begin,
		floor:      block.LSN(le.Uint64(b[mapFloorAt:])),
		chunkBytes: int64(le.Uint64(b[mapChunkBytesAt:])),
		chunks:     le.Uint64(b[mapChunksAt:]),
		reserved:   [mapReservedBytes]byte(b[mapReservedAt:mapPresentAt]),
	}
	if !validChunks(h.chunkBytes, h.chunks) {
		return nil, fmt.Errorf("%w: %d chunks of %d bytes", ErrCorrupt, h.chunks, h.chunkBytes)
	}
	var ok1, ok2 bool
	h.present, ok1 = takeBitmap(b[mapPresentAt:mapSlotAt], pageCount(h.chunks))
	h.slot, ok2 = takeBitmap(b[mapSlotAt:mapEndAt], pageCount(h.chunks))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: a page beyond the last of %d", ErrCorrupt, pageCount(h.chunks))
	}
	return h, nil
}

// encodeMapPage fills b, which is of one unit.
func encodeMapPage(b []byte, volumeID uuid.UUID, index int, generation uint64, entries *[pageEntries]block.LSN) {
	le := binary.LittleEndian
	copy(b, mapPageMagic)
	le.PutUint32(b[pageIndexAt:], uint32(index))
	le.PutUint64(b[pageGenerationAt:], generation)
	copy(b[pageVolumeAt:pageEntriesAt], volumeID[:])
	for i, lsn := range entries {
		le.PutUint64(b[pageEntriesAt+8*i:], uint64(lsn))
	}
	le.PutUint32(b[pageCRCAt:], checksum(b, pageCRCAt))
}

// decodeMapPage reads a page of one unit, which must be page index of the map with head h. The error wraps ErrForeign
// or ErrCorrupt.
func decodeMapPage(b []byte, h *mapHead, index int) (*mapPage, error) {
	if len(b) != mapUnitBytes || string(b[:len(mapPageMagic)]) != mapPageMagic {
		return nil, fmt.Errorf("%w: no magic", ErrForeign)
	}
	le := binary.LittleEndian
	if le.Uint32(b[pageCRCAt:]) != checksum(b, pageCRCAt) {
		return nil, fmt.Errorf("%w: checksum", ErrCorrupt)
	}
	if string(b[pageVolumeAt:pageEntriesAt]) != string(h.volumeID[:pageEntriesAt-pageVolumeAt]) {
		return nil, fmt.Errorf("%w: page of another volume", ErrForeign)
	}
	if got := le.Uint32(b[pageIndexAt:]); got != uint32(index) {
		return nil, fmt.Errorf("%w: page %d in the place of %d", ErrCorrupt, got, index)
	}
	if got := le.Uint64(b[pageGenerationAt:]); got > h.generation {
		return nil, fmt.Errorf("%w: page of generation %d in a map of %d", ErrCorrupt, got, h.generation)
	}
	p := new(mapPage)
	for i := range p.entries {
		p.entries[i] = block.LSN(le.Uint64(b[pageEntriesAt+8*i:]))
	}
	used := min(h.chunks-uint64(index)*pageEntries, pageEntries)
	clear(p.entries[used:])
	for _, lsn := range p.entries[:used] {
		p.newest = max(p.newest, lsn)
	}
	return p, nil
}

// bitmap has one bit for each page: bit i is bit i%8 of byte i/8.
type bitmap []byte

func newBitmap(n int) bitmap { return make(bitmap, (n+7)/8) }

func (b bitmap) get(i int) bool { return b[i/8]&(1<<(i%8)) != 0 }
func (b bitmap) set(i int)      { b[i/8] |= 1 << (i % 8) }
func (b bitmap) clear(i int)    { b[i/8] &^= 1 << (i % 8) }

func (b bitmap) put(i int, on bool) {
	b.clear(i)
	if on {
		b.set(i)
	}
}

// takeBitmap copies n bits out of b; false where a bit after them is set.
func takeBitmap(b []byte, n int) (bitmap, bool) {
	out := newBitmap(n)
	copy(out, b)
	ones, all := 0, 0
	for i := range n {
		if out.get(i) {
			ones++
		}
	}
	for _, c := range b {
		all += bits.OnesCount8(c)
	}
	return out, ones == all
}
