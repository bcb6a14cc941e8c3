package nbd

import "time"

// stream moves the bytes of the transmission phase: a socket as it is, or TLS on top of it.
//
// One goroutine at a time receives, one at a time sends; they need not be the same. Deadlines for receiving are set on
// the client's connection, which ends a wait with an error that wraps os.ErrDeadlineExceeded.
type stream interface {
	// receive reads into dst; it waits for bytes if wait is set, and returns errAgain if not and there are none.
	receive(dst []byte, wait bool) (int, error)

	// receiveLent waits for bytes without holding a buffer: lend is asked for one whenever there may be something to
	// read, and giveBack is told when there was nothing after all. It returns errNoBuffer when lend returns nil.
	receiveLent(lend func() []byte, giveBack func()) (int, error)

	// awaitBytes waits until receive would return something.
	awaitBytes() error

	// send writes parts and returns what did not leave, which is what the next call has to begin with; it uses parts
	// as its own. Without wait it leaves what the socket does not take at once; with wait, at most what is left after
	// sendProgressBytes.
	send(parts [][]byte, wait bool) (rest [][]byte, err error)

	// setWriteDeadline bounds the wait of send; zero: no bound.
	setWriteDeadline(at time.Time) error

	// end says goodbye in the stream's own words, once nothing is sent or received any more and before the connection
	// is closed. byClient: the client ended it, and waits for nothing.
	end(byClient bool, limit time.Duration)
}
