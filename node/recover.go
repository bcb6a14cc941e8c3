package node

import (
	"context"
	"fmt"

	"lockstep/block"
	"lockstep/volume"
)

// RecoverRequest says where the log of a damaged volume is to be cut.
type RecoverRequest struct {
	// ToLSN is the newest record to keep; 0 means the newest that can be.
	ToLSN block.LSN `json:"to_lsn"`
	Apply bool      `json:"apply"` // otherwise it is only said what would be lost
	Force bool      `json:"force"` // also where the base image may be ahead of the cut
}

// RecoverReport says what a cut costs, or has cost.
type RecoverReport struct {
	Applied    bool           `json:"applied"`
	ToLSN      block.LSN      `json:"to_lsn"`
	Readable   block.LSN      `json:"readable_lsn"` // newest record that could be kept
	Durable    block.LSN      `json:"durable_lsn"`  // up to here records were acknowledged as durable
	BaseAhead  block.LSN      `json:"base_ahead_lsn,omitempty"`
	Unreadable uint64         `json:"unreadable_records"`
	Lost       []RecordReport `json:"lost"`
	Aside      []string       `json:"aside,omitempty"` // copies of what was cut, in the log's directory
}

// recover cuts the log of a volume that is not open, or says what that would cost.
func (d *directory) recover(name string, r RecoverRequest) (report RecoverReport, err error) {
	in, err := d.inspect(name, InspectRequest{})
	if err != nil {
		return report, err
	}
	if r.ToLSN == 0 {
		r.ToLSN = in.Head
	}
	err = d.withParts(name, func(cfg volume.Config) error {
		loss, err := volume.PlanRecover(cfg, r.ToLSN)
		if err == nil && r.Apply {
			loss, err = volume.Recover(cfg, r.ToLSN, r.Force)
		}
		if err != nil {
			return err
		}
		report = RecoverReport{Applied: r.Apply, ToLSN: loss.ToLSN, Readable: loss.Readable, Durable: loss.Durable,
			BaseAhead: loss.BaseAhead, Unreadable: loss.Unreadable, Lost: []RecordReport{}, Aside: loss.Aside}
		for _, rec := range loss.Records {
			report.Lost = append(report.Lost, reportRecord(rec, uint32(in.BlockSize)))
		}
		return nil
	})
	return report, err
}

// Recover is the Manager's.
func (o *offline) Recover(_ context.Context, name string, r RecoverRequest) (RecoverReport, error) {
	if err := o.dir.has(name); err != nil {
		return RecoverReport{}, err
	}
	return o.dir.recover(name, r)
}

// Recover is the Manager's. A volume that was recovered is opened.
func (h *host) Recover(_ context.Context, name string, r RecoverRequest) (report RecoverReport, err error) {
	d, err := h.whileClosed(name, func() error {
		report, err = h.dir.recover(name, r)
		return err
	})
	if err == nil && report.Applied && h.again(d) {
		h.open(d)
	}
	return report, err
}

// whileClosed does something to a volume that could not be opened, while nobody else does.
func (h *host) whileClosed(name string, do func() error) (*disk, error) {
	h.mu.Lock()
	d := h.disks[name]
	var err error
	switch {
	case d == nil:
		err = fmt.Errorf("%w: %q", ErrNotFound, name)
	case h.stopping:
		err = fmt.Errorf("%w: the server is stopping", ErrUnavailable)
	case d.state != StateFailed || d.volume != nil:
		err = fmt.Errorf("volume %s is %w: the server has it open (%s); stop the server first", name, ErrInUse, d.state)
	default:
		d.state = StateOpening
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	err = do()
	h.mu.Lock()
	d.state = StateFailed
	h.mu.Unlock()
	return d, err
}

// again marks a failed disk as being opened.
func (h *host) again(d *disk) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping || d.state != StateFailed || h.disks[d.name] != d {
		return false
	}
	d.err = nil
	h.changeLocked(d, StateOpening, "an operator cut its log")
	return true
}
