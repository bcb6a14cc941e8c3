package node

import (
	"errors"
	"fmt"
	"sync"

	"lockstep/nbd"
)

// defaultVolume is the volume that the first start makes, and what the empty export name stands for.
const (
	defaultVolume      = "disk0"
	defaultVolumeBytes = 1 << 30
)

// resolveLocked resolves the name that a client asks for: the empty one means the only volume, else disk0.
func (h *host) resolveLocked(name string) string {
	if name != "" {
		return name
	}
	if len(h.disks) == 1 {
		for only := range h.disks {
			return only
		}
	}
	return defaultVolume
}

// exports is what NBD clients see of a host.
type exports struct{ *host }

// Lookup is nbd.Exports'.
func (e exports) Lookup(name string) (nbd.Export, error) {
	d, err := e.connect(name)
	if errors.Is(err, ErrNotFound) {
		return nbd.Export{}, fmt.Errorf("%w: %w", nbd.ErrUnknownExport, err)
	}
	if err != nil {
		return nbd.Export{}, err
	}
	return nbd.Export{
		Name:        d.name,
		Description: e.describe(d),
		ReadOnly:    e.readOnly,
		Device:      d.device,
		Release:     sync.OnceFunc(func() { e.disconnected(d) }),
	}, nil
}

// List is nbd.Exports'.
func (e exports) List() []nbd.Listing {
	var list []nbd.Listing
	for _, d := range e.all() {
		if e.served(d) {
			list = append(list, nbd.Listing{Name: d.name, Description: e.describe(d)})
		}
	}
	return list
}

// describe says what a disk is: to people, and to clients that keep to one volume, and to one server at a time.
func (e exports) describe(d *disk) string {
	return fmt.Sprintf("lockstep volume uuid=%s instance=%s", d.settings.ID, e.instance)
}

// connect acquires a disk for an NBD connection.
func (h *host) connect(name string) (*disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.acquireLocked(h.resolveLocked(name))
	if err != nil {
		return nil, err
	}
	d.clients++
	return d, nil
}

// disconnected gives back what connect acquired.
func (h *host) disconnected(d *disk) {
	h.mu.Lock()
	d.clients--
	h.mu.Unlock()
	h.release(d)
}

func (h *host) served(d *disk) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return d.state == StateServed
}
