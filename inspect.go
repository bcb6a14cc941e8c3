package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"lockstep/block"
	"lockstep/node"
)

func (c *console) inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", ArgsUsage: "NAME", Usage: "print what a volume's superblock and log hold",
		Description: `Reads a volume that no server has open, and changes nothing: stop the server first,
unless the volume is one that it could not open.

    lockstep inspect db
    lockstep inspect db --records 50 --from 1000`,
		Flags: volumeFlags(jsonFlag(),
			&cli.IntFlag{Name: "records", Usage: "list at most `N` records of the log"},
			&cli.Uint64Flag{Name: "from", Usage: "list records from this `LSN` on"}),
		Action: c.inspect,
	}
}

func (c *console) inspect(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	asJSON := ctx.Bool("json")
	r := node.InspectRequest{Records: ctx.Int("records"), From: block.LSN(ctx.Uint64("from"))}
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		i, err := m.Inspect(ctx, args[0], r)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, i)
		}
		return printInspection(c.out, i)
	})
}

func (c *console) checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", ArgsUsage: "[NAME]", Usage: "look for damage in one volume, or in all",
		Description: `Verifies superblocks, change map and every record of the log after the last checkpoint,
and changes nothing. The exit code is 1 where there is damage. A volume that a server has
open was verified when it was opened, and is reported as open.`,
		Flags:  volumeFlags(jsonFlag()),
		Action: c.check,
	}
}

// verdict is what check says of one volume.
type verdict struct {
	Name     string   `json:"name"`
	Verdict  string   `json:"verdict"` // ok, open or damaged
	Problems []string `json:"problems"`
}

func (c *console) check(ctx *cli.Context) error {
	if ctx.NArg() > 1 {
		return errors.New("check takes one volume, or none for all")
	}
	name, asJSON := ctx.Args().First(), ctx.Bool("json")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		list, err := m.List(ctx)
		if err != nil {
			return err
		}
		verdicts, damaged := []verdict{}, 0
		for _, s := range list {
			if name != "" && s.Name != name {
				continue
			}
			v := judge(ctx, m, s)
			verdicts = append(verdicts, v)
			damaged += min(len(v.Problems), 1)
		}
		if name != "" && len(verdicts) == 0 {
			return fmt.Errorf("%w: %q", node.ErrNotFound, name)
		}
		if err := printVerdicts(c.out, verdicts, asJSON); err != nil {
			return err
		}
		if damaged > 0 {
			return fmt.Errorf("%d of %d volumes have problems", damaged, len(verdicts))
		}
		return nil
	})
}

// judge says how a volume stands.
func judge(ctx context.Context, m node.Manager, s node.VolumeStatus) verdict {
	v := verdict{Name: s.Name, Verdict: "open", Problems: []string{}}
	if s.State == node.StateServed {
		return v
	}
	i, err := m.Inspect(ctx, s.Name, node.InspectRequest{})
	switch {
	case err == nil:
		v.Problems = i.Problems
	case s.Error != "":
		v.Problems = []string{s.Error} // failed while it was open, or cannot even be looked at
	default:
		v.Problems = []string{err.Error()}
	}
	v.Verdict = "ok"
	if len(v.Problems) > 0 {
		v.Verdict = "damaged"
	}
	return v
}

func printVerdicts(w io.Writer, verdicts []verdict, asJSON bool) error {
	if asJSON {
		return writeJSON(w, verdicts)
	}
	for _, v := range verdicts {
		if _, err := fmt.Fprintf(w, "%s: %s\n", v.Name, v.Verdict); err != nil {
			return err
		}
		for _, p := range v.Problems {
			if _, err := fmt.Fprintf(w, "    %s\n", p); err != nil {
				return err
			}
		}
	}
	return nil
}

func printInspection(w io.Writer, i node.Inspection) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]any{
		{"name", i.Name},
		{"UUID", i.ID},
		{"copy UUID", i.CopyID},
		{"size", fmt.Sprintf("%s (%d bytes)", humanBytes(i.SizeBytes), i.SizeBytes)},
		{"block size", i.BlockSize},
		{"log budget", humanBytes(i.LogBudgetBytes)},
		{"incarnation", i.Incarnation},
		{"epoch", i.Epoch},
		{"checkpoint LSN", i.Checkpoint},
		{"base high LSN", i.BaseHigh},
		{"durable LSN", i.Durable},
		{"committed LSN", i.Committed},
		{"head LSN", i.Head},
		{"chunks changed", fmt.Sprintf("%d of %d", i.MapChanged, i.MapChunks)},
	} {
		fmt.Fprintf(t, "%s\t%v\n", row[0], row[1])
	}
	for n, s := range i.Slots {
		fmt.Fprintf(t, "superblock %d\tat %d, sequence %d %s\n", n, s.OffsetBytes, s.Sequence, s.Problem)
	}
	for _, e := range i.Lineage {
		fmt.Fprintf(t, "epoch %d\tfrom LSN %d, %s, by node %s\n", e.Epoch, e.First, e.ID, e.Primary)
	}
	for _, s := range i.Segments {
		fmt.Fprintf(t, "segment %s\t%s, LSN %d to %d, %d records %s\n", s.Name, s.State, s.First, s.Last, s.Records, s.Problem)
	}
	for _, p := range i.Problems {
		fmt.Fprintf(t, "PROBLEM\t%s\n", p)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printRecords(w, i.Records)
}

func printRecords(w io.Writer, records []node.RecordReport) error {
	if len(records) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LSN\tEPOCH\tTYPE\tAT BYTE\tBYTES\tTIME")
	for _, r := range records {
		fmt.Fprintf(t, "%d\t%d\t%s\t%d\t%d\t%s\n", r.LSN, r.Epoch, r.Type, r.OffsetBytes, r.LengthBytes,
			r.Time.Format(time.RFC3339Nano))
	}
	return t.Flush()
}
