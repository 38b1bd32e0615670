#!/bin/sh
# Short jobs, as cron starts them: one every half second, none of which does anything worth changing.
seconds=10
while [ $# -gt 0 ]; do
    case $1 in --seconds) seconds=${2%.*}; shift ;; esac
    shift
done
echo ready
end=$(($(date +%s) + seconds))
jobs=0
while [ "$(date +%s)" -lt "$end" ]; do
    ls /etc | wc -l > /dev/null
    jobs=$((jobs + 1))
    sleep 0.5
done
echo "{\"unit\":\"jobs\",\"work\":$jobs,\"seconds\":$seconds,\"cpu_s\":0,\"busy_s\":0}"
