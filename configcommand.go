package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func (c *console) configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "print all settings, and where each has its value from",
		Description: `Prints what serve would use if it were started here with the same flags, and checks it.
A flag goes before an environment variable, that before the configuration file, and that
before the default. --template prints a configuration file that has all settings, as
comments.

    lockstep config
    lockstep config --template > /etc/lockstep/lockstep.toml`,
		Flags: settingFlags(true, jsonFlag(),
			&cli.BoolFlag{Name: "template", Usage: "print a configuration file"}),
		Action: c.config,
	}
}

func (c *console) config(ctx *cli.Context) error {
	if err := noArguments(ctx); err != nil {
		return err
	}
	if ctx.Bool("template") {
		return printTemplate(c.out)
	}
	cfg, _, err := c.configure(ctx, true)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		err = writeJSON(c.out, cfg.report())
	} else {
		err = printConfig(c.out, cfg.report())
	}
	if err != nil {
		return err
	}
	return cfg.options.Check()
}

// settingReport is what a setting is set to.
type settingReport struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`
	Source string `json:"source"`          // default, file, environment or flag
	Where  string `json:"where,omitempty"` // file:line, variable or flag
	unset  string // what no value means
}

func (c *config) report() []settingReport {
	var all []settingReport
	for _, s := range settings() {
		o := c.origins[s.name]
		all = append(all, settingReport{Name: s.name, Value: s.value(&c.options).now(), Source: o.source, Where: o.where, unset: s.unset})
	}
	return all
}

func printConfig(w io.Writer, all []settingReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SETTING\tVALUE\tFROM")
	for _, r := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Name, r.text(), origin{r.Source, r.Where})
	}
	return t.Flush()
}

// text is the value as a person would write it.
func (r settingReport) text() string {
	if many, ok := r.Value.([]string); ok {
		if len(many) == 0 {
			return noneOfList
		}
		return strings.Join(many, ",")
	}
	if text := fmt.Sprint(r.Value); text != "" {
		return text
	}
	return "(" + r.unset + ")"
}

const templateHead = `# Settings of lockstep. A flag goes before an environment variable, that before this file, and
# that before the default. Paths are absolute. ` + "`lockstep config`" + ` prints what counts, and checks it.
`

// printTemplate prints a configuration file that has every setting, with its default, as a comment.
func printTemplate(w io.Writer) error {
	if _, err := io.WriteString(w, templateHead); err != nil {
		return err
	}
	for _, s := range settings() {
		if s.fileless {
			continue
		}
		usage := strings.ReplaceAll(s.usage, "`", "")
		if _, err := fmt.Fprintf(w, "\n# %s\n# --%s, %s%s\n#%s = %s\n", usage, s.name, s.variable(), s.otherwise(), s.name, s.tomlExample()); err != nil {
			return err
		}
	}
	return nil
}

// otherwise says what holds where the setting is not set, if the example does not.
func (s setting) otherwise() string {
	switch {
	case s.unset != "":
		return "; default: " + s.unset
	case s.example != "":
		return "; default: " + s.standard
	case s.quiet != "":
		return fmt.Sprintf("; default: %s, for all commands but serve %s", s.standard, s.quiet)
	}
	return ""
}

// tomlExample is a value of the setting as the file has it.
func (s setting) tomlExample() string {
	switch s.value(new(options)).(type) {
	case truth:
		return s.standard
	case list:
		return fmt.Sprintf("[%q]", s.standard)
	}
	if s.example != "" {
		return fmt.Sprintf("%q", s.example)
	}
	return fmt.Sprintf("%q", s.standard)
}
