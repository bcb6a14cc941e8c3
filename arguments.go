package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves the flags of a command line before its arguments, where the parser wants them, so that people may
// write them in any order. Everything after "--" is left as it is.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) > 0 && args[len(args)-1] == "--"+cli.BashCompletionFlag.Names()[0] {
		return args // a shell asks, and wants it last
	}
	commands, flags := app.Commands, app.Flags
	sorted := args[:min(1, len(args))]
	rest := args[len(sorted):]
	for {
		before, after := takeFlags(flags, rest)
		if len(after) == 0 {
			return append(sorted, before...)
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(after[0]) })
		if i < 0 && len(commands) > 0 {
			return args // the parser says what is wrong, or helps
		}
		if i < 0 {
			return append(sorted, gather(flags, rest)...)
		}
		sorted = append(append(sorted, before...), after[0])
		commands, flags, rest = commands[i].Subcommands, commands[i].Flags, after[1:]
	}
}

// takeFlags splits off the flags that args begin with, with their values.
func takeFlags(flags []cli.Flag, args []string) (before, after []string) {
	n := 0
	for n < len(args) && isFlag(args[n]) {
		n += length(flags, args[n])
	}
	n = min(n, len(args))
	return args[:n:n], args[n:]
}

// gather puts the flags among args before all else.
func gather(flags []cli.Flag, args []string) []string {
	var first, others []string
	for len(args) > 0 {
		if args[0] == "--" {
			return slices.Concat(first, args[:1], others, args[1:])
		}
		if !isFlag(args[0]) {
			others, args = append(others, args[0]), args[1:]
			continue
		}
		n := length(flags, args[0])
		if n > len(args) { // it lacks its value, as the parser says where nothing follows it
			return append(first, args...)
		}
		first, args = append(first, args[:n]...), args[n:]
	}
	if len(others) > 0 {
		others = append([]string{"--"}, others...)
	}
	return append(first, others...)
}

func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' && arg != "--" }

// length returns how many arguments a flag takes, itself included.
func length(flags []cli.Flag, arg string) int {
	name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	for _, f := range flags {
		_, isBool := f.(*cli.BoolFlag)
		if slices.Contains(f.Names(), name) && !isBool && !hasValue {
			return 2
		}
	}
	return 1
}
