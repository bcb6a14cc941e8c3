package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the README has in blocks marked sh works as it stands there, in that order, in one directory.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	if err := os.Symlink(program, filepath.Join(dir, "lockstep")); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, dir)
	n.data, n.dir = filepath.Join(dir, "lockstep-data"), dir
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(readme, -1)
	if len(blocks) < 4 {
		t.Fatalf("the README has %d blocks to run", len(blocks))
	}
	port := ""
	for _, b := range blocks {
		script := string(b[1])
		if flags, ok := strings.CutPrefix(script, "./lockstep serve"); ok { // on a port that is free
			if port != "" {
				n.stop()
			}
			n.start(strings.Fields(flags)...)
			port = n.tcpPort()
			continue
		}
		script = strings.NewReplacer("//localhost/", "//localhost:"+port+"/", "port=10809", "port="+port).Replace(script)
		c := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
	}
	n.stop()
}
