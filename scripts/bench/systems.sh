# Sourced by bench.sh: how each system is started, and what it has to do until everything is on the disk.
#
# Each has start, which leaves its server's process ID in $server and fio's arguments in $target; files, what to sync; and
# drain, which moves what it still has to move.

all_systems="lockstep nbdkit qemu nbd-server plain"
server= target=()
disk=disk0 # lockstep's volume

stop_server() {
	[ -n "$server" ] || return 0
	kill "$server"
	wait "$server" 2>/dev/null || until ! kill -0 "$server" 2>/dev/null; do sleep 0.05; done # nbd-server is nobody's child
	server=
}

# await CONDITION... waits for a server that was started to be ready.
await() {
	until "$@"; do
		[ -z "$server" ] || kill -0 "$server"
		sleep 0.01
	done
}

lockstep() { LOCKSTEP_DATA_DIR=$work/lockstep "$work/bin" "$@"; }

start_lockstep() {
	: >"$work/attach"
	LOCKSTEP_DATA_DIR=$work/lockstep "$work/bin" serve --listen 127.0.0.1:0 >"$work/attach" 2>>"$work/lockstep.log" &
	server=$!
	await grep -q nbd-client "$work/attach" # it prints how to attach, once the volumes are served
	target_lockstep
}
target_lockstep() { target=(--ioengine=nbd --uri="nbd+unix:///$disk?socket=$work/lockstep/lockstep.sock"); }
files_lockstep() { find "$work/lockstep/volumes" -type f; }
drain_lockstep() { lockstep volume checkpoint "$disk"; }

start_nbdkit() {
	rm -f "$work/nbdkit.sock"
	nbdkit -f -U "$work/nbdkit.sock" file "$work/nbdkit.img" 2>"$work/nbdkit.log" &
	server=$!
	await test -S "$work/nbdkit.sock"
	target=(--ioengine=nbd --uri="nbd+unix:///?socket=$work/nbdkit.sock")
}
files_nbdkit() { echo "$work/nbdkit.img"; }
drain_nbdkit() { :; }

start_qemu() {
	rm -f "$work/qemu.sock"
	qemu-nbd -t -e 64 -k "$work/qemu.sock" -f raw --cache="${qemu_mode%,*}" --aio="${qemu_mode#*,}" --discard=unmap \
		"$work/qemu.img" 2>"$work/qemu.log" &
	server=$!
	await test -S "$work/qemu.sock"
	target=(--ioengine=nbd --uri="nbd+unix:///?socket=$work/qemu.sock")
}
files_qemu() { echo "$work/qemu.img"; }
drain_qemu() { :; }

# nbd-server serves each client from a process of its own. It goes into the background by itself.
start_nbd-server() {
	rm -f "$work/nbd-server.sock" "$work/nbd-server.pid"
	cat >"$work/nbd-server.conf" <<-END
		[generic]
		unixsock = $work/nbd-server.sock
		[disk]
		exportname = $work/nbd-server.img
		flush = true
		fua = true
		trim = true
	END
	nbd-server -C "$work/nbd-server.conf" -p "$work/nbd-server.pid" 2>"$work/nbd-server.log"
	await test -s "$work/nbd-server.pid"
	server=$(<"$work/nbd-server.pid")
	await test -S "$work/nbd-server.sock"
	target=(--ioengine=nbd --uri="nbd+unix:///disk?socket=$work/nbd-server.sock")
}
files_nbd-server() { echo "$work/nbd-server.img"; }
drain_nbd-server() { :; }

start_plain() { target=(--ioengine="$plain_engine" --invalidate=0 --filename="$work/plain.img"); }
files_plain() { echo "$work/plain.img"; }
drain_plain() { :; }

# need_systems SYSTEM... installs what these need.
need_systems() {
	local system
	for system in "$@"; do
		case $system in
		nbdkit | nbd-server) need "$system=$system" ;;
		qemu) need qemu-nbd=qemu-utils ;;
		lockstep | plain) ;;
		*) echo "no system $system; there are: $all_systems" >&2; return 2 ;;
		esac
	done
}

# has_io_uring finds out whether the kernel lets us use it.
has_io_uring() {
	truncate -s 4k "$work/probe"
	fio --name=probe --ioengine=io_uring --filename="$work/probe" --rw=read --bs=4k >/dev/null 2>&1
}

# ticks prints how many clock ticks the server has used, its threads and children included.
ticks() {
	[ -n "$server" ] || { echo 0; return; }
	local pids
	pids="$server $(ps -o pid= --ppid "$server" | tr -s '\n ' ' ')"
	# shellcheck disable=SC2086 # one word a process; one that has ended counts in its parent
	for pid in $pids; do cat "/proc/$pid/stat" 2>/dev/null || true; done |
		sed 's/.*) //' | awk '{ sum += $12 + $13 + $14 + $15 } END { print sum }'
}

# fill SYSTEM writes its whole volume once: a first write into a hole is another thing than what is measured.
fill() {
	case $1 in
	lockstep) ;;
	*) truncate -s "$bytes" "$work/$1.img" ;;
	esac
	"start_$1"
	load --name=fill --rw=write --bs=1m --iodepth=8 --size="$bytes" --end_fsync=1
	"drain_$1"
	stop_server
}

# load ARGUMENTS... runs fio against $target, and leaves what it measured in fio.json. In the background, a SIGTERM ends fio
# early.
load() {
	local fio
	fio "${target[@]}" --group_reporting=1 --output-format=json --output="$work/fio.out" "$@" &
	fio=$!
	[ "$BASHPID" = $$ ] || trap 'kill "$fio"' TERM
	wait "$fio" || wait "$fio" # the first one may have been ended by the signal
	sed -n '/^{/,$p' "$work/fio.out" >"$work/fio.json" # what fio says of a signal stands before
}

now() { date +%s%N; }
