package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// What the parser's errors begin with.
const (
	errNoSuchFlag  = "flag provided but not defined: -"
	errNoFlagValue = "flag needs an argument: -"
)

// explainUsage has every command say what is wrong with its flags in a line, instead of printing all of its help.
func explainUsage(app *cli.App) {
	app.OnUsageError = usageError
	var all func([]*cli.Command)
	all = func(commands []*cli.Command) {
		for _, c := range commands {
			c.OnUsageError = usageError
			all(c.Subcommands)
		}
	}
	all(app.Commands)
}

// usageError says what is wrong with the flags of a command.
func usageError(ctx *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, errNoSuchFlag); ok {
		if ctx.Command.HelpName == ctx.App.HelpName && isSetting(name) {
			return fmt.Errorf("--%s goes after the command, as in %s serve --%s", name, ctx.App.Name, name)
		}
		return fmt.Errorf("%s has no flag --%s%s; see %s --help", ctx.Command.HelpName, name, hint("--"+name, flagNames(ctx)),
			ctx.Command.HelpName)
	}
	if name, ok := strings.CutPrefix(text, errNoFlagValue); ok {
		return fmt.Errorf("--%s needs a value; see %s --help", name, ctx.Command.HelpName)
	}
	return fmt.Errorf("%w; see %s --help", err, ctx.Command.HelpName)
}

func isSetting(name string) bool {
	return slices.ContainsFunc(settings(), func(s setting) bool { return s.name == name })
}

func flagNames(ctx *cli.Context) (names []string) {
	for _, f := range ctx.Command.Flags {
		names = append(names, "--"+f.Names()[0])
	}
	return names
}

// unknownCommand is what a group of commands does by itself.
func unknownCommand(ctx *cli.Context) error {
	if ctx.NArg() == 0 {
		return cli.ShowSubcommandHelp(ctx)
	}
	wrong := ctx.Args().First()
	commands := ctx.App.Commands
	if len(ctx.Command.Subcommands) > 0 {
		commands = ctx.Command.Subcommands
	}
	var names []string
	for _, c := range commands {
		names = append(names, c.Name)
	}
	return fmt.Errorf("there is no command %q%s; see %s --help", wrong, hint(wrong, names), ctx.Command.HelpName)
}

func noArguments(ctx *cli.Context) error {
	if ctx.NArg() > 0 {
		return fmt.Errorf("%s takes no argument, but there is %q; see %s --help", ctx.Command.HelpName, ctx.Args().First(),
			ctx.Command.HelpName)
	}
	return nil
}

// wrongArguments says that a command has not the arguments that its usage names.
func wrongArguments(ctx *cli.Context) error {
	got := "there is none"
	if ctx.NArg() > 0 {
		got = fmt.Sprintf("there is %q", strings.Join(ctx.Args().Slice(), " "))
	}
	return fmt.Errorf("%s wants %s, but %s; see %s --help", ctx.Command.HelpName, ctx.Command.ArgsUsage, got, ctx.Command.HelpName)
}
