#!/usr/bin/env bash
# Runs scenarios against a real kernel: each boots a guest under qemu, emulated, so neither KVM nor modules are needed of
# this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/tools.sh
. scripts/vm/image.sh

usage() {
	cat <<END
usage: scripts/vm/run.sh [options] SCENARIO...
A SCENARIO is a name in scripts/vm/scenarios, or the path of a script.
  -s NAME=VALUE  a variable for the scenarios; may be repeated. What they take is said at their beginning
  -t SECONDS     after which a guest is ended (900)
  -m MIB         memory of a guest (2048)
  -b CHANGE      build lockstep with a fault: a name in scripts/vm/broken, or the path of a script for sed. What finds that
                 fault has to fail
  -k             print the guest's kernel log in any case
Scenarios:
END
	for script in scripts/vm/scenarios/*.sh; do
		printf '  %-13s  %s\n' "$(basename "$script" .sh)" "$(sed -n '1s/^# //p' "$script")"
	done
}

seconds=900 memory=2048 fault='' kernel_log='' settings=()
while getopts s:t:m:b:kh option; do
	case $option in
	s) settings+=("$OPTARG") ;;
	t) seconds=$OPTARG ;;
	m) memory=$OPTARG ;;
	b) fault=$OPTARG ;;
	k) kernel_log=yes ;;
	h) usage; exit ;;
	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { usage >&2; exit 2; }
for setting in "${settings[@]}"; do
	[[ $setting =~ ^[A-Za-z_]+= ]] || { echo "-s $setting: not NAME=VALUE" >&2; exit 2; }
done

readonly image=$PWD/.build/vm
work=$(mktemp -d)
server=
pids=()
cleanup() {
	for pid in "${pids[@]}" $server; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# find_script SCENARIO prints the path of its script.
find_script() {
	local path
	for path in "scripts/vm/scenarios/$1.sh" "$1"; do
		[ ! -f "$path" ] || { echo "$path"; return; }
	done
	echo "no scenario $1; -h lists them" >&2
	return 2
}

# build_lockstep builds the server; with a fault in it, where one is asked for, but none in the sources: go build reads
# another file in place of the one that the script names.
build_lockstep() {
	local script file overlay=()
	if [ -n "$fault" ]; then
		for script in "scripts/vm/broken/$fault.sed" "$fault"; do
			[ ! -f "$script" ] || break
		done
		file=$(directives "$script" file)
		sed -f "$script" "$file" >"$work/fault.go"
		! cmp -s "$file" "$work/fault.go" || { echo "$script changes nothing in $file" >&2; return 1; }
		echo "{\"Replace\": {\"$PWD/$file\": \"$work/fault.go\"}}" >"$work/overlay.json"
		overlay=(-overlay "$work/overlay.json")
		echo "with a fault: $(sed -n 's/^# //p' "$script" | tail -n 1)"
	fi
	CGO_ENABLED=0 go build "${overlay[@]}" -o "$work/vm/lockstep" .
}

# directives SCRIPT WORD prints what a script asks of this one: lines "# WORD: what" at its beginning.
directives() { sed -n "/^#/!q; s/^# $2: //p" "$1"; }

# start_server SCRIPT starts a server on this machine, with the volumes that the script asks for by
# "# host-volume: NAME SIZE [FLAGS...]"; without any it does nothing.
start_server() {
	local volume
	export LOCKSTEP_DATA_DIR=$work/data
	[ -n "$(directives "$1" host-volume)" ] || return 0
	while read -ra volume; do
		"$work/vm/lockstep" volume create "${volume[0]}" --size "${volume[@]:1}" >/dev/null
	done < <(directives "$1" host-volume)
	"$work/vm/lockstep" serve --listen 127.0.0.1:0 >"$work/attach" 2>"$work/server.log" &
	server=$!
	until grep -q nbd-client "$work/attach"; do
		kill -0 "$server" || { cat "$work/server.log" >&2; return 1; }
		sleep 0.05
	done
	echo "host=10.0.2.2" >>"$work/vm/environment"
	sed -n 's/^ *nbd-client 127.0.0.1 \([0-9]*\) .*/port=\1/p' "$work/attach" | head -n 1 >>"$work/vm/environment"
}

stop_server() {
	[ -n "$server" ] || return 0
	kill "$server"
	wait "$server" || { cat "$work/server.log" >&2; return 1; }
	server=
	rm -rf "$work/data"
}

# fill_guest SCRIPT makes the archive of what is not the same in every run.
fill_guest() {
	local package
	cp scripts/vm/guest.sh "$work/vm/guest.sh"
	cp "$1" "$work/vm/scenario"
	while read -r package; do
		CGO_ENABLED=0 go build -o "$work/vm/$(basename "$package")" "$package"
	done < <(directives "$1" program)
	mkdir -p "$work/archive"
	rm -rf "$work/archive/vm"
	cp -r "$work/vm" "$work/archive/vm"
	pack "$work/archive" "$work/run.cpio"
	cat "$image/initramfs" "$work/run.cpio" >"$work/initramfs"
}

# boot runs a guest to its end, at the latest after $seconds. Its output goes to the terminal, its kernel's to a file. qemu
# writes to pipes, because it would cut a file to nothing.
boot() {
	local port disk devices=()
	for port in output status kernel; do
		rm -f "$work/$port.pipe"
		mkfifo "$work/$port.pipe"
	done
	for disk in vda vdb vdc vdd; do
		rm -f "$work/$disk"
		truncate -s 64G "$work/$disk"
		devices+=(-drive "id=$disk,if=none,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=$work/$disk"
			-device "virtio-blk-pci,drive=$disk")
	done
	cat "$work/output.pipe" &
	pids=($!)
	cat "$work/status.pipe" >"$work/status" &
	pids+=($!)
	cat "$work/kernel.pipe" >"$work/kernel" &
	pids+=($!)
	timeout -k 5 "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m "$memory" -nodefaults -display none \
		-no-reboot -kernel "$image/kernel" -initrd "$work/initramfs" \
		-append 'console=ttyS0 quiet panic=-1 oops=panic random.trust_cpu=on nokaslr mitigations=off tsc=reliable' \
		-chardev "file,id=kernel,path=$work/kernel.pipe" -serial chardev:kernel \
		-device virtio-serial-pci \
		-chardev "file,id=output,path=$work/output.pipe" -device virtserialport,chardev=output,nr=1 \
		-chardev "file,id=status,path=$work/status.pipe" -device virtserialport,chardev=status,nr=2 \
		-netdev user,id=net -device virtio-net-pci,netdev=net,romfile= "${devices[@]}" </dev/null &
	pids+=($!)
	local ended=0
	wait "${pids[3]}" || ended=$?
	wait "${pids[@]:0:3}"
	pids=()
	return "$ended"
}

# run SCENARIO runs one, and returns 0 only if all that could be seen went well.
run() {
	local script ended=0 status why=
	script=$(find_script "$1")
	rm -rf "$work/data"
	: >"$work/vm/environment"
	for setting in "${settings[@]}"; do
		echo "${setting%%=*}=$(printf %q "${setting#*=}")" >>"$work/vm/environment"
	done
	start_server "$script"
	fill_guest "$script"
	boot || ended=$?
	status=$(cat "$work/status")
	if [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
		why="it did not end within $seconds s"
	elif [ "$ended" -ne 0 ]; then
		why="qemu ended with $ended"
	elif [ -z "$status" ]; then
		why="the guest's kernel stopped"
	elif [ "$status" -ne 0 ]; then
		why="exit code $status"
	elif ! stop_server; then
		why="the server on this machine did not end well"
	fi
	if [ -n "$why$kernel_log" ]; then
		echo "the guest's kernel log:"
		tail -n 200 "$work/kernel"
	fi
	[ -z "$why" ] || { echo "FAIL: $1: $why"; return 1; }
}

need_go
need_guest
build_image "$image"
mkdir "$work/vm"
build_lockstep
for scenario in "$@"; do
	echo "== $scenario"
	begun=$SECONDS
	run "$scenario"
	echo "ok  	$scenario	$((SECONDS - begun)) s"
done
