// Package attach keeps an NBD export attached to the kernel's NBD client, as /dev/nbdN, across the deaths and moves of
// its server.
//
// It owns what lies between the two: it does the handshake, hands the sockets to the kernel over generic netlink, and
// when one of them dies hands over another. It never sees a request: these go between the kernel and the server.
//
// # Lifecycle
//
// Run supervises one device until its context ends or somebody detaches the device. Detach ends an attachment, and a
// supervisor of it. A device that is in use outlives its supervisor: the kernel has the sockets. The next Run takes it
// over. One process at a time supervises a device; it holds a lock, in a file that has its process ID.
//
// # What decides
//
// Run is a loop: look at the device, the links and what the server offered last; decide one step, which is a pure
// function of that (decide.go); take it; look again. Dead links, netlink events and timers only prompt another look, so
// none of them can be missed for good.
//
// # Words
//
// A link is one connection that the kernel has, or had. A slot is a place for one in the kernel; their number is fixed
// when a device is attached. The identity is what an attached device is kept to: the export's name and its volume's
// UUID. The instance is one life of a server's process; all links of a device go to one instance.
//
// # Invariants
//
//   - The kernel never gets a socket to an export of another identity, of a smaller size than the device, or read-only
//     under a device that is not.
//   - Links to two instances are never alive at once, as far as this supervisor made them: those to the old one are cut
//     before the kernel gets the first to the new one.
//   - A device that somebody else attached is never touched. Whose it is says the identifier that the kernel keeps for it.
//   - A device is detached only while nothing uses it, unless forced.
//
// It survives: servers killed at any moment, servers that answer nonsense or nothing, its own death.
package attach
