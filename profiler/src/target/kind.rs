//! The kinds of waste, in the order in which they claim time: the most specific first.

use serde::Serialize;

/// What kind of waste a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Calls that mostly fail with an errno that tells of a mistake.
    SyscallErrors,
    /// Transfers of few bytes each, many a second.
    SmallIo,
    /// Asking again and again for what is not there.
    BusyPoll,
    /// Very many successful calls that could be fewer.
    SyscallStorm,
    /// Page faults and changes of mappings below one allocation path.
    MemoryFaults,
    /// Kernel CPU below one path that nothing above explains.
    KernelOverhead,
    /// User CPU below one large function.
    CpuHotspot,
    /// Runnable, but out of quota.
    CpuThrottled,
    /// Runnable behind another container.
    CpuContention,
    /// Runnable behind its own threads.
    CpuOversubscribed,
    /// Blocked acquiring a lock that others hold.
    LockContention,
    /// Blocked making writes durable.
    SyncWrite,
    /// Blocked on reads from disk, or on writing back.
    DiskWait,
    /// Blocked on an answer from a peer.
    NetworkWait,
}

impl Kind {
    /// All kinds, in claiming order.
    pub const ALL: [Self; 14] = [
        Self::SyscallErrors,
        Self::SmallIo,
        Self::BusyPoll,
        Self::SyscallStorm,
        Self::MemoryFaults,
        Self::KernelOverhead,
        Self::CpuHotspot,
        Self::CpuThrottled,
        Self::CpuContention,
        Self::CpuOversubscribed,
        Self::LockContention,
        Self::SyncWrite,
        Self::DiskWait,
        Self::NetworkWait,
    ];

    /// The name used in every output.
    pub fn name(self) -> &'static str {
        match self {
            Self::SyscallErrors => "syscall_errors",
            Self::SmallIo => "small_io",
            Self::BusyPoll => "busy_poll",
            Self::SyscallStorm => "syscall_storm",
            Self::MemoryFaults => "memory_faults",
            Self::KernelOverhead => "kernel_overhead",
            Self::CpuHotspot => "cpu_hotspot",
            Self::CpuThrottled => "cpu_throttled",
            Self::CpuContention => "cpu_contention",
            Self::CpuOversubscribed => "cpu_oversubscribed",
            Self::LockContention => "lock_contention",
            Self::SyncWrite => "sync_write",
            Self::DiskWait => "disk_wait",
            Self::NetworkWait => "network_wait",
        }
    }

    /// The currency of its costs: CPU time counts in cores, time off the CPU in thread-seconds a second.
    pub fn unit(self) -> Unit {
        if self <= Self::CpuHotspot { Unit::Cores } else { Unit::SecondsPerSecond }
    }

    /// Whether the scheduler has the last word: what waits is the container, and the function that is named is only the one that
    /// waited most.
    pub fn is_of_the_container(self) -> bool {
        matches!(self, Self::CpuThrottled | Self::CpuContention | Self::CpuOversubscribed)
    }

    /// What to try, where the kind alone decides it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SyscallErrors => {
                "remember what was not there instead of asking again: cache the answer, fix the search path or the \
                 address, or back off after a failure"
            }
            Self::SmallIo => "put a buffer between this code and the calls, so that each call moves kilobytes",
            Self::BusyPoll => {
                "wait in the call instead of asking in a loop: give it a timeout, or sleep on a condition"
            }
            Self::SyscallStorm => {
                "ask once and keep the answer: hold files open, cache times and metadata, batch calls"
            }
            Self::MemoryFaults => {
                "use memory again instead of returning it: keep buffers or a pool, map once, or raise the allocator's \
                 trim and mmap thresholds"
            }
            Self::KernelOverhead => "ask the kernel for less: only the part that is needed, or less often",
            Self::CpuHotspot => "make this function cheaper or call it less: cache its results, use a better algorithm",
            Self::CpuThrottled => "raise the CPU limit, or use fewer threads so that the quota is not spent in a burst",
            Self::CpuContention => "give one of the two another node or CPU set, or weights that say who goes first",
            Self::CpuOversubscribed => "use about as many threads as there are CPUs",
            Self::LockContention => {
                "hold the lock for less: move slow work out of it, or split it so that threads do not meet"
            }
            Self::SyncWrite => "make many writes durable with one sync (group commit), or sync less often",
            Self::DiskWait => "keep the hot part in memory, read ahead in large pieces, or read several at once",
            Self::NetworkWait => "ask at the same time instead of one after the other, batch the questions, or cache",
        }
    }
}

/// What a cost counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// CPU seconds a second.
    Cores,
    /// Thread-seconds a second.
    SecondsPerSecond,
}

impl Unit {
    /// As outputs say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::SecondsPerSecond => "seconds_per_second",
        }
    }
}
