// Command powercut finds out what a volume holds after power cuts, on a real kernel and real file systems. It owns the
// workload, the cuts and the check; scripts/vm/scenarios/powercut.sh starts servers and mounts.
//
// The server's storage is on Linux's dm-log-writes, which notes every write, flush and FUA of its device in order on a second
// one. From that log any number of power cuts is made afterwards:
//
//	write    several connections change a volume and note each change; for each flush and FUA that is acknowledged, they put
//	         a mark into the log of the device: from here on that has to be there
//	cuts     chooses places in the log
//	advance  replays the log onto an empty disk up to the last flush before a cut: all that is certain to be there
//	tear     replays some of what is between that flush and the cut, parts of writes too: what a disk may have kept
//	verify   reads the volume from a server that was started on the result
//
// What has to hold (I1, I5): the volume is what all changes up to some point made of it, and none after it. Each connection
// sends one request at a time, and changes only its own part of the volume, so its changes have an order: the part must be
// what the first n of them make of it, for some n; of the next one the first records may be there. Over all connections, n must not be below what a mark before the cut says,
// and a change may be there only if all changes are that were acknowledged before it was sent.
package main
