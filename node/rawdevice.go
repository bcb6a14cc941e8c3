package node

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"lockstep/backend"
	"lockstep/volume"
)

// deviceEndBytes is how much of either end of a device is cleared at once: signatures lie there.
const deviceEndBytes = 1 << 20

// checkDevice returns the size in bytes of the largest volume that fits the device. It refuses a device that another
// volume has, and, without force, one that holds anything known.
func (d *directory) checkDevice(path string, force bool) (volumeBytes int64, err error) {
	if err := d.checkNotTaken(path); err != nil {
		return 0, err
	}
	dev, err := backend.OpenDevice(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	what, foreign, err := backend.ProbeForeign(dev)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	if foreign && !force {
		return 0, fmt.Errorf("%s is %w: it holds: %s; --force overwrites it", path, ErrInUse, what)
	}
	size, err := dev.Size()
	if err == nil && size <= volume.DataOffset {
		err = fmt.Errorf("%w: %s has %s, of which a header takes %s", ErrRequest, path, humanBytes(size),
			humanBytes(volume.DataOffset))
	}
	return size - volume.DataOffset, err
}

// checkNotTaken refuses a device that a volume here is kept on, under whatever path.
func (d *directory) checkNotTaken(path string) error {
	var wanted, other unix.Stat_t
	if err := unix.Stat(path, &wanted); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		s, err := readSettings(d.volume(name))
		if err != nil || s.Backend != KindDevice {
			continue // what cannot be read is reported where it is opened
		}
		if s.Device == path || unix.Stat(s.Device, &other) == nil && other.Rdev == wanted.Rdev {
			return fmt.Errorf("%s is %w by volume %s", path, ErrInUse, name)
		}
	}
	return nil
}

// clearDevice removes what a device held from where programs look for it, its two ends. The volume zeroes the rest in
// the background.
func clearDevice(path string, volumeBytes int64) (err error) {
	dev, err := backend.OpenDevice(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	size, err := dev.Size()
	if err != nil {
		return err
	}
	end := volumeBytes + volume.DataOffset
	if end > size {
		return fmt.Errorf("%w: %s has %d bytes, the volume and its header need %d", ErrRequest, path, size, end)
	}
	head := min(size, volume.DataOffset+deviceEndBytes)
	if err := dev.ZeroAt(0, head, true); err != nil {
		return err
	}
	if tail := max(size-deviceEndBytes, head); tail < size {
		if err := dev.ZeroAt(tail, size-tail, true); err != nil {
			return err
		}
	}
	return dev.Sync()
}

// wipeDevice removes the header of a volume from a device, if it is that volume's: a path may come to mean another
// device.
func wipeDevice(path string, id uuid.UUID) (err error) {
	dev, err := backend.OpenDevice(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// The UUID is in every superblock, and a damaged one is to be removed too.
	header := make([]byte, volume.DataOffset)
	if _, err := dev.ReadAt(header, 0); err != nil {
		return err
	}
	if !bytes.Contains(header, id[:]) {
		return nil
	}
	if err := dev.ZeroAt(0, volume.DataOffset, false); err != nil {
		return err
	}
	return dev.Sync()
}
