package attach

import (
	"context"
	"time"

	"lockstep/nbd"
)

// Kernel is the kernel's NBD client, as NewKernel has it; tests have another. A device is named by its index: 3 is
// /dev/nbd3. Errors say what could not be done to which device.
type Kernel interface {
	// Indexes are the devices that exist, ascending.
	Indexes() ([]int, error)

	// Device says what is known of a device. One that does not exist is not attached.
	Device(index int) (Device, error)

	// Watch returns a channel that gets a value, sooner or later, whenever a link of the device has died, and what ends
	// that and waits. Several deaths may be one value.
	Watch(index int) (deaths <-chan struct{}, stop func(), err error)

	// Attach configures a device that is free, or does not exist yet. It wraps ErrInUse where it is not free.
	Attach(index int, s Setup, links []Link) error

	// Replace puts links into slots whose link has died, as many as there are of either, and reports which were taken.
	// Those that were not are untouched. It also sets the timeouts.
	Replace(index int, s Setup, links []Link) (taken []bool, err error)

	// Resize changes an attached device's size.
	Resize(index int, backend string, sizeBytes int64) error

	// Release detaches a device that nothing uses, and reports what uses it otherwise. live: the server answers, so the
	// device may be opened, which makes sure of that.
	Release(index int, live bool) (users []string, err error)

	// Users reports what uses a device, in words for people.
	Users(index int) ([]string, error)

	// Detach detaches a device, used or not. Requests that wait fail.
	Detach(index int) error
}

// Device is what the kernel tells of one of its devices.
type Device struct {
	Attached  bool
	Backend   string // identifier that it was attached with; "" where there is none
	PID       int    // process that attached it, which may have ended since; 0 if not attached
	SizeBytes int64
	ReadOnly  bool
}

// Setup is what a device is attached with.
type Setup struct {
	Backend     string
	SizeBytes   int64
	BlockBytes  int
	Flags       uint16        // transmission flags of the protocol
	Timeout     time.Duration // of a request, after which its link counts as dead; whole seconds, at least 1
	DeadTimeout time.Duration // how long requests wait for a link when all are dead; whole seconds
}

// Link is a connection in transmission. The kernel uses it beside us, so only this may be done with it here.
type Link interface {
	// FD is the file descriptor, valid until Close.
	FD() int
	// Alive reports whether neither side has ended the connection.
	Alive() bool
	// Cut ends the connection for everybody who has it.
	Cut()
	// Close gives up our hold on it. The connection lives on while the kernel has it.
	Close()
}

// Network reaches servers, as NewNetwork does; tests have another.
type Network interface {
	// Dial connects and chooses the export. The link is the caller's to close.
	Dial(ctx context.Context, a Address, export string) (Link, nbd.Offer, error)
	// Ask connects, asks about the export, and disconnects.
	Ask(ctx context.Context, a Address, export string) (nbd.Offer, error)
}

// Address is where a server may be: "unix" and a path, or "tcp" and host:port.
type Address struct{ Network, Address string }

// String is the address as people write it.
func (a Address) String() string { return a.Address }
