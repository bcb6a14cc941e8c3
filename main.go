// Command lockstep serves replicated block devices over NBD, and manages the volumes behind them.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"lockstep/node"
)

func main() {
	app := command(os.Stdin, os.Stdout, os.Stderr)
	if err := app.Run(flagsFirst(app, os.Args)); err != nil {
		fmt.Fprintf(os.Stderr, "lockstep: %v\n", err)
		os.Exit(1)
	}
}

// command is the whole command line.
func command(in, out, errs *os.File) *cli.App {
	c := &console{in: in, out: out, errs: errs, env: os.Environ()}
	app := &cli.App{
		Name:                 "lockstep",
		Usage:                "a Linux block device that survives the loss of a machine",
		Description:          overview,
		Reader:               in,
		Writer:               out,
		ErrWriter:            errs,
		Version:              thisBuild().String(),
		EnableBashCompletion: true,
		Action:               unknownCommand,
		ExitErrHandler:       func(*cli.Context, error) {}, // the exit code is chosen in main
		Commands: []*cli.Command{c.serveCommand(), c.volumeCommand(), c.inspectCommand(), c.checkCommand(), c.statusCommand(),
			c.attachCommand(), c.detachCommand(), c.configCommand(), c.versionCommand()},
	}
	explainUsage(app)
	return app
}

const overview = `Start a server, with a first volume of 1 GiB if there is none:

    lockstep serve

It prints how to attach each volume. Everything is kept in ./lockstep-data, unless
--data-dir says otherwise. Then, in another terminal:

    lockstep volume create db --size 100GiB
    lockstep attach db /dev/nbd0
    mkfs.ext4 /dev/nbd0

Stop the server with Ctrl-C or SIGTERM.`

// console is where a command reads and writes, and the environment it was started in.
type console struct {
	in, out, errs *os.File
	env           []string // as os.Environ has it
}

func (c *console) serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "serve the volumes of a data directory",
		Description: `Without flags: keeps everything in ./lockstep-data, makes a thin volume "disk0" of
1 GiB if there is no volume, and serves on 127.0.0.1:10809 and on the Unix socket
lockstep.sock in the data directory.

NBD asks nobody who they are: whoever reaches --listen reads and writes every volume,
unless --tls require and --tls-ca let in only those with a certificate.

SIGTERM or Ctrl-C finishes the requests under way, moves the log to the base images, and
exits with 0. A second one skips the moving; nothing is lost by that, but the next start
has more to replay.

    lockstep serve --data-dir /srv/lockstep --listen 10.0.0.5:10809 --listen 127.0.0.1:10809`,
		Flags:  settingFlags(true),
		Action: c.serve,
	}
}

func (c *console) serve(ctx *cli.Context) error {
	cfg, log, err := c.configure(ctx, true)
	if err != nil {
		return err
	}
	if err := noArguments(ctx); err != nil {
		return err
	}
	log.Info().Str("version", thisBuild().String()).Int("pid", os.Getpid()).Str("data_dir", absolute(cfg.options.DataDir)).
		Str("config", cmp.Or(cfg.options.configFile, "none")).Msg("starting")
	signal.Ignore(syscall.SIGPIPE) // who reads the log may leave; the volumes stay
	running, hurry, done := signals(ctx.Context, log)
	defer done()
	told := cfg.options.Config
	if told.Notify, told.Watchdog, err = serviceManager(); err != nil {
		return err
	}
	told.Hurry, told.Logger = hurry, log
	told.Ready = func(e node.Endpoints) {
		// Nobody may be reading it: the log has the addresses too.
		_ = node.WriteAttach(c.out, e)
	}
	return node.Run(running, told)
}

// signals returns a context that ends with the first SIGINT or SIGTERM, and one that ends with the second. done waits
// for what it started.
func signals(ctx context.Context, log zerolog.Logger) (first, second context.Context, done func()) {
	received := make(chan os.Signal, 2) // a third changes nothing
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	first, second, wait := untilSignals(ctx, received, func(s os.Signal) {
		log.Info().Stringer("signal", s).Msg("received signal")
	})
	return first, second, func() {
		signal.Stop(received)
		close(received)
		wait()
	}
}

// untilSignals returns contexts that end with the first and the second signal received, and what waits for the
// goroutine behind that, which ends when the channel is closed.
func untilSignals(ctx context.Context, received <-chan os.Signal, say func(os.Signal)) (first, second context.Context, wait func()) {
	first, endFirst := context.WithCancel(ctx)
	second, endSecond := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer endSecond()
		defer endFirst()
		ends := []context.CancelFunc{endFirst, endSecond}
		for s := range received {
			say(s)
			if len(ends) > 0 {
				ends[0]()
				ends = ends[1:]
			}
		}
	}()
	return first, second, func() { <-finished }
}

func (c *console) statusCommand() *cli.Command {
	return &cli.Command{
		Name:   "status",
		Usage:  "print what the running server knows of itself, as JSON",
		Flags:  volumeFlags(),
		Action: c.status,
	}
}

func (c *console) status(ctx *cli.Context) error {
	cfg, log, err := c.configure(ctx, false)
	if err != nil {
		return err
	}
	m, err := connect(ctx.Context, cfg, false, log)
	if err != nil {
		return err
	}
	r, running := m.(*node.Remote)
	if !running {
		return errors.Join(fmt.Errorf("no server runs on data directory %s", absolute(cfg.options.DataDir)), m.Close())
	}
	s, err := r.Status(ctx.Context)
	if err == nil {
		err = writeJSON(c.out, s)
	}
	return errors.Join(err, m.Close())
}

// absolute returns a path as people find it from anywhere; as it is where the working directory is gone.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
