package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/volume"
	"lockstep/wal"
)

// maxRecords is how many records of a log are listed at most at a time.
const maxRecords = 100_000

// InspectRequest says which records of the log are to be listed.
type InspectRequest struct {
	Records int       `json:"records,omitempty"` // at most so many; 0 for none
	From    block.LSN `json:"from_lsn,omitempty"`
}

// Inspection is what a volume that is not open holds, superblock and log.
type Inspection struct {
	Name           string          `json:"name"`
	ID             uuid.UUID       `json:"uuid"`
	CopyID         uuid.UUID       `json:"copy_uuid"`
	SizeBytes      int64           `json:"size_bytes"`
	BlockSize      int             `json:"block_size"`
	SegmentBytes   int64           `json:"segment_bytes"`
	LogBudgetBytes int64           `json:"wal_budget_bytes"`
	Incarnation    uint64          `json:"incarnation"`
	Epoch          block.Epoch     `json:"epoch"`
	Checkpoint     block.LSN       `json:"checkpoint_lsn"`
	BaseHigh       block.LSN       `json:"base_high_lsn"`
	Head           block.LSN       `json:"head_lsn"`
	Durable        block.LSN       `json:"durable_lsn"`
	Committed      block.LSN       `json:"committed_lsn"`
	MapChunks      uint64          `json:"map_chunks"`
	MapChanged     uint64          `json:"map_chunks_changed"`
	Slots          []SlotReport    `json:"superblocks"`
	Lineage        []LineageReport `json:"lineage"`
	Segments       []SegmentReport `json:"segments"`
	Records        []RecordReport  `json:"records,omitempty"`
	Problems       []string        `json:"problems"` // empty where the volume is sound
}

// SlotReport is what one superblock slot holds.
type SlotReport struct {
	OffsetBytes int64  `json:"offset_bytes"`
	Sequence    uint64 `json:"sequence,omitempty"`
	Problem     string `json:"problem,omitempty"`
}

// LineageReport is one entry of a lineage.
type LineageReport struct {
	Epoch   block.Epoch `json:"epoch"`
	ID      uuid.UUID   `json:"id"`
	Primary uuid.UUID   `json:"primary"`
	First   block.LSN   `json:"first_lsn"`
}

// SegmentReport is one file of a log.
type SegmentReport struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	First   block.LSN `json:"first_lsn"`
	Last    block.LSN `json:"last_lsn"`
	Records int       `json:"records"`
	Problem string    `json:"problem,omitempty"`
}

// RecordReport is one record of a log, without its data.
type RecordReport struct {
	LSN         block.LSN   `json:"lsn"`
	Epoch       block.Epoch `json:"epoch"`
	Type        string      `json:"type"`
	OffsetBytes int64       `json:"offset_bytes"` // in the volume
	LengthBytes int64       `json:"length_bytes"`
	Time        time.Time   `json:"time"`
}

func reportRecord(r wal.Record, blockSize uint32) RecordReport {
	return RecordReport{LSN: r.LSN, Epoch: r.Epoch, Type: r.Type.String(),
		OffsetBytes: int64(r.Range.Start) * int64(blockSize), LengthBytes: int64(r.Range.Count) * int64(blockSize),
		Time: time.Unix(0, r.Time).UTC()}
}

// inspect looks at a volume that is not open, without changing it. Damage is in the report; an error means that there
// is nothing that could be reported.
func (d *directory) inspect(name string, r InspectRequest) (report Inspection, err error) {
	if r.Records < 0 || r.Records > maxRecords {
		return Inspection{}, fmt.Errorf("%w: %d records; at most %d are listed", ErrRequest, r.Records, maxRecords)
	}
	report.Name = name
	err = d.withParts(name, func(cfg volume.Config) error {
		var records []wal.Record
		in, err := volume.Inspect(cfg, wal.Visitor{Record: func(rec wal.Record, _ wal.Position) error {
			if rec.LSN >= r.From && len(records) < r.Records {
				rec.Payload = nil
				records = append(records, rec)
			}
			return nil
		}})
		report.fill(in, err)
		for _, rec := range records {
			report.Records = append(report.Records, reportRecord(rec, in.Superblock.BlockBytes))
		}
		return nil
	})
	return report, err
}

// withParts opens what a volume is kept in, but not the volume.
func (d *directory) withParts(name string, do func(volume.Config) error) error {
	path := d.volume(name)
	s, err := readSettings(path)
	if err != nil {
		return err
	}
	p, err := openParts(path, s)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	return errors.Join(do(p.config(s, d.nodeID, d.log)), p.close())
}

func (i *Inspection) fill(in *volume.Inspection, err error) {
	sb := &in.Superblock
	i.ID, i.CopyID, i.SizeBytes, i.BlockSize = sb.VolumeID, sb.CopyID, in.SizeBytes, int(sb.BlockBytes)
	i.SegmentBytes, i.LogBudgetBytes, i.Incarnation, i.Epoch = sb.SegmentBytes, sb.LogBudgetBytes, sb.Incarnation, sb.Epoch
	i.Checkpoint, i.BaseHigh, i.Durable, i.Committed = sb.Checkpoint, sb.BaseHigh, sb.Durable, sb.Committed
	i.MapChunks, i.MapChanged = in.MapChunks, in.MapChanged
	for _, s := range in.Slots {
		slot := SlotReport{OffsetBytes: s.Offset, Problem: text(s.Problem)}
		if s.Superblock != nil {
			slot.Sequence = s.Superblock.Sequence
		}
		i.Slots = append(i.Slots, slot)
	}
	for _, e := range in.Lineage {
		i.Lineage = append(i.Lineage, LineageReport(e))
	}
	if in.Log != nil {
		i.fillLog(in.Log)
	}
	i.Problems = []string{}
	for _, p := range append([]error{err}, in.Problems()...) {
		if p != nil {
			i.Problems = append(i.Problems, p.Error())
		}
	}
}

func (i *Inspection) fillLog(log *wal.Inspection) {
	i.Head, i.Durable, i.Committed = log.Head, max(i.Durable, log.Durable), max(i.Committed, log.Committed)
	for _, s := range log.Segments {
		i.Segments = append(i.Segments, SegmentReport{Name: s.Name, State: string(s.State), First: s.First, Last: s.Last,
			Records: s.Records, Problem: text(s.Problem)})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Inspect is the Manager's.
func (o *offline) Inspect(_ context.Context, name string, r InspectRequest) (Inspection, error) {
	if err := o.dir.has(name); err != nil {
		return Inspection{}, err
	}
	return o.dir.inspect(name, r)
}

// Inspect is the Manager's. Only a volume that could not be opened is free to be looked at.
func (h *host) Inspect(_ context.Context, name string, r InspectRequest) (report Inspection, err error) {
	_, err = h.whileClosed(name, func() error {
		report, err = h.dir.inspect(name, r)
		return err
	})
	return report, err
}
