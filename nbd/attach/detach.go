package attach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotAttached means that there is nothing to detach.
var ErrNotAttached = errors.New("device is not attached")

// DetachConfig says which device is detached, and how.
type DetachConfig struct {
	Index int
	// Force detaches a device that is in use, or that lockstep did not attach. What was not flushed is lost.
	Force bool
	// RunDir is where the locks of supervised devices are. Default DefaultRunDir.
	RunDir string
	Kernel Kernel // required
}

// Detach ends an attachment. A supervisor of the device is told to end first, and waited for. Errors wrap
// ErrNotAttached, or ErrInUse where somebody uses the device or another program attached it; nothing has changed then.
func Detach(ctx context.Context, cfg DetachConfig) error {
	if cfg.RunDir == "" {
		cfg.RunDir = DefaultRunDir
	}
	if err := cfg.mayDetach(); err != nil {
		return err
	}
	l, err := cfg.takeLock(ctx)
	if err != nil {
		return err
	}
	defer l.release()
	d, err := cfg.Kernel.Device(cfg.Index)
	if err != nil || !d.Attached { // its supervisor has done it
		return err
	}
	if cfg.Force {
		return cfg.Kernel.Detach(cfg.Index)
	}
	users, err := cfg.Kernel.Release(cfg.Index, true)
	if err == nil && len(users) > 0 {
		err = inUse(cfg.Index, users)
	}
	return err
}

// mayDetach reports why the device must not be detached.
func (cfg *DetachConfig) mayDetach() error {
	d, err := cfg.Kernel.Device(cfg.Index)
	if err != nil {
		return err
	}
	if !d.Attached {
		return fmt.Errorf("%s: %w", DevicePath(cfg.Index), ErrNotAttached)
	}
	if cfg.Force {
		return nil
	}
	if _, err := parseIdentity(d.Backend); err != nil {
		return fmt.Errorf("%w: %s was attached by %s, not by lockstep; detach it with the tool that attached it, or --force",
			ErrInUse, DevicePath(cfg.Index), attacher(d))
	}
	users, err := cfg.Kernel.Users(cfg.Index)
	if err == nil && len(users) > 0 {
		err = inUse(cfg.Index, users)
	}
	return err
}

func inUse(index int, users []string) error {
	return fmt.Errorf("%w: %s: %s", ErrInUse, DevicePath(index), strings.Join(users, ", "))
}

// takeLock ends whoever supervises the device, and takes its place.
func (cfg *DetachConfig) takeLock(ctx context.Context) (lock, error) {
	for {
		l, holder, err := takeLock(cfg.RunDir, cfg.Index)
		if !errors.Is(err, ErrInUse) || holder == 0 {
			return l, err
		}
		if err := end(ctx, holder); err != nil {
			return lock{}, fmt.Errorf("end process %d, which supervises %s: %w", holder, DevicePath(cfg.Index), err)
		}
	}
}

// end tells a process to end, and waits for that.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(p, int((100 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
