#!/bin/sh
# Two containers by the look of their cgroups: one spins, one makes a system call after the other. Records, and sends the
# results through the second serial line, each between two markers.
send() {
    echo "== begin $1 =="
    cat "$2" 2>/dev/null
    echo
    echo "== end $1 =="
}

contain() {
    folder=/sys/fs/cgroup/docker/$1
    shift
    mkdir -p "$folder"
    # The shell moves itself, then becomes the workload: the cgroup holds nothing else.
    sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$folder" "$@" &
}

cd /tmp
uname -r >kernel
# The kernel takes longest to check the programs, and longer still while others keep the emulated CPUs busy: first what needs no
# load, then one recording under it.
profiler doctor >doctor 2>&1
echo "exit status $?" >>doctor

spinner=$(printf 'cafe%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
caller=$(printf 'beef%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
if [ -x /bin/spinner ]; then contain "$spinner" spinner --seconds 3600; else contain "$spinner" sh -c 'while :; do :; done'; fi
contain "$caller" dd if=/dev/zero of=/dev/null bs=1
sleep 1
profiler record -d 5s -o smoke.profile >record.log 2>&1
echo "exit status $?" >>record.log
kill $(cat /sys/fs/cgroup/docker/*/cgroup.procs)
profiler report --format json -o report.json smoke.profile >report.log 2>&1
echo "exit status $?" >>report.log
profiler export --format folded --kind cpu -o stacks.folded smoke.profile >folded.log 2>&1
echo "exit status $?" >>folded.log
for file in kernel doctor record.log report.log folded.log report.json stacks.folded; do
    send "$file" "$file" >/dev/ttyS1
done
