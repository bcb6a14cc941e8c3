# Sourced by bench.sh: lockstep beside the others, rounds interleaved.

qemu_modes="writeback,threads writeback,io_uring none,threads none,native none,io_uring"

measure_peers() {
	local round name system loads=
	: "${rounds:=3}" "${output:=$PWD/.build/bench.json}"
	# shellcheck disable=SC2086 # one word a system
	need_systems $systems
	plain_engine=libaio
	! has_io_uring || plain_engine=io_uring
	if [[ "$workloads " == *"cold "* && ! -w /proc/sys/vm/drop_caches ]]; then
		echo "the page cache cannot be dropped here: without cold reads" >&2
		workloads=$(tr ' ' '\n' <<<"$workloads" | grep -v cold | tr '\n' ' ')
	fi
	for name in $workloads; do workload "$name" >/dev/null; done
	for system in $systems; do
		echo "filling the volume of $system" >&2
		[ "$system" != lockstep ] || make_volumes
		fill_system "$system"
	done
	[[ " $systems " != *" qemu "* ]] || choose_qemu_mode
	: >"$work/runs"
	mkdir -p "$(dirname "$output")"
	for ((round = 1; round <= rounds; round++)); do
		loads+=" $(cut -d' ' -f1 /proc/loadavg)"
		echo "round $round of $rounds, load ${loads##* }" >&2
		for name in $workloads; do
			for system in $systems; do
				[[ $name != checkpoint* || $system = lockstep ]] || continue
				measure "$round" "$name" "$system"
			done
		done
		describe >"$work/about"
		/usr/bin/python3 scripts/bench/table.py "$work/about" "$work/runs" "$output" >"$work/table" # should a later round not end
	done
	cat "$work/table"
}

make_volumes() {
	lockstep volume create disk0 --size "$bytes" >/dev/null
	[[ " $workloads " != *" long "* ]] || lockstep volume create small --size "$bytes" --wal-size "$long_log" >/dev/null
}

fill_system() {
	disk=disk0
	qemu_mode=${qemu_mode:-writeback,threads} fill "$1"
	[ "$1" = lockstep ] && [[ " $workloads " == *" long "* ]] || return 0
	disk=small
	fill "$1"
}

# choose_qemu_mode takes the mode with the highest product of three short runs, unless one was asked for.
choose_qemu_mode() {
	: >"$work/modes"
	[ -z "$qemu_mode" ] || return 0
	local mode name seconds=3
	mkdir -p "$work/choose"
	for mode in $qemu_modes; do
		qemu_mode=$mode
		: >"$work/runs"
		for name in write32 flush1 read32warm; do measure 0 "$name" qemu || continue 2; done
		jq -s -c --arg mode "$mode" '{$mode, runs: map({(.workload): .iops}) | add, product: (map(.iops) | reduce .[] as $i (1; . * $i))}' \
			"$work/runs" >>"$work/modes"
	done
	qemu_mode=$(jq -s -r 'max_by(.product).mode' "$work/modes")
	echo "qemu-nbd is best with $qemu_mode" >&2
}

# describe prints what and where was measured; load is that of the machine before each round.
describe() {
	touch "$work/modes"
	jq -n --arg date "$(date -u +%FT%RZ)" --arg kernel "$(uname -sr)" --argjson cores "$(nproc)" \
		--arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
		--arg memory "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" \
		--arg filesystem "$(findmnt -no FSTYPE,SOURCE -T "$work" | tr -s ' ')" \
		--arg commit "$(git rev-parse --short HEAD 2>/dev/null || true)" \
		--arg load "${loads# }" \
		--arg size "$size" --argjson seconds "$seconds" --argjson rounds "$round" \
		--arg qemu "${qemu_mode:-}" --arg plain "${plain_engine:-}" --slurpfile modes "$work/modes" \
		--arg versions "$( (fio --version; nbdkit --version; qemu-nbd --version | head -n 1; nbd-server -V) 2>/dev/null | paste -sd';')" \
		'{$date, $commit, $kernel, $cpu, $cores, $memory, $filesystem, $load, $size, $seconds, $rounds, $versions,
		  qemu_mode: $qemu, qemu_modes: $modes, plain_engine: $plain}'
}
