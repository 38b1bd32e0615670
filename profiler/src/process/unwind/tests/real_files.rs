//! Files that are on every machine that runs these tests, and those that are there as well on the machines that develop.

use std::fs::File;
use std::path::PathBuf;

/// This program and the C library it runs on, and whatever there is of other well-known ones.
pub(super) fn real_files() -> Vec<(PathBuf, File)> {
    const OTHERS: [&str; 9] = [
        "/lib64/ld-linux-x86-64.so.2",
        "/usr/bin/busybox",
        "/usr/bin/redis-server",
        "/usr/sbin/nginx",
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
        "/usr/bin/node",
    ];
    let mut paths = vec![PathBuf::from("/proc/self/exe"), libc_path()];
    paths.extend(OTHERS.iter().map(PathBuf::from).filter(|path| path.exists()));
    paths.into_iter().map(|path| (path.clone(), File::open(&path).unwrap())).collect()
}

/// The C library that this very process has mapped.
pub(super) fn libc_path() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.split_ascii_whitespace().find(|word| word.contains("/libc.so") || word.contains("/libc-"));
    path.expect("a C library is mapped").into()
}
