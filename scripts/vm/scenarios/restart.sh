# The server ends under a mounted file system, by SIGTERM and by SIGKILL: what was synced is there after attaching again.
#
#   ROUNDS=1   of each combination of signal and file system
ROUNDS=${ROUNDS:-1}

# write_files writes files until /tmp/stop is there, or the device works no more. Each is listed in /tmp/synced once it is safe.
write_files() {
	number=0
	while [ ! -e /tmp/stop ]; do
		number=$((number + 1))
		head -c 20000 /dev/urandom >/tmp/content
		dd if=/tmp/content of="/mnt/$number" bs=20000 conv=fsync 2>/dev/null || return 0
		(cd /tmp && sha256sum content) | sed "s/content/$number/" >>/tmp/synced
	done
}

many_synced() { [ "$(wc -l </tmp/synced)" -ge 20 ]; }

# device_fails: the kernel has seen that the server is gone, and says so to who reads.
device_fails() { ! dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 skip=99999 iflag=direct 2>/dev/null; }

# end_TERM ends the server while nobody writes: the file system can be unmounted, with errors.
end_TERM() {
	touch /tmp/stop
	wait "$writer"
	sync
	no_kernel_errors
	stop_server TERM || fail "SIGTERM with a client attached: exit code $stop_status"
	await 10 device_fails
	umount /mnt
	nbd-client -d /dev/nbd0 >/dev/null
}

# end_KILL ends the server in the middle of writes. The kernel keeps waiting for the answers that were under way, and so
# would umount; nbd-client -d ends that.
end_KILL() {
	stop_server KILL 2>/dev/null || true
	nbd-client -d /dev/nbd0 >/dev/null
	wait "$writer" || true # it ends with the first file that cannot be written
	umount /mnt
}

# lose_server SIGNAL FILE_SYSTEM: the server ends, idle by SIGTERM, busy by SIGKILL; files synced before are there again.
lose_server() {
	volume=$1-$2-$round
	lockstep volume create "$volume" --size 512MiB >/dev/null
	attach_unix /dev/nbd0 "$volume" 4096
	quietly "mkfs.$2" -q /dev/nbd0
	mount /dev/nbd0 /mnt
	: >/tmp/synced
	rm -f /tmp/stop
	write_files &
	writer=$!
	await 60 many_synced
	"end_$1"
	await 10 detached /dev/nbd0
	kernel_errors >/tmp/complaints
	grep -q 'I/O error' /tmp/complaints || fail "the kernel did not complain about a device without server"

	serve
	attach_tcp /dev/nbd0 "$volume" 4096
	mount /dev/nbd0 /mnt # replays the journal
	(cd /mnt && sha256sum -c /tmp/synced) >/tmp/compared || fail "$volume: $(grep -v 'OK$' /tmp/compared)"
	umount /mnt
	case $2 in
	ext4) quietly fsck.ext4 -fn /dev/nbd0 ;;
	xfs) quietly xfs_repair -n /dev/nbd0 ;;
	esac
	detach /dev/nbd0
	no_kernel_errors
	say "$1 on $2: all $(wc -l </tmp/synced) synced files are there"
}

storage
lockstep volume create none --size 1MiB >/dev/null # otherwise serve makes a volume of its own
serve
round=0
while [ $((round = round + 1)) -le "$ROUNDS" ]; do
	for file_system in ext4 xfs; do
		lose_server TERM $file_system
		lose_server KILL $file_system
	done
done
stop_server TERM || fail "SIGTERM: exit code $stop_status"
