//! One container as the profile sees it: who it is, where its thread-seconds went, what it asked of the kernel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    CpuSampleCoverage, Histogram, Ledger, OffCpuReason, RunQueue, StackCoverage, SymbolCoverage, TimeCoverage,
};

/// Position of a container in [`super::Profile::containers`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerIndex(pub u32);

/// An errno value, positive (`ENOENT` is 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Errno(pub u16);

/// A container, a systemd unit, or `host` for what is in neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Full container id; empty for a unit and for `host`.
    pub id: String,
    /// Display name, unique within the profile: `namespace/pod/container`, the runtime's name, the unit or `host`.
    pub name: String,
    /// Image reference, if the runtime told.
    pub image: Option<String>,
    /// `docker`, `podman`, `containerd`, `cri-o` or `host`.
    pub runtime: String,
    /// Kubernetes pod name.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// The container's own name within its pod, or the runtime's name.
    pub container: Option<String>,
    /// Labels that the runtime keeps for it.
    pub labels: BTreeMap<String, String>,
    /// Path of its topmost cgroup below the hierarchy's root, starting with `/`.
    pub cgroup: String,
    /// CPU limit in cores (`cpu.max`, or the v1 quota), the tightest on the way to the root.
    pub cpu_limit_cores: Option<f64>,
    /// Share of the window with a stall, where pressure stall information is on.
    pub pressure: Pressure,
    /// Where its thread-seconds went.
    pub ledger: Ledger,
    /// CPU nanoseconds in each second of the window: how much its load varied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_ns_by_second: Vec<u64>,
    /// How long its threads waited for a CPU, each time they became runnable.
    pub run_queue: RunQueue,
    /// On whom its `runnable_other` time was spent waiting, largest first. What could not be attributed is `unknown`.
    pub waited_behind: Vec<WaitedBehind>,
    /// Its largest waits by reason and peer, largest first.
    pub waits: Vec<Wait>,
    /// Its syscalls, largest total time first. Recordings have those of all containers column by column.
    #[serde(default, skip_serializing)]
    pub syscalls: Vec<SyscallStats>,
    /// On-CPU samples of this container.
    pub cpu_samples: CpuSampleCoverage,
    /// Completeness of this container's stacks.
    pub stacks: StackCoverage,
    /// Names of this container's frames.
    #[serde(default)]
    pub symbols: SymbolCoverage,
    /// The same by the time that its stacks stand for.
    #[serde(default)]
    pub time: TimeCoverage,
}

impl Container {
    /// What it is called beside labels that carry namespace and pod: its own name within its pod; outside of Kubernetes the
    /// display name, by which namesakes are told apart.
    pub fn label(&self) -> &str {
        match (&self.pod, &self.container) {
            (Some(_), Some(own)) => own,
            _ => &self.name,
        }
    }

    /// Share of the time that lies in stacks whose user part reaches its root ([`super::Coverage::stacks_complete`]).
    pub fn stacks_complete(&self) -> f64 {
        self.time.stacks().share().unwrap_or_else(|| self.stacks.complete_share())
    }

    /// Share of frames that have a name, weighted by time ([`super::Coverage::symbols_resolved`]).
    pub fn symbols_resolved(&self) -> f64 {
        self.time.frames().share().unwrap_or_else(|| self.symbols.resolved_share())
    }

    /// Adds CPU nanoseconds of seconds that come after `before` others. Seconds of one number are the same for all containers:
    /// who was not there used nothing.
    pub fn add_seconds(&mut self, before: usize, ns: &[u64]) {
        if ns.is_empty() {
            return;
        }
        let sums = &mut self.cpu_ns_by_second;
        sums.resize(sums.len().max(before + ns.len()), 0);
        for (sum, ns) in sums.iter_mut().skip(before).zip(ns) {
            *sum = sum.saturating_add(*ns);
        }
    }

    /// Puts its syscalls in order: the largest total time first.
    pub fn sort_syscalls(&mut self) {
        self.syscalls.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    }
}

/// Pressure stall information: the share of the window (0 to 1) in which some thread was stalled on the resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// On CPU.
    pub cpu: Option<f64>,
    /// On block I/O.
    pub io: Option<f64>,
    /// On memory.
    pub memory: Option<f64>,
}

/// Time spent runnable while a CPU ran somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitedBehind {
    /// Display name of the container that ran; `idle` while the CPU was leaving idle, `kernel`, or `unknown`.
    pub container: String,
    /// Thread-nanoseconds.
    pub ns: u64,
}

/// Blocked time by reason and peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Why the thread was off the CPU.
    pub reason: OffCpuReason,
    /// Remote `ip:port` or UNIX socket path, where it is known.
    pub peer: Option<String>,
    /// Thread-nanoseconds (estimated from weighted samples).
    pub ns: u64,
    /// Number of waits (estimated from weighted samples).
    pub count: u64,
}

/// One syscall of one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SyscallStats {
    /// The syscall's name (`read`), or `syscall_451` where it has none here.
    pub name: String,
    /// Calls that returned within the window.
    pub count: u64,
    /// Failed calls by errno.
    pub errors: BTreeMap<Errno, u64>,
    /// Bytes moved, for calls that return a byte count.
    pub bytes: u64,
    /// Summed latency in nanoseconds.
    pub total_ns: u64,
    /// Longest latency in nanoseconds.
    pub max_ns: u64,
    /// Latency histogram.
    pub latency: Histogram,
}
