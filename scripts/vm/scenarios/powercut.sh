# Power cuts: the server's disk loses what was not synced, at many points; volumes are what they were at some moment since.
#
#   CUTS=12       how many
#   CHANGES=400   requests of each connection
#   SEED=1        of requests and cuts
#
# program: ./test/powercut
CUTS=${CUTS:-12}
CHANGES=${CHANGES:-400}
SEED=${SEED:-1}
sectors=1048576 # of the server's disk, 512 MiB

modprobe -a dm-log-writes dm-snapshot
socket=$data/lockstep.sock

# record runs the workload on a server whose disk, /dev/vda, logs all its writes to /dev/vdb.
record() {
	dmsetup create logged --table "0 $sectors log-writes /dev/vda /dev/vdb"
	mkfs.ext4 -q -E nodiscard /dev/mapper/logged
	mount /dev/mapper/logged /srv
	# The log is small, so that it is recycled and checkpoints run.
	lockstep volume create disk0 --size 16MiB --wal-size 16MiB >/dev/null
	serve
	begun=$(now)
	said=$(powercut write -socket "$socket" -volume disk0 -target logged -changes "$CHANGES" -seed "$SEED" -history /tmp/history)
	say "$said in $(took "$begun")"
	checkpoint=$(lockstep volume show disk0 --json | sed -n 's/.*"checkpoint_lsn": *\([0-9]*\).*/\1/p')
	[ "$checkpoint" -gt 0 ] || fail "no checkpoint ran: there is nothing in the base image to lose"
	stop_server KILL 2>/dev/null || true
	umount /srv
	dmsetup status logged | grep -q logging_disabled && fail "the log of writes has a hole"
	dmsetup remove logged
}

# power_cut ENTRY makes a disk as a power cut would leave it, and looks at the volume on it. /dev/vdc has what is certain to be
# there; what differs from cut to cut, and what the server writes, goes to /dev/vdd.
power_cut() {
	certain=$(powercut advance -log /dev/vdb -device /dev/vdc -from "$certain" -cut "$1")
	dmsetup create cut --table "0 $sectors snapshot /dev/vdc /dev/vdd N 8"
	torn=$(powercut tear -log /dev/vdb -device /dev/mapper/cut -from "$certain" -cut "$1" -seed "$SEED")
	say "cut $1: $torn"
	mount /dev/mapper/cut /srv || fail "cut $1: the file system under the server does not mount"
	: >/tmp/server.log
	serve
	has=$(powercut verify -log /dev/vdb -cut "$1" -socket "$socket" -volume disk0 -history /tmp/history 2>&1) ||
		fail "$has"
	say "  $has"
	stop_server KILL 2>/dev/null || true
	umount /srv
	dmsetup remove cut
}

record
certain=0
powercut cuts -log /dev/vdb -count "$CUTS" -seed "$SEED" >/tmp/cuts
for entry in $(cat /tmp/cuts); do
	power_cut "$entry"
done
say "$CUTS power cuts: after each the volume was whole, with all that was acknowledged as durable"
