package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// configured runs configure as a command does that is given these flags in this environment. No file is read that the
// test did not name.
func configured(env, args []string) (cfg *config, err error) {
	env = append([]string{"LOCKSTEP_CONFIG=/dev/null"}, env...)
	app := &cli.App{Commands: []*cli.Command{{Name: "serve", Flags: settingFlags(true), Action: func(ctx *cli.Context) error {
		cfg, err = configure(ctx, env, true)
		return err
	}}}}
	return cfg, app.Run(append([]string{"lockstep", "serve"}, args...))
}

// tomlFile makes a configuration file.
func tomlFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lockstep.toml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// samples returns three values of a setting that differ where its kind lets them, as texts.
func samples(s setting) [3]string {
	switch s.value(new(options)).(type) {
	case path:
		return [3]string{"/a", "/b", "/c"}
	case list:
		return [3]string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}
	case truth:
		return [3]string{"true", "false", "true"}
	case duration:
		return [3]string{"1s", "2s", "3s"}
	}
	only := s.standard + s.example
	return [3]string{only, only, only}
}

// inTOML is a text as the value of a setting in a file.
func inTOML(s setting, text string) string {
	switch s.value(new(options)).(type) {
	case truth:
		return text
	case list:
		return fmt.Sprintf("[%q]", text)
	}
	return fmt.Sprintf("%q", text)
}

// A flag goes before a variable, that before the file, and that before the default: every setting.
func TestPrecedence(t *testing.T) {
	for _, s := range settings() {
		if s.fileless {
			continue
		}
		texts := samples(s)
		file := tomlFile(t, "# first line\n"+s.name+" = "+inTOML(s, texts[0])+"\n")
		var env, args []string
		check := func(source, where, text string) {
			t.Helper()
			cfg, err := configured(env, args)
			if err != nil {
				t.Errorf("%s by %s: %v", s.name, source, err)
				return
			}
			var want options
			if err := s.value(&want).set(text); err != nil {
				t.Fatal(err)
			}
			if got := s.value(&cfg.options).now(); !reflect.DeepEqual(got, s.value(&want).now()) {
				t.Errorf("%s by %s is %v, want %s", s.name, source, got, text)
			}
			if got := cfg.origins[s.name]; got != (origin{source, where}) {
				t.Errorf("%s by %s is said to be from %+v", s.name, source, got)
			}
		}
		check(sourceDefault, "", s.standard)
		env = []string{"LOCKSTEP_CONFIG=" + file}
		check(sourceFile, file+":2", texts[0])
		env = append(env, s.variable()+"="+texts[1])
		check(sourceEnvironment, s.variable(), texts[1])
		args = []string{"--" + s.name + "=" + texts[2]}
		check(sourceFlag, "--"+s.name, texts[2])
		env = nil
		check(sourceFlag, "--"+s.name, texts[2])
	}
}

func TestConfigurationErrors(t *testing.T) {
	for _, c := range []struct {
		file string
		env  string
		args string
		want string
	}{
		{file: "\ndata-dirr = '/x'", want: ":2: there is no setting data-dirr; did you mean data-dir?"},
		{file: "colour = 'red'", want: ":1: there is no setting colour; `lockstep config --template` has all"},
		{file: "config = '/x'", want: ":1: there is no setting config"},
		{file: "data-dir = '/a'\n\ndata-dir = '/b'", want: ":3: Key 'data-dir' has already been defined"},
		{file: "\nlisten = '127.0.0.1:1'", want: ":2: listen: it has to be an array of strings"},
		{file: "listen = [1]", want: ":1: listen: it has to be an array of strings"},
		{file: "listen = [\n 'a:1',\n 'nowhere',\n]", want: `:1: listen: "nowhere" is not host:port`},
		{file: "listen = ['none', 'a:1']", want: "none stands alone"},
		{file: "read-only = 'true'", want: ":1: read-only: it has to be true or false"},
		{file: "shutdown-timeout = 30", want: `:1: shutdown-timeout: it has to be a string, as "30s"`},
		{file: "shutdown-timeout = '-1s'", want: `"-1s" is no duration`},
		{file: "data-dir = 7", want: ":1: data-dir: it has to be a string"},
		{file: "data-dir = 'here'", want: `:1: data-dir: "here" is not absolute`},
		{file: "log-level = 'loud'", want: `:1: log-level: "loud" is not one of debug, info, warn, error`},
		{file: "\n[server]\ndata-dir = '/x'", want: ":2: there is no setting server"},
		{file: "\nserver.tcp.data-dir = '/x'", want: ":2: there is no setting server"},
		{file: "data-dir = '/x", want: ":1: "},
		{file: "data-dir '/x'", want: ":1: "},
		{file: "log-level = 'loud'", args: "--log-level=warn", want: "lockstep.toml:1: log-level"}, // checked all the same
		{env: "LOCKSTEP_LOG_LEVEL=loud", want: `LOCKSTEP_LOG_LEVEL: "loud" is not one of`},
		{env: "LOCKSTEP_READ_ONLY=maybe", want: `LOCKSTEP_READ_ONLY: "maybe" is neither true nor false`},
		{env: "LOCKSTEP_LISTEN=a:1,b", want: `LOCKSTEP_LISTEN: "b" is not host:port`},
		{env: "LOCKSTEP_CONFIG=/nonexistent/lockstep.toml", want: "configuration file: open /nonexistent/lockstep.toml"},
		{args: "--shutdown-timeout=0s", want: `--shutdown-timeout: "0s" is no duration`},
		{args: "--listen=127.0.0.1", want: `--listen: "127.0.0.1" is not host:port`},
		{file: "log-level = ''", want: ":1: log-level: the value is empty"},
		{file: "listen = ['']", want: ":1: listen: the value is empty"},
		{args: "--data-dir=", want: "--data-dir: the value is empty"},
		{args: "--config=/nonexistent/lockstep.toml", want: "no such file"},
		{args: "--config=/", want: "configuration file: read /: is a directory"},
	} {
		var env []string
		if c.file != "" {
			env = append(env, "LOCKSTEP_CONFIG="+tomlFile(t, c.file))
		}
		if c.env != "" {
			env = append(env, c.env)
		}
		_, err := configured(env, strings.Fields(c.args))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

func TestConfigurationValues(t *testing.T) {
	file := tomlFile(t, "listen = []\nread-only = true\n")
	cfg, err := configured([]string{"LOCKSTEP_CONFIG=" + file, "LOCKSTEP_LOG_LEVEL="}, []string{"--read-only=false"})
	if err != nil {
		t.Fatal(err)
	}
	if o := cfg.options; o.Listen == nil || len(o.Listen) > 0 || o.ReadOnly || o.logLevel != "info" {
		t.Errorf("got %+v", o)
	}
	if from := cfg.origins["log-level"].source; from != sourceDefault {
		t.Errorf("an empty variable counts as %s", from)
	}
	cfg, err = configured(nil, []string{"--listen", "a:1", "--listen", "b:2", "--shutdown-timeout", "1m"})
	if err != nil {
		t.Fatal(err)
	}
	if o := cfg.options; !reflect.DeepEqual(o.Listen, []string{"a:1", "b:2"}) || o.ShutdownTimeout != time.Minute || o.configFile != "/dev/null" {
		t.Errorf("got %+v", o)
	}
}

func TestUnknownVariables(t *testing.T) {
	env := []string{"LOCKSTEP_DATADIR=/x", "LOCKSTEP_SEED=1", "LOCKSTEP_SEEDS=2", "LOCKSTEP_DATA_DIR=/y", "LOCKSTEP_", "HOME=/",
		"LOCKSTEP_PLANET=mars"}
	cfg, err := configured(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"LOCKSTEP_DATADIR; did you mean LOCKSTEP_DATA_DIR?", "LOCKSTEP_PLANET"}
	if !reflect.DeepEqual(cfg.unknown, want) {
		t.Errorf("got %q, want %q", cfg.unknown, want)
	}
}

// Every line of the template is good as soon as its mark is taken away.
func TestTemplate(t *testing.T) {
	var b strings.Builder
	if err := printTemplate(&b); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		if mark, rest, _ := strings.Cut(line, "#"); mark == "" && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		lines = append(lines, line)
	}
	cfg, err := configured([]string{"LOCKSTEP_CONFIG=" + tomlFile(t, strings.Join(lines, ""))}, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, lines)
	}
	for _, s := range settings() {
		if from := cfg.origins[s.name].source; from != sourceFile && !s.fileless {
			t.Errorf("%s is not in the template", s.name)
		}
	}
}

// README's table is the list of settings.
func TestReadmeSettings(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| setting | for | default | |\n|---|---|---|---|\n"
	for _, s := range settings() {
		whose, standard := "all", "`"+s.standard+"`"
		if s.server {
			whose = "`serve`"
		}
		if s.standard == "" {
			standard = s.unset
		}
		if s.quiet != "" {
			standard += "; `" + s.quiet + "` where it is not `serve`"
		}
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", s.name, whose, standard, strings.ReplaceAll(s.usage, "`", ""))
	}
	if !strings.Contains(string(readme), want) {
		t.Errorf("README's table of settings is not this one:\n%s", want)
	}
}
