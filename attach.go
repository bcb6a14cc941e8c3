package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"lockstep/nbd/attach"
	"lockstep/node"
)

// detachTimeout is how long a supervisor may take to end.
const detachTimeout = time.Minute

func (c *console) attachCommand() *cli.Command {
	return &cli.Command{
		Name:      "attach",
		Usage:     "make a volume a disk of this machine, and keep it one while servers come and go",
		ArgsUsage: "NAME [DEVICE]",
		Description: `Attaches the volume NAME to DEVICE, /dev/nbd0 for example, or to the first one that is
free, and prints which. It stays in the foreground and connects again whenever the server
went away; until it is back, requests wait, for --dead-timeout at most. The device grows with
the volume.

Ctrl-C or SIGTERM detaches the device. One that is mounted or open stays attached instead;
attach it again to go on with it, or end it with "lockstep detach".

    lockstep attach db /dev/nbd0
    lockstep attach db --connect 10.0.0.5:10809 --connect 10.0.0.6:10809`,
		Flags: supervisorFlags(
			&cli.StringFlag{Name: "unix", Usage: "the server is at the Unix socket `PATH`", DefaultText: "lockstep.sock in the data directory"},
			&cli.StringSliceFlag{Name: "connect", Usage: "the server is at `HOST:PORT`; may be repeated where it may move: they are tried in turn"},
			&cli.IntFlag{Name: "connections", Usage: "`NUMBER` of connections", DefaultText: "4, but no more than processors, and 1 where the server allows no more"},
			&cli.DurationFlag{Name: "timeout", Value: attach.DefaultTimeout, Usage: "give up a connection that has not answered a request for this `TIME`, and send the request again on another"},
			&cli.DurationFlag{Name: "dead-timeout", Value: attach.DefaultDeadTimeout, Usage: "let requests wait this `TIME` for a server before they fail"},
			&cli.IntFlag{Name: "block-size", Usage: "512, 1024, 2048 or 4096 `BYTES`", DefaultText: "what the server prefers"},
			&cli.BoolFlag{Name: "read-only", Usage: "attach for reading only"},
		),
		Action: c.attach,
	}
}

func (c *console) detachCommand() *cli.Command {
	return &cli.Command{
		Name:        "detach",
		Usage:       "end what attach began",
		ArgsUsage:   "DEVICE",
		Description: "    lockstep detach /dev/nbd0",
		Flags: settingFlags(false,
			&cli.BoolFlag{Name: "force", Usage: "also a device that is in use, or that lockstep did not attach; what was not flushed is lost"},
		),
		Action: c.detach,
	}
}

// supervisorFlags are the flags that every command has, with the defaults of one that stays, and more.
func supervisorFlags(more ...cli.Flag) []cli.Flag {
	var flags []cli.Flag
	for _, s := range settings() {
		if !s.server {
			flags = append(flags, s.flag(true))
		}
	}
	return append(flags, more...)
}

func (c *console) attach(ctx *cli.Context) error {
	said, log, err := c.configure(ctx, true)
	if err != nil {
		return err
	}
	cfg, err := attachConfig(ctx, &said.options)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return attach.ErrPermission
	}
	if cfg.Kernel, err = attach.NewKernel(); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // who reads the output may leave; the device stays
	running, stop := signal.NotifyContext(ctx.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	tell, _, err := serviceManager()
	if err != nil {
		return err
	}
	cfg.Logger = log
	cfg.Report = c.reporter(log, tell)
	return attach.Run(running, cfg)
}

// attachConfig reads the arguments and flags of attach.
func attachConfig(ctx *cli.Context, o *options) (attach.Config, error) {
	if ctx.NArg() < 1 || ctx.NArg() > 2 {
		return attach.Config{}, fmt.Errorf("attach takes the name of a volume and, if you like, a device; not %d arguments; see --help", ctx.NArg())
	}
	cfg := attach.Config{
		Export:      ctx.Args().Get(0),
		Index:       attach.Auto,
		Connections: ctx.Int("connections"),
		Processors:  runtime.NumCPU(),
		BlockBytes:  ctx.Int("block-size"),
		ReadOnly:    ctx.Bool("read-only"),
		Network:     attach.NewNetwork(),
	}
	for name, at := range map[string]*time.Duration{"timeout": &cfg.Timeout, "dead-timeout": &cfg.DeadTimeout} {
		if *at = ctx.Duration(name); *at < time.Second {
			return attach.Config{}, fmt.Errorf("--%s %v: it must be 1s or more, or it would not end as it should", name, *at)
		}
	}
	if device := ctx.Args().Get(1); device != "" && device != "auto" {
		index, err := attach.DeviceIndex(device)
		if err != nil {
			return attach.Config{}, err
		}
		cfg.Index = index
	}
	var err error
	cfg.Addresses, err = attachAddresses(ctx, o)
	return cfg, err
}

// attachAddresses are where the server may be.
func attachAddresses(ctx *cli.Context, o *options) ([]attach.Address, error) {
	if hosts := ctx.StringSlice("connect"); len(hosts) > 0 {
		if ctx.IsSet("unix") {
			return nil, errors.New("--unix and --connect are two ways to say where the server is: one is enough")
		}
		var list []attach.Address
		for _, host := range hosts {
			if err := checkAddress(host); err != nil {
				return nil, fmt.Errorf("--connect: %w", err)
			}
			list = append(list, attach.Address{Network: "tcp", Address: host})
		}
		return list, nil
	}
	path := o.Unix // that of the server, where it is configured
	if path == "" {
		path = filepath.Join(o.DataDir, node.SocketName)
	}
	return []attach.Address{{Network: "unix", Address: path}}, nil
}

// reporter prints the device once it is attached, and tells the service manager, where there is one, of every change.
func (c *console) reporter(log zerolog.Logger, tell func(string) error) func(attach.Status) {
	attached := false
	return func(s attach.Status) {
		state := fmt.Sprintf("STATUS=%s: %s", s.Device, s.State)
		if s.Reason != "" {
			state += ": " + s.Reason
		}
		if !attached {
			attached = true
			fmt.Fprintln(c.out, s.Device)
			state = daemon.SdNotifyReady + "\n" + state
		}
		if tell == nil {
			return
		}
		if err := tell(state); err != nil {
			log.Warn().Err(err).Msg("service manager cannot be told")
		}
	}
}

func (c *console) detach(ctx *cli.Context) error {
	if _, _, err := c.configure(ctx, false); err != nil {
		return err
	}
	if ctx.NArg() != 1 {
		return fmt.Errorf("detach takes one argument (DEVICE), not %d; see --help", ctx.NArg())
	}
	index, err := attach.DeviceIndex(ctx.Args().First())
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return attach.ErrPermission
	}
	kernel, err := attach.NewKernel()
	if err != nil {
		return err
	}
	running, stop := signal.NotifyContext(ctx.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bounded, cancel := context.WithTimeout(running, detachTimeout)
	defer cancel()
	return attach.Detach(bounded, attach.DetachConfig{Index: index, Force: ctx.Bool("force"), Kernel: kernel})
}
