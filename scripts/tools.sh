# Sourced by the other scripts: Go and the programs of others that they need, on Debian as root.

export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"
export HOME="${HOME:-/root}"
export DEBIAN_FRONTEND=noninteractive
export GOFLAGS="${GOFLAGS:--buildvcs=false}" # a checkout that somebody else owns builds too

# need COMMAND=PACKAGES... installs the packages of the commands that are missing.
need() {
	local pair missing=()
	for pair in "$@"; do
		# shellcheck disable=SC2206 # several packages are several words
		command -v "${pair%%=*}" >/dev/null || missing+=(${pair#*=})
	done
	[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# need_nbd_module installs the NBD client of Debian's Python, a module and so no command. Isolated, for the folder nbd here
# would pass for it.
need_nbd_module() {
	/usr/bin/python3 -I -c 'import nbd' 2>/dev/null || install_packages python3 python3-libnbd
}

install_packages() {
	echo "installing $*"
	local log
	log=$(mktemp)
	if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } \
		>"$log" 2>&1 </dev/null; then
		cat "$log" >&2
		rm -f "$log"
		echo "cannot install $*" >&2
		return 1
	fi
	rm -f "$log"
}

need_go() {
	command -v go >/dev/null || { echo "Go 1.26 or later is needed: https://go.dev/dl" >&2; return 1; }
}

need_matplotlib() {
	/usr/bin/python3 -I -c 'import matplotlib' 2>/dev/null || install_packages python3-matplotlib
}
