package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"lockstep/node"
)

func (c *console) export(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	force := ctx.Bool("force")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		s, err := m.Show(ctx, args[0])
		if err != nil {
			return err
		}
		return c.exportTo(args[1], force, func(f *os.File) error {
			progress, done := c.progress(s.SizeBytes)
			defer done()
			return m.Export(ctx, args[0], force, node.Counted(node.NewSink(f), progress))
		})
	})
}

// exportTo makes the file that is exported to, and removes it again if that fails.
func (c *console) exportTo(path string, force bool, export func(*os.File) error) error {
	if path == "-" {
		if isTerminal(c.out) {
			return errors.New("a volume's bytes are nothing for a terminal; redirect them")
		}
		return export(c.out)
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, how, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists; --force writes over it", path)
	}
	if err != nil {
		return err
	}
	err = export(f)
	if err := errors.Join(err, f.Close()); err != nil {
		if !force { // then it is a new file, and ours
			err = errors.Join(err, os.Remove(path))
		}
		return fmt.Errorf("export to %s: %w", path, err)
	}
	return nil
}

func (c *console) imports(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	r, err := createRequest(ctx, args[0])
	if err != nil {
		return err
	}
	f, err := c.importFrom(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	from, bytes, err := node.NewSource(f)
	if err != nil {
		return err
	}
	if r.SizeBytes == 0 {
		r.SizeBytes = (max(bytes, 0) + int64(r.BlockSize) - 1) / int64(max(r.BlockSize, 1)) * int64(r.BlockSize)
	}
	if r.SizeBytes == 0 {
		return errors.New("--size is needed: what comes through a pipe does not say how much it is")
	}
	if err := r.Check(); err != nil { // before a data directory is made for it
		return err
	}
	if bytes < 0 && !ctx.Bool("pad") {
		from = node.Exactly(from, r.SizeBytes)
	}
	return c.with(ctx, true, func(ctx context.Context, m node.Manager) error {
		progress, done := c.progress(max(bytes, r.SizeBytes))
		s, err := m.Import(ctx, r, node.CountedSource(from, progress))
		done()
		if err != nil {
			return err
		}
		return printCreated(c.out, s)
	})
}

func (c *console) importFrom(path string) (*os.File, error) {
	if path != "-" {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, fmt.Errorf("%s is a directory; a volume is made of a file, a device or, with -, a pipe", path)
		}
		return os.Open(path)
	}
	if isTerminal(c.in) {
		return nil, errors.New("standard input is a terminal; import from a file or a pipe")
	}
	return c.in, nil
}

// progress returns what shows a person how far a copy is. done ends its line.
func (c *console) progress(total int64) (report node.Progress, done func()) {
	if !isTerminal(c.errs) {
		return func(int64) {}, func() {}
	}
	shown := int64(-1)
	return func(bytes int64) {
		if percent := bytes * 100 / max(total, 1); percent != shown {
			shown = percent
			fmt.Fprintf(c.errs, "\r%3d %%  %s of %s ", percent, units.BytesSize(float64(bytes)), units.BytesSize(float64(total)))
		}
	}, func() { fmt.Fprintln(c.errs) }
}
