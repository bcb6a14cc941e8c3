package attach

import (
	"errors"
	"fmt"
)

var (
	// ErrOtherVolume means that a server has another volume under the name of the attached one.
	ErrOtherVolume = errors.New("the server has another volume under that name")
	// ErrSmaller means that an export is smaller than the device that it is attached as.
	ErrSmaller = errors.New("the export is smaller than the attached device")
	// ErrReadOnly means that an export became read-only under a device that is not.
	ErrReadOnly = errors.New("the export is read-only, and the attached device is not")
	// ErrOneConnection means that an export allows one connection under a device that has several.
	ErrOneConnection = errors.New("the export allows one connection only, and the attached device has several")
)

// facts are what one look at the world finds.
type facts struct {
	device   Device
	identity identity // what the device is kept to
	live     int      // links in our hands that are alive
	// Slots that had a socket before we came; they may be alive. Invariant: live + unknown <= identity.slots.
	unknown int
	suspect bool // a link may have died since the unknown ones were looked at
	// The smallest size in bytes that one of the links in our hands was told of; a server may refuse what is beyond it on
	// that link. 0 if there is none.
	toldBytes   int64
	exportBytes int64 // size of the export, as the server said last; 0 before it said anything
}

// step is what a supervisor does next.
type step int

const (
	stepRest    step = iota // nothing, until something happens
	stepEnd                 // the device is not attached any more
	stepForeign             // the device is somebody else's now
	stepMend                // give the kernel new links
	stepRenew               // cut the links that were told of a smaller export
	stepGrow                // tell the kernel the export's new size
)

// decide chooses the next step. First rule that holds.
func decide(f facts) step {
	switch {
	case !f.device.Attached:
		return stepEnd
	case f.device.Backend != f.identity.String():
		return stepForeign
	case f.live+f.unknown < f.identity.slots:
		return stepMend
	case f.unknown > 0 && f.suspect:
		return stepMend
	case f.exportBytes <= f.device.SizeBytes || f.unknown > 0:
		return stepRest // links that are not in our hands cannot be renewed
	case f.toldBytes < f.exportBytes:
		return stepRenew
	default:
		return stepGrow
	}
}

// accept reports why what a server offers must not become the device that is there, or nil.
func accept(id identity, d Device, e export) error {
	switch {
	case e.volume != id.volume:
		return fmt.Errorf("%w: %s, not %s", ErrOtherVolume, orNone(e.volume), orNone(id.volume))
	case e.sizeBytes < d.SizeBytes:
		return fmt.Errorf("%w: %d bytes, not %d", ErrSmaller, e.sizeBytes, d.SizeBytes)
	case e.readOnly && !d.ReadOnly:
		return ErrReadOnly
	case id.slots > 1 && !e.multiConn:
		return ErrOneConnection
	}
	return nil
}

func orNone(volume string) string {
	if volume == "" {
		return "one without UUID"
	}
	return "UUID " + volume
}
