package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"lockstep/block"
	"lockstep/node"
)

func (c *console) recoverCommand() *cli.Command {
	return &cli.Command{
		Name: "recover", ArgsUsage: "NAME", Usage: "cut the damaged log of a volume, so that it can be opened again",
		Description: `Only for a volume that cannot be opened because its log is damaged. Without --apply it
says what would be lost, and changes nothing. With it, the log is cut after --to-lsn; what is
cut off is kept aside, in the log's directory. A server opens the volume at once.

    lockstep volume recover db
    lockstep volume recover db --to-lsn 4711 --apply`,
		Flags: volumeFlags(jsonFlag(),
			&cli.Uint64Flag{Name: "to-lsn", Usage: "newest record `LSN` to keep (default: the newest that can be; needed with --apply)"},
			&cli.BoolFlag{Name: "apply", Usage: "do it"},
			&cli.BoolFlag{Name: "force", Usage: "also where the base image may hold parts of what is cut off"}),
		Action: c.recover,
	}
}

func (c *console) recover(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	r := node.RecoverRequest{ToLSN: block.LSN(ctx.Uint64("to-lsn")), Apply: ctx.Bool("apply"), Force: ctx.Bool("force")}
	if r.Apply && r.ToLSN == 0 {
		return errors.New("--apply needs --to-lsn: see what would be lost without it first")
	}
	asJSON := ctx.Bool("json")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		report, err := m.Recover(ctx, args[0], r)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, report)
		}
		return printRecovery(c.out, args[0], report)
	})
}

func printRecovery(w io.Writer, name string, r node.RecoverReport) error {
	cut, lost := "would be cut", "would be lost"
	if r.Applied {
		cut, lost = "was cut", "are lost"
	}
	lines := []string{
		fmt.Sprintf("The log of %s %s after LSN %d. It can be read up to %d; up to %d was acknowledged as durable.", name, cut,
			r.ToLSN, r.Readable, r.Durable),
		fmt.Sprintf("%d records %s, and %d more that cannot be read.", len(r.Lost), lost, r.Unreadable),
	}
	if r.BaseAhead != 0 {
		lines = append(lines, fmt.Sprintf("The base image may hold parts of records up to LSN %d: this needs --force, and the "+
			"volume will be in a state that it never was in.", r.BaseAhead))
	}
	for _, a := range r.Aside {
		lines = append(lines, "Kept aside: "+a)
	}
	if !r.Applied {
		lines = append(lines, fmt.Sprintf("Nothing was changed. To do it: lockstep volume recover %s --to-lsn %d --apply", name, r.ToLSN))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return printRecords(w, r.Lost)
}
