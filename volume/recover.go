package volume

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lockstep/block"
	"lockstep/wal"
)

// Loss says what cutting the log of a damaged volume costs (L6).
type Loss struct {
	ToLSN block.LSN // newest record that is kept
	// Readable is the newest record that could be kept.
	Readable block.LSN
	// Durable is up to where records were acknowledged as durable once.
	Durable block.LSN
	// Records are those above ToLSN that can still be read, oldest first, without payloads: what they wrote is lost.
	Records []wal.Record
	// Unreadable is how many records between ToLSN and Durable can not even be named.
	Unreadable uint64
	// BaseAhead is not 0 where the base image may hold parts of records up to this LSN, above ToLSN, because a
	// checkpoint was under way: the volume will not be a state that it ever was in.
	BaseAhead block.LSN
	// Aside are the copies of the log's segments that Recover made, in the log's directory.
	Aside []string
}

// ErrNeedsForce means that Recover was asked for something that may leave a mixture of old and new.
var ErrNeedsForce = errors.New("needs force")

// PlanRecover says what Recover would do, and changes nothing. An LSN above what can be read, or below the base image's
// checkpoint, is an error.
func PlanRecover(cfg Config, to block.LSN) (*Loss, error) {
	header, err := openSuperblockFile(cfg.Base)
	if err != nil {
		return nil, fmt.Errorf("recover volume: %w", err)
	}
	loss, err := planRecover(cfg, &header.current, to)
	if err != nil {
		return nil, fmt.Errorf("recover volume: %w", err)
	}
	return loss, nil
}

func planRecover(cfg Config, sb *Superblock, to block.LSN) (*Loss, error) {
	loss := &Loss{ToLSN: to}
	in, err := wal.Inspect(cfg.logConfig(sb), wal.Visitor{Record: func(r wal.Record, _ wal.Position) error {
		if r.LSN > to {
			r.Payload = nil
			loss.Records = append(loss.Records, r)
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	loss.Readable, loss.Durable = in.Head, in.Durable
	switch {
	case to > in.Head:
		return nil, fmt.Errorf("record %d can not be kept: the log can be read up to record %d", to, in.Head)
	case to < sb.Checkpoint:
		return nil, fmt.Errorf("record %d is below %d, and the base image holds everything up to there", to, sb.Checkpoint)
	}
	loss.Records = append(loss.Records, in.Stranded...)
	if sb.BaseHigh > to {
		loss.BaseAhead = sb.BaseHigh
	}
	if in.Durable > to {
		named := uint64(0)
		for _, r := range loss.Records {
			if r.LSN <= in.Durable {
				named++
			}
		}
		loss.Unreadable = uint64(in.Durable-to) - named
	}
	return loss, nil
}

// Recover cuts the log after record to, so that a volume whose log is damaged can be opened again. The segments are
// copied aside first; then a write of the superblock makes everything above the cut void, also what is still found
// there later (L2), and another one puts that in both slots. The next Open starts a new epoch. Where the base image may be ahead of the cut it returns
// ErrNeedsForce unless force is set.
func Recover(cfg Config, to block.LSN, force bool) (*Loss, error) {
	header, err := openSuperblockFile(cfg.Base)
	if err != nil {
		return nil, fmt.Errorf("recover volume: %w", err)
	}
	sb := &header.current
	loss, err := planRecover(cfg, sb, to)
	if err != nil {
		return nil, fmt.Errorf("recover volume: %w", err)
	}
	if loss.BaseAhead != 0 && !force {
		return loss, fmt.Errorf("recover volume: %w: the base image may hold parts of records up to %d, above %d", ErrNeedsForce, loss.BaseAhead, to)
	}
	if loss.Aside, err = wal.SetAside(cfg.logConfig(sb), to); err != nil {
		return loss, fmt.Errorf("recover volume: %w", err)
	}
	next := cutLog(sb, loss)
	if loss.BaseAhead != 0 {
		// The base image may have changed where the map does not say so. Of a generation that is nowhere, every chunk
		// counts as changed.
		next.MapGeneration += 2
	}
	next.EpochID = uuid.Nil
	next.Epoch += 1 // the next Open goes beyond it, whatever the cut records said
	for _, r := range loss.Records {
		next.Epoch = max(next.Epoch, r.Epoch)
	}
	if err := header.writeBoth(next); err != nil {
		return loss, fmt.Errorf("recover volume: %w", err)
	}
	return loss, nil
}
