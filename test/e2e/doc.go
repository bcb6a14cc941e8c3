// Package e2e tests the program from outside: it builds the binary, runs servers on Unix sockets in directories of
// their own, and drives them with a small NBD client and with other people's. It imports nothing of the module.
//
// Servers are ended by their own process ID; readiness is the server's own word. The tests need root, and fio, nbdcopy,
// nbdinfo, python3-libnbd, qemu-utils and e2fsprogs, as scripts/test.sh installs them; one that lacks them fails.
package e2e
