//! Life of processes and cgroups: hints that userspace reconciles with /proc and cgroupfs.

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A process began to run another program.
    Exec = 1,
    /// A cgroup was created; its path within the hierarchy follows.
    CgroupCreated = 2,
    /// A cgroup was removed.
    CgroupRemoved = 3,
}

/// Bytes of an event's path, the final NUL included.
pub const PATH_BYTES: usize = 256;

/// One event. That of a created cgroup is an [`EventWithPath`]; others end here, since the ring has room for eight times as many.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// Process id, or 0.
    pub pid: u32,
    /// When (CLOCK_MONOTONIC, ns).
    pub time_ns: u64,
    /// Id of the cgroup, or 0.
    pub cgroup: u64,
}

/// An event with a path behind it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventWithPath {
    /// The event.
    pub event: Event,
    /// Bytes of `path` that are used, without the NUL.
    pub path_bytes: u64,
    /// Path of a cgroup.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<EventWithPath>() == size_of::<Event>() + 8 + PATH_BYTES);
