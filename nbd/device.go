package nbd

// Device is what the server exports: a fixed array of bytes. All methods may be called from many goroutines at once.
// Errors become NBD error codes by what they wrap: syscall.ENOSPC, EINVAL, EPERM, ENOMEM, EOVERFLOW, ENOTSUP and
// ESHUTDOWN map to themselves, everything else to EIO.
type Device interface {
	// Size in bytes. It may grow while clients are connected; each handshake sees the newest.
	Size() int64

	// BlockSize is the device's natural block in bytes, told to clients as the preferred size. Any offset and length
	// is accepted all the same.
	BlockSize() int

	// Read fills p from offset; it may wait for a disk.
	Read(p []byte, offset int64) error

	// ReadNoWait fills p from offset if that needs no wait for a disk, and reports whether it did. ok = false with a
	// nil error means: call Read, on a goroutine that may wait.
	ReadNoWait(p []byte, offset int64) (ok bool, err error)

	// Apply carries out changes that arrived together, in order, and sets the Err of each. It returns when all of them
	// may be answered; where any has FUA, those are on stable storage then. It does not keep the slice or any Data.
	// It may block while the device has no room for more changes.
	Apply(changes []Change)

	// Flush returns nil once every change whose Apply returned before Flush was called is on stable storage.
	Flush() error

	// Extents describes bytes from offset on, in order and without gaps: at least the first, at most max extents,
	// and none beyond offset + length.
	Extents(offset, length int64, max int) ([]Extent, error)
}

// Op is the kind of a Change.
type Op uint8

// The changes that clients ask for.
const (
	OpWrite Op = iota + 1
	OpTrim
	OpWriteZeroes
)

// Change is one request that alters the device. Offset and Length are in bytes, within the device, Length > 0.
type Change struct {
	Op     Op
	FUA    bool // on stable storage before it is answered
	NoHole bool // WriteZeroes: the range stays allocated
	Offset int64
	Length int64
	Data   []byte // Write: Length bytes; else nil
	Err    error  // set by Apply
}

// Extent is a run of bytes of one state, for the base:allocation metadata context.
type Extent struct {
	Length int64
	Hole   bool // not allocated
	Zero   bool // reads as zeroes
}
