package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"lockstep/node"
)

// volumeFlags are those of every volume command, and more.
func volumeFlags(more ...cli.Flag) []cli.Flag { return settingFlags(false, more...) }

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func createFlags() []cli.Flag {
	return volumeFlags(
		&cli.StringFlag{Name: "size", Usage: "`SIZE` of the volume: 10GiB, 512M, 1TB; all of them are powers of 1024"},
		&cli.IntFlag{Name: "block-size", Value: node.DefaultBlockSize, Usage: "512, 1024, 2048 or 4096 `BYTES`; fixed for ever"},
		&cli.StringFlag{Name: "backend", Value: node.KindFile, Usage: "file (sparse), thick (all its space is taken), memory (not durable: empty at each start), or a device `/dev/…`"},
		&cli.StringFlag{Name: "wal-dir", Usage: "make the log's directory in this `DIR`, on a fast disk for example"},
		&cli.StringFlag{Name: "wal-size", Usage: "`SIZE` of the log (default: that of the volume, 64MiB to 4GiB, at most a quarter of the free space)"},
		&cli.BoolFlag{Name: "force", Usage: "take a device even though there is something on it"},
	)
}

func (c *console) volumeCommand() *cli.Command {
	return &cli.Command{
		Name:  "volume",
		Usage: "create, list, show, resize, delete, checkpoint, reopen, recover, export and import volumes",
		Description: `The commands go to the server that runs on the data directory, or work on the
directory itself where none does.`,
		Action: unknownCommand,
		Subcommands: []*cli.Command{
			{Name: "create", ArgsUsage: "NAME", Usage: "make a new volume", Flags: createFlags(), Action: c.create,
				Description: `    lockstep volume create db --size 100GiB
    lockstep volume create db --size 100GiB --backend thick --wal-dir /nvme/logs
    lockstep volume create db --size 1TiB --backend /dev/disk/by-id/wwn-0x5000c500a`},
			{Name: "list", Usage: "list all volumes", Flags: volumeFlags(jsonFlag()), Action: c.list},
			{Name: "show", ArgsUsage: "NAME", Usage: "show one volume", Flags: volumeFlags(jsonFlag()), Action: c.show},
			{Name: "resize", ArgsUsage: "NAME", Usage: "make a volume larger, or smaller with --force", Action: c.resize,
				Flags: volumeFlags(
					&cli.StringFlag{Name: "size", Usage: "the new `SIZE`, as 20GiB (powers of 1024)"},
					&cli.BoolFlag{Name: "force", Usage: "make it smaller: what is after the new end is lost, and clients are disconnected"}),
				Description: `Growing needs no pause: clients that connect from then on see the new size, as lockstep
attach does by itself. Then grow the file system, with resize2fs or xfs_growfs.

A smaller size is refused without --force, and the message says how much data would be
lost. Make the file system smaller first (resize2fs; xfs can not), and be sure of its size.`},
			{Name: "delete", ArgsUsage: "NAME", Usage: "delete a volume and all its data", Action: c.delete,
				Flags: volumeFlags(
					&cli.BoolFlag{Name: "yes", Usage: "do not ask for the name again"},
					&cli.BoolFlag{Name: "force", Usage: "disconnect clients first"})},
			{Name: "checkpoint", ArgsUsage: "NAME", Usage: "move what is in the log to the base image", Flags: volumeFlags(), Action: c.checkpoint},
			{Name: "reopen", ArgsUsage: "NAME", Usage: "take a volume that failed into service again", Flags: volumeFlags(), Action: c.reopen,
				Description: `After a failed write or sync a volume takes no more changes. Once its disk is in order, this
closes it and opens it again, as a restart of the server would: its clients are
disconnected, and it is recovered from what is really on the disk. A volume that could
not be opened is tried again.`},
			c.recoverCommand(),
			{Name: "export", ArgsUsage: "NAME FILE|-", Usage: "write a volume's content to a file (raw, sparse) or a pipe", Action: c.export,
				Flags: volumeFlags(&cli.BoolFlag{Name: "force", Usage: "also while clients are connected, or over an existing file"}),
				Description: `The copy is of one moment only if nobody writes meanwhile: with clients connected, or
where the volume changes, the command fails, unless forced.

    lockstep volume export db db.raw
    lockstep volume export db - | zstd > db.raw.zst
    qemu-img convert -O qcow2 'nbd+unix:///db?socket=lockstep-data/lockstep.sock' db.qcow2

The last one copies from a running server to qcow2, as an NBD client.`},
			{Name: "import", ArgsUsage: "NAME FILE|-", Usage: "make a volume of the content of a raw file or a pipe", Action: c.imports,
				Flags: append(createFlags(), &cli.BoolFlag{Name: "pad", Usage: "let a pipe end before --size; the rest is zeroes"}),
				Description: `A file may be smaller than --size: the rest is zeroes. A pipe needs --size and must bring
exactly that much, unless --pad is given: one that broke off looks like one that ended.
An import that fails leaves no volume.

    lockstep volume import db db.raw
    nbdcopy -- [ qemu-nbd -f qcow2 db.qcow2 ] - | lockstep volume import db - --size 100GiB
    zstd -dc db.raw.zst | lockstep volume import db - --size 100GiB`},
		},
	}
}

// connect reaches the server, or the data directory.
func connect(ctx context.Context, cfg *config, mayCreate bool, log zerolog.Logger) (node.Manager, error) {
	return node.Connect(ctx, cfg.options.DataDir, cfg.options.Admin, mayCreate, log)
}

// with does something to the volumes. A signal ends it in an orderly way, a second one at once.
func (c *console) with(ctx *cli.Context, mayCreate bool, do func(context.Context, node.Manager) error) error {
	cfg, log, err := c.configure(ctx, false)
	if err != nil {
		return err
	}
	running, stop := signal.NotifyContext(ctx.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(running, stop)()
	m, err := connect(ctx.Context, cfg, mayCreate, log)
	if err != nil {
		return err
	}
	err = do(running, m)
	if errors.Is(err, node.ErrNotFound) {
		err = nameVolumes(running, m, ctx.Args().First(), err)
	}
	return errors.Join(err, m.Close())
}

// nameVolumes adds to the error about a name that no volume has which may have been meant, or which there are.
func nameVolumes(ctx context.Context, m node.Manager, wrong string, err error) error {
	const most = 10 // names that are worth printing
	list, e := m.List(ctx)
	if e != nil {
		return err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	h := hint(wrong, names)
	switch {
	case h != "":
	case len(names) == 0:
		h = "; there is none yet"
	case len(names) <= most:
		h = "; there are: " + strings.Join(names, ", ")
	}
	return fmt.Errorf("%w%s", err, h)
}

// arguments returns the arguments of a command, of which there must be as many as its usage names; the first is the
// name of a volume.
func arguments(ctx *cli.Context) ([]string, error) {
	if ctx.NArg() != len(strings.Fields(ctx.Command.ArgsUsage)) {
		return nil, wrongArguments(ctx)
	}
	args := ctx.Args().Slice()
	return args, node.CheckName(args[0])
}

// createRequest reads the flags of createFlags.
func createRequest(ctx *cli.Context, name string) (r node.CreateRequest, err error) {
	r = node.CreateRequest{Name: name, BlockSize: ctx.Int("block-size"), Backend: ctx.String("backend"),
		Force: ctx.Bool("force")}
	if r.SizeBytes, err = bytesFlag(ctx, "size"); err != nil {
		return r, err
	}
	if r.LogBytes, err = bytesFlag(ctx, "wal-size"); err != nil {
		return r, err
	}
	if dir := ctx.String("wal-dir"); dir != "" {
		if r.LogDir, err = filepath.Abs(dir); err != nil {
			return r, fmt.Errorf("--wal-dir: %w", err)
		}
	}
	return r, nil
}

func (c *console) create(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	r, err := createRequest(ctx, args[0])
	if err != nil {
		return err
	}
	if r.SizeBytes == 0 && !filepath.IsAbs(r.Backend) {
		return errors.New("a volume needs a --size, for example --size 10GiB")
	}
	if err := r.Check(); err != nil { // before a data directory is made for it
		return err
	}
	return c.with(ctx, true, func(ctx context.Context, m node.Manager) error {
		s, err := m.Create(ctx, r)
		if err != nil {
			return err
		}
		return printCreated(c.out, s)
	})
}

func (c *console) list(ctx *cli.Context) error {
	if err := noArguments(ctx); err != nil {
		return err
	}
	asJSON := ctx.Bool("json")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		list, err := m.List(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, list)
		}
		return printList(c.out, list)
	})
}

func (c *console) show(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	asJSON := ctx.Bool("json")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		s, err := m.Show(ctx, args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, s)
		}
		return printVolume(c.out, s)
	})
}

func (c *console) resize(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	size, err := bytesFlag(ctx, "size")
	if err != nil {
		return err
	}
	if size == 0 {
		return errors.New("resize needs a --size, for example --size 20GiB")
	}
	r := node.ResizeRequest{SizeBytes: size, Force: ctx.Bool("force")}
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		s, err := m.Resize(ctx, args[0], r)
		if err != nil {
			return err
		}
		return printResized(c.out, s)
	})
}

func (c *console) delete(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	yes, force := ctx.Bool("yes"), ctx.Bool("force")
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		if _, err := m.Show(ctx, args[0]); err != nil {
			return err
		}
		if !yes {
			if err := c.confirm(ctx, args[0]); err != nil {
				return err
			}
		}
		return m.Delete(ctx, args[0], force)
	})
}

// confirm asks a person for the name of a volume that is about to be deleted, until ctx ends.
func (c *console) confirm(ctx context.Context, name string) error {
	if !isTerminal(c.in) {
		return errors.New("a volume is deleted for ever: give --yes where nobody can be asked")
	}
	fmt.Fprintf(c.errs, "Volume %s and all its data will be gone for ever. Type its name to delete it: ", name)
	if err := awaitLine(ctx, c.in); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != name {
		return errors.New("that is not its name; nothing was deleted")
	}
	return nil
}

// awaitLine waits until a terminal has a line, which a read does without looking at ctx.
func awaitLine(ctx context.Context, terminal *os.File) error {
	const look = 100 // ms between looks at ctx
	p := []unix.PollFd{{Fd: int32(terminal.Fd()), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(p, look)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the answer: %w", err)
		}
		if n > 0 && ctx.Err() == nil {
			return nil
		}
	}
	return errors.New("interrupted; nothing was deleted")
}

func (c *console) reopen(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error {
		s, err := m.Reopen(ctx, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "volume %s is %s\n", s.Name, s.State)
		return err
	})
}

func (c *console) checkpoint(ctx *cli.Context) error {
	args, err := arguments(ctx)
	if err != nil {
		return err
	}
	return c.with(ctx, false, func(ctx context.Context, m node.Manager) error { return m.Checkpoint(ctx, args[0]) })
}
