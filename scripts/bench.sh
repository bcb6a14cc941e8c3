#!/usr/bin/env bash
# Measures lockstep beside nbdkit and qemu-nbd, and a plain file as the limit: fio over Unix sockets, all images on one
# file system, rounds interleaved. Prints medians and ratios, and writes every run as JSON.
#
# What each does for a write is not the same: nbdkit and qemu-nbd change a file in place, lockstep logs first and moves
# later. So the time to get everything to the disk counts: fio's final flush, and a sync of all files of the server. What
# lockstep's checkpoint after that takes has a column of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

usage() {
	cat <<END
usage: scripts/bench.sh [options]
  -t SECONDS    of each run (10)
  -r ROUNDS     (3)
  -s SIZE       of the volumes, as fio writes it (4g)
  -w WORKLOADS  of: write32 flush1 flush16 read32warm read32cold (all)
  -p SYSTEMS    of: lockstep nbdkit qemu plain (all)
  -d DIR        where the images are made (the system's temporary directory)
  -o FILE       for the JSON (.build/bench.json)
END
}

seconds=10 rounds=3 size=4g output=$PWD/.build/bench.json parent=${TMPDIR:-/tmp}
workloads="write32 flush1 flush16 read32warm read32cold"
systems="lockstep nbdkit qemu plain"
while getopts t:r:s:w:p:d:o:h option; do
	case $option in
	t) seconds=$OPTARG ;;
	r) rounds=$OPTARG ;;
	s) size=$OPTARG ;;
	w) workloads=$OPTARG ;;
	p) systems=$OPTARG ;;
	d) parent=$OPTARG ;;
	o) output=$(realpath "$OPTARG") ;;
	h) usage; exit ;;
	*) usage >&2; exit 2 ;;
	esac
done
bytes=$(numfmt --from=iec "${size^^}")

work=$(mktemp -d -p "$parent" bench.XXXXXX)
server=
cleanup() {
	stop_server || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

stop_server() {
	[ -n "$server" ] || return 0
	kill "$server"
	wait "$server" || return
	server=
}

# await CONDITION... waits for a server that was started to be ready.
await() {
	until "$@"; do
		kill -0 "$server"
		sleep 0.05
	done
}

# Each system has start, which leaves its server's process ID in $server and fio's arguments in $target; files, what to
# sync; and drained, which moves what it still has to move.

start_lockstep() {
	export LOCKSTEP_DATA_DIR=$work/lockstep
	[ -d "$LOCKSTEP_DATA_DIR" ] || "$work/bin" volume create disk0 --size "$bytes" >/dev/null
	"$work/bin" serve --listen 127.0.0.1:0 >"$work/attach" 2>"$work/lockstep.log" &
	server=$!
	await grep -q nbd-client "$work/attach"
	target=(--ioengine=nbd --uri="nbd+unix:///disk0?socket=$LOCKSTEP_DATA_DIR/lockstep.sock")
}
files_lockstep() { find "$work/lockstep/volumes" -type f; }
drained_lockstep() { "$work/bin" volume checkpoint disk0; }

start_nbdkit() {
	rm -f "$work/nbdkit.sock"
	nbdkit -f -U "$work/nbdkit.sock" file "$work/nbdkit.img" 2>"$work/nbdkit.log" &
	server=$!
	await test -S "$work/nbdkit.sock"
	target=(--ioengine=nbd --uri="nbd+unix:///?socket=$work/nbdkit.sock")
}
files_nbdkit() { echo "$work/nbdkit.img"; }
drained_nbdkit() { :; }

start_qemu() {
	rm -f "$work/qemu.sock"
	qemu-nbd -t -e 32 -k "$work/qemu.sock" -f raw --cache=writeback --aio="$qemu_aio" --discard=unmap "$work/qemu.img" \
		2>"$work/qemu.log" &
	server=$!
	await test -S "$work/qemu.sock"
	target=(--ioengine=nbd --uri="nbd+unix:///?socket=$work/qemu.sock")
}
files_qemu() { echo "$work/qemu.img"; }
drained_qemu() { :; }

start_plain() { target=(--ioengine=libaio --invalidate=0 --filename="$work/plain.img"); }
files_plain() { echo "$work/plain.img"; }
drained_plain() { :; }

# workload NAME prints fio's arguments.
workload() {
	case $1 in
	write32) echo --rw=randwrite --iodepth=32 --end_fsync=1 ;;
	flush1) echo --rw=randwrite --iodepth=1 --fsync=1 ;;
	flush16) echo --rw=randwrite --iodepth=1 --fsync=1 --numjobs=16 --offset_increment=$((bytes / 16)) --size=$((bytes / 16)) ;;
	read32warm | read32cold) echo --rw=randread --iodepth=32 ;;
	*) echo "no workload $1" >&2; return 2 ;;
	esac
}

# cpu prints how many clock ticks the server has used.
cpu() {
	[ -n "$server" ] || { echo 0; return; }
	sed 's/.*) //' "/proc/$server/stat" | awk '{ print $12 + $13 }'
}

now() { date +%s.%N; }

# prepare brings the caches into the state that a workload begins with.
prepare() {
	case $1 in
	read32warm) fio --name=warm "${target[@]}" --rw=read --bs=1m --iodepth=4 --size="$bytes" >/dev/null ;;
	read32cold)
		sync
		echo 3 >/proc/sys/vm/drop_caches
		;;
	esac
}

# measure ROUND WORKLOAD SYSTEM adds one line of JSON to the results.
measure() {
	local round=$1 name=$2 system=$3 begun ended drained ticks arguments
	"start_$system"
	prepare "$name"
	read -ra arguments <<<"$(workload "$name")"
	ticks=$(cpu)
	fio --name="$name" "${target[@]}" --bs=4k --size="$bytes" --norandommap=1 --randseed="$round" --time_based=1 \
		--runtime="$seconds" --group_reporting=1 "${arguments[@]}" --output-format=json --output="$work/fio.json"
	ticks=$(($(cpu) - ticks))
	begun=$(now)
	"files_$system" | xargs sync
	ended=$(now)
	"drained_$system"
	drained=$(now)
	jq -c --arg system "$system" --arg workload "$name" --argjson round "$round" \
		--argjson ticks "$ticks" --argjson hertz "$(getconf CLK_TCK)" \
		--argjson begun "$begun" --argjson ended "$ended" --argjson drained "$drained" -f scripts/bench.jq \
		"$work/fio.json" >>"$work/runs"
	stop_server
	jq -r '"  \(.workload) \(.system): \(.iops | round) a second"' <<<"$(tail -n 1 "$work/runs")" >&2
}

need_go
need fio=fio nbdkit=nbdkit qemu-nbd=qemu-utils jq=jq
go build -o "$work/bin" .
if [[ " $workloads " == *" read32cold "* && ! -w /proc/sys/vm/drop_caches ]]; then
	echo "the page cache cannot be dropped here: without read32cold" >&2
	workloads=${workloads/read32cold/}
fi

# fill writes the whole volume once: a first write into a hole is another thing than what is measured.
fill() {
	if [ "$1" != lockstep ]; then
		truncate -s "$bytes" "$work/$1.img"
	fi
	"start_$1"
	fio --name=fill "${target[@]}" --rw=write --bs=1m --iodepth=8 --size="$bytes" --end_fsync=1 >/dev/null
	"drained_$1"
	stop_server
}

truncate -s 4k "$work/probe"
qemu_aio=io_uring
qemu-io -f raw -i io_uring -c 'read 0 4k' "$work/probe" >/dev/null 2>&1 || qemu_aio=threads
for system in $systems; do
	echo "filling the volume of $system" >&2
	fill "$system"
done
for ((round = 1; round <= rounds; round++)); do
	echo "round $round of $rounds" >&2
	for name in $workloads; do
		for system in $systems; do
			measure "$round" "$name" "$system"
		done
	done
done
mkdir -p "$(dirname "$output")"
/usr/bin/python3 scripts/bench.py "$work/runs" "$output"
