package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// remove deletes a volume that nobody has open. From the first step on the volume is gone, and what is left after a
// crash is removed at the next start.
func (d *directory) remove(name string) error {
	if err := d.has(name); err != nil {
		return err
	}
	aside := d.aside(name, deletingMark)
	if err := os.Rename(d.volume(name), aside); err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	if err := syncDir(filepath.Join(d.path, volumesName)); err != nil {
		return fmt.Errorf("delete volume %s: it may be back after a power cut: %w", name, err)
	}
	if err := d.discard(aside); err != nil {
		return fmt.Errorf("volume %s is deleted, but not all it left could be removed: %w", name, err)
	}
	return nil
}

// discard removes the directory of a volume that was set aside, and what its settings name elsewhere: the log, and the
// header on the device.
func (d *directory) discard(aside string) error {
	s, err := readSettings(aside)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat):
		// Cut off before anything was made elsewhere, or damaged: then there is nobody left to say where else to look.
	case err != nil:
		return err
	default:
		if err := d.discardElsewhere(s); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	return syncDir(filepath.Join(d.path, volumesName))
}

func (d *directory) discardElsewhere(s settings) error {
	if s.LogDir != "" {
		// Its name has the volume's UUID, so it is nobody else's.
		if err := os.RemoveAll(s.LogDir); err != nil {
			return fmt.Errorf("remove log: %w", err)
		}
	}
	if s.Backend != KindDevice {
		return nil
	}
	err := wipeDevice(s.Device, s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		d.log.Warn().Str("device", s.Device).Msg("the device of a deleted volume is not there; its header is not wiped")
		return nil
	}
	if err != nil {
		return fmt.Errorf("wipe header of %s: %w", s.Device, err)
	}
	return nil
}
