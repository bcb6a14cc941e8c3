package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "powercut: %v\n", err)
		os.Exit(1)
	}
}

// arguments are all that the commands take; none takes all of them.
type arguments struct {
	socket, volume string // of the server
	history        string // file: what was sent
	target         string // name of the device-mapper device that takes marks
	log, device    string // devices: the log of writes, and what it is replayed onto
	changes        int    // of each connection
	count          int    // of cuts
	from, cut      int    // entries of the log
	seed           uint64
}

// run carries out one command and prints what the next one needs.
func run(args []string, out io.Writer) error {
	commands := map[string]func(arguments, io.Writer) error{
		"write": write, "cuts": printCuts, "advance": advance, "tear": tear, "verify": verify,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("one of write, cuts, advance, tear, verify is needed; -h after it has its flags")
	}
	var a arguments
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&a.socket, "socket", "", "Unix `socket` of the server")
	f.StringVar(&a.volume, "volume", "", "`name` of the volume")
	f.StringVar(&a.history, "history", "", "`file` of the changes that were sent")
	f.StringVar(&a.target, "target", "", "`name` of the log-writes device that takes marks")
	f.StringVar(&a.log, "log", "", "`device` with the log of writes")
	f.StringVar(&a.device, "device", "", "`device` to replay onto")
	f.IntVar(&a.changes, "changes", 1000, "how many each connection sends")
	f.IntVar(&a.count, "count", 10, "how many cuts")
	f.IntVar(&a.from, "from", 0, "`entry` of the log to begin with")
	f.IntVar(&a.cut, "cut", 0, "`entry` of the log that is the first to be lost")
	f.Uint64Var(&a.seed, "seed", 1, "of all that is chosen")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s takes flags only, but there is %q", args[0], strings.Join(f.Args(), " "))
	}
	return commands[args[0]](a, out)
}
