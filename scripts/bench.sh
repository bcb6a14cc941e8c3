#!/usr/bin/env bash
# Measures lockstep: beside nbdkit, qemu-nbd and nbd-server, with a plain file as the limit; or, as `scaling`, alone over
# clients, sizes, logs and dirty data. docs/performance.md has what came out.
#
# What the servers do for a write is not the same: the others change a file in place, lockstep logs first and moves later. So
# the time to get everything to the disk counts: fio's final flush, a sync of all files of the server, and lockstep's
# checkpoint after that.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh
. scripts/bench/systems.sh
. scripts/bench/workloads.sh
. scripts/bench/quiet.sh
. scripts/bench/measure.sh
. scripts/bench/peers.sh
. scripts/bench/scaling.sh

usage() {
	cat <<END
usage: scripts/bench.sh [options]            beside the others
       scripts/bench.sh scaling [options]    how lockstep scales
  -t SECONDS    of each run (10)
  -r ROUNDS     (3; scaling 1)
  -s SIZE       of the volumes, as fio writes it (4g)
  -d DIR        where the images are made (the system's temporary directory)
  -o FILE       for the JSON (.build/bench.json or .build/scaling.json)
  -i SECONDS    to wait before each run for the machine to be idle (30). A run during which others used more than
                $disturbing processors is repeated, up to twice. 0: neither
beside the others:
  -q            quick: $quick_workloads
  -w WORKLOADS  of: $all_workloads (all)
  -p SYSTEMS    of: $all_systems (all)
  -m MODE       of qemu-nbd: CACHE,AIO (the best of: $qemu_modes)
scaling:
  -w SERIES     of: $all_series (all)
  -P DIR        for the plots and the CSV files (.build/scaling)
END
}

mode=peers
if [ "${1:-}" = scaling ]; then
	mode=scaling
	shift
fi
seconds=10 rounds= patience=30 size=4g output= parent=${TMPDIR:-/tmp} qemu_mode= plots=$PWD/.build/scaling
workloads=$all_workloads systems=$all_systems series=$all_series
while getopts t:r:s:d:o:i:qw:p:m:P:h option; do
	case $option in
	t) seconds=$OPTARG ;;
	r) rounds=$OPTARG ;;
	s) size=$OPTARG ;;
	d) parent=$OPTARG ;;
	o) output=$(realpath "$OPTARG") ;;
	i) patience=$OPTARG ;;
	q) workloads=$quick_workloads ;;
	w) workloads=$OPTARG series=$OPTARG ;;
	p) systems=$OPTARG ;;
	m) qemu_mode=$OPTARG ;;
	P) plots=$(realpath "$OPTARG") ;;
	h) usage; exit ;;
	*) usage >&2; exit 2 ;;
	esac
done
bytes=$(numfmt --from=iec "${size^^}")

work=$(mktemp -d -p "$parent" bench.XXXXXX)
cleanup() {
	# shellcheck disable=SC2046 # one word a process
	kill $(jobs -p) 2>/dev/null || true
	stop_server 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

need_go
need fio=fio jq=jq curl=curl
go build -o "$work/bin" .
"measure_$mode"
