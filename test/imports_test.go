// Package test has the tests that look at the source as a whole.
package test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = ".."
	module = "lockstep"
)

// arrows has, for each folder that may hold packages, the folders of this module it may import. "." is main. What is
// not here may not exist; what is here may be missing still.
func arrows() map[string][]string {
	return map[string][]string{
		".":              {"node", "nbd/attach", "block"}, // block's words are everybody's
		"node":           {"nbd", "volume", "replication", "backend", "wal", "block", "histogram"},
		"replication":    {"engine", "rebuild", "wal", "block"},
		"volume":         {"wal", "backend", "block", "histogram"},
		"engine":         {"block"},
		"wal":            {"block", "histogram"},
		"rebuild":        {"block"},
		"backend":        {},
		"nbd":            {"histogram"},
		"nbd/attach":     {"nbd"},
		"histogram":      {},
		"block":          {},
		"test":           {},
		"test/disk":      {"wal", "backend", "block"},
		"test/authority": {},
		"test/sim":       {"node", "replication", "rebuild", "engine", "volume", "wal", "backend", "block", "test/disk"},
		"test/e2e":       {}, // it knows the program only
		"test/powercut":  {}, // so does this
	}
}

// topFolders are the folders that the tree may have; those without Go code included.
func topFolders() []string {
	return []string{".ci", ".git", ".build", "backend", "block", "engine", "histogram", "nbd", "node", "rebuild", "replication",
		"docs", "scripts", "test", "volume", "wal", "lockstep-data"}
}

// dependencies has the modules of others that may be imported, and by which folders; nil is all but the engine, which
// may have its words of others, and no more.
func dependencies() map[string][]string {
	return map[string][]string{
		"github.com/BurntSushi/toml":          {"."},
		"github.com/coreos/go-systemd/v22":    {".", "node"},
		"github.com/docker/go-units":          {".", "node"},
		"github.com/google/uuid":              nil,
		"github.com/rs/zerolog":               nil,
		"github.com/prometheus/client_golang": {"node"},
		"github.com/prometheus/client_model":  {"node"},
		"github.com/prometheus/common":        {"node"},
		"github.com/tidwall/btree":            nil,
		"github.com/urfave/cli/v2":            {"."},
		"github.com/vishvananda/netlink":      {"nbd/attach"},
		"golang.org/x/sync":                   nil,
		"golang.org/x/sys":                    nil,
	}
}

// notInEngine are the packages with which an engine would have a clock, a lock, chance or the world outside.
func notInEngine() []string {
	return []string{"context", "crypto/rand", "io", "log", "math/rand", "net", "os", "runtime", "sync", "syscall", "time", "unsafe"}
}

// source is one Go file and what it imports.
type source struct {
	folder, name string // folder is relative to the root
	imports      []string
}

func (s source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// breach returns why a file may not import a package, or "".
func (s source) breach(imported string) string {
	if inside, ok := strings.CutPrefix(imported, module+"/"); ok {
		return s.insideBreach(inside)
	}
	if !strings.Contains(strings.Split(imported, "/")[0], ".") {
		return s.standardBreach(imported)
	}
	for dependency, folders := range dependencies() {
		if !within(imported, dependency) {
			continue
		}
		if s.folder == "engine" && dependency != "github.com/google/uuid" || folders != nil && !slices.Contains(folders, s.folder) {
			return "that is not for " + s.folder
		}
		return ""
	}
	return "not one of the dependencies we keep"
}

func (s source) insideBreach(inside string) string {
	allowed, ok := arrows()[s.folder]
	switch {
	case !ok:
		return "the folder is not one of ours"
	case inside == s.folder && s.isTest(): // the package outside of which its test is
		return ""
	case (inside == "test/disk" || inside == "test/authority") && s.isTest():
		return ""
	case slices.Contains(allowed, inside):
		return ""
	}
	return "no arrow leads there"
}

func (s source) standardBreach(imported string) string {
	if s.folder != "engine" || s.isTest() {
		return ""
	}
	for _, forbidden := range notInEngine() {
		if within(imported, forbidden) {
			return "the engine decides, and does nothing"
		}
	}
	return ""
}

func within(imported, tree string) bool {
	return imported == tree || strings.HasPrefix(imported, tree+"/")
}

// sources parses the imports of every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(e.Name(), ".") && p != root
		if e.IsDir() && (hidden || e.Name() == "testdata" || e.Name() == "lockstep-data") {
			return fs.SkipDir
		}
		if e.IsDir() || path.Ext(p) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		s := source{folder: folder, name: e.Name()}
		for _, i := range file.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			s.imports = append(s.imports, imported)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestImports(t *testing.T) {
	all := sources(t)
	inside := 0
	for _, s := range all {
		if _, ok := arrows()[s.folder]; !ok {
			t.Errorf("%s/%s: no Go code belongs there", s.folder, s.name)
		}
		for _, imported := range s.imports {
			if why := s.breach(imported); why != "" {
				t.Errorf("%s/%s imports %s: %s", s.folder, s.name, imported, why)
			}
			if strings.HasPrefix(imported, module+"/") {
				inside++
			}
		}
	}
	if len(all) < 20 || inside < 20 {
		t.Errorf("%d files with %d imports of the module were found: the tree is not where it is looked for", len(all), inside)
	}
}

// A rule that forbids nothing would pass every tree.
func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		file, imports string
		allowed       bool
	}{
		{"./main.go", "lockstep/node", true},
		{"./main.go", "lockstep/volume", false},
		{"./attach.go", "lockstep/nbd/attach", true},
		{"node/node.go", "lockstep/nbd/attach", false},
		{"nbd/attach/link.go", "lockstep/nbd", true},
		{"nbd/attach/link.go", "lockstep/node", false},
		{"nbd/server.go", "lockstep/nbd/attach", false},
		{"node/node.go", "lockstep/volume", true},
		{"node/node.go", "lockstep/engine", false},
		{"volume/open.go", "lockstep/backend", true},
		{"volume/open.go", "lockstep/nbd", false},
		{"volume/open.go", "lockstep/node", false},
		{"wal/wal.go", "lockstep/backend", false},
		{"backend/file.go", "lockstep/block", false},
		{"nbd/server.go", "lockstep/volume", false},
		{"block/block.go", "lockstep/wal", false},
		{"engine/decide.go", "lockstep/block", true},
		{"engine/decide.go", "lockstep/wal", false},
		{"engine/decide.go", "slices", true},
		{"engine/decide.go", "time", false},
		{"engine/decide.go", "sync/atomic", false},
		{"engine/decide.go", "github.com/rs/zerolog", false},
		{"engine/decide.go", "github.com/google/uuid", true},
		{"engine/decide_test.go", "os", true},
		{"rebuild/source.go", "lockstep/wal", false},
		{"replication/sender.go", "lockstep/volume", false},
		{"volume/open.go", "lockstep/test/disk", false},
		{"volume/crash_test.go", "lockstep/test/disk", true},
		{"volume/crash_test.go", "lockstep/volume", true},
		{"volume/crash_test.go", "lockstep/node", false},
		{"test/e2e/kill_test.go", "lockstep/volume", false},
		{"test/e2e/tls_test.go", "lockstep/test/authority", true},
		{"node/tls.go", "lockstep/test/authority", false},
		{"util/pad.go", "lockstep/block", false},
		{"node/logsize.go", "github.com/docker/go-units", true},
		{"node/node.go", "github.com/urfave/cli/v2", false},
		{"wal/dir.go", "golang.org/x/sys/unix", true},
		{"wal/dir.go", "golang.org/x/system", false},
		{"wal/dir.go", "github.com/pkg/errors", false},
	} {
		folder, name := path.Split(c.file)
		why := source{folder: path.Clean(folder), name: name}.breach(c.imports)
		if (why == "") != c.allowed {
			t.Errorf("%s imports %s: allowed is %v, want %v (%s)", c.file, c.imports, why == "", c.allowed, why)
		}
	}
}

// Names that say nothing collect what belongs elsewhere.
func TestNames(t *testing.T) {
	vague := []string{"util", "utils", "common", "types", "helper", "helpers", "misc"}
	for _, s := range sources(t) {
		name := strings.TrimSuffix(strings.TrimSuffix(s.name, ".go"), "_test")
		for _, part := range append(strings.Split(name, "_"), strings.Split(s.folder, "/")...) {
			if slices.Contains(vague, part) {
				t.Errorf("%s/%s: %q says nothing", s.folder, s.name, part)
			}
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(topFolders(), e.Name()) {
			t.Errorf("%s: not one of the folders we keep", e.Name())
		}
	}
}
