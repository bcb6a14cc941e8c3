# A server on the other side of a network: files survive attaching again.
#
# host-volume: disk0 256MiB
attach /dev/nbd0 disk0 4096 "$host" "$port"
quietly mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/noise bs=1M count=16 2>/dev/null
sum=$(checksum /mnt/noise)
umount /mnt
detach /dev/nbd0
attach /dev/nbd1 disk0 4096 "$host" "$port" -C 2
quietly fsck.ext4 -fn /dev/nbd1
mount -o ro /dev/nbd1 /mnt
[ "$(checksum /mnt/noise)" = "$sum" ] || fail "a file differs after attaching again"
umount /mnt
detach /dev/nbd1
no_kernel_errors
