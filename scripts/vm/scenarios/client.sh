# nbd-client, TCP and Unix, one connection and four: ext4 and xfs with fio, fstrim, fsck; trims and mkfs of 1 TiB.
#
#   FULL=yes   all combinations of file system, transport, connections and block size, where otherwise there are four; and
#              file systems of 1 TiB with logs of their usual size
#   SIZE=4     MiB of each fio job
FULL=${FULL:-}
SIZE=${SIZE:-4}

# check_queue DEVICE BLOCK_SIZE: the kernel has understood what the server offers.
check_queue() {
	queue=/sys/block/${1#/dev/}/queue
	for expected in "logical_block_size=$2" "write_cache=write back" fua=1; do
		[ "$(cat "$queue/${expected%%=*}")" = "${expected#*=}" ] || fail "$1: $expected expected, not $(cat "$queue/${expected%%=*}")"
	done
	[ "$(cat "$queue/discard_max_bytes")" -gt 0 ] || fail "$1 takes no trims"
}

# fill writes with several jobs at once; each verifies what it wrote.
fill() {
	quietly fio --output=/tmp/fio.out --directory=/mnt --direct=1 --ioengine=libaio --size="${SIZE}m" --fallocate=none \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \
		--name=random --rw=randwrite --bs=4k --iodepth=16 --numjobs=2 --fsync=100 \
		--name=mixed --rw=randwrite --bsrange=4k-64k --iodepth=8 \
		--name=stream --rw=write --bs=1m --iodepth=4 --end_fsync=1
}

sums() { (cd /mnt && find . -type f ! -path './lost+found*' | sort | xargs sha256sum); }

check_file_system() {
	case $1 in
	ext4) quietly fsck.ext4 -fn "$2" ;;
	xfs) quietly xfs_repair -n "$2" ;;
	esac
}

used() { du -k "$data/volumes/$1/base.img" | cut -f 1; }

# exercise FILE_SYSTEM TRANSPORT CONNECTIONS BLOCK_SIZE
exercise() {
	begun=$(now) file_system=$1 transport=$2 connections=$3 size=$4
	volume=$file_system-$transport-$connections-$size
	lockstep volume create "$volume" --size 512MiB --block-size "$size" >/dev/null
	"attach_$transport" /dev/nbd0 "$volume" "$size" -C "$connections"
	check_queue /dev/nbd0 "$size"
	quietly "mkfs.$file_system" -q /dev/nbd0
	mount /dev/nbd0 /mnt
	fill
	lockstep volume checkpoint "$volume"
	before=$(used "$volume")
	rm /mnt/random.0.0 /mnt/stream*
	sync
	fstrim /mnt
	sums >/tmp/sums
	umount /mnt
	lockstep volume checkpoint "$volume"
	[ "$(used "$volume")" -lt "$before" ] || fail "$volume: fstrim gave no space back, $before KiB before and $(used "$volume") after"
	check_file_system "$file_system" /dev/nbd0
	detach /dev/nbd0

	attach_unix /dev/nbd1 "$volume" "$size"
	check_file_system "$file_system" /dev/nbd1
	mount -o ro /dev/nbd1 /mnt
	sums | cmp - /tmp/sums || fail "$volume: files differ after attaching again"
	[ "$(wc -l </tmp/sums)" -eq 2 ] || fail "$volume: $(cat /tmp/sums)"
	umount /mnt
	detach /dev/nbd1
	no_kernel_errors
	lockstep volume delete "$volume" --yes >/dev/null
	say "$file_system over $transport, connections: $connections, block size $size: $(took "$begun")"
}

# huge does to a thin volume of 1 TiB what takes long where somebody goes through all of it.
huge() {
	lockstep volume create huge --size 1TiB --wal-size 64MiB >/dev/null
	attach_unix /dev/nbd0 huge 4096
	dd if=/dev/urandom of=/dev/nbd0 bs=1M count=1 seek=700000 oflag=direct 2>/dev/null
	begun=$(now)
	blkdiscard /dev/nbd0
	say "blkdiscard of 1 TiB: $(took "$begun")"
	dd if=/dev/nbd0 bs=1M count=1 skip=700000 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero || fail "trimmed data are still there"
	# Linux 6.1 writes the zeroes of the file systems' own logs, 512 MiB and 1 GiB, because its client knows no other way.
	# Both are made smaller where not all is asked for.
	small_log='-l size=64m' lazy=1
	[ -z "$FULL" ] || small_log='' lazy=0
	begun=$(now)
	quietly mkfs.xfs -q -f $small_log /dev/nbd0
	say "mkfs.xfs $small_log of 1 TiB: $(took "$begun")"
	check_file_system xfs /dev/nbd0
	begun=$(now)
	quietly mkfs.ext4 -q -F -E "lazy_journal_init=$lazy" /dev/nbd0
	say "mkfs.ext4 -E lazy_journal_init=$lazy of 1 TiB: $(took "$begun")"
	[ -z "$FULL" ] || check_file_system ext4 /dev/nbd0
	detach /dev/nbd0
	no_kernel_errors
}

storage
lockstep volume create none --size 1MiB >/dev/null # otherwise serve makes a volume of its own
serve
if [ -n "$FULL" ]; then
	for f in ext4 xfs; do for t in tcp unix; do for c in 1 4; do for b in 512 1024 4096; do exercise $f $t $c $b; done; done; done; done
else
	exercise ext4 tcp 1 4096
	exercise xfs unix 1 512
	exercise ext4 unix 4 1024
	exercise xfs tcp 4 4096
fi
huge
begun=$(now)
stop_server TERM || fail "SIGTERM: exit code $stop_status"
say "SIGTERM, which empties the logs: $(took "$begun")"
lockstep check >/dev/null || fail "lockstep check: $(lockstep check)"
