# A volume is attached, gets a file system, and is detached: the least that has to work.
storage
lockstep volume create disk0 --size 1GiB >/dev/null
serve
attach_unix /dev/nbd0 disk0 4096
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/noise bs=1M count=16 2>/dev/null
sum=$(checksum /mnt/noise)
umount /mnt
detach /dev/nbd0
attach_tcp /dev/nbd0 disk0 4096
quietly fsck.ext4 -fn /dev/nbd0
mount -o ro /dev/nbd0 /mnt
[ "$(checksum /mnt/noise)" = "$sum" ] || fail "a file differs after attaching again"
umount /mnt
detach /dev/nbd0
no_kernel_errors
stop_server TERM
