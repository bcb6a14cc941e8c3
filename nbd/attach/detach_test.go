package attach

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestDetach(t *testing.T) {
	ours := identity{export: "disk", slots: 1}.String()
	for name, c := range map[string]struct {
		backend string
		users   []string
		force   bool
		want    error
	}{
		"ours":            {backend: ours},
		"in use":          {backend: ours, users: []string{"mounted on /mnt"}, want: ErrInUse},
		"in use, forced":  {backend: ours, users: []string{"mounted on /mnt"}, force: true},
		"not ours":        {backend: "other", want: ErrInUse},
		"no backend":      {backend: "", want: ErrInUse},
		"not ours, force": {backend: "other", force: true},
	} {
		w := newWorld(t)
		w.put(0, c.backend)
		w.use(0, c.users...)
		err := Detach(t.Context(), DetachConfig{Index: 0, Force: c.force, RunDir: t.TempDir(), Kernel: w})
		if !errors.Is(err, c.want) || w.device(0).Attached != (c.want != nil) {
			t.Errorf("%s: %v; %+v", name, err, w.device(0))
		}
	}
	w := newWorld(t)
	if err := Detach(t.Context(), DetachConfig{Index: 0, RunDir: t.TempDir(), Kernel: w}); !errors.Is(err, ErrNotAttached) {
		t.Errorf("nothing there: %v", err)
	}
}

// holdLock starts a process that has the lock of device 0, as a supervisor does. It does something else before it returns.
func holdLock(t *testing.T, dir, before string) *exec.Cmd {
	t.Helper()
	path := lockPath(dir, 0)
	c := exec.Command("flock", "--no-fork", path, "sh", "-c", "echo $$ >'"+path+"'; "+before+"echo held; exec sleep 1000")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDetachEndsTheSupervisor(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t)
	w.put(0, identity{export: "disk", slots: 1}.String())
	holder := holdLock(t, dir, "")
	ended := make(chan struct{})
	go func() { // a zombie counts as ended
		defer close(ended)
		_ = holder.Wait() // ended by a signal
	}()
	if err := Detach(t.Context(), DetachConfig{Index: 0, RunDir: dir, Kernel: w}); err != nil || w.device(0).Attached {
		t.Errorf("%v; %+v", err, w.device(0))
	}
	<-ended
}

// Whoever may not be detached keeps the supervisor that keeps it connected.
func TestRefusedDetachLeavesTheSupervisor(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t)
	w.put(0, identity{export: "disk", slots: 1}.String())
	w.use(0, "mounted on /mnt")
	holdLock(t, dir, "")
	if err := Detach(t.Context(), DetachConfig{Index: 0, RunDir: dir, Kernel: w}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	if _, holder, err := takeLock(dir, 0); !errors.Is(err, ErrInUse) || holder == 0 {
		t.Errorf("the supervisor ended: %v", err)
	}
}

func TestSupervisorThatDoesNotEnd(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t)
	w.put(0, identity{export: "disk", slots: 1}.String())
	holdLock(t, dir, "trap '' TERM; ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := Detach(ctx, DetachConfig{Index: 0, RunDir: dir, Kernel: w})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "supervises /dev/nbd0") || !w.device(0).Attached {
		t.Errorf("%v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, _, err := takeLock(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, holder, err := takeLock(dir, 0); !errors.Is(err, ErrInUse) || holder != os.Getpid() {
		t.Errorf("taken twice: %d, %v", holder, err)
	}
	other, _, err := takeLock(dir, 1)
	if err != nil {
		t.Errorf("another device's: %v", err)
	}
	other.release()
	l.release()
	l, _, err = takeLock(dir, 0)
	if err != nil {
		t.Errorf("after it was given back: %v", err)
	}
	l.release()
}
