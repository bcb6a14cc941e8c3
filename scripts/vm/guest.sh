# Sourced before a scenario, inside the guest: what scenarios do with servers and devices. for dash.
#
# /dev/vda is for a server's storage, /dev/vdb to /dev/vdd are free: sparse, 64 GiB each, empty at boot.

data=/srv/data # data directory of the server
server=        # its process, while one runs

say() { echo "   $*"; }
fail() {
	echo "FAILED: $*"
	if [ -s /tmp/server.log ]; then
		echo "end of the server's log:"
		tail -n 20 /tmp/server.log
	fi
	exit 1
}

# quietly COMMAND... runs a command that has to succeed, and prints what it says only if it does not.
quietly() { "$@" >/tmp/said 2>&1 || fail "$*: exit code $?: $(tail -n 30 /tmp/said)"; }

now() { cut -d ' ' -f 1 /proc/uptime; }

# took BEGUN prints the seconds since then.
took() { echo "$1 $(now)" | awk '{ printf "%.1f s", $2 - $1 }'; }

# await SECONDS CONDITION... waits for a condition that comes true by itself.
await() {
	await_until=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt "$await_until" ] || fail "waited in vain for: $*"
		usleep 20000
	done
}

# storage makes an ext4 for the server on /dev/vda.
storage() {
	mkfs.ext4 -q /dev/vda
	mount /dev/vda /srv
}

lockstep() { LOCKSTEP_DATA_DIR=$data /vm/lockstep "$@"; }

# serve [FLAGS...] starts a server and returns when it serves.
serve() {
	: >/tmp/attach
	LOCKSTEP_DATA_DIR=$data /vm/lockstep serve "$@" >/tmp/attach 2>>/tmp/server.log &
	server=$!
	await 60 serves
}

serves() {
	kill -0 "$server" 2>/dev/null || fail "the server ended instead of serving"
	! grep 'NOT SERVED' /tmp/attach || fail "the server could not open a volume"
	grep -q nbd-client /tmp/attach
}

# stop_server SIGNAL ends the server and waits for it; the exit code is the server's.
stop_server() {
	kill "-$1" "$server"
	stop_status=0
	wait "$server" || stop_status=$?
	server=
	return $stop_status
}

# attach DEVICE VOLUME BLOCK_SIZE CLIENT_ARGUMENTS... attaches a volume and returns when it is there.
attach() {
	attach_device=$1 attach_volume=$2 attach_block=$3
	shift 3
	nbd-client "$@" -N "$attach_volume" -b "$attach_block" "$attach_device" >/tmp/nbd-client.log 2>&1 ||
		fail "nbd-client $*: $(cat /tmp/nbd-client.log)"
	await 10 attached "$attach_device"
}

# attach_unix and attach_tcp DEVICE VOLUME BLOCK_SIZE [ARGUMENTS...] attach to the server in the guest.
attach_unix() { attach "$@" -unix "$data/lockstep.sock"; }
attach_tcp() { attach "$@" 127.0.0.1 10809; }

attached() { [ -e "/sys/block/${1#/dev/}/pid" ] && [ "$(blockdev --getsize64 "$1")" -gt 0 ]; }
detached() { [ ! -e "/sys/block/${1#/dev/}/pid" ]; }

# detach DEVICE returns when the kernel has let go of it.
detach() {
	nbd-client -d "$1" >/tmp/nbd-client.log 2>&1 || fail "nbd-client -d $1: $(cat /tmp/nbd-client.log)"
	await 10 detached "$1"
}

# checksum DEVICE_OR_FILE prints it of all the content.
checksum() { sha256sum "$1" | cut -d ' ' -f 1; }

# no_kernel_errors fails where the kernel has complained since it was asked last.
no_kernel_errors() {
	if kernel_errors | grep .; then
		fail "the kernel complained"
	fi
}

# kernel_errors prints the complaints, and forgets them.
kernel_errors() {
	dmesg -c | grep -iE 'I/O error|critical .* error|EXT4-fs (error|warning)|EXT4-fs.*(abort|corrupt)|XFS.*(corrupt|error|shut)|WARNING:|BUG:|blocked for more|timed out' || true
}
