# lockstep attach keeps a mounted device through kills of the server, and of itself; detach ends it.
#
# kills=N    how often the server is killed under load (6)
# seconds=N  for how long fio runs (40)
storage
lockstep volume create disk0 --size 512MiB --wal-size 128MiB >/dev/null
lockstep volume create disk1 --size 64MiB --wal-size 16MiB >/dev/null

supervisor=

# supervise [ARGUMENTS...] starts a supervisor and returns when the device is attached.
supervise() {
	: >/tmp/device
	LOCKSTEP_DATA_DIR=$data /vm/lockstep attach "$@" --timeout 3s --dead-timeout 120s >/tmp/device 2>>/tmp/supervisor.log &
	supervisor=$! # not of a shell around it
	await 30 supervised
}
supervised() {
	kill -0 "$supervisor" 2>/dev/null || fail "the supervisor ended: $(tail -n 5 /tmp/supervisor.log)"
	grep -q /dev/nbd /tmp/device
}
device_is() { [ "$(cat /tmp/device)" = "$1" ] || fail "attached is $(cat /tmp/device), not $1"; }

# ended STATUS waits for the supervisor.
ended() {
	ended_status=0
	wait "$supervisor" || ended_status=$?
	[ "$ended_status" = "$1" ] || fail "the supervisor ended with $ended_status: $(tail -n 5 /tmp/supervisor.log)"
}

# refused WORDS COMMAND... runs a command that has to fail, and to say that.
refused() {
	refused_words=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		fail "this was not refused: $*"
	fi
	grep -q "$refused_words" /tmp/said || fail "$* does not say '$refused_words': $(cat /tmp/said)"
}

# io_errors prints what a device that lost a request would have left.
io_errors() { dmesg | grep -iE 'I/O error|critical .* error|EXT4-fs (error|warning)|Aborting journal|WARNING:|BUG:|blocked for more' || true; }
no_io_errors() {
	if io_errors | grep .; then
		fail "the kernel complained"
	fi
}

opened() { readlink "/proc/$1/fd/0" | grep -q nbd; }

# state_is STATE, as the supervisor reported it last; clients_are NUMBER, as the server counts them.
state_is() { grep -o '"to":"[a-z]*"' /tmp/supervisor.log | tail -n 1 | grep -q "\"$1\""; }
clients_are() { lockstep volume show disk0 | grep -q "^clients  *$1\$"; }

# reads makes sure that the device answers.
reads() { timeout 60 dd if=/dev/nbd0 of=/dev/null bs=4k count=16 iflag=direct 2>/dev/null || fail "the device does not answer"; }

sectors_are() { [ "$(cat "/sys/block/${1#/dev/}/size")" = "$2" ]; }


say "attach, mount, and fio"
serve
refused "no such export" lockstep attach disk9 /dev/nbd0
supervise disk0 /dev/nbd0
device_is /dev/nbd0
[ "$(cat /sys/block/nbd0/queue/logical_block_size)" = 4096 ] || fail "the block size is not the volume's"
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /mnt
dmesg -c >/dev/null
fio --name=load --directory=/mnt --size=64m --numjobs=2 --rw=randwrite --bs=4k-64k --ioengine=libaio --iodepth=8 --direct=1 \
	--fsync=16 --verify=crc32c --verify_backlog=64 --time_based --runtime="${seconds:-40}" --verify_fatal=1 >/tmp/fio.log 2>&1 &
load=$!

i=0
while [ "$i" -lt "${kills:-6}" ]; do
	i=$((i + 1))
	usleep 1500000
	begun=$(now)
	stop_server KILL || true
	usleep 300000
	serve
	reads
	say "kill $i: the device answers after $(took "$begun")"
done
await 30 state_is attached
await 10 clients_are 2 # processors of the guest
kill -0 "$load" || fail "fio ended before the last kill: $(cat /tmp/fio.log)"

say "kill of the supervisor, then of the server"
kill -KILL "$supervisor"
wait "$supervisor" || true
usleep 1000000
supervise disk0 auto
device_is /dev/nbd0
stop_server KILL || true
serve
reads

wait "$load" || fail "fio: $(tail -n 30 /tmp/fio.log)"
no_io_errors

say "a server that stands still longer than the timeout"
kill -STOP "$server"
dd if=/dev/zero of=/mnt/still bs=64k count=16 conv=fsync 2>/dev/null &
still=$!
usleep 8000000
kill -CONT "$server"
wait "$still" || fail "a write failed while the server stood still"
reads
no_io_errors

say "the volume grows under its file system, which grows with it"
quietly lockstep volume resize disk0 --size 768MiB
await 30 sectors_are /dev/nbd0 1572864
quietly resize2fs /dev/nbd0
[ "$(df -k /mnt | awk 'END { print ($2 > 600000) }')" = 1 ] || fail "the file system did not grow: $(df -k /mnt)"
stop_server KILL || true
quietly lockstep volume resize disk0 --size 1GiB
serve
await 30 sectors_are /dev/nbd0 2097152
no_io_errors

say "a device in use outlives its supervisor, and is not detached"
refused "supervises /dev/nbd0 already" lockstep attach disk0 /dev/nbd0
refused "already, as /dev/nbd0" lockstep attach disk0 /dev/nbd1
refused "mounted on /mnt" lockstep detach /dev/nbd0
supervised
kill -TERM "$supervisor"
ended 0
attached /dev/nbd0 || fail "the mounted device was detached"
refused "as export .disk0" lockstep attach disk1 /dev/nbd0
supervise disk0
device_is /dev/nbd0
await 10 clients_are 2 # those that the device has had all the time: it took no others
stop_server KILL || true
serve
reads
umount /mnt
sleep 1000 </dev/nbd0 &
opener=$!
await 10 opened "$opener"
refused "process $opener (" lockstep detach /dev/nbd0
kill "$opener"
wait "$opener" || true
quietly lockstep detach /dev/nbd0
ended 0
detached /dev/nbd0 || fail "the device is attached after detach"
no_io_errors

say "the file system is sound; a free device ends with its supervisor"
supervise disk0 --connections 1
quietly fsck.ext4 -fn /dev/nbd0
kill -TERM "$supervisor"
ended 0
detached /dev/nbd0 || fail "the device outlived its supervisor"

say "a server that moves"
supervise disk0 --connect 127.0.0.1:10809 --connect 127.0.0.1:10810
mount /dev/nbd0 /mnt
stop_server KILL || true
serve --listen 127.0.0.1:10810
reads
umount /mnt

say "without a server: a free device is detached, a used one given up"
stop_server KILL || true
kill -TERM "$supervisor"
ended 0
detached /dev/nbd0 || fail "the device outlived its supervisor"
refused "reach the server" lockstep attach disk0 /dev/nbd0
serve

say "devices of others"
attach_unix /dev/nbd1 disk1 4096
refused "not by lockstep" lockstep detach /dev/nbd1
refused "attached already, by" lockstep attach disk1 /dev/nbd1
detach /dev/nbd1
no_io_errors
stop_server TERM
