// Package nbd serves block devices to clients that speak the Network Block Device protocol (fixed newstyle).
//
// It owns the protocol: handshake, requests, replies, and the memory that requests in flight may take. It knows a disk
// only as a Device and a name only through Exports; what a write or a flush means is the Device's business.
//
// # Lifecycle
//
// NewServer starts nothing. Each Serve accepts on one listener until its context ends or the server is shut down.
// Every Lookup that succeeds is matched by one Release, after the last request on that connection has finished.
// Shutdown lets requests in flight finish and answers them; Close cuts connections. Both wait for every goroutine.
//
// # One connection
//
// One goroutine at a time, the leader, reads the socket. Whatever one read brought in is one batch:
//
//	socket ─ read ─▶ parse ─▶ reads: ReadNoWait inline, else the read pool ─┐
//	                   │                                                    ├─▶ answers ─ one write ─▶ socket
//	                   └────▶ changes: one Apply ─▶ flushes: one Flush ─────┘
//
// Apply and Flush run on the leader itself, since handing them on costs more than most of them take. Where one lasts
// longer than takeoverDelay, another goroutine takes over reading, and sends what the first had ready.
//
// The bytes of that are a stream: a socket's, or inside TLS what its records hold. STARTTLS is an option of the
// handshake; whatever the transmission phase does, it does the same way inside.
//
// # Invariants
//
//   - A flush is handed to the device after every change that was answered before the flush was read.
//   - A reply goes out whole; replies of different requests never interleave. One goroutine writes at a time, and
//     only a goroutine of that connection ever waits for its client to take them.
//   - No memory is taken for a length that a client sent before that length is checked and within a quota.
//   - A connection with nothing buffered and nothing in flight holds no buffer.
//   - Who holds memory of one quota waits only for memory of a later one (reserve, receive, large, reply), so that
//     waiting cannot form a cycle; who holds reply memory waits for the device and its own client only, under a timeout.
//   - A request of up to 128 KiB waits for no other connection's memory (pressure.go says how).
//   - The handshake reads no byte beyond the option at hand, so what arrived in plaintext is never taken for something
//     inside TLS; and nothing agreed on before STARTTLS holds after it.
//   - Requests of a connection that was closed, by either side, are over before those of a later one begin (predecessor.go).
//   - A request that is refused leaves the stream in step: its payload is read and dropped before it is answered.
//
// It survives clients that stall, vanish or send anything at all; each costs its own connection and no other.
package nbd
