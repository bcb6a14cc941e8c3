// Package replication carries records between the copies of a volume: the messages, the connections, and the state
// machines that decide what is sent, what is applied, and what is committed.
//
// # What is sent
//
// A primary connects to each replica once for each lane of a volume: the control lane (syncs, sessions, barriers,
// heartbeats), the log lane (records one way, acks the other) and, in a rebuild, the base lane. Everything is a frame of
// one format (message.go), whose header says whose word it is: volume, epoch and epoch ID, session, node (I11).
//
// # Cores
//
// What decides has no goroutine, lock, clock or I/O, and is owned by one goroutine each:
//
//   - Authority, on each side: whose epoch counts.
//   - Sender, on the primary, one for each replica: reads the log and says what to send next.
//   - Receiver, on the replica: which records are applied, and what may be acknowledged.
//   - Tracker, on the primary: what is committed, and which flushes are answered.
//
// # Shells
//
// Ship runs a Sender on a connection; Replica runs a Receiver and a copy's end of the control lane; Committer is what a
// volume's flushes wait on. Listener and Connect make the connections. Nobody here decides on a recovery yet: whoever owns
// the engine asks for facts (SyncRequest), begins sessions (StartCatchUp, answered with SessionProgress, upon which the
// stream may begin), cancels the one before where keep-up is to follow, and tells the Committer what Ship is told.
//
// # Lifecycle
//
// A Sender and a Receiver live as long as one connection of the log lane. Whatever breaks the connection ends both; the
// next one begins with a StartStream under a new number at what the replica has durable, and what it has above that is
// compared, byte for byte, as it comes again. A Tracker lives as long as the primary's epoch.
//
// # Invariants
//
//   - A message of an older epoch, of the own epoch under another ID or primary, of another session or of an older
//     stream changes nothing, and ends its connection with a reason (I11, S23).
//   - A stream begins where the logs are shown to be the same (S6), has no gap and nothing twice. At or below the
//     replica's head it is compared, not applied.
//   - An ack says nothing about records that its stream has not shown to be the primary's own: what a replica has
//     durable beyond a fork is never counted.
//   - Received, applied and durable are three positions; durable <= applied <= received. A flush waits for durable.
//   - Committed is the least durable LSN over the in-sync set and over every set that is to follow it; it never
//     decreases (S10). No flush is answered above it, nor below min-copies (S4).
//   - What is on its way to a replica is bounded by the window, in bytes, however slow the replica is.
//   - Nothing of a peer's counts before it is authenticated; without secret and without TLS only peers on this machine
//     are spoken with.
//
// It survives what a network does: connections that break anywhere, that hang, and frames of connections long gone.
package replication
