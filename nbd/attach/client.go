package attach

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// client is the Kernel of this machine.
type client struct {
	family uint16
	group  uint32
	sys    sysfs
}

// NewKernel returns the kernel of this machine. Where its NBD client is a module that is not loaded, it is loaded. It
// wraps ErrNoModule where there is none.
func NewKernel() (Kernel, error) {
	family, group, err := findFamily()
	if errors.Is(err, ErrNoModule) {
		if loadErr := loadModule(); loadErr != nil {
			return nil, errors.Join(err, loadErr)
		}
		family, group, err = findFamily()
	}
	if err != nil {
		return nil, err
	}
	return &client{family: family, group: group, sys: sysfs{root: "/"}}, nil
}

func loadModule() error {
	if out, err := exec.Command("/sbin/modprobe", familyName).CombinedOutput(); err != nil {
		return fmt.Errorf("/sbin/modprobe nbd: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// DeviceIndex turns /dev/nbd3 or nbd3 into 3.
func DeviceIndex(device string) (int, error) {
	name := strings.TrimPrefix(device, "/dev/")
	if index, ok := indexOf(name); ok {
		return index, nil
	}
	return 0, fmt.Errorf("%q is no NBD device: they are /dev/nbd0, /dev/nbd1 and so on", device)
}

// DevicePath is the inverse of DeviceIndex.
func DevicePath(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }

// Indexes is Kernel's.
func (c *client) Indexes() ([]int, error) { return c.sys.indexes() }

// Device is Kernel's.
func (c *client) Device(index int) (Device, error) { return c.sys.device(index) }

// Users is Kernel's.
func (c *client) Users(index int) ([]string, error) { return c.sys.users(index) }

// Watch is Kernel's.
func (c *client) Watch(index int) (<-chan struct{}, func(), error) {
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, nil, fmt.Errorf("listen to the kernel's NBD client: %w", err)
	}
	// Subscribe has a mask for groups up to 32; the number of ours is the kernel's choice.
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(c.group)); err != nil {
		s.Close()
		return nil, nil, fmt.Errorf("listen to the kernel's NBD client: %w", err)
	}
	deaths, ended := make(chan struct{}, 1), make(chan struct{}) // one that is not taken yet stands for later ones too
	go func() {
		defer close(ended)
		for hear(s, index) {
			select {
			case deaths <- struct{}{}:
			default:
			}
		}
	}()
	return deaths, func() { s.Close(); <-ended }, nil
}

// hear waits until a link of the device died, or until that may have been missed. false: there is no more to hear. A
// supervisor looks by itself every few seconds, so nothing is lost but time.
func hear(s *nl.NetlinkSocket, index int) bool {
	for {
		messages, from, err := s.Receive()
		if err != nil {
			return errors.Is(err, unix.ENOBUFS) // the kernel dropped some
		}
		for _, m := range messages {
			if dead, ok := deadIndex(m.Data); ok && dead == index && from.Pid == nl.PidKernel {
				return true
			}
		}
	}
}

// Attach is Kernel's.
func (c *client) Attach(index int, s Setup, links []Link) error {
	if err := execute(connectMessage(c.family, index, s, links)); err != nil {
		return fmt.Errorf("attach %s: %w", DevicePath(index), err)
	}
	return nil
}

// Replace is Kernel's.
func (c *client) Replace(index int, s Setup, links []Link) ([]bool, error) {
	if err := execute(replaceMessage(c.family, index, s, links)); err != nil {
		return nil, fmt.Errorf("give %s new connections: %w", DevicePath(index), err)
	}
	taken := make([]bool, len(links))
	for i, l := range links {
		var err error
		if taken[i], err = taker(l.FD()); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// taker reports whether the kernel has given a socket a place: it sets its own timeout on those that it takes.
func taker(fd int) (bool, error) {
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil {
		return false, fmt.Errorf("look whether the kernel took a socket: %w", err)
	}
	return tv.Sec != 0 || tv.Usec != 0, nil
}

// Resize is Kernel's.
func (c *client) Resize(index int, backend string, sizeBytes int64) error {
	if err := execute(resizeMessage(c.family, index, backend, sizeBytes)); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", DevicePath(index), sizeBytes, err)
	}
	return nil
}

// Detach is Kernel's.
func (c *client) Detach(index int) error {
	if err := execute(disconnectMessage(c.family, index)); err != nil {
		return fmt.Errorf("detach %s: %w", DevicePath(index), err)
	}
	return nil
}

// openTimeout is how long an exclusive open of a device may take: it may read the partition table.
const openTimeout = 10 * time.Second

// Release is Kernel's.
func (c *client) Release(index int, live bool) ([]string, error) {
	var held *os.File
	if live {
		f, err := openExclusively(DevicePath(index))
		if errors.Is(err, unix.EBUSY) {
			users, usersErr := c.sys.users(index)
			if len(users) == 0 {
				users = []string{"something in the kernel that has it for itself"}
			}
			return users, usersErr
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", DevicePath(index), err)
		}
		held = f
		defer held.Close()
	}
	users, err := c.sys.users(index)
	if err != nil || len(users) > 0 {
		return users, err
	}
	return nil, c.Detach(index)
}

// openExclusively opens a device that no file system and nothing like one has. A device that does not answer in time is
// given up: the kernel lets nobody interrupt that, so the open ends by itself, later.
func openExclusively(path string) (*os.File, error) {
	type opened struct {
		file *os.File
		err  error
	}
	result := make(chan opened)
	late := make(chan struct{})
	go func() {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
		select {
		case result <- opened{f, err}:
		case <-late:
			if err == nil {
				f.Close()
			}
		}
	}()
	timer := time.NewTimer(openTimeout)
	defer timer.Stop()
	select {
	case r := <-result:
		return r.file, r.err
	case <-timer.C:
		close(late)
		return nil, fmt.Errorf("it does not answer: %w", os.ErrDeadlineExceeded)
	}
}
