package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"lockstep/node"
)

// build is what this program was built of.
type build struct {
	Version  string         `json:"version"`            // of the module; (devel) where it was built in its own tree
	Commit   string         `json:"commit,omitempty"`   // empty where Go was not told of it
	Time     string         `json:"time,omitempty"`     // of the commit
	Modified bool           `json:"modified,omitempty"` // there was more than the commit
	Go       string         `json:"go"`
	Platform string         `json:"platform"`
	Formats  map[string]int `json:"formats"` // version of each format on disk
}

func thisBuild() build {
	b := build{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Formats: node.FormatVersions()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is the build in one line.
func (b build) String() string {
	parts := []string{b.Version}
	if b.Commit != "" {
		parts = append(parts, "commit "+b.Commit)
	}
	if b.Time != "" {
		parts = append(parts, b.Time)
	}
	if b.Modified {
		parts = append(parts, "with changes")
	}
	return strings.Join(append(parts, b.Go, b.Platform), ", ")
}

func (c *console) versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print what this program was built of, and the versions of its formats",
		Flags:  []cli.Flag{jsonFlag()},
		Action: c.version,
	}
}

func (c *console) version(ctx *cli.Context) error {
	if err := noArguments(ctx); err != nil {
		return err
	}
	if ctx.Bool("json") {
		return writeJSON(c.out, thisBuild())
	}
	return printVersion(c.out, thisBuild())
}

func printVersion(w io.Writer, b build) error {
	var formats []string
	for _, name := range slices.Sorted(maps.Keys(b.Formats)) {
		formats = append(formats, fmt.Sprintf("%s %d", name, b.Formats[name]))
	}
	_, err := fmt.Fprintf(w, "lockstep %s\nformats: %s\n", b, strings.Join(formats, ", "))
	return err
}
