# busybox's shell and applets in turns.
while :; do
  i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); case $i in *7) x=${i%7} ;; esac; done
  busybox awk '{ count[$1 % 100] += length($2) } END { for (key in count) sum += count[key]; print sum }' text
  for n in 1 2; do busybox sort text | busybox gzip -c | busybox gunzip -c | busybox sha256sum; done
  for n in 1 2; do busybox sed 's/\([0-9a-f]*\) word/<\1>/' text | busybox md5sum; done
done
