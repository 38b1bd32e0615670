//! The model everything downstream speaks: containers with their ledgers and syscalls, stacks with their weights,
//! and how much of what happened was seen. In: nothing; the collection room fills it. Out: what `target` analyses,
//! `output` writes and a recording stores.
//!
//! Nothing here knows the kernel, so a [`Profile`] made on one machine is read on another.

mod check;
mod coarse;
mod columns;
mod container;
mod coverage;
pub mod errno;
mod histogram;
mod ledger;
mod merge;
pub mod recording;
mod sample;
mod selection;
#[cfg(test)]
pub(crate) mod testing;
mod unseen;

pub use check::Inconsistency;
pub use coarse::OTHER_SYSCALLS;
pub use container::{Container, ContainerIndex, Errno, Pressure, SyscallStats, Wait, WaitedBehind};
pub use coverage::{
    Coverage, CpuSampleCoverage, KindCoverage, OffCpuCoverage, Overhead, StackCoverage, SymbolCoverage,
    SyscallCoverage, TimeCoverage, WeightedShare,
};
pub use histogram::{Histogram, bucket_middle_ns, bucket_upper_ns};
pub use ledger::{Ledger, OffCpuReason, RunQueue};
pub use sample::{
    Frame, FrameId, FrameKind, OffCpuSample, OnCpuSample, Process, ProcessIndex, Stack, StackId, StackTable, TextId,
};
pub use selection::{Selected, Selection, SelectionError};

use serde::{Deserialize, Serialize};

/// Everything measured in one window, resolved: names instead of addresses, containers instead of cgroup ids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// When it was measured.
    pub window: Window,
    /// Where it was measured.
    pub host: Host,
    /// How it was measured.
    pub settings: Settings,
    /// How much of what happened was seen.
    pub coverage: Coverage,
    /// What measuring cost.
    pub overhead: Overhead,
    /// Every container that had a thread alive in the window. [`ContainerIndex`] points into this.
    #[serde(with = "columns")]
    pub containers: Vec<Container>,
    /// The processes that samples belong to. [`ProcessIndex`] points into this.
    pub processes: Vec<Process>,
    /// Names, frames and stacks, each stored once.
    pub stacks: StackTable,
    /// On-CPU samples, aggregated: no two with the same container, process, thread and stack.
    pub on_cpu: Vec<OnCpuSample>,
    /// On-CPU samples taken in each second of the window, those of all containers: how much the load varied.
    pub on_cpu_by_second: Vec<u64>,
    /// Off-CPU time, aggregated: no two with the same container, process, thread, stack and reason.
    pub off_cpu: Vec<OffCpuSample>,
}

/// The stretch of time that a [`Profile`] covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Start, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Length in nanoseconds, by the monotonic clock.
    pub duration_ns: u64,
}

/// The machine that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Node name (`uname -n`, or what the operator set).
    pub node: String,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Machine architecture (`uname -m`).
    pub architecture: String,
    /// Number of online CPUs at the window's start.
    pub cpus: u32,
    /// Time that the hypervisor gave to others while this machine wanted to run, summed over CPUs, in nanoseconds.
    pub steal_ns: u64,
}

/// What was collected, and with which parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether one thing was asked for")]
pub struct Settings {
    /// Whether on-CPU stacks were sampled.
    pub on_cpu: bool,
    /// Whether off-CPU stacks were sampled.
    pub off_cpu: bool,
    /// Whether syscalls were counted.
    pub syscalls: bool,
    /// On-CPU sampling frequency in hertz; one sample stands for 10^9 / frequency nanoseconds of CPU time.
    pub frequency_hz: u32,
    /// Off-CPU gaps shorter than this are kept with probability gap / threshold and weighted up to it (ns).
    pub offcpu_threshold_ns: u64,
    /// Whether samples carry their thread's name.
    pub threads: bool,
    /// Whether frames carry file and line.
    pub lines: bool,
    /// The filters in force, as the user wrote them (`--container web*`); empty for the whole host.
    pub filters: Vec<String>,
}

impl Settings {
    /// CPU time that one on-CPU sample stands for, in nanoseconds.
    pub fn sample_period_ns(&self) -> u64 {
        if self.frequency_hz == 0 { 0 } else { 1_000_000_000 / u64::from(self.frequency_hz) }
    }
}
