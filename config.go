package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// variablePrefix is what the names of our environment variables begin with.
const variablePrefix = "LOCKSTEP_"

// Where a value may be from. A later one goes before an earlier one.
const (
	sourceDefault     = "default"
	sourceFile        = "file"
	sourceEnvironment = "environment"
	sourceFlag        = "flag"
)

// config is what everything is set to.
type config struct {
	options options
	origins map[string]origin // by name of the setting
	// unknown are environment variables that look like ours and are not, each with what may have been meant.
	unknown []string
}

// configure finds out what everything is set to: by default, in the configuration file, in the environment, and by
// flags, of which the last that is set counts. All of it is checked, also what does not count.
func configure(ctx *cli.Context, env []string, server bool) (*config, error) {
	c := &config{origins: map[string]origin{}}
	vars := ourVariables(env)
	c.unknown = unknownVariables(vars)
	for _, s := range settings() {
		if err := c.set(s, origin{source: sourceDefault}, defaultTexts(s, server)); err != nil {
			panic("lockstep: default of a setting: " + err.Error())
		}
	}
	all := settings()
	byName := slices.IndexFunc(all, func(s setting) bool { return s.fileless })
	if err := c.setOutside(all[byName], ctx, vars); err != nil {
		return nil, err
	}
	if err := c.setFromFile(); err != nil {
		return nil, err
	}
	for _, s := range all {
		if err := c.setOutside(s, ctx, vars); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func defaultTexts(s setting, server bool) []string {
	standard := s.standardFor(server)
	if _, ok := s.value(new(options)).(list); ok {
		return strings.Split(standard, ",")
	}
	return []string{standard}
}

// set sets a setting; no texts set nothing.
func (c *config) set(s setting, from origin, texts []string) error {
	if texts == nil {
		return nil
	}
	c.origins[s.name] = from
	return s.set(&c.options, from, texts...)
}

// setOutside sets a setting by what is outside the file.
func (c *config) setOutside(s setting, ctx *cli.Context, vars map[string]string) error {
	from := origin{sourceEnvironment, s.variable()}
	if err := c.set(s, from, variableTexts(s, vars)); err != nil {
		return err
	}
	return c.set(s, origin{sourceFlag, "--" + s.name}, flagTexts(s, ctx))
}

// variableTexts returns what a variable says; nil where it is not set, or empty.
func variableTexts(s setting, vars map[string]string) []string {
	said := vars[s.variable()]
	if said == "" {
		return nil
	}
	if _, ok := s.value(new(options)).(list); ok {
		return strings.Split(said, ",")
	}
	return []string{said}
}

// flagTexts returns what a flag says; nil where it is not given.
func flagTexts(s setting, ctx *cli.Context) []string {
	if !ctx.IsSet(s.name) {
		return nil
	}
	switch s.value(new(options)).(type) {
	case list:
		return ctx.StringSlice(s.name)
	case truth:
		return []string{fmt.Sprint(ctx.Bool(s.name))}
	}
	return []string{ctx.String(s.name)}
}

// ourVariables returns the environment variables with our prefix.
func ourVariables(env []string) map[string]string {
	vars := map[string]string{}
	for _, v := range env {
		if name, said, ok := strings.Cut(v, "="); ok && strings.HasPrefix(name, variablePrefix) {
			vars[name] = said
		}
	}
	return vars
}

// unknownVariables says which variables no setting has, without those that the tests of this program are told by.
func unknownVariables(vars map[string]string) []string {
	known := []string{"SEED", "SEEDS"}
	for _, s := range settings() {
		known = append(known, strings.TrimPrefix(s.variable(), variablePrefix))
	}
	var unknown []string
	for name := range vars {
		rest := strings.TrimPrefix(name, variablePrefix)
		if slices.Contains(known, rest) {
			continue
		}
		if near := nearest(rest, known); near != "" {
			name += "; did you mean " + variablePrefix + near + "?"
		}
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return unknown
}
