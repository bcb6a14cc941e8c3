package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes files in a directory that stands for "/".
func tree(t *testing.T, files map[string]string) sysfs {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sysfs{root: root}
}

func TestSysfsDevice(t *testing.T) {
	s := tree(t, map[string]string{
		"sys/block/nbd0/pid": "12\n", "sys/block/nbd0/backend": "lockstep:d:-:1\n", "sys/block/nbd0/size": "2048\n", "sys/block/nbd0/ro": "1\n",
		"sys/block/nbd1/size": "2048\n", "sys/block/nbd1/ro": "0\n",
		"sys/block/nbd2/pid": "12\n", "sys/block/nbd2/size": "x\n",
		"sys/block/nbd10/size": "0\n", "sys/block/nbdx/size": "0\n", "sys/block/sda/size": "0\n", "sys/block/nbd03/size": "0\n",
	})
	want := Device{Attached: true, Backend: "lockstep:d:-:1", PID: 12, SizeBytes: 1 << 20, ReadOnly: true}
	if d, err := s.device(0); err != nil || d != want {
		t.Errorf("%+v, %v; want %+v", d, err, want)
	}
	for _, index := range []int{1, 5} {
		if d, err := s.device(index); err != nil || d != (Device{}) {
			t.Errorf("%d: %+v, %v", index, d, err)
		}
	}
	if d, err := s.device(2); err == nil {
		t.Errorf("a size of x: %+v", d)
	}
	if list, err := s.indexes(); err != nil || !slices.Equal(list, []int{0, 1, 2, 10}) {
		t.Errorf("%v, %v", list, err)
	}
}

func TestSysfsUsers(t *testing.T) {
	base := map[string]string{
		"sys/block/nbd0/dev": "43:0\n", "sys/block/nbd0/nbd0p1/dev": "43:1\n", "sys/block/nbd1/dev": "43:32\n",
		"proc/swaps": "Filename Type Size Used Priority\n", "proc/1/mountinfo": "22 1 8:1 / / rw shared:1 - ext4 /dev/vda rw\n",
	}
	for name, c := range map[string]struct {
		file, text string
		want       []string
	}{
		"nothing":            {"proc/1/comm", "init\n", nil},
		"mount":              {"proc/7/mountinfo", "30 22 43:0 / /mnt rw - ext4 /dev/root rw\n", []string{"mounted on /mnt"}},
		"mount of partition": {"proc/7/mountinfo", "30 22 43:1 / /mnt rw shared:5 master:1 - ext4 /dev/nbd0p1 rw\n", []string{"mounted on /mnt"}},
		"btrfs":              {"proc/7/mountinfo", "30 22 0:44 / /b rw - btrfs /dev/nbd0 rw\n", []string{"mounted on /b"}},
		"another's mount":    {"proc/7/mountinfo", "30 22 43:32 / /mnt rw - ext4 /dev/nbd1 rw\n", nil},
		"swap":               {"proc/swaps", "Filename Type\n/dev/nbd0p1\tpartition\t1\n", []string{"swap"}},
		"another's swap":     {"proc/swaps", "Filename Type\n/dev/nbd01 partition 1\n", nil},
		"device on top":      {"sys/class/block/nbd0p1/holders/dm-3/x", "", []string{"device dm-3"}},
	} {
		files := map[string]string{c.file: c.text}
		for f, text := range base {
			if files[f] == "" {
				files[f] = text
			}
		}
		if got, err := tree(t, files).users(0); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestSysfsOpenFiles(t *testing.T) {
	s := tree(t, map[string]string{"sys/block/nbd0/dev": "43:0\n", "sys/block/nbd1/dev": "43:32\n", "proc/7/comm": "dd\n",
		fmt.Sprintf("proc/%d/comm", os.Getpid()): "us\n"})
	node := filepath.Join(s.root, "nbd0")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(43, 0))); err != nil {
		t.Skip("device nodes cannot be made here: ", err)
	}
	for _, pid := range []int{7, os.Getpid()} { // we ourselves are no user
		fd := s.path("proc", fmt.Sprint(pid), "fd")
		if err := os.Mkdir(fd, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(node, filepath.Join(fd, "3")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.users(0); err != nil || !slices.Equal(got, []string{"process 7 (dd)"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := s.users(1); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDeviceIndex(t *testing.T) {
	for text, want := range map[string]int{"/dev/nbd0": 0, "nbd15": 15, "/dev/nbd": -1, "nbd01": -1, "/dev/sda": -1, "nbd-1": -1, "nbd99999": -1, "": -1} {
		index, err := DeviceIndex(text)
		if (err == nil) != (want >= 0) || err == nil && index != want {
			t.Errorf("%q: %d, %v", text, index, err)
		}
	}
}
