package node

import (
	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/volume"
	"lockstep/wal"
)

// memoryLogBytes is the log of a volume in memory, where no other size is asked for.
const memoryLogBytes = 64 << 20

// memoryPlace is a directory in memory, which nothing has to close.
type memoryPlace struct{ *wal.MemoryDir }

// Close does nothing.
func (memoryPlace) Close() error { return nil }

// memoryImage is a base image in memory, which nothing has to close.
type memoryImage struct{ *backend.Memory }

// Close does nothing.
func (memoryImage) Close() error { return nil }

// memoryParts makes an empty volume in memory.
func memoryParts(s settings) (*parts, error) {
	p := &parts{
		base: memoryImage{backend.NewMemory(s.SizeBytes + volume.DataOffset)},
		meta: memoryPlace{wal.NewMemoryDir()},
		log:  memoryPlace{wal.NewMemoryDir()},
	}
	geometry := volume.Geometry{ID: s.ID, SizeBytes: s.SizeBytes, BlockSize: s.BlockSize, LogBudgetBytes: s.LogBytes}
	if err := volume.Create(p.config(s, s.ID, zerolog.Nop()), geometry); err != nil {
		return nil, err
	}
	return p, nil
}
