//! Life of processes and cgroups: hints that userspace reconciles with /proc and cgroupfs.

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A process began to run another program.
    Exec = 1,
    /// A thread ended; the process has if `tid` is `pid`.
    Exit = 2,
    /// A cgroup was created; `path` is its path within the hierarchy.
    CgroupCreated = 3,
    /// A cgroup was removed.
    CgroupRemoved = 4,
}

/// Bytes of an event's path, the final NUL included.
pub const PATH_BYTES: usize = 256;

/// One event.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// Process id, or 0.
    pub pid: u32,
    /// Thread id, or 0.
    pub tid: u32,
    /// Bytes of `path` that are used, without the NUL.
    pub path_bytes: u32,
    /// When (CLOCK_MONOTONIC, ns).
    pub time_ns: u64,
    /// Cgroup id: the cgroup's, or the thread's.
    pub cgroup: u64,
    /// Path of a cgroup.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<Event>() == 32 + PATH_BYTES);
