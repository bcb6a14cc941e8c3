# Sourced by bench.sh: what is measured beside the others.

all_workloads="write1 write32 flush1 flush16 mix32 read1warm read1cold read32warm read32cold \
seqwrite64k seqwrite1m seqread64kwarm seqread64kcold seqread1mwarm seqread1mcold long checkpoint1 checkpoint16"
quick_workloads="write32 flush1 flush16 mix32 read32warm read32cold"

# The log that the workload long runs on, and how much it writes.
long_log=512m
long_bytes=2560m

# workload NAME prints fio's arguments. Sequential writes are flushed every 8 MiB.
workload() {
	local timed="--time_based=1 --runtime=$seconds" random="--bs=4k --norandommap=1"
	local part=$((bytes / 16 / 4096 * 4096))
	case $1 in
	write1) echo "$timed $random --rw=randwrite --iodepth=1 --end_fsync=1" ;;
	write32) echo "$timed $random --rw=randwrite --iodepth=32 --end_fsync=1" ;;
	flush1) echo "$timed $random --rw=randwrite --iodepth=1 --fsync=1" ;;
	flush16) echo "$timed $random --rw=randwrite --iodepth=1 --fsync=1 --numjobs=16 --offset_increment=$part --size=$part" ;;
	checkpoint1 | checkpoint16) seconds=3600 workload "flush${1#checkpoint}" ;;
	mix32) echo "$timed $random --rw=randrw --rwmixread=70 --iodepth=32 --end_fsync=1" ;;
	read1warm) echo "$timed $random --rw=randread --iodepth=1" ;;
	read32warm) echo "$timed $random --rw=randread --iodepth=32" ;;
	# No block twice, which would not be cold.
	read1cold) echo "$timed --bs=4k --rw=randread --random_generator=lfsr --iodepth=1" ;;
	read32cold) echo "$timed --bs=4k --rw=randread --random_generator=lfsr --iodepth=32" ;;
	seqwrite64k) echo "$timed --bs=64k --rw=write --iodepth=8 --fsync=128 --end_fsync=1" ;;
	seqwrite1m) echo "$timed --bs=1m --rw=write --iodepth=4 --fsync=8 --end_fsync=1" ;;
	seqread64kwarm) echo "$timed --bs=64k --rw=read --iodepth=8" ;;
	seqread1mwarm) echo "$timed --bs=1m --rw=read --iodepth=4" ;;
	seqread64kcold) echo "--bs=64k --rw=read --iodepth=8" ;;
	seqread1mcold) echo "--bs=1m --rw=read --iodepth=4" ;;
	long) echo "$random --rw=randwrite --iodepth=32 --io_size=$long_bytes --end_fsync=1" ;;
	*) echo "no workload $1; there are: $all_workloads" >&2; return 2 ;;
	esac
}

# prepare WORKLOAD brings caches into the state that it begins with.
prepare() {
	case $1 in
	*warm | mix32) load --name=warm --rw=read --bs=1m --iodepth=4 --size="$bytes" ;;
	*cold)
		sync
		echo 3 >/proc/sys/vm/drop_caches
		;;
	esac
}

# passes WORKLOAD tells whether it is carried out again until its time is up: it ends by itself.
passes() {
	case $1 in
	seqread*cold | checkpoint*) return 0 ;;
	esac
	return 1
}
