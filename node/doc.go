// Package node is one running process: it opens the volumes of a data directory, serves them, and stops in order.
//
// # What it owns
//
// The data directory, and everything about a volume that is not in the volume itself:
//
//	LOCK                       flock of the process that works on the directory, with its pid and admin socket
//	node.json                  the node's ID, made once
//	volumes/NAME/volume.json   where the parts of the volume are
//	volumes/NAME/base.img      base image, where it is a file
//	volumes/NAME/meta/         change map
//	volumes/NAME/wal/          log, unless volume.json says another directory
//	volumes/.NAME.creating-…   a volume that is being made, or that a crash left half made
//	volumes/.NAME.deleting-…   a volume that is being deleted, or that a crash left half deleted
//	lockstep.sock, admin.sock  while a server runs
//
// # Lifecycle
//
// Run is a server: it takes the lock, then all addresses, then opens the volumes, then lets clients in. When its
// context ends it stops accepting, finishes the requests under way, ends the background work, checkpoints as long as
// it may, closes volumes, images and logs, removes the sockets, and gives the lock back.
//
// A Manager carries out an operator's commands. Connect returns the running server's, over HTTP on the admin socket,
// or works on the directory itself where no server has it. Both do the same, through the same code.
//
// # Invariants
//
//   - One process at a time works on a data directory, and only it removes leftovers.
//   - A volume appears under its name in one rename, when it is whole and synced, and disappears in one rename before
//     anything of it is removed.
//   - What is removed outside the data directory was made for that volume: a log's directory has its UUID in the name,
//     and a device's header is wiped only while it holds the UUID.
//   - Whoever uses an open volume has acquired it; it is closed when nobody has.
//   - A volume that cannot be opened is listed with its error and keeps no other from being served.
package node
