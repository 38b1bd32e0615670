//! The time ledger: every moment of every thread belongs to exactly one part.

use serde::{Deserialize, Serialize};

use super::Histogram;

/// Thread-nanoseconds by what the threads were doing. The parts are meant to sum to `thread_ns`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Lifetime of all threads inside the window, sleeping ones included.
    pub thread_ns: u64,
    /// On a CPU, in user mode. The sum with `cpu_kernel_ns` is exact; the split is estimated.
    pub cpu_user_ns: u64,
    /// On a CPU, in the kernel.
    pub cpu_kernel_ns: u64,
    /// Runnable, while the CPU ran the same container.
    pub runnable_self_ns: u64,
    /// Runnable, while the CPU ran anybody else, the kernel, or nobody yet.
    pub runnable_other_ns: u64,
    /// Runnable, but out of CPU quota.
    pub throttled_ns: u64,
    /// Blocked in the futex family.
    pub blocked_lock_ns: u64,
    /// Blocked on block I/O.
    pub blocked_disk_ns: u64,
    /// Blocked on sockets, or polling descriptors.
    pub blocked_network_ns: u64,
    /// Sleeping until a time.
    pub blocked_sleep_ns: u64,
    /// Blocked on anything else.
    pub blocked_other_ns: u64,
    /// Of `blocked_other_ns`: on a CPU that the hypervisor had given to another machine, or that served interrupts which
    /// the kernel accounts apart. The kernel's own accounting counts this neither as CPU time nor as waiting for a CPU.
    pub stolen_ns: u64,
    /// Context switches where the thread gave up the CPU by blocking.
    pub voluntary_switches: u64,
    /// Context switches where the thread could have run on.
    pub involuntary_switches: u64,
}

impl Ledger {
    /// On-CPU thread-nanoseconds, exact.
    pub fn cpu_ns(&self) -> u64 {
        self.cpu_user_ns.saturating_add(self.cpu_kernel_ns)
    }

    /// Runnable thread-nanoseconds, throttled ones included (what schedstat calls run_delay).
    pub fn runnable_ns(&self) -> u64 {
        self.runnable_self_ns.saturating_add(self.runnable_other_ns).saturating_add(self.throttled_ns)
    }

    /// Blocked thread-nanoseconds.
    pub fn blocked_ns(&self) -> u64 {
        self.blocked_lock_ns
            .saturating_add(self.blocked_disk_ns)
            .saturating_add(self.blocked_network_ns)
            .saturating_add(self.blocked_sleep_ns)
            .saturating_add(self.blocked_other_ns)
    }

    /// Off-CPU thread-nanoseconds: runnable and blocked.
    pub fn off_cpu_ns(&self) -> u64 {
        self.runnable_ns().saturating_add(self.blocked_ns())
    }

    /// Off-CPU thread-nanoseconds for one reason.
    pub fn reason_ns(&self, reason: OffCpuReason) -> u64 {
        match reason {
            OffCpuReason::Lock => self.blocked_lock_ns,
            OffCpuReason::Disk => self.blocked_disk_ns,
            OffCpuReason::Network => self.blocked_network_ns,
            OffCpuReason::Sleep => self.blocked_sleep_ns,
            OffCpuReason::Other => self.blocked_other_ns,
            OffCpuReason::RunnableSelf => self.runnable_self_ns,
            OffCpuReason::RunnableOther => self.runnable_other_ns,
            OffCpuReason::Throttled => self.throttled_ns,
        }
    }

    /// Every figure, each at a place of its own.
    pub fn figures(&mut self) -> [&mut u64; 14] {
        let Self {
            thread_ns,
            cpu_user_ns,
            cpu_kernel_ns,
            runnable_self_ns,
            runnable_other_ns,
            throttled_ns,
            blocked_lock_ns,
            blocked_disk_ns,
            blocked_network_ns,
            blocked_sleep_ns,
            blocked_other_ns,
            stolen_ns,
            voluntary_switches,
            involuntary_switches,
        } = self;
        [
            thread_ns,
            cpu_user_ns,
            cpu_kernel_ns,
            runnable_self_ns,
            runnable_other_ns,
            throttled_ns,
            blocked_lock_ns,
            blocked_disk_ns,
            blocked_network_ns,
            blocked_sleep_ns,
            blocked_other_ns,
            stolen_ns,
            voluntary_switches,
            involuntary_switches,
        ]
    }

    /// Counts time that was waited behind another cgroup of the same container (a nested one, the host's own) as waited behind
    /// itself: whoever reads of containers knows of no parts.
    pub fn waited_behind_itself(&mut self, ns: u64) {
        let moved_ns = ns.min(self.runnable_other_ns);
        self.runnable_other_ns -= moved_ns;
        self.runnable_self_ns = self.runnable_self_ns.saturating_add(moved_ns);
    }

    /// Adds every part of `other` to this ledger.
    pub fn merge(&mut self, other: &Self) {
        let mut other = *other;
        for (mine, theirs) in self.figures().into_iter().zip(other.figures()) {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

/// How long threads waited on a run queue before they ran, throttled waits included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunQueue {
    /// Latency of each wait.
    pub latency: Histogram,
    /// Longest wait in nanoseconds.
    pub max_ns: u64,
}

/// Why a thread was off the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffCpuReason {
    /// Futex family.
    Lock,
    /// Block I/O.
    Disk,
    /// Sockets, and polling descriptors.
    Network,
    /// Sleeping until a time.
    Sleep,
    /// Pipes, children, signals, anything else.
    Other,
    /// Runnable behind the container's own threads.
    RunnableSelf,
    /// Runnable behind anybody else.
    RunnableOther,
    /// Out of CPU quota.
    Throttled,
}

impl OffCpuReason {
    /// All reasons, in the order of the ledger's documentation.
    pub const ALL: [Self; 8] = [
        Self::Lock,
        Self::Disk,
        Self::Network,
        Self::Sleep,
        Self::Other,
        Self::RunnableSelf,
        Self::RunnableOther,
        Self::Throttled,
    ];

    /// The name used in every output: `lock`, `runnable_self`, ….
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Sleep => "sleep",
            Self::Other => "other",
            Self::RunnableSelf => "runnable_self",
            Self::RunnableOther => "runnable_other",
            Self::Throttled => "throttled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_behind_itself_is_moved_and_never_more_of_it_than_was_waited_behind_others() {
        let mut ledger = Ledger { runnable_self_ns: 5, runnable_other_ns: 10, ..Ledger::default() };
        ledger.waited_behind_itself(4);
        assert_eq!((ledger.runnable_self_ns, ledger.runnable_other_ns), (9, 6));
        ledger.waited_behind_itself(100);
        assert_eq!((ledger.runnable_self_ns, ledger.runnable_other_ns), (15, 0));
    }
}
