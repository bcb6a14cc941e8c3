package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// setting is one thing that can be set by a flag, an environment variable and a key of the configuration file, all of one
// name: --data-dir, LOCKSTEP_DATA_DIR and data-dir.
type setting struct {
	name  string // in small letters, with hyphens
	usage string // one line; what stands for the value is in backquotes
	// standard is the default, as a person would write it. unset says what it means where there is none.
	standard, unset string
	// quiet is the default of all commands but serve, where that is another one.
	quiet string
	// example is a value for the template of the file, where the default cannot stand there.
	example string
	// server says that only serve has the flag.
	server bool
	// fileless says that the file cannot set it.
	fileless bool
	value    func(*options) value
}

// variable is the name of the environment variable.
func (s setting) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// flag makes the flag. Variables and file are read elsewhere, so it knows nothing of them but their names.
func (s setting) flag(server bool) cli.Flag {
	usage := s.usage + " [$" + s.variable() + "]"
	standard := s.standardFor(server)
	switch s.value(new(options)).(type) {
	case truth:
		return &cli.BoolFlag{Name: s.name, Usage: usage}
	case list:
		return &cli.StringSliceFlag{Name: s.name, Usage: usage, Value: cli.NewStringSlice(strings.Split(standard, ",")...)}
	}
	f := &cli.StringFlag{Name: s.name, Usage: usage, Value: standard}
	if standard == "" {
		f.DefaultText = s.unset
	}
	return f
}

func (s setting) standardFor(server bool) string {
	if !server && s.quiet != "" {
		return s.quiet
	}
	return s.standard
}

// settingFlags are the flags of all settings, or of those that every command has, and more.
func settingFlags(server bool, more ...cli.Flag) []cli.Flag {
	var flags []cli.Flag
	for _, s := range settings() {
		if server || !s.server {
			flags = append(flags, s.flag(server))
		}
	}
	return append(flags, more...)
}

// origin is where a setting has its value from.
type origin struct {
	source string // default, file, environment or flag
	where  string // file:line, the variable or the flag; empty for a default
}

func (o origin) String() string {
	if o.where == "" {
		return o.source
	}
	return o.where
}

// set gives the setting a value from somewhere.
func (s setting) set(o *options, from origin, texts ...string) error {
	err := s.checkEmpty(texts)
	if err == nil {
		err = s.value(o).set(texts...)
	}
	if err != nil {
		if from.source == sourceFile {
			return fmt.Errorf("%s: %s: %w", from, s.name, err)
		}
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// checkEmpty refuses an empty value where there is a default: nothing would say what it means. An empty name of the file
// means none.
func (s setting) checkEmpty(texts []string) error {
	if len(texts) == 1 && texts[0] == "" && s.standard != "" && !s.fileless {
		return errors.New("the value is empty")
	}
	return nil
}
