package node

import (
	"io"
	"path/filepath"

	"lockstep/backend"
	"lockstep/volume"
)

const imageName = "base.img"

// image is an open base image.
type image interface {
	backend.Backend
	io.Closer
}

// openImage opens the base image of the volume whose directory is dir.
func openImage(dir string, s settings) (image, error) {
	path := filepath.Join(dir, imageName)
	switch s.Backend {
	case KindDevice:
		return opened(backend.OpenDevice(s.Device))
	case KindThick:
		return opened(backend.OpenFile(path, backend.Thick))
	default:
		return opened(backend.OpenFile(path, backend.Thin))
	}
}

// opened keeps a nil pointer from becoming an image that is not nil.
func opened[T image](i T, err error) (image, error) {
	if err != nil {
		return nil, err
	}
	return i, nil
}

// createImage makes a base image that reads as zeroes, unless it is a device.
func createImage(dir string, s settings, volumeBytes int64) error {
	if s.Backend == KindDevice {
		return clearDevice(s.Device, volumeBytes)
	}
	kind := backend.Thin
	if s.Backend == KindThick {
		kind = backend.Thick
	}
	f, err := backend.CreateFile(filepath.Join(dir, imageName), volumeBytes+volume.DataOffset, kind)
	if err != nil {
		return err
	}
	return f.Close()
}
