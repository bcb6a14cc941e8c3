# Sourced by bench.sh: machines that others work on too. Processor time that neither fio nor the server used, nor the kernel's
# threads, is that of others.

disturbing=0.25 # processors

# idle_wait waits until the machine has been idle for a second, but not longer than $patience seconds.
idle_wait() {
	local before ticks until=$((SECONDS + patience))
	ticks=$(($(getconf CLK_TCK) / 5)) # a fifth of a processor
	while [ "$SECONDS" -lt "$until" ]; do
		before=$(busy)
		sleep 1
		[ $(($(busy) - before)) -gt "$ticks" ] || return 0
	done
}

# busy prints the clock ticks that all processors were not idle, interrupts apart.
busy() { awk '/^cpu / { print $2 + $3 + $4 }' /proc/stat; }

# others_ticks prints those of others, since any fixed moment.
others_ticks() {
	local all ours kernel
	all=$(busy)
	kernel=$(cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | awk '$2 == 2 { sum += $12 + $13 } END { print sum + 0 }')
	ours=$(sed 's/.*) //' "/proc/$$/stat" | awk '{ print $12 + $13 + $14 + $15 }')
	echo $((all - kernel - ours - $(ticks)))
}
