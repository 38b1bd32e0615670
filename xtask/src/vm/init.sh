#!/bin/sh
# First process of the guest: mounts what profiler needs, runs the smoke, turns the machine off.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /tmp
mount -t bpf none /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
stty -F /dev/ttyS1 raw -echo
/smoke >/dev/ttyS0 2>&1
echo "== end of smoke ==" >/dev/ttyS1
sync
poweroff -f
