package main

import (
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
)

const (
	connections   = 4
	sectorBytes   = 512  // unit of changes: smaller than a block, so that parts of blocks are changed too
	blockSectors  = 8    // of a block of the volume
	regionSectors = 8192 // what one connection changes of the volume
	regionBytes   = regionSectors * sectorBytes
)

// vector has for each connection the number of one of its changes. They are numbered from 1.
type vector [connections]int

// change is one request as it was sent.
type change struct {
	Kind        uint16
	Begin, Size int    // sectors of the connection's region; both 0 for a flush
	After       vector // what had been acknowledged to each connection when this was sent
}

// history is all that was sent, for each connection in its order.
type history [connections][]change

func (h *history) save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(h), f.Close())
}

func loadHistory(path string) (*history, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var h history
	err = errors.Join(gob.NewDecoder(f).Decode(&h), f.Close())
	if err != nil {
		return nil, fmt.Errorf("read history %s: %w", path, err)
	}
	return &h, nil
}

// stamp fills the sectors of p with the number of the change that writes them. at is the first sector, of the volume.
func stamp(p []byte, number, at int) {
	for ; len(p) > 0; p = p[sectorBytes:] {
		for i := 0; i < sectorBytes; i += 16 {
			binary.LittleEndian.PutUint64(p[i:], uint64(number))
			binary.LittleEndian.PutUint64(p[i+8:], uint64(at))
		}
		at++
	}
}

// stamps returns for each sector of p the number of the change that wrote it, 0 where it is zero. at is the first sector.
// A sector that is neither is an error.
func stamps(p []byte, at int) ([]int, error) {
	found := make([]int, len(p)/sectorBytes)
	for i := range found {
		sector := p[i*sectorBytes:][:sectorBytes]
		number := int(binary.LittleEndian.Uint64(sector))
		expected := make([]byte, sectorBytes)
		if number != 0 {
			stamp(expected, number, at+i)
		}
		if string(sector) != string(expected) {
			return nil, fmt.Errorf("sector %d of the volume holds what nobody wrote there: % x…", at+i, sector[:32])
		}
		found[i] = number
	}
	return found, nil
}
