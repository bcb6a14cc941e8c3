# Sourced by bench.sh: one run of a workload.

# measure ROUND WORKLOAD SYSTEM adds one line of JSON to the results: the least disturbed of up to three tries.
measure() {
	local round=$1 name=$2 system=$3 try
	rm -f "$work/tries"
	for try in 1 2 3; do
		idle_wait
		measure_once
		[ "$patience" -gt 0 ] && [ "$try" -lt 3 ] && jq -e ".others_cpus > $disturbing" "$work/try" >/dev/null || break
		echo "  $name $system: others used $(jq .others_cpus "$work/try") processors; once more" >&2
	done
	jq -s -c 'min_by(.others_cpus)' "$work/tries" >>"$work/runs"
	jq -r '"  \(.workload) \(.system): \(.iops | round) a second"' <<<"$(tail -n 1 "$work/runs")" >&2
}

# measure_once adds to the tries. It goes on in the variables of measure.
measure_once() {
	local ran=0 used=0 synced=0 drained=0 others=0 spent=0 # clock ticks, and nanoseconds
	disk=disk0
	[ "$name" != long ] || disk=small
	"start_$system"
	: >"$work/passes"
	while
		prepare "$name"
		carry_out
		cat "$work/fio.json" >>"$work/passes"
		ran=$(jq -s 'map(.jobs[0].job_runtime) | add / 1000 | floor' "$work/passes")
		passes "$name" && [ "$ran" -lt "$seconds" ] && [ "$(jq -s length "$work/passes")" -lt "$seconds" ]
	do :; done
	stop_server
	jq -s -c --arg system "$system" --arg workload "$name" --argjson round "$round" \
		--argjson ticks "$used" --argjson others "$others" --argjson spent "$spent" --argjson hertz "$(getconf CLK_TCK)" \
		--argjson sync "$synced" --argjson drain "$drained" \
		-f scripts/bench/run.jq "$work/passes" >"$work/try"
	cat "$work/try" >>"$work/tries"
}

# carry_out runs fio once, and everything to the disk after it. It goes on in the variables of measure_once.
carry_out() {
	local arguments before others_before begun ended from
	read -ra arguments <<<"$(workload "$name")"
	case $name in
	checkpoint*) dirty ;;
	esac
	from=$(now)
	others_before=$(others_ticks)
	before=$(ticks)
	case $name in
	checkpoint*) load_while_moving "${arguments[@]}" ;;
	*) load --name="$name" --size="$bytes" --randseed="$round" "${arguments[@]}" ;;
	esac
	begun=$(now)
	"files_$system" | xargs sync
	ended=$(now)
	"drain_$system"
	drained=$((drained + $(now) - ended))
	synced=$((synced + ended - begun))
	used=$((used + $(ticks) - before))
	others=$((others + $(others_ticks) - others_before))
	spent=$((spent + $(now) - from))
}

# dirty leaves something for a checkpoint to move, less than begins one by itself.
dirty() {
	load --name=dirty --bs=4k --norandommap=1 --rw=randwrite --iodepth=32 --size="$bytes" --io_size=$((bytes * 3 / 16))
}

# load_while_moving ARGUMENTS... runs fio for as long as a checkpoint takes, and until its first flushes.
load_while_moving() {
	local mover loader before
	before=$(flushes)
	"drain_$system" &
	mover=$!
	load --name="$name" --size="$bytes" --randseed="$round" "$@" &
	loader=$!
	wait "$mover"
	await flushed_since "$before"
	kill "$loader"
	wait "$loader"
}

flushes() {
	metrics | awk -v volume="volume=\"$disk\"" \
		'/^lockstep_nbd_requests_total/ && /command="flush"/ && index($0, volume) { n = $2 } END { print n + 0 }'
}

flushed_since() { [ "$(flushes)" -gt "$1" ]; }

# metrics prints all that lockstep counts.
metrics() { curl -sf --unix-socket "$work/lockstep/admin.sock" http://lockstep/metrics; }
