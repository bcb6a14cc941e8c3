package volume

import (
	"bytes"
	"fmt"

	"lockstep/block"
	"lockstep/test/disk"
	"lockstep/wal"
)

// stopped is a volume that is not open, as its files have it.
type stopped struct {
	*Inspection
	config  Config
	records []wal.Record // of the log, from the segment that holds the checkpoint on, with payloads
}

func inspectTest(d *disk.Disk) (*stopped, error) {
	s := &stopped{config: testConfig(d)}
	var err error
	s.Inspection, err = Inspect(s.config, wal.Visitor{Record: func(r wal.Record, _ wal.Position) error {
		r.Payload = bytes.Clone(r.Payload)
		s.records = append(s.records, r)
		return nil
	}})
	return s, err
}

// checkStopped checks what holds of the files at any moment, whatever a crash left (I4, S12, L9): the log has all that
// the base image has, and the change map knows of it.
func checkStopped(d *disk.Disk) error {
	s, err := inspectTest(d)
	if err != nil {
		return err
	}
	if s.Log.Damage != nil {
		return fmt.Errorf("%w: %w", disk.ErrContradiction, s.Log.Damage)
	}
	if err := s.checkBase(); err != nil {
		return fmt.Errorf("%w: %w", disk.ErrContradiction, err)
	}
	if err := s.checkMap(); err != nil {
		return fmt.Errorf("%w: %w", disk.ErrContradiction, err)
	}
	return nil
}

// checkBase compares the base image with the log: each of its blocks is as some record left it that the log still has
// after the crash, and that is not above base_high.
func (s *stopped) checkBase() error {
	if len(s.records) == 0 || s.records[0].LSN > 1 {
		return nil // what the base image had before is not known here
	}
	sb := &s.Superblock
	if sb.Checkpoint > sb.BaseHigh || sb.BaseHigh > s.Log.Head {
		return fmt.Errorf("checkpoint %d, base_high %d, head %d", sb.Checkpoint, sb.BaseHigh, s.Log.Head)
	}
	versions := s.versions()
	p := make([]byte, testBlock)
	for b := range uint64(sb.SizeBytes / testBlock) {
		if _, err := s.config.Base.ReadAt(p, DataOffset+int64(b)*testBlock); err != nil {
			return err
		}
		lsn, ok := versions.find(b, p)
		switch {
		case !ok:
			return fmt.Errorf("block %d of the base image has what no record of the log up to %d put there: % x…", b, s.Log.Head, p[:16])
		case lsn > sb.BaseHigh:
			return fmt.Errorf("block %d of the base image is as of record %d, and base_high is %d", b, lsn, sb.BaseHigh)
		}
	}
	return nil
}

// blockVersions are the contents of each block in order of their records; nil data is zeroes.
type blockVersions map[uint64][]blockVersion

type blockVersion struct {
	lsn  block.LSN
	data []byte
}

func (s *stopped) versions() blockVersions {
	versions := blockVersions{}
	for _, r := range s.records {
		for i := range r.Range.Count {
			v := blockVersion{lsn: r.LSN}
			if r.Type == wal.RecordWrite {
				v.data = r.Payload[i*testBlock:][:testBlock]
			}
			versions[r.Range.Start+i] = append(versions[r.Range.Start+i], v)
		}
	}
	return versions
}

// find returns the first record that left p in the block; 0 is the beginning.
func (v blockVersions) find(b uint64, p []byte) (block.LSN, bool) {
	if isZero(p) {
		return 0, true
	}
	for _, x := range v[b] {
		if bytes.Equal(x.data, p) {
			return x.lsn, true
		}
	}
	return 0, false
}

func isZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

// checkMap compares the change map with the records up to the checkpoint that the log still has: it may overstate,
// never understate.
func (s *stopped) checkMap() error {
	sb := &s.Superblock
	m := newChangeMap(sb.VolumeID, sb.ChunkBytes, chunkCount(sb.SizeBytes, sb.ChunkBytes))
	if problems := m.inspectFile(s.config.Meta, sb.MapGeneration, s.Log.Head); len(problems) > 0 {
		return problems[0]
	}
	perChunk := uint64(sb.ChunkBytes / testBlock)
	for _, r := range s.records {
		if r.LSN > sb.Checkpoint || r.Range.Count == 0 {
			continue
		}
		for chunk := r.Range.Start / perChunk; chunk <= min((r.Range.End()-1)/perChunk, m.Chunks()-1); chunk++ {
			if at := m.At(chunk); at < r.LSN {
				return fmt.Errorf("chunk %d was changed by record %d, and the map says %d", chunk, r.LSN, at)
			}
		}
	}
	return nil
}
