//! What a single frame tells about the stack it is in. In: a function's name. Out: a set of marks, and the system call
//! that the function is the body of.
//!
//! Kernel functions are matched by what they begin with: compilers append `.isra.0` and the like, and versions differ in
//! what is inlined, so each mark has several names, any of which will do.

/// A set of marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u32);

impl Marks {
    /// Handling of a page fault.
    pub const FAULT: Self = Self(1);
    /// This profiler's own kernel programs, and what only runs because they are attached.
    pub const OBSERVER: Self = Self(1 << 1);
    /// An interrupt: of nobody's making.
    pub const INTERRUPT: Self = Self(1 << 2);
    /// A socket.
    pub const SOCKET: Self = Self(1 << 3);
    /// A pipe.
    pub const PIPE: Self = Self(1 << 4);
    /// A descriptor that wakes and moves no data: eventfd, timerfd, signalfd, inotify.
    pub const EVENT: Self = Self(1 << 5);
    /// Making writes durable.
    pub const SYNC: Self = Self(1 << 6);
    /// Block I/O.
    pub const DISK: Self = Self(1 << 7);
    /// A lock inside the kernel, or a file lock.
    pub const KERNEL_LOCK: Self = Self(1 << 8);
    /// A futex.
    pub const FUTEX: Self = Self(1 << 9);
    /// Accepting connections.
    pub const ACCEPT: Self = Self(1 << 10);
    /// Receiving from a socket.
    pub const RECEIVE: Self = Self(1 << 11);
    /// Connecting.
    pub const CONNECT: Self = Self(1 << 12);
    /// Sending to a socket.
    pub const SEND: Self = Self(1 << 13);
    /// poll or select.
    pub const POLL: Self = Self(1 << 14);
    /// epoll.
    pub const EPOLL: Self = Self(1 << 15);
    /// A kernel thread.
    pub const KERNEL_THREAD: Self = Self(1 << 16);
    /// User code that acquires a lock.
    pub const ACQUIRE: Self = Self(1 << 17);
    /// User code that may acquire a lock or wait for work: Python's lock object serves both.
    pub const PYTHON_LOCK: Self = Self(1 << 18);
    /// The scheduler of a runtime that has more tasks than threads: a parked thread is no waiting request.
    pub const SCHEDULER: Self = Self(1 << 19);
    /// User code that asks a peer and waits for its answer.
    pub const CLIENT: Self = Self(1 << 20);
    /// User code that receives, whatever call it waits in.
    pub const USER_RECEIVE: Self = Self(1 << 21);
    /// A loader or another part of starting a program.
    pub const STARTUP: Self = Self(1 << 22);
    /// Inside the Java virtual machine.
    pub const JVM: Self = Self(1 << 24);
    /// Reading or writing a file.
    pub const FILE: Self = Self(1 << 23);
    /// Giving orders to a disk: reading ahead, filling pages from it, handing requests to it.
    pub const BLOCK_IO: Self = Self(1 << 28);
    /// User code that only runs where threads meet at a lock: spinning, queueing, waking the next.
    pub const CONTENDED: Self = Self(1 << 25);
    /// Python's interpreter lock.
    pub const INTERPRETER_LOCK: Self = Self(1 << 26);
    /// Python entering a `with` statement, or calling another function of C that takes no shortcut.
    pub const PYTHON_ENTERS: Self = Self(1 << 27);

    /// Both sets.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have a mark in common.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

const KERNEL: [(Marks, &[&str]); 18] = [
    (
        Marks::FAULT,
        &[
            "asm_exc_page_fault",
            "exc_page_fault",
            "do_user_addr_fault",
            "handle_mm_fault",
            "__handle_mm_fault",
            "do_mem_abort",
        ],
    ),
    (
        Marks::OBSERVER,
        &[
            "bpf_prog_",
            "__bpf_trace_",
            "bpf_trace_run",
            "__traceiter_",
            "trace_call_bpf",
            "bpf_trampoline_",
            "syscall_exit_work",
            "syscall_trace_enter",
            "perf_trace_",
            "bpf_overflow_handler",
        ],
    ),
    (
        Marks::INTERRUPT,
        &["asm_sysvec_", "asm_common_interrupt", "el0_irq", "el0t_64_irq", "el1h_64_irq", "asm_exc_nmi"],
    ),
    (
        Marks::SOCKET,
        &[
            "sock_",
            "__sock_",
            "tcp_",
            "__tcp_",
            "udp_",
            "unix_stream_",
            "unix_dgram_",
            "inet_",
            "inet6_",
            "__sys_recv",
            "__sys_send",
            "____sys_send",
            "____sys_recv",
            "__sys_connect",
            "__sys_accept",
        ],
    ),
    (Marks::PIPE, &["pipe_read", "pipe_write", "anon_pipe_", "fifo_"]),
    (Marks::EVENT, &["eventfd_", "timerfd_", "signalfd_", "inotify_read", "fanotify_read"]),
    (
        Marks::SYNC,
        &[
            "vfs_fsync",
            "do_fsync",
            "ksys_sync",
            "generic_write_sync",
            "ext4_sync_file",
            "ext4_sync_fs",
            "xfs_file_fsync",
            "btrfs_sync_file",
            "f2fs_sync_file",
            "file_write_and_wait_range",
            "jbd2_log_wait_commit",
            "jbd2_complete_transaction",
            "sync_inodes_sb",
            "__x64_sys_fsync",
            "__x64_sys_fdatasync",
            "__x64_sys_msync",
            "__x64_sys_sync",
            "__arm64_sys_fsync",
            "__arm64_sys_fdatasync",
            "__arm64_sys_msync",
            "__arm64_sys_sync",
            "__do_sys_msync",
            "blkdev_issue_flush",
        ],
    ),
    (
        Marks::DISK,
        &[
            "io_schedule",
            "folio_wait_bit",
            "wait_on_page_bit",
            "filemap_fault",
            "submit_bio_wait",
            "bit_wait_io",
            "out_of_line_wait_on_bit",
            "__wait_on_buffer",
            "__lock_buffer",
            "iomap_dio",
            "__iomap_dio",
            "blkdev_",
            "balance_dirty_pages",
            "wbt_wait",
            "rq_qos_wait",
            "blk_mq_get_tag",
            "folio_wait_writeback",
        ],
    ),
    (
        Marks::BLOCK_IO,
        &[
            "page_cache_ra",
            "page_cache_sync_ra",
            "page_cache_async_ra",
            "force_page_cache_ra",
            "ondemand_readahead",
            "filemap_read_folio",
            "read_pages",
            "mpage_read",
            "ext4_mpage_read",
            "iomap_read",
            "submit_bio",
            "__submit_bio",
            "blk_",
            "__blk_",
            "io_schedule",
        ],
    ),
    (
        Marks::KERNEL_LOCK,
        &[
            "rwsem_down_",
            "__mutex_lock",
            "mutex_lock",
            "down_read",
            "down_write",
            "__down_",
            "futex_lock_pi",
            "percpu_rwsem_wait",
            "flock_lock_inode_wait",
            "locks_lock_inode_wait",
            "fcntl_setlk",
            "posix_lock_inode_wait",
            "rt_mutex_slowlock",
        ],
    ),
    (
        Marks::FUTEX,
        &["futex_wait", "__futex_wait", "do_futex", "futex_do_wait", "__x64_sys_futex", "__arm64_sys_futex"],
    ),
    (Marks::ACCEPT, &["inet_csk_accept", "unix_accept", "do_accept", "__sys_accept4", "vsock_accept"]),
    (
        Marks::RECEIVE,
        &[
            "tcp_recvmsg",
            "unix_stream_read_generic",
            "unix_stream_recvmsg",
            "__skb_wait_for_more_packets",
            "sk_wait_data",
            "udp_recvmsg",
            "udpv6_recvmsg",
            "unix_dgram_recvmsg",
            "__unix_dgram_recvmsg",
            "inet_recvmsg",
            "inet6_recvmsg",
            "tls_sw_recvmsg",
        ],
    ),
    (Marks::CONNECT, &["inet_stream_connect", "__inet_stream_connect", "__sys_connect", "unix_stream_connect"]),
    (
        Marks::SEND,
        &["sk_stream_wait_memory", "sock_alloc_send_pskb", "sock_wait_for_wmem", "tcp_sendmsg", "unix_stream_sendmsg"],
    ),
    (Marks::POLL, &["do_sys_poll", "do_poll", "do_select", "core_sys_select", "do_pselect", "poll_schedule_timeout"]),
    (Marks::EPOLL, &["ep_poll", "do_epoll_wait", "do_epoll_pwait"]),
    (Marks::KERNEL_THREAD, &["kthread", "ret_from_fork"]),
];

/// Marks of a kernel function.
pub fn of_kernel(function: &str, module: &str) -> Marks {
    let mut marks = if module == "[bpf]" { Marks::OBSERVER } else { Marks::default() };
    for (mark, starts) in KERNEL {
        if starts.iter().any(|start| function.starts_with(start)) {
            marks = marks.with(mark);
        }
    }
    let file = [
        "ext4_",
        "xfs_",
        "btrfs_",
        "f2fs_",
        "generic_file_",
        "filemap_",
        "shmem_",
        "seq_read",
        "proc_",
        "ovl_",
        "iomap_",
    ];
    if file.iter().any(|start| function.starts_with(start)) { marks.with(Marks::FILE) } else { marks }
}

const USER: [(Marks, &[&str]); 9] = [
    (
        Marks::ACQUIRE,
        &[
            "lll_lock_wait",
            "pthread_mutex_lock",
            "pthread_mutex_timedlock",
            "pthread_mutex_clocklock",
            "pthread_mutex_cond_lock",
            "pthread_rwlock_rdlock",
            "pthread_rwlock_wrlock",
            "lock_contended",
            "read_contended",
            "write_contended",
            "::lock_slow",
            "lock_shared_slow",
            "lock_exclusive_slow",
            "ObjectMonitor::enter",
            "ObjectMonitor::EnterI",
            "take_gil",
            "std::mutex::lock",
            "ReentrantLock$Sync.lock",
            "ReentrantLock.lock",
            "ReentrantReadWriteLock",
            "absl::Mutex::Lock",
            "Monitor::lock",
            "runtime.lock2",
            "uv_mutex_lock",
            "uv_rwlock_",
            "malloc_mutex_lock_slow",
            "SpinLock::SlowLock",
            "Mutex::LockSlow",
        ],
    ),
    (
        Marks::CONTENDED,
        &[
            "lll_lock_wait",
            "lll_lock_wake",
            "pthread_spin_lock",
            "mutex::futex::Mutex>::wake",
            "mutex::futex::Mutex::wake",
            "lock_contended",
            "read_contended",
            "write_contended",
            "wake_writer_or_readers",
            "::lock_slow",
            "::unlock_slow",
            "lock_shared_slow",
            "lock_exclusive_slow",
            "unlock_shared_slow",
            "unlock_exclusive_slow",
            "(*Mutex).lockSlow",
            "(*Mutex).unlockSlow",
            "(*RWMutex).rUnlockSlow",
            "sync.runtime_SemacquireMutex",
            "sync.runtime_SemacquireRWMutex",
            "ObjectMonitor::enter",
            "ObjectMonitor::EnterI",
            "ObjectMonitor::TrySpin",
            "ObjectMonitor::exit",
            "take_gil",
            "malloc_mutex_lock_slow",
            "SpinLock::SlowLock",
            "Mutex::LockSlow",
            "Mutex::UnlockSlow",
        ],
    ),
    (Marks::INTERPRETER_LOCK, &["take_gil"]),
    (Marks::PYTHON_ENTERS, &["cfunction_call"]),
    (Marks::PYTHON_LOCK, &["PyThread_acquire_lock", "rlock_acquire", "acquire_timed"]),
    (
        Marks::SCHEDULER,
        &[
            "runtime.findRunnable",
            "runtime.findrunnable",
            "runtime.schedule",
            "runtime.mPark",
            "runtime.stopm",
            "runtime.notesleep",
            "runtime.notetsleep",
            "runtime.sysmon",
            "runtime.netpoll",
            "runtime.futexsleep",
            "runtime.usleep",
            "runtime.osyield",
            "runtime.gcBgMarkWorker",
            "runtime.mcall",
            "runtime.park_m",
            "runtime.startm",
            "runtime.wakep",
            "runtime.ready",
            "tokio::runtime::scheduler",
            "tokio::runtime::park",
            "tokio::runtime::io::driver",
            "tokio::runtime::time",
            "uv__io_poll",
            "uv_run",
            "uv_cond_wait",
            "ForkJoinPool",
        ],
    ),
    (
        Marks::CLIENT,
        &[
            "PQgetResult",
            "pqWait",
            "pqSocketCheck",
            "pqReadData",
            "redisGetReply",
            "redisBufferRead",
            "mysql_real_query",
            "mysql_real_connect",
            "vio_read",
            "curl_easy_perform",
            "Curl_poll",
            "Curl_multi_wait",
            "curl_multi_",
            "http/client.py",
            "urllib3/",
            "requests/",
            "psycopg",
            "redis/connection.py",
            "pymysql/",
            "reqwest::",
            "postgres::",
            "redis::",
            "mysql::",
            "getaddrinfo",
            "gethostbyname",
            "res_nsend",
            "__res_context_send",
            "HttpURLConnection",
            "java.net.http",
            "redis.clients.jedis",
            "org.postgresql",
            "com.mysql.",
            "mongoc_",
        ],
    ),
    (
        Marks::USER_RECEIVE,
        &["sock_recv", "sock_read", "NioSocketImpl.implRead", "SocketInputStream.read", "socketRead0"],
    ),
    (
        Marks::STARTUP,
        &[
            "_dl_start",
            "_dl_main",
            "dl_main",
            "_dl_map_object",
            "_dl_relocate_object",
            "_dl_sysdep_start",
            "dl_open_worker",
        ],
    ),
];

/// Marks of a user function.
pub fn of_user(function: &str, module: &str) -> Marks {
    let mut marks =
        if module.starts_with("ld-linux") || module.starts_with("ld-musl") { Marks::STARTUP } else { Marks::default() };
    if module.starts_with("libjvm") {
        marks = marks.with(Marks::JVM);
    }
    for (mark, parts) in USER {
        if parts.iter().any(|part| function.contains(part)) {
            marks = marks.with(mark);
        }
    }
    marks
}

/// The system call that a kernel function is the body of.
pub fn syscall_of_kernel(function: &str) -> Option<&str> {
    let body = function.split('.').next().unwrap_or(function);
    for start in ["__x64_sys_", "__arm64_sys_", "__ia32_sys_", "__ia32_compat_sys_", "__se_sys_", "__do_sys_", "ksys_"]
    {
        if let Some(name) = body.strip_prefix(start) {
            return Some(name);
        }
    }
    let known = [
        ("do_sys_openat2", "openat"),
        ("do_sys_poll", "poll"),
        ("__sys_sendto", "sendto"),
        ("__sys_recvfrom", "recvfrom"),
        ("__sys_sendmsg", "sendmsg"),
        ("__sys_recvmsg", "recvmsg"),
        ("__sys_accept4", "accept4"),
        ("__sys_connect", "connect"),
        ("__sys_socket", "socket"),
        ("do_epoll_wait", "epoll_wait"),
        ("do_epoll_ctl", "epoll_ctl"),
        ("do_readv", "readv"),
        ("do_writev", "writev"),
        ("do_preadv", "preadv"),
        ("do_pwritev", "pwritev"),
        ("do_faccessat", "faccessat"),
        ("do_readlinkat", "readlinkat"),
        ("do_statx", "statx"),
        ("vfs_fstatat", "newfstatat"),
        ("do_futex", "futex"),
        ("do_select", "select"),
        ("do_madvise", "madvise"),
        ("do_sched_yield", "sched_yield"),
        ("do_mmap", "mmap"),
        ("vm_mmap_pgoff", "mmap"),
        ("__vm_munmap", "munmap"),
        ("file_close_fd", "close"),
        ("do_fcntl", "fcntl"),
    ];
    known.iter().find(|(name, _)| body == *name).map(|(_, syscall)| *syscall)
}

/// The system call that a function of the C library wraps.
pub fn syscall_of_wrapper(function: &str) -> &str {
    let name = function.split('@').next().unwrap_or(function);
    let name = name.trim_start_matches("__GI_").trim_start_matches("__libc_").trim_start_matches('_');
    let name = name.trim_start_matches("libc_").trim_end_matches("_nocancel").trim_end_matches("64");
    match name {
        "stat" | "lstat" | "fstatat" | "xstat" | "lxstat" | "fxstatat" => "newfstatat",
        "open" | "open_2" | "shm_open" => "openat",
        "recv" => "recvfrom",
        "send" => "sendto",
        "nanosleep" | "usleep" => "clock_nanosleep",
        "pread" => "pread64",
        "pwrite" => "pwrite64",
        "thrd_yield" | "pthread_yield" => "sched_yield",
        other => other,
    }
}

/// Calls that stand for each other: a kernel function may be shared, a library may choose.
const ALIKE: [&[&str]; 12] = [
    &["newfstatat", "stat", "lstat", "fstat", "statx"],
    &["openat", "open", "openat2", "creat"],
    &["poll", "ppoll"],
    &["select", "pselect6"],
    &["epoll_wait", "epoll_pwait", "epoll_pwait2"],
    &["clock_nanosleep", "nanosleep"],
    &["faccessat", "faccessat2", "access"],
    &["readlinkat", "readlink"],
    &["accept4", "accept"],
    &["mmap", "mmap_pgoff"],
    &["preadv", "preadv2"],
    &["pwritev", "pwritev2"],
];

/// The calls that may be meant by a name, itself first.
pub fn alike(name: &str) -> impl Iterator<Item = &str> {
    let others = ALIKE.iter().find(|names| names.contains(&name)).copied().unwrap_or(&[]);
    std::iter::once(name).chain(others.iter().copied().filter(move |other| *other != name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_functions_tell_their_call() {
        assert_eq!(syscall_of_kernel("__x64_sys_newfstatat"), Some("newfstatat"));
        assert_eq!(syscall_of_kernel("ksys_read"), Some("read"));
        assert_eq!(syscall_of_kernel("do_sys_openat2"), Some("openat"));
        assert_eq!(syscall_of_kernel("do_syscall_64"), None);
        assert_eq!(syscall_of_wrapper("__GI___libc_write"), "write");
        assert_eq!(syscall_of_wrapper("__read_nocancel"), "read");
        assert_eq!(syscall_of_wrapper("fstatat"), "newfstatat");
        assert_eq!(alike("stat").collect::<Vec<_>>(), ["stat", "newfstatat", "lstat", "fstat", "statx"]);
    }

    #[test]
    fn acquiring_a_lock_is_told_from_waiting_for_work() {
        assert!(of_user("__GI___lll_lock_wait", "libc.so.6").any(Marks::ACQUIRE));
        assert!(of_user("std::sys::sync::mutex::futex::Mutex::lock_contended", "app").any(Marks::ACQUIRE));
        for waiting in
            ["pthread_cond_wait@@GLIBC_2.3.2", "std::sys::sync::condvar::futex::Condvar::wait", "__new_sem_wait_slow64"]
        {
            assert!(!of_user(waiting, "libc.so.6").any(Marks::ACQUIRE), "{waiting}");
        }
    }
}
