package attach

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sysfs reads what the kernel tells of devices and processes in files. root is "/", but for tests.
type sysfs struct{ root string }

func (s sysfs) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

// indexOf is the index of a device's name.
func indexOf(name string) (int, bool) {
	number, ok := strings.CutPrefix(name, "nbd")
	index, err := strconv.Atoi(number)
	return index, ok && err == nil && index >= 0 && index <= maxIndex && strconv.Itoa(index) == number
}

// maxIndex keeps device numbers, of which each device takes 32, within the kernel's 20 bits.
const maxIndex = 1<<15 - 1

func (s sysfs) indexes() ([]int, error) {
	entries, err := os.ReadDir(s.path("sys/block"))
	if err != nil {
		return nil, fmt.Errorf("list the NBD devices: %w", err)
	}
	var list []int
	for _, e := range entries {
		if index, ok := indexOf(e.Name()); ok {
			list = append(list, index)
		}
	}
	slices.Sort(list)
	return list, nil
}

// device reads a device's files. That it is attached is known by the file pid.
func (s sysfs) device(index int) (Device, error) {
	dir := s.path("sys/block", filepath.Base(DevicePath(index)))
	text := map[string]string{}
	for _, name := range []string{"pid", "backend", "size", "ro"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		// ENODEV and the like: the device went while it was read.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return Device{}, fmt.Errorf("look at %s: %w", DevicePath(index), err)
		}
		text[name] = strings.TrimSuffix(string(b), "\n")
	}
	if text["pid"] == "" {
		return Device{}, nil
	}
	pid, pidErr := strconv.Atoi(text["pid"])
	sectors, sizeErr := strconv.ParseInt(text["size"], 10, 64)
	if err := errors.Join(pidErr, sizeErr); err != nil {
		return Device{}, fmt.Errorf("look at %s: %w", DevicePath(index), err)
	}
	return Device{Attached: true, Backend: text["backend"], PID: pid, SizeBytes: sectors * 512, ReadOnly: text["ro"] == "1"}, nil
}

// users says what uses a device, or a partition of it: mounts in any namespace, swap, devices on top of it, and processes
// that have it open.
func (s sysfs) users(index int) ([]string, error) {
	name := filepath.Base(DevicePath(index))
	numbers, err := s.numbers(name) // of the device and its partitions
	if err != nil {
		return nil, fmt.Errorf("look for what uses %s: %w", DevicePath(index), err)
	}
	var users []string
	for part := range numbers {
		holders, err := os.ReadDir(s.path("sys/class/block", part, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for what uses %s: %w", DevicePath(index), err)
		}
		for _, h := range holders {
			users = append(users, "device "+h.Name())
		}
	}
	swaps, err := os.ReadFile(s.path("proc/swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for what uses %s: %w", DevicePath(index), err)
	}
	for part := range numbers {
		if bytes.Contains(swaps, []byte("/dev/"+part+" ")) || bytes.Contains(swaps, []byte("/dev/"+part+"\t")) {
			users = append(users, "swap")
		}
	}
	inProcesses, err := s.usersInProcesses(numbers)
	if err != nil {
		return nil, fmt.Errorf("look for what uses %s: %w", DevicePath(index), err)
	}
	users = append(users, inProcesses...)
	slices.Sort(users)
	return slices.Compact(users), nil
}

// numbers are major:minor of a device and its partitions, by name.
func (s sysfs) numbers(name string) (map[string]string, error) {
	numbers := map[string]string{}
	dirs, err := filepath.Glob(s.path("sys/block", name, name+"p*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range append(dirs, s.path("sys/block", name)) {
		b, err := os.ReadFile(filepath.Join(dir, "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		numbers[filepath.Base(dir)] = strings.TrimSpace(string(b))
	}
	return numbers, nil
}

// usersInProcesses looks at the mounts and open files of every process. One that ends meanwhile uses nothing.
func (s sysfs) usersInProcesses(numbers map[string]string) ([]string, error) {
	processes, err := os.ReadDir(s.path("proc"))
	if err != nil {
		return nil, err
	}
	var users []string
	seen := map[string]bool{} // mount namespaces
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		open, err := s.opens(p.Name(), numbers)
		if err != nil && !gone(err) {
			return nil, err
		}
		if open {
			comm, _ := os.ReadFile(s.path("proc", p.Name(), "comm")) // only for people
			users = append(users, fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(comm))))
		}
		namespace, err := os.Readlink(s.path("proc", p.Name(), "ns/mnt"))
		if err == nil && seen[namespace] {
			continue
		}
		seen[namespace] = err == nil
		mounts, err := s.mounts(p.Name(), numbers)
		if err != nil && !gone(err) {
			return nil, err
		}
		users = append(users, mounts...)
	}
	return users, nil
}

// gone reports whether a file of a process cannot be read because the process has ended, or has no such thing.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}

// opens reports whether a process has one of the devices open.
func (s sysfs) opens(pid string, numbers map[string]string) (bool, error) {
	files, err := os.ReadDir(s.path("proc", pid, "fd"))
	if err != nil {
		return false, err
	}
	wanted := slices.Collect(maps.Values(numbers))
	for _, f := range files {
		path := s.path("proc", pid, "fd", f.Name())
		target, err := os.Readlink(path)
		if err != nil && !gone(err) {
			return false, err
		}
		if !strings.HasPrefix(target, "/") {
			continue // a socket or the like
		}
		var st unix.Statx_t
		// A file system that does not answer is not asked.
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
			continue // closed meanwhile
		}
		if st.Mode&unix.S_IFMT == unix.S_IFBLK && slices.Contains(wanted, fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor)) {
			return true, nil
		}
	}
	return false, nil
}

// mounts lists where a process sees file systems of the devices.
func (s sysfs) mounts(pid string, numbers map[string]string) ([]string, error) {
	b, err := os.ReadFile(s.path("proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	var users []string
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(source) < 2 {
			continue
		}
		for part, number := range numbers {
			if fields[2] == number || source[1] == "/dev/"+part { // btrfs has a number of its own
				users = append(users, "mounted on "+fields[4])
			}
		}
	}
	return users, nil
}
