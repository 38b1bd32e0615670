//! The running architecture's syscalls: their names, and what blocking in each of them means.

use profiler_ebpf::syscall::{
    ARGUMENT_SHIFT, CLASS_DESCRIPTOR, CLASS_FILE, CLASS_LOCK, CLASS_NETWORK, CLASS_POLL, CLASS_SLEEP, COMPAT,
    MOVES_BYTES, SYSCALLS,
};
use syscalls::Sysno;

/// Name of a syscall number as the kernel programs count it.
pub fn name(number: u32) -> String {
    if number == COMPAT {
        return "compat".to_owned();
    }
    Sysno::new(number as usize).map_or_else(|| format!("syscall_{number}"), |sysno| sysno.name().to_owned())
}

/// Class bytes of all syscalls, by number.
pub fn classes() -> [u8; SYSCALLS] {
    let mut classes = [0; SYSCALLS];
    for sysno in Sysno::iter() {
        if let Some(class) = classes.get_mut(sysno.id() as usize) {
            *class = class_of(sysno.name());
        }
    }
    classes
}

/// The class of a syscall: see [`profiler_ebpf::syscall`].
fn class_of(name: &str) -> u8 {
    let argument = |index: u8| index << ARGUMENT_SHIFT;
    match name {
        "futex" | "futex_wait" | "futex_waitv" | "futex_requeue" => CLASS_LOCK,
        "nanosleep" | "clock_nanosleep" => CLASS_SLEEP,
        "recvfrom" | "sendto" | "recvmsg" | "sendmsg" => CLASS_NETWORK | MOVES_BYTES,
        "accept" | "accept4" | "connect" | "recvmmsg" | "sendmmsg" | "shutdown" | "epoll_wait" | "epoll_pwait"
        | "epoll_pwait2" => CLASS_NETWORK,
        "select" | "pselect6" => CLASS_POLL | argument(0),
        "poll" | "ppoll" => CLASS_POLL | argument(1),
        "read" | "write" | "readv" | "writev" | "pread64" | "pwrite64" | "preadv" | "pwritev" | "preadv2"
        | "pwritev2" | "sendfile" | "vmsplice" => CLASS_DESCRIPTOR | argument(0) | MOVES_BYTES,
        "splice" => CLASS_DESCRIPTOR | argument(2) | MOVES_BYTES,
        "tee" => CLASS_DESCRIPTOR | argument(1) | MOVES_BYTES,
        "copy_file_range" | "getdents" | "getdents64" | "getrandom" | "readlink" | "readlinkat" => {
            CLASS_FILE | MOVES_BYTES
        }
        "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "msync" | "open" | "openat" | "openat2"
        | "creat" | "close" | "stat" | "lstat" | "newfstatat" | "fstat" | "statx" | "statfs" | "fstatfs" | "access"
        | "faccessat" | "faccessat2" | "unlink" | "unlinkat" | "rename" | "renameat" | "renameat2" | "mkdir"
        | "mkdirat" | "rmdir" | "link" | "linkat" | "symlink" | "symlinkat" | "truncate" | "ftruncate"
        | "fallocate" | "chmod" | "fchmod" | "fchmodat" | "chown" | "lchown" | "fchown" | "fchownat" | "utimensat"
        | "readahead" | "execve" | "execveat" | "mount" | "umount2" | "getxattr" | "setxattr" | "listxattr"
        | "io_getevents" | "io_submit" | "fadvise64" => CLASS_FILE,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_this_architecture() {
        assert_eq!(name(Sysno::read.id() as u32), "read");
        assert_eq!(name(Sysno::futex.id() as u32), "futex");
        assert_eq!(name(COMPAT), "compat");
        assert_eq!(name(SYSCALLS as u32 - 2), format!("syscall_{}", SYSCALLS - 2));
    }

    #[test]
    fn blocking_calls_have_their_class() {
        let classes = classes();
        let class = |sysno: Sysno| classes[sysno.id() as usize];
        assert_eq!(class(Sysno::futex), CLASS_LOCK);
        assert_eq!(class(Sysno::clock_nanosleep), CLASS_SLEEP);
        assert_eq!(class(Sysno::read), CLASS_DESCRIPTOR | MOVES_BYTES);
        assert_eq!(class(Sysno::splice), CLASS_DESCRIPTOR | MOVES_BYTES | (2 << ARGUMENT_SHIFT));
        assert_eq!(class(Sysno::ppoll), CLASS_POLL | (1 << ARGUMENT_SHIFT));
        assert_eq!(class(Sysno::getppid), 0);
        assert_eq!(class(Sysno::fsync), CLASS_FILE);
    }
}
