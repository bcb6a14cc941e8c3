package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// Formats of the log.
const (
	formatAuto  = "auto"
	formatHuman = "human"
	formatJSON  = "json"
)

// configure finds out what everything is set to, and makes the logger that it says. server tells that the command is
// serve, or speaks of it.
func (c *console) configure(ctx *cli.Context, server bool) (*config, zerolog.Logger, error) {
	cfg, err := configure(ctx, c.env, server)
	if err != nil {
		return nil, zerolog.Nop(), err
	}
	log, err := c.logger(&cfg.options)
	if err != nil {
		return nil, zerolog.Nop(), err
	}
	for _, name := range cfg.unknown {
		log.Warn().Msg("no setting has the environment variable " + name)
	}
	return cfg, log, nil
}

func (c *console) logger(o *options) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(o.logLevel)
	if err != nil {
		return zerolog.Nop(), err
	}
	terminal := isTerminal(c.errs)
	var w io.Writer = c.errs
	if o.logFormat == formatHuman || o.logFormat != formatJSON && terminal {
		w = zerolog.ConsoleWriter{Out: c.errs, TimeFormat: time.TimeOnly, NoColor: !terminal}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
