# The rest of the guest's life, in its own root: hand devices to vfio-pci, run the command, pack
# what it left behind, end. Process 1.
#
# From init.sh: OUT, the disk for the result. From the settings: TIMEOUT in seconds, BIND (PCI
# addresses), OWNER (a uid, or empty), HUGEPAGES.
export PATH=/usr/sbin:/usr/bin
. /rig/settings

fail() {
    echo "rig: FAILED: $1" > /dev/console
    dmesg > /dev/console
    reboot -f
    while :; do sleep 1; done
}

mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
if [ $HUGEPAGES != 0 ]; then
    echo $HUGEPAGES > /proc/sys/vm/nr_hugepages
    got=$(cat /proc/sys/vm/nr_hugepages) # not by read, which takes the first digit and then finds the end
    [ "$got" = $HUGEPAGES ] || fail "of $HUGEPAGES huge pages there are $got: give it more memory"
    mount -t hugetlbfs -o mode=1777 hugetlbfs /dev/hugepages
fi
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ip link set lo up
hostname rig

for device in $BIND; do
    at=/sys/bus/pci/devices/$device
    [ -e $at ] || fail "no device at $device"
    echo vfio-pci > $at/driver_override
    [ -e $at/driver ] && echo $device > $at/driver/unbind
    echo $device > /sys/bus/pci/drivers_probe
    driver=$(readlink $at/driver)
    [ "${driver##*/}" = vfio-pci ] || fail "vfio-pci does not take $device: is it in this kernel, and is the IOMMU on?"
    [ -n "$OWNER" ] || continue
    group=$(readlink $at/iommu_group)
    for node in /dev/vfio/${group##*/} /dev/vfio/devices/$(ls $at/vfio-dev 2>/dev/null); do
        [ -c $node ] && chown $OWNER:$OWNER $node
    done
done
[ -n "$OWNER" ] && [ -e /dev/iommu ] && chmod 666 /dev/iommu
[ -e /dev/vfio/vfio ] && chmod 666 /dev/vfio/vfio

# The host's ends of stdout and stderr. Names come a moment after the driver.
port() {
    tries=0
    while [ $tries -lt 500 ]; do
        for p in /sys/class/virtio-ports/*; do
            [ -e $p/name ] && read -r name < $p/name && [ "$name" = $1 ] && { echo /dev/${p##*/}; return; }
        done
        tries=$((tries + 1))
        usleep 10000
    done
    fail "no port for $1: the kernel needs virtio-console"
}
out=$(port stdout)
err=$(port stderr)

echo "rig: ready" > /dev/console
# A session of its own: all of it can be ended, and nothing of process 1 is reached by a signal.
setsid sh /rig/launch > $out 2> $err < /dev/null &
command=$!
(
    sleep $TIMEOUT
    : > /rig/timedout
    kill -TERM -$command
    sleep 5
    kill -KILL -$command
) 2> /dev/null &
wait $command
status=$?
[ -e /rig/timedout ] && status=124
kill -KILL -$command 2> /dev/null

# The status goes last: where it is, everything before it is whole.
echo $status > /rig/status
dmesg > /rig/dmesg
tar -cf $OUT -C /rig dmesg out status || echo "rig: FAILED: /out does not fit" > /dev/console
sync
reboot -f
while :; do sleep 1; done
