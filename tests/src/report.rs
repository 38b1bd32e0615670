//! The report as INTERFACE promises it: every field here must be in the JSON under this name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A whole report.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Version of the format.
    pub schema: u32,
    /// What stretch of time it covers.
    pub window: Window,
    /// The machine.
    pub host: Host,
    /// How much was seen.
    pub coverage: Coverage,
    /// What seeing it cost.
    pub overhead: Overhead,
    /// Everything that ran.
    pub containers: Vec<Container>,
    /// Ranked findings.
    pub targets: Vec<Value>,
}

/// The stretch of time.
#[derive(Debug, Clone, Deserialize)]
pub struct Window {
    /// RFC 3339.
    pub start: String,
    /// Length.
    pub duration_s: f64,
}

/// The machine.
#[derive(Debug, Clone, Deserialize)]
pub struct Host {
    /// Release.
    pub kernel: String,
    /// Online.
    pub cpus: u32,
    /// Name.
    pub node: String,
    /// Stolen by the hypervisor.
    pub steal_s: f64,
}

/// How much was seen.
#[derive(Debug, Clone, Deserialize)]
pub struct Coverage {
    /// On-CPU samples.
    pub cpu_samples: CpuSamples,
    /// Complete user stacks.
    pub stacks: Stacks,
    /// Off-CPU time.
    pub offcpu: OffCpu,
    /// Calls.
    pub syscalls: SyscallCoverage,
}

/// On-CPU samples.
#[derive(Debug, Clone, Deserialize)]
pub struct CpuSamples {
    /// By the events' own counts.
    pub expected: u64,
    /// In the profile.
    pub kept: u64,
    /// Of idle CPUs.
    pub idle: u64,
    /// Excluded by filters.
    pub filtered: u64,
    /// By reason.
    pub lost: BTreeMap<String, u64>,
}

impl CpuSamples {
    /// All losses together.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Fails unless `expected = kept + idle + filtered + lost`.
    pub fn adds_up(&self) -> Result<()> {
        let sum = self.kept + self.idle + self.filtered + self.lost_total();
        ensure!(self.expected == sum, "{} samples expected but {sum} accounted for: {self:?}", self.expected);
        Ok(())
    }
}

/// Complete user stacks.
#[derive(Debug, Clone, Deserialize)]
pub struct Stacks {
    /// Share.
    pub complete: f64,
    /// By reason.
    pub incomplete: BTreeMap<String, u64>,
}

/// Off-CPU time.
#[derive(Debug, Clone, Deserialize)]
pub struct OffCpu {
    /// Exact.
    pub time_s: f64,
    /// With a stack, weighted.
    pub with_stack_s: f64,
    /// T.
    pub threshold_s: f64,
}

/// Calls.
#[derive(Debug, Clone, Deserialize)]
pub struct SyscallCoverage {
    /// Accounted for.
    pub counted: u64,
    /// Not accounted for.
    pub lost: u64,
}

/// The profiler's own cost.
#[derive(Debug, Clone, Deserialize)]
pub struct Overhead {
    /// Kernel programs; null where not counted.
    pub bpf_cpu_s: Option<f64>,
    /// The program.
    pub agent_cpu_s: f64,
    /// Peak.
    pub agent_rss_bytes: u64,
    /// All maps.
    pub map_bytes: u64,
}

/// One container, unit, or `host`.
#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Who runs it.
    pub runtime: String,
    /// Its cgroup.
    pub cgroup: String,
    /// In cores.
    pub cpu_limit: Option<f64>,
    /// Where its thread-seconds went.
    pub ledger: Ledger,
    /// Waits for a CPU.
    pub run_queue: RunQueue,
    /// Whom it waited for.
    pub waited_behind: Vec<WaitedBehind>,
    /// Largest waits.
    pub waits: Vec<Value>,
    /// Calls.
    pub syscalls: Vec<Syscall>,
}

/// Thread-seconds by state.
#[expect(missing_docs, reason = "the interface document explains each part")]
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ledger {
    pub thread_s: f64,
    pub cpu_user_s: f64,
    pub cpu_kernel_s: f64,
    pub runnable_self_s: f64,
    pub runnable_other_s: f64,
    pub throttled_s: f64,
    pub blocked_lock_s: f64,
    pub blocked_disk_s: f64,
    pub blocked_network_s: f64,
    pub blocked_sleep_s: f64,
    pub blocked_other_s: f64,
}

impl Ledger {
    /// On a CPU.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_kernel_s
    }

    /// Runnable: what schedstat calls run_delay.
    pub fn runnable_s(&self) -> f64 {
        self.runnable_self_s + self.runnable_other_s + self.throttled_s
    }

    /// Blocked, for whatever reason.
    pub fn blocked_s(&self) -> f64 {
        self.blocked_lock_s + self.blocked_disk_s + self.blocked_network_s + self.blocked_sleep_s + self.blocked_other_s
    }

    /// All parts together.
    pub fn sum_s(&self) -> f64 {
        self.cpu_s() + self.runnable_s() + self.blocked_s()
    }

    /// The part that off-CPU samples of this `reason` label belong to.
    pub fn reason_s(&self, reason: &str) -> Option<f64> {
        Some(match reason {
            "lock" => self.blocked_lock_s,
            "disk" => self.blocked_disk_s,
            "network" => self.blocked_network_s,
            "sleep" => self.blocked_sleep_s,
            "other" => self.blocked_other_s,
            "runnable_self" => self.runnable_self_s,
            "runnable_other" => self.runnable_other_s,
            "throttled" => self.throttled_s,
            _ => return None,
        })
    }
}

/// Waits for a CPU.
#[derive(Debug, Clone, Deserialize)]
pub struct RunQueue {
    /// Number.
    pub count: u64,
    /// Median; null when there were none.
    pub p50_s: Option<f64>,
    /// 99th percentile.
    pub p99_s: Option<f64>,
    /// Longest.
    pub max_s: Option<f64>,
}

/// Whom it waited for.
#[derive(Debug, Clone, Deserialize)]
pub struct WaitedBehind {
    /// Display name.
    pub container: String,
    /// How long.
    pub s: f64,
}

/// One syscall.
#[derive(Debug, Clone, Deserialize)]
pub struct Syscall {
    /// Its name.
    pub name: String,
    /// Calls that returned.
    pub count: u64,
    /// By errno.
    pub errors: BTreeMap<String, u64>,
    /// Moved.
    pub bytes: u64,
    /// Summed latency.
    pub total_s: f64,
    /// Longest.
    pub max_s: f64,
    /// Median.
    pub p50_s: f64,
    /// 99th percentile.
    pub p99_s: f64,
    /// Upper bounds and counts.
    pub buckets: Vec<(f64, u64)>,
}

impl Report {
    /// Reads a report file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
    }

    /// Reads a report's text.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("this is not the report that the interface document promises")
    }

    /// The container of that display name.
    pub fn container(&self, name: &str) -> Result<&Container> {
        let names: Vec<_> = self.containers.iter().map(|container| container.name.as_str()).collect();
        self.containers
            .iter()
            .find(|container| container.name == name)
            .with_context(|| format!("no container {name} in the report, which has {names:?}"))
    }
}

impl Window {
    /// Start in nanoseconds since the Unix epoch.
    pub fn start_unix_ns(&self) -> Result<u64> {
        let start = OffsetDateTime::parse(&self.start, &Rfc3339)
            .with_context(|| format!("the window's start is {:?}, not RFC 3339", self.start))?;
        u64::try_from(start.unix_timestamp_nanos()).context("the window starts before 1970")
    }

    /// End in nanoseconds since the Unix epoch.
    pub fn end_unix_ns(&self) -> Result<u64> {
        Ok(self.start_unix_ns()? + (self.duration_s * 1e9) as u64)
    }
}

impl Container {
    /// The syscall of that name.
    pub fn syscall(&self, name: &str) -> Result<&Syscall> {
        self.syscalls
            .iter()
            .find(|syscall| syscall.name == name)
            .with_context(|| format!("no {name} among the syscalls of {}", self.name))
    }

    /// Seconds waited behind `name`; 0 if it is not listed.
    pub fn waited_behind_s(&self, name: &str) -> f64 {
        self.waited_behind.iter().filter(|entry| entry.container == name).map(|entry| entry.s).sum()
    }
}
