//! How much of what happened was seen, and what seeing it cost. Every output carries these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Coverage of a whole profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// On-CPU samples.
    pub cpu_samples: CpuSampleCoverage,
    /// Completeness of user stacks.
    pub stacks: StackCoverage,
    /// Frames that have a name, and all frames, weighted by their samples.
    pub frames_resolved: u64,
    /// All frames, weighted by their samples.
    pub frames_total: u64,
    /// Frames without a name, weighted by their samples, by reason (`stripped`, `no_perf_map`, …).
    pub frames_unresolved: BTreeMap<String, u64>,
    /// Off-CPU time.
    pub off_cpu: OffCpuCoverage,
    /// Syscalls.
    pub syscalls: SyscallCoverage,
    /// Further counted losses that concern no single signal (`task_without_slot`, `containers_exhausted`, …).
    pub other_losses: BTreeMap<String, u64>,
}

impl Coverage {
    /// Share of frames that have a name, 0 to 1; 1 when there are none.
    pub fn symbols_resolved(&self) -> f64 {
        if self.frames_total == 0 { 1.0 } else { self.frames_resolved as f64 / self.frames_total as f64 }
    }
}

/// On-CPU samples: `expected = kept + idle + filtered + lost`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSampleCoverage {
    /// What the sampling events themselves counted, not what the program saw.
    pub expected: u64,
    /// Samples in the profile.
    pub kept: u64,
    /// Samples of idle CPUs. Where the kernel did not deliver them, as many as were due in the CPUs' idle time.
    pub idle: u64,
    /// Samples of what the filters exclude.
    pub filtered: u64,
    /// Losses by reason.
    pub lost: BTreeMap<String, u64>,
}

impl CpuSampleCoverage {
    /// All losses together.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// Completeness of stacks, by number of samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StackCoverage {
    /// Samples whose stack reaches its root.
    pub complete: u64,
    /// Samples whose stack does not, by reason.
    pub incomplete: BTreeMap<String, u64>,
}

impl StackCoverage {
    /// Samples whose stack does not reach its root.
    pub fn incomplete_total(&self) -> u64 {
        self.incomplete.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Share of samples with a complete stack, 0 to 1; 1 when there are none.
    pub fn complete_share(&self) -> f64 {
        let total = self.complete.saturating_add(self.incomplete_total());
        if total == 0 { 1.0 } else { self.complete as f64 / total as f64 }
    }
}

/// Names of frames, user's and kernel's, weighted by their samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SymbolCoverage {
    /// Frames that have a name.
    pub resolved: u64,
    /// Frames that have none, by reason.
    pub unresolved: BTreeMap<String, u64>,
}

impl SymbolCoverage {
    /// Share of frames that have a name, 0 to 1; 1 when there are none.
    pub fn resolved_share(&self) -> f64 {
        let unresolved = self.unresolved.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let total = self.resolved.saturating_add(unresolved);
        if total == 0 { 1.0 } else { self.resolved as f64 / total as f64 }
    }
}

/// Off-CPU time, exact, beside what the stacks account for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OffCpuCoverage {
    /// Exact off-CPU thread-time in nanoseconds.
    pub time_ns: u64,
    /// Off-CPU thread-time (weighted) that carries a stack, in nanoseconds. What the hypervisor stole needs none and counts as well.
    pub with_stack_ns: u64,
    /// Samples that could not be kept, by reason.
    pub lost: u64,
}

/// Syscall events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyscallCoverage {
    /// Calls accounted for.
    pub counted: u64,
    /// Calls seen but not accounted for.
    pub lost: u64,
}

/// What the profiler itself cost in the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overhead {
    /// Time spent in kernel programs, in nanoseconds; `None` where the kernel did not count it.
    pub bpf_cpu_ns: Option<u64>,
    /// The profiler's own CPU time (user and kernel), from getrusage, in nanoseconds.
    pub agent_cpu_ns: u64,
    /// The profiler's peak resident memory in bytes.
    pub agent_rss_bytes: u64,
    /// The profiler's own process, whose time is no target; 0 in recordings that do not say.
    pub agent_pid: u32,
    /// Memory of all BPF maps in bytes.
    pub map_bytes: u64,
    /// Time by kernel program, in nanoseconds, where the kernel counted it.
    pub programs: BTreeMap<String, u64>,
}
