#!/bin/busybox sh
# The first program of the guest: loads the modules, mounts the read-only root, puts one memory
# file system wherever something is written, and goes over to guest.sh.
b=/bin/busybox

fail() {
    echo "rig: FAILED: $1" > /dev/console
    $b reboot -f
    while :; do $b sleep 1; done
}

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev || fail "this kernel has no devtmpfs"

# The disk whose serial number is $1. A kernel probes disks in the order it likes.
disk() {
    for d in /sys/block/vd*; do
        [ -e "$d/serial" ] || continue
        read -r serial < "$d/serial" || :
        [ "$serial" = "$1" ] && { echo "/dev/${d##*/}"; return; }
    done
}

while read -r module; do
    $b insmod "/modules/$module.ko" || fail "module $module does not load"
done < /modules.list

root=$(disk root)
[ -n "$root" ] || fail "no virtio disk: the kernel needs virtio-pci and virtio-blk, built in or as modules"
$b mount -t ext4 -o ro,noatime "$root" /new || fail "the root image does not mount: the kernel needs ext4"
$b mount -t tmpfs -o mode=755 rig /new/rig || fail "this kernel has no tmpfs"
$b tar -xf "$(disk in)" -C /new/rig || fail "what was sent along does not unpack"
$b mkdir -p /new/rig/out /new/rig/tmp /new/rig/run
$b chmod 1777 /new/rig/out /new/rig/tmp
$b mount -o bind /new /image
for d in checkout out tmp run; do $b mount -o bind /new/rig/$d /new/$d; done
# What the image has where there is now memory: the checkout may be anywhere, in /tmp as well.
while read -r d; do
    $b mkdir -p "/new$d"
    $b mount -o bind "/image$d" "/new$d"
done < /new/rig/covered
export OUT=$(disk out)
for d in proc sys dev; do $b mount -o move /$d /new/$d; done
exec $b switch_root /new /bin/sh /rig/guest.sh
