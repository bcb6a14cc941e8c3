package backend

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func wantProbe(t *testing.T, b Backend, want string) {
	t.Helper()
	what, foreign, err := ProbeForeign(b)
	if what != want || foreign != (want != "") || err != nil {
		t.Errorf("ProbeForeign = %q, %v, %v, want %q", what, foreign, err, want)
	}
}

func TestProbeForeign(t *testing.T) {
	const size = 64<<20 + 5*4096 + 512
	const boot = "MBR partition table or boot sector"
	for _, c := range []struct {
		want string
		off  int64
		put  string
	}{
		{"", 0, ""},
		{"", 0, "\x00"},
		{"", 2 << 20, "data that begin later"},
		{"unknown non-zero data", 0, "x"},
		{"unknown non-zero data", 1<<20 - 1, "x"},
		{LockstepContent, 0, "LOCKSTEP\x01"},
		{"LUKS encrypted volume", 0, "LUKS\xba\xbe\x00\x02"},
		{"LUKS encrypted volume (second header)", 16384, "SKUL\xba\xbe\x00\x02"},
		{"LVM2 physical volume", 512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00abcd\x20\x00\x00\x00LVM2 001"},
		{"LVM2 physical volume", 1536, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00abcd\x20\x00\x00\x00LVM2 001"},
		{"unknown non-zero data", 2048, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00abcd\x20\x00\x00\x00LVM2 001"},
		{"md RAID member (1.1)", 0, "\xfc\x4e\x2b\xa9\x01"},
		{"md RAID member (1.2)", 4096, "\xfc\x4e\x2b\xa9\x01"},
		{"md RAID member (1.0)", (size/512 - 16) / 8 * 8 * 512, "\xfc\x4e\x2b\xa9\x01"},
		{"md RAID member (0.90)", 64<<20 - 64<<10, "\xfc\x4e\x2b\xa9"},
		{"md RAID member (0.90)", 64<<20 - 64<<10, "\xa9\x2b\x4e\xfc"},
		{"bcache device", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{"swap space", 4086, "SWAPSPACE2"},
		{"swap space", 65526, "SWAP-SPACE"},
		{"ext2 file system", 1080, "\x53\xef"},
		{"xfs file system", 0, "XFSB"},
		{"btrfs file system", 65600, "_BHRfS_M"},
		{"f2fs file system", 1024, "\x10\x20\xf5\xf2"},
		{"ISO 9660 file system", 32769, "CD001"},
		{"zfs pool member", 128<<10 + 5*1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"zfs pool member", 384 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"},
		{"zfs pool member", 64<<20 - 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"zfs pool member", 64<<20 - 384<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"GPT partition table", 512, "EFI PART"},
		{"GPT partition table", 4096, "EFI PART"},
		{"GPT partition table (copy at the end)", size - 512, "EFI PART"},
		{"GPT partition table (copy at the end)", size - 4096, "EFI PART"},
		{"NTFS file system", 3, "NTFS    "},
		{"exFAT file system", 3, "EXFAT   "},
		{"FAT file system", 54, "FAT16   "},
		{"FAT file system", 82, "FAT32   "},
		{boot, 510, "\x55\xaa"},
	} {
		m := NewMemory(size)
		if _, err := m.WriteAt([]byte(c.put), c.off); err != nil {
			t.Fatal(err)
		}
		wantProbe(t, m, c.want)
		if c.off < 512 && c.want != "" && c.put != "x" { // most have a boot sector's mark as well
			if _, err := m.WriteAt([]byte("\x55\xaa"), 510); err != nil {
				t.Fatal(err)
			}
			wantProbe(t, m, c.want)
		}
	}
}

// TestProbeForeignMade: what the real tools make is known.
func TestProbeForeignMade(t *testing.T) {
	for want, command := range map[string][]string{
		"ext2 file system": {"mkfs.ext4", "-q", "-t", "ext2"},
		"ext3 file system": {"mkfs.ext4", "-q", "-t", "ext3"},
		"ext4 file system": {"mkfs.ext4", "-q", "-t", "ext4"},
		"swap space":       {"mkswap"},
	} {
		t.Run(want, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 16<<20)); err != nil {
				t.Fatal(err)
			}
			run(t, command[0], append(command[1:], path)...)
			f, err := OpenFile(path, Thin)
			if err != nil {
				t.Fatal(err)
			}
			defer closeTest(t, f)
			wantProbe(t, f, want)
		})
	}
}

// TestProbeForeignSizes: any size and content is looked at without a panic, and blank is blank.
func TestProbeForeignSizes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int64{1, 8, 511, 512, 513, 4096, 5000, 65536, 65537, 262144, 524287, 524288, 1 << 20, 1<<20 + 1} {
		m := NewMemory(size)
		wantProbe(t, m, "")
		if _, err := m.WriteAt(noise(rng, make([]byte, size)), 0); err != nil {
			t.Fatal(err)
		}
		wantProbe(t, m, "unknown non-zero data")
	}
}

// unreadable is a Backend that can't be read from off on.
type unreadable struct {
	*Memory
	off int64
}

var errUnreadable = errors.New("unreadable")

func (u unreadable) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > u.off {
		return 0, errUnreadable
	}
	return u.Memory.ReadAt(p, off)
}

// TestProbeForeignUnreadable: what can't be read is not blank.
func TestProbeForeignUnreadable(t *testing.T) {
	for _, off := range []int64{1000, 8<<20 - 1} {
		if _, _, err := ProbeForeign(unreadable{NewMemory(8 << 20), off}); !errors.Is(err, errUnreadable) {
			t.Errorf("unreadable from %d: %v", off, err)
		}
	}
}
