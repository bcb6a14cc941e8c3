package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// A volume whose disk was not there at the start comes back without a restart, and the others never notice.
func TestReopen(t *testing.T) {
	n := newNode(t, shortDir(t))
	n.must("volume", "create", "disk", "--size", "64MiB")
	n.must("volume", "create", "other", "--size", "64MiB")
	n.start()
	l := newLedger(0, 1024)
	c := n.dial("disk")
	change, r := l.send(0, 64, false)
	if err := c.one(r); err != nil {
		t.Fatal(err)
	}
	l.ack(change)
	n.stop()
	image := filepath.Join(n.data, "volumes", "disk", "base.img")
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	n.start()
	other := n.dial("other")
	if out, err := n.try("volume", "reopen", "disk"); err == nil {
		t.Errorf("reopened without its image: %s", out)
	} else {
		wantText(t, out, "base.img: no such file")
	}
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	wantText(t, n.must("volume", "reopen", "disk"), "volume disk is served")
	if err := l.verify(n.dial("disk")); err != nil {
		t.Error(err)
	}
	if out, err := n.try("volume", "reopen", "other"); err == nil {
		t.Errorf("a sound volume was reopened: %s", out)
	} else {
		wantText(t, out, "has not failed")
	}
	if err := other.flush(); err != nil {
		t.Errorf("a client of another volume: %v", err)
	}
}
