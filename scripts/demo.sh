#!/usr/bin/env bash
# Shows lockstep at work, on a fresh Debian as root, in about a minute: a file system copied in, fio with checksums, the
# server killed in the middle of writes, trims, an orderly stop. Works in a directory of its own and removes it. The exit
# code is 0 only if every check held.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

work=$(mktemp -d)
server=
number=0
readonly python=/usr/bin/python3

say() { printf '   %s\n' "$*"; }
step() { number=$((number + 1)); printf '\n%d. %s\n' "$number" "$*"; }

finish() {
	local status=$?
	if [ -n "$server" ]; then
		kill -9 "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	if [ $status -ne 0 ]; then
		printf '\nFAILED in step %d. The end of the server'"'"'s log:\n' "$number"
		tail -n 20 "$work/log" 2>/dev/null || true
	fi
	rm -rf "$work"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

lockstep() { LOCKSTEP_DATA_DIR=$work/data "$work/lockstep" "$@"; }
uri() { echo "nbd+unix:///$1?socket=$work/data/lockstep.sock"; }

serve() {
	local begun=$SECONDS
	LOCKSTEP_DATA_DIR=$work/data "$work/lockstep" serve --listen 127.0.0.1:0 >"$work/attach" 2>>"$work/log" </dev/null &
	server=$!
	until grep -q nbd-client "$work/attach"; do # it prints how to attach, once the volumes are served
		kill -0 "$server"
		sleep 0.05
	done
	say "the server runs, process $server, ready within $((SECONDS - begun + 1)) s"
}

# stop SIGNAL ends the server, and returns its exit code.
stop() {
	local status=0
	kill "-$1" "$server"
	wait "$server" 2>/dev/null || status=$?
	server=
	return $status
}

nbdsh() { (cd "$work" && "$python" -m nbd "$@"); } # of Debian's Python, whatever other there is

used() { du -k "$work/data/volumes/$1/base.img" | cut -f1; }

step "Build lockstep and start a server"
need_go
need fio=fio qemu-img=qemu-utils nbdcopy=libnbd-bin mke2fs=e2fsprogs
need_nbd_module
go build -o "$work/lockstep" .
lockstep volume create files --size 256MiB | sed 's/^/   /'
lockstep volume create load --size 512MiB | sed 's/^/   /'
lockstep volume create huge --size 1TiB | sed 's/^/   /'
serve

step "Copy a file system in, by way of qcow2, and compare"
mkdir "$work/tree"
cp -r ./*.go go.mod block wal volume nbd node "$work/tree"
dd if=/dev/urandom of="$work/tree/noise" bs=1M count=64 status=none
(cd "$work/tree" && find . -type f -print0 | xargs -0 sha256sum | sort -k2 >"$work/sums")
mke2fs -q -t ext4 -d "$work/tree" "$work/files.raw" 256M >/dev/null
qemu-img convert -f raw -O qcow2 "$work/files.raw" "$work/files.qcow2"
nbdcopy --flush -- [ qemu-nbd --read-only -f qcow2 "$work/files.qcow2" ] "$(uri files)"
qemu-img compare -f raw -F raw "$work/files.raw" "$(uri files)" >/dev/null
say "an ext4 file system with $(wc -l <"$work/sums") files, $(du -sm "$work/tree" | cut -f1) MiB of data, is on the volume; byte for byte the same"

step "Random writes with fio, each block with a checksum, read back and verified"
fio --name=verify --verify_state_save=0 --ioengine=nbd --uri="$(uri load)" --rw=randwrite --bs=4k --iodepth=32 --offset=256m --size=96m \
	--verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json --output="$work/fio.json" >/dev/null
"$python" - "$work/fio.json" <<'PY'
import json, sys
job = json.load(open(sys.argv[1]))["jobs"][0]
assert job["error"] == 0 and job["write"]["total_ios"] == job["read"]["total_ios"] == 96 << 8, job["error"]
print("   %d writes of 4 KiB, %d a second; %d read back with a right checksum" % (job["write"]["total_ios"], job["write"]["iops"], job["read"]["total_ios"]))
PY

step "Kill the server with SIGKILL in the middle of writes, five times, and look for what it acknowledged"
for round in 1 2 3 4 5; do
	mkfifo "$work/writing"
	"$python" scripts/stamps.py write "$(uri load)" "$work/stamps" >"$work/writing" &
	writer=$!
	exec 3<"$work/writing"
	read -r _ <&3 # it is connected, and writes
	read -r -t 1.5 -u 3 early && { say "the writer ended before the kill: $early"; exit 1; }
	stop KILL || true
	say "round $round: killed; $(cat <&3)"
	exec 3<&-
	wait "$writer"
	rm "$work/writing"
	serve
	checked=$("$python" scripts/stamps.py verify "$(uri load)" "$work/stamps") || { echo "$checked" | tail -n 5; exit 1; }
	say "$checked"
done
qemu-img compare -f raw -F raw "$work/files.raw" "$(uri files)" >/dev/null
say "the file system is still the same"

step "Trim: a volume of 1 TiB, all of it; and what trimmed space gives back"
lockstep volume checkpoint load
before=$(used load)
nbdsh -u "$(uri huge)" -c - <<'PY'
import os
gib = 1 << 30
at = 700 * gib + 4096
h.pwrite(os.urandom(1 << 20), at)
for offset in range(0, h.get_size(), 2 * gib):
    h.trim(2 * gib, offset)
h.flush()
assert h.pread(1 << 20, at) == bytes(1 << 20), "trimmed data are still there"
PY
map=$(nbdinfo --map --totals "$(uri huge)")
grep -Eq '^ *1099511627776 +100\.0% +3 hole,zero *$' <<<"$map" || { echo "$map"; exit 1; }
say "512 trims of 2 GiB; reads are zeroes, and nbdinfo says: $(tr -s ' ' <<<"$map")"
nbdsh -u "$(uri load)" -c 'h.trim(h.get_size(), 0)' -c 'h.flush()'
lockstep volume checkpoint load
after=$(used load)
say "the image of volume load took $((before / 1024)) MiB, and $((after / 1024)) MiB after trimming it"
[ "$after" -lt $((before / 10)) ]

step "Stop in order, and check"
stop TERM
say "SIGTERM: exit code 0"
lockstep check | sed 's/^/   /'
lockstep volume export files "$work/back.raw"
cmp "$work/files.raw" "$work/back.raw"
e2fsck -fn "$work/back.raw" >"$work/e2fsck" 2>&1 || { cat "$work/e2fsck"; exit 1; }
mkdir "$work/out"
debugfs -R "rdump / $work/out" "$work/back.raw" >"$work/debugfs" 2>&1
(cd "$work/out" && sha256sum --quiet -c "$work/sums")
say "exported without a server: the same file system, e2fsck finds no fault, every file has its checksum"

printf '\nNothing was lost: all %d steps held, in %d s.\n' "$number" "$SECONDS"
