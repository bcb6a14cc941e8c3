#!/usr/bin/env bash
# All tests: format, vet, staticcheck, a short fuzz, crash tests with fresh seeds, the tests with the race detector, and
# those of the program with real clients and with a real kernel's. Installs what is missing (Debian, root). Ends with go
# test's own lines.
#
#   scripts/test.sh              everything
#   scripts/test.sh fuzz tests   these stages only: format vet staticcheck fuzz seeds crashes
#                                tests e2e vm
#
#   LOCKSTEP_SEED=n    seed to begin with in the stage seeds, where otherwise one is drawn
#   LOCKSTEP_SEEDS=n   how many seeds it tries (10)
#   FUZZ_TIME=2000x    how long each fuzz test runs: so many inputs, or a time as 60s
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

readonly staticcheck=v0.8.2
# A number of inputs, not a time: at the end of a time, go test may call the last input of a busy machine a failure
# ("context deadline exceeded").
readonly fuzz_time=${FUZZ_TIME:-2000x}
readonly first_seed=${LOCKSTEP_SEED:-$((RANDOM * 32768 + RANDOM + 1000))}
readonly seeds=${LOCKSTEP_SEEDS:-10}
unset LOCKSTEP_SEED LOCKSTEP_SEEDS # the other stages have fixed ones
readonly crash_tests='Crash|FaultAt'
readonly built=$PWD/.build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

stage_format() {
	local found
	found=$(gofmt -l .)
	[ -z "$found" ] || { echo "not formatted by gofmt:"; echo "$found"; return 1; }
	local script
	for script in scripts/*.sh scripts/bench/*.sh scripts/vm/*.sh scripts/vm/scenarios/*.sh scripts/vm/init .ci/run; do
		bash -n "$script" # of several it would read the first only
	done
}

stage_vet() { go vet ./...; }

stage_staticcheck() {
	local bin=$built/staticcheck-$staticcheck
	[ -x "$bin/staticcheck" ] || GOBIN=$bin go install "honnef.co/go/tools/cmd/staticcheck@$staticcheck"
	"$bin/staticcheck" ./...
}

stage_fuzz() {
	local folder target
	grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -r -n 1 dirname | sort -u >"$work/folders"
	while read -r folder; do
		go test -list '^Fuzz' "$folder" | grep '^Fuzz' >"$work/targets"
		while read -r target; do
			echo "fuzz $folder $target"
			go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzz_time" -fuzzminimizetime 10x "$folder" >"$work/fuzz" 2>&1 </dev/null ||
				{ cat "$work/fuzz"; return 1; }
			grep '^ok' "$work/fuzz" | tee -a "$work/lines"
		done <"$work/targets"
	done <"$work/folders"
}

# Crash tests at random places: each seed is another run, and the same run every time.
stage_seeds() {
	local folder seed last=$((first_seed + seeds - 1))
	echo "seeds $first_seed to $last; again with LOCKSTEP_SEED=$first_seed scripts/test.sh seeds"
	grep -rl --include='*_test.go' 'disk\.Random(t,' . | xargs -r -n 1 dirname | sort -u |
		grep -v '^./test/disk$' >"$work/folders"
	[ -s "$work/folders" ]
	while read -r folder; do
		go test -race -c -o "$work/crash.test" "$folder"
		for ((seed = first_seed; seed <= last; seed++)); do
			(cd "$folder" && LOCKSTEP_SEED=$seed "$work/crash.test" -test.run Random -test.v) >"$work/crash" 2>&1 </dev/null ||
				{ cat "$work/crash"; return 1; }
			grep -q '^--- PASS' "$work/crash" || { echo "$folder has no test that takes seeds"; return 1; }
		done
		echo "ok  	$folder, $seeds seeds" | tee -a "$work/lines"
	done <"$work/folders"
}

need_clients() {
	need fio=fio openssl=openssl curl=curl qemu-img=qemu-utils nbdcopy=libnbd-bin nbdkit=nbdkit mke2fs=e2fsprogs
	need_nbd_module
}

stage_tests() {
	need_clients
	# shellcheck disable=SC2046 # one word a package
	go test -race -timeout 15m -skip "$crash_tests" $(go list ./... | grep -v '/test/e2e$') 2>&1 </dev/null | tee -a "$work/lines"
}

# The tests that crash at every operation have one goroutine each, and the race detector would make them take five times as
# long. At random places, in the stage seeds, they run under it.
stage_crashes() {
	local folders
	folders=$(grep -rlE --include='*_test.go' "^func Test\w*($crash_tests)" . | grep -v '^./test/e2e/' | xargs -r -n 1 dirname | sort -u)
	[ -n "$folders" ]
	# shellcheck disable=SC2086 # one word a folder
	go test -timeout 15m -run "$crash_tests" $folders 2>&1 </dev/null | tee -a "$work/lines"
}

stage_e2e() {
	need_clients
	go test -count=1 -timeout 5m ./test/e2e 2>&1 </dev/null | tee -a "$work/lines"
}

# The kernel's NBD client and power cuts, in virtual machines. Power cuts have to find a server that ignores flushes.
stage_vm() {
	scripts/vm/run.sh client restart remote supervise powercut 2>&1 </dev/null
	if scripts/vm/run.sh -b flush powercut >"$work/broken" 2>&1 </dev/null; then
		echo "a server that ignores flushes passed:"
		cat "$work/broken"
		return 1
	fi
	grep -Eq '^FAILED: .*(could not open a volume|has to be there)' "$work/broken" || { cat "$work/broken"; return 1; }
	echo "ok  	powercut finds a server that ignores flushes"
}

need_go
need gcc='gcc libc6-dev' # the race detector wants it
[ $# -gt 0 ] || set -- format vet staticcheck fuzz seeds crashes tests e2e vm
for stage in "$@"; do
	declare -F "stage_$stage" >/dev/null || { echo "no stage $stage" >&2; exit 2; }
done
: >"$work/times"
for stage in "$@"; do
	echo "== $stage"
	begun=$SECONDS
	status=0
	# In a subshell of its own, because set -e does nothing in what is tested by || or if.
	set +e
	(set -euo pipefail; "stage_$stage")
	status=$?
	set -e
	printf '%6d s  %s\n' $((SECONDS - begun)) "$stage" | tee -a "$work/times"
	[ "$status" -eq 0 ] || { echo "FAIL: $stage"; exit 1; }
done
echo "== all passed in $SECONDS s"
cat "$work/times"
[ ! -f "$work/lines" ] || cat "$work/lines"
