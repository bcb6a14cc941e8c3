package backend

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// LockstepContent is what ProbeForeign calls a volume of ours.
const LockstepContent = "lockstep volume"

// lockstepMagic is how a volume's superblock begins.
const lockstepMagic = "LOCKSTEP"

// probeBytes is how much of the beginning is looked at.
const probeBytes = 1 << 20

// ProbeForeign says whether b holds anything that must not be overwritten unasked, and what: a known signature at the
// beginning or the end, LockstepContent, or "unknown non-zero data" in the first 1 MiB. foreign is true for all of
// these, a lockstep volume too, and false where nothing was found. It does not see data that begin later and have no
// signature.
func ProbeForeign(b Backend) (what string, foreign bool, err error) {
	size, err := b.Size()
	if err != nil {
		return "", false, fmt.Errorf("probe: %w", err)
	}
	head := make([]byte, min(size, probeBytes))
	if _, err := b.ReadAt(head, 0); err != nil {
		return "", false, fmt.Errorf("probe: %w", err)
	}
	for _, known := range headSignatures {
		if what = known(head); what != "" {
			return what, true, nil
		}
	}
	for _, known := range tailSignatures {
		if what, err = known.find(b, size); err != nil || what != "" {
			return what, what != "", err
		}
	}
	for _, c := range head {
		if c != 0 {
			return "unknown non-zero data", true, nil
		}
	}
	return "", false, nil
}

// headSignatures name what a beginning shows, or return "". What holds others comes before what it holds, and a boot
// sector last, because many of the others have one.
var headSignatures = []func(head []byte) string{
	magic(LockstepContent, 0, lockstepMagic),
	magic("LUKS encrypted volume", 0, "LUKS\xba\xbe"),
	magic("LUKS encrypted volume (second header)", 0x4000, "SKUL\xba\xbe"),
	probeLVM,
	magic("md RAID member (1.1)", 0, "\xfc\x4e\x2b\xa9"),
	magic("md RAID member (1.2)", 4096, "\xfc\x4e\x2b\xa9"),
	magic("bcache device", 4096+24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
	probeSwap,
	probeExt,
	magic("xfs file system", 0, "XFSB"),
	magic("btrfs file system", 0x10040, "_BHRfS_M"),
	magic("f2fs file system", 1024, "\x10\x20\xf5\xf2"),
	magic("ISO 9660 file system", 0x8001, "CD001"),
	probeZFS,
	magic("GPT partition table", 512, "EFI PART"),
	magic("GPT partition table", 4096, "EFI PART"),
	magic("NTFS file system", 3, "NTFS    "),
	magic("exFAT file system", 3, "EXFAT   "),
	magic("FAT file system", 54, "FAT1"),
	magic("FAT file system", 82, "FAT32   "),
	magic("MBR partition table or boot sector", 510, "\x55\xaa"),
}

func magic(what string, off int, want string) func([]byte) string {
	return func(head []byte) string {
		if hasAt(head, off, want) {
			return what
		}
		return ""
	}
}

func hasAt(p []byte, off int, want string) bool {
	return off+len(want) <= len(p) && string(p[off:off+len(want)]) == want
}

// probeLVM: the label is in one of the first four sectors.
func probeLVM(head []byte) string {
	for off := 0; off < 4*512; off += 512 {
		if hasAt(head, off, "LABELONE") && hasAt(head, off+24, "LVM2 001") {
			return "LVM2 physical volume"
		}
	}
	return ""
}

// probeSwap: the signature ends the first page, whose size is the machine's that made it.
func probeSwap(head []byte) string {
	for page := 4096; page <= 65536; page *= 2 {
		if hasAt(head, page-10, "SWAPSPACE2") || hasAt(head, page-10, "SWAP-SPACE") {
			return "swap space"
		}
	}
	return ""
}

// probeExt tells ext2, 3 and 4 apart by their features.
func probeExt(head []byte) string {
	const superblock = 1024
	const hasJournal = 0x4                                // compatible
	const extents, bits64, flexGroups = 0x40, 0x80, 0x200 // incompatible
	if !hasAt(head, superblock+0x38, "\x53\xef") || len(head) < superblock+1024 {
		return ""
	}
	compatible := binary.LittleEndian.Uint32(head[superblock+0x5c:])
	incompatible := binary.LittleEndian.Uint32(head[superblock+0x60:])
	switch {
	case incompatible&(extents|bits64|flexGroups) != 0:
		return "ext4 file system"
	case compatible&hasJournal != 0:
		return "ext3 file system"
	}
	return "ext2 file system"
}

const zfsLabelBytes = 256 << 10

// probeZFS looks at the two labels at the beginning, or at one of those at the end.
func probeZFS(head []byte) string {
	for label := 0; label+zfsLabelBytes <= min(len(head), 2*zfsLabelBytes); label += zfsLabelBytes {
		for off := label + zfsLabelBytes/2; off < label+zfsLabelBytes; off += 1024 { // its ring of uberblocks
			if m := head[off : off+8]; bytes.Equal(m, []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00")) ||
				bytes.Equal(m, []byte("\x00\x00\x00\x00\x00\xba\xb1\x0c")) {
				return "zfs pool member"
			}
		}
	}
	return ""
}

// tailSignature is one that lies at a place counted from the end.
type tailSignature struct {
	at     func(size int64) int64 // where it begins
	length int64
	known  func(p []byte) string
}

var tailSignatures = []tailSignature{
	{func(size int64) int64 { return size - 512 }, 512, magic("GPT partition table (copy at the end)", 0, "EFI PART")},
	{func(size int64) int64 { return size - 4096 }, 512, magic("GPT partition table (copy at the end)", 0, "EFI PART")},
	{func(size int64) int64 { return (size/512 - 16) / 8 * 8 * 512 }, 512, magic("md RAID member (1.0)", 0, "\xfc\x4e\x2b\xa9")},
	{func(size int64) int64 { return (size/65536 - 1) * 65536 }, 512, magic("md RAID member (0.90)", 0, "\xfc\x4e\x2b\xa9")},
	{func(size int64) int64 { return (size/65536 - 1) * 65536 }, 512, magic("md RAID member (0.90)", 0, "\xa9\x2b\x4e\xfc")},
	{func(size int64) int64 { return (size/zfsLabelBytes - 2) * zfsLabelBytes }, 2 * zfsLabelBytes, probeZFS},
}

func (s tailSignature) find(b Backend, size int64) (string, error) {
	off := s.at(size)
	if off < 0 || off > size-s.length {
		return "", nil
	}
	p := make([]byte, s.length)
	if _, err := b.ReadAt(p, off); err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	return s.known(p), nil
}
