# Sourced by bench.sh: how lockstep scales, with nbdkit beside it where clients are counted. Each series adds lines of JSON to
# the results: what was varied, and what was measured.

all_series="clients sizes logs dirty"

measure_scaling() {
	local one loads=
	: "${rounds:=1}" "${output:=$PWD/.build/scaling.json}"
	need nbdkit=nbdkit
	need_matplotlib
	: >"$work/points"
	touch "$work/runs"
	for one in $series; do
		declare -F "series_$one" >/dev/null || { echo "no series $one; there are: $all_series" >&2; return 2; }
	done
	for ((round = 1; round <= rounds; round++)); do
		for one in $series; do
			loads+=" $(cut -d' ' -f1 /proc/loadavg)"
			echo "$one, round $round of $rounds, load ${loads##* }" >&2
			"series_$one"
		done
	done
	round=$rounds
	describe >"$work/about"
	mkdir -p "$(dirname "$output")" "$plots"
	jq -s --slurpfile about "$work/about" '{about: $about[0], points: .}' "$work/points" >"$output"
	/usr/bin/python3 scripts/bench/plot.py "$output" "$plots"
}

# point SERIES SYSTEM X FIELDS... adds a line; FIELDS are name=number.
point() {
	local line
	line=$(printf '%s\n' "${@:4}" | jq -R -n -c --arg series "$1" --arg system "$2" --argjson x "$3" --argjson round "$round" \
		'{$series, $system, $x, $round} + ([inputs | split("=") | {(.[0]): (.[1] | tonumber)}] | add)')
	echo "  $line" >&2
	echo "$line" >>"$work/points"
}

# figure JQ prints something of the last load.
figure() { jq -r "$1" "$work/fio.json"; }

# metric NAME prints a metric of lockstep's volume.
metric() {
	metrics | sed -n "s/^lockstep_$1{volume=\"$disk\"} //p"
}

# run_drained ARGUMENTS... runs fio, and leaves in $took how many nanoseconds it took until everything was on the disk.
run_drained() {
	local begun
	begun=$(now)
	load "$@"
	"files_$system" | xargs sync
	"drain_$system"
	took=$(($(now) - begun))
}

fresh_lockstep() { # fresh_lockstep OPTIONS... starts a server with one new volume
	rm -rf "$work/lockstep"
	disk=disk0
	lockstep volume create disk0 "$@" >/dev/null
	start_lockstep
}

# From 1 to 64 clients, each with one request at a time.
series_clients() {
	local clients part
	system=lockstep
	fresh_lockstep --size "$bytes"
	stop_server
	for system in lockstep nbdkit; do fill "$system"; done
	for clients in 1 2 4 8 16 32 64; do
		part=$((bytes / clients / 4096 * 4096))
		for system in lockstep nbdkit; do
			"start_$system"
			local each=(--bs=4k --norandommap=1 --numjobs="$clients" --offset_increment="$part" --size="$part"
				--time_based=1 --runtime="$seconds" --iodepth=1)
			load --name=flush --rw=randwrite --fsync=1 "${each[@]}"
			local flushes p50 p99 writes reads
			flushes=$(figure .jobs[0].write.iops)
			p50=$(figure '.jobs[0].sync.lat_ns.percentile["50.000000"] / 1000')
			p99=$(figure '.jobs[0].sync.lat_ns.percentile["99.000000"] / 1000')
			"drain_$system"
			run_drained --name=write --rw=randwrite --end_fsync=1 "${each[@]}"
			writes=$(figure ".jobs[0].write.total_ios / ($took / 1e9)")
			load --name=warm --rw=read --bs=1m --iodepth=4 --size="$bytes"
			load --name=read --rw=randread "${each[@]}"
			reads=$(figure .jobs[0].read.iops)
			stop_server
			point clients "$system" "$clients" flush_iops="$flushes" flush_p50_us="$p50" flush_p99_us="$p99" \
				write_iops_drained="$writes" read_iops="$reads"
		done
	done
}

# Volumes from 1 GiB to 1 TiB, sparse: changes all over them.
series_sizes() {
	local size_gib begun created opened
	system=lockstep
	for size_gib in 1 4 16 64 256 1024; do
		begun=$(now)
		fresh_lockstep --size "${size_gib}GiB" --wal-size 2GiB
		created=$(($(now) - begun))
		run_drained --name=write --rw=randwrite --bs=4k --iodepth=32 --norandommap=1 --size="${size_gib}g" --io_size=512m
		local write took_s
		write=$(figure .jobs[0].write.iops)
		took_s=$(jq -n "$took / 1e9")
		load --name=flush --rw=randwrite --bs=4k --iodepth=1 --norandommap=1 --size="${size_gib}g" --fsync=1 \
			--time_based=1 --runtime="$seconds"
		local rss
		rss=$(memory)
		stop_server
		begun=$(now)
		start_lockstep
		opened=$(($(now) - begun))
		point sizes lockstep "$size_gib" write_iops="$write" write_drained_s="$took_s" \
			flush_iops="$(figure .jobs[0].write.iops)" \
			flush_p99_us="$(figure '.jobs[0].sync.lat_ns.percentile["99.000000"] / 1000')" \
			rss_mib="$rss" created_ms="$((created / 1000000))" opened_ms="$((opened / 1000000))"
		stop_server
		rm -rf "$work/lockstep"
	done
}

# memory prints the resident set of the server in MiB.
memory() { awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$server/status"; }

# Logs from 64 MiB to 4 GiB, and 2 GiB of changes.
series_logs() {
	local log_mib before
	system=lockstep
	for log_mib in 64 128 256 512 1024 2048 4096; do
		fresh_lockstep --size "$bytes" --wal-size "${log_mib}MiB"
		load --name=fill --rw=write --bs=1m --iodepth=8 --size="$bytes" --end_fsync=1
		drain_lockstep
		before=$(metric volume_write_delay_seconds_total)
		run_drained --name=write --rw=randwrite --bs=4k --iodepth=32 --norandommap=1 --size="$bytes" --io_size=2g --end_fsync=1
		point logs lockstep "$log_mib" write_iops="$(figure .jobs[0].write.iops)" \
			write_iops_drained="$(jq -n "2 * 1024 * 256 / ($took / 1e9)")" \
			write_p99_us="$(figure '.jobs[0].write.clat_ns.percentile["99.000000"] / 1000')" \
			write_max_ms="$(figure '.jobs[0].write.clat_ns.max / 1e6')" \
			delayed_s="$(jq -n "$(metric volume_write_delay_seconds_total) - $before")"
		stop_server
		rm -rf "$work/lockstep"
	done
}

# Changes that the base image does not have: the memory for them, and the time to open after a kill. The log is so large that
# no checkpoint begins by itself.
series_dirty() {
	local dirty_mib pattern rss begun
	system=lockstep
	for pattern in randwrite write; do
		for dirty_mib in 16 64 128 256 512 768 1024; do
			fresh_lockstep --size "$bytes" --wal-size 6GiB
			load --name=dirty --rw="$pattern" --bs="$([ "$pattern" = write ] && echo 1m || echo 4k)" --iodepth=32 \
				--norandommap=1 --size="$bytes" --io_size="${dirty_mib}m" --end_fsync=1
			rss=$(memory)
			local ranges bytes_dirty log
			ranges=$(metric volume_dirty_ranges)
			bytes_dirty=$(metric volume_dirty_bytes)
			log=$(metric wal_used_bytes)
			kill -9 "$server"
			wait "$server" 2>/dev/null || true
			server=
			[ ! -w /proc/sys/vm/drop_caches ] || { sync; echo 3 >/proc/sys/vm/drop_caches; }
			begun=$(now)
			start_lockstep
			point dirty "$pattern" "$dirty_mib" rss_mib="$rss" ranges="$ranges" dirty_bytes="$bytes_dirty" log_bytes="$log" \
				served_after_s="$(jq -n "($(now) - $begun) / 1e9")" opened_s="$(metric volume_open_duration_seconds)" \
				replayed="$(metric volume_replayed_records)" rss_after_open_mib="$(memory)"
			stop_server
			rm -rf "$work/lockstep"
		done
	done
}
