# Sourced by run.sh: what a guest boots, a kernel of Debian and an initramfs with what the scenarios call. Both are kept in
# .build/vm and made again when the programs in them, or the scripts here, have changed.

# Modules and programs that a guest has. virtio_console comes before the other devices: it carries the output.
readonly guest_modules="virtio_pci virtio_console virtio_blk virtio_net nbd xfs libcrc32c dm-mod dm-log-writes dm-snapshot dm-flakey brd loop"
readonly guest_programs="blkdiscard blkid blockdev cmp dash dmsetup fio fsck.ext4 fstrim lsblk mkfs.ext4 mkfs.xfs mount nbd-client resize2fs
	sha256sum umount xfs_repair"

# need_guest installs what builds and runs guests.
need_guest() {
	need qemu-system-x86_64='qemu-system-x86 seabios' busybox=busybox-static cpio=cpio depmod=kmod blkdiscard=util-linux \
		mount=mount dmsetup=dmsetup fio=fio mkfs.ext4=e2fsprogs nbd-client=nbd-client mkfs.xfs=xfsprogs
}

# build_image FOLDER leaves kernel and initramfs in FOLDER/kernel and FOLDER/initramfs.
build_image() {
	local folder=$1 key
	mkdir -p "$folder"
	exec 8>"$folder/lock"
	flock 8 # two runs may begin at once
	key=$(image_key)
	if [ "$(cat "$folder/key" 2>/dev/null)" != "$key" ]; then
		echo "building the guest in $folder"
		rm -f "$folder/key"
		fetch_kernel "$folder"
		build_initramfs "$folder"
		echo "$key" >"$folder/key"
	fi
	exec 8>&-
}

# image_key prints what an image was made of.
image_key() {
	local program
	{
		cat scripts/vm/image.sh scripts/vm/init
		for program in $guest_programs busybox; do
			stat -L -c '%n %s %Y' "$(command -v "$program")"
		done
	} | sha256sum
}

# fetch_kernel FOLDER unpacks a kernel into FOLDER/debian without installing it.
fetch_kernel() {
	local folder=$1 package deb
	find_kernel >/dev/null || apt-get update >/dev/null
	package=$(find_kernel) || { echo "apt knows no linux-image-cloud-amd64" >&2; return 1; }
	rm -rf "$folder/debian"
	mkdir "$folder/debian"
	(cd "$folder/debian" && apt-get download "$package") >"$folder/log" 2>&1 ||
		{ apt-get update && (cd "$folder/debian" && apt-get download "$package"); } >"$folder/log" 2>&1 ||
		{ cat "$folder/log" >&2; return 1; }
	deb=$(echo "$folder"/debian/*.deb)
	dpkg -x "$deb" "$folder/debian"
	cp "$folder"/debian/boot/vmlinuz-* "$folder/kernel"
}

# find_kernel prints the package that linux-image-cloud-amd64 stands for today.
find_kernel() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-\)/\1/p' | grep .; }

# build_initramfs FOLDER packs FOLDER/root. Not compressed: unpacking is what costs under emulation.
build_initramfs() {
	local folder=$1 root=$1/root program applet
	rm -rf "$root"
	mkdir -p "$root"/{bin,busybox,dev,mnt,proc,run,srv,sys,tmp,var/run,vm}
	cp -L "$(command -v busybox)" "$root/bin/busybox"
	for applet in $(busybox --list); do
		ln -s /bin/busybox "$root/busybox/$applet"
	done
	ln -s /programs/dash "$root/bin/sh" # that of busybox would take its own commands, not the real ones
	for program in $guest_programs; do
		copy_program "$root" "$(command -v "$program")"
	done
	copy_modules "$folder/debian" "$root"
	cp scripts/vm/init "$root/init"
	ln -s /proc/mounts "$root/mtab"
	pack "$root" "$folder/initramfs"
	rm -rf "$root" "$folder/debian"
}

# copy_program ROOT PATH copies a program and the libraries it is linked with.
copy_program() {
	local root=$1 path=$2 library
	mkdir -p "$root/programs"
	cp -L "$path" "$root/programs/$(basename "$path")"
	{ ldd "$path" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do # a static one has none
		[ -e "$root$library" ] || cp -L --parents "$library" "$root"
	done
}

# copy_modules DEBIAN ROOT copies the modules, with those they need.
copy_modules() {
	local debian=$1 root=$2 version module file
	version=$(basename "$debian"/lib/modules/*)
	depmod -b "$debian" "$version"
	for module in $guest_modules; do
		modprobe -d "$debian" -S "$version" --show-depends "$module"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
		mkdir -p "$root/$(dirname "${file#"$debian"}")"
		cp "$file" "$root/${file#"$debian"}"
	done
	cp "$debian/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$version"
	depmod -b "$root" "$version"
}

# pack FOLDER FILE makes a cpio archive of all that is in a folder.
pack() { (cd "$1" && find . -mindepth 1 | cpio --quiet -o -H newc) >"$2"; }
