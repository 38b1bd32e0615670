//! The report as JSON. Other programs read it: names here are a promise, adding is free.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report_tables::selected;
use super::{OutputError, Scope};
use crate::profile::{self, Profile, bucket_upper_ns, errno};
use crate::target::{self, Target};
use crate::terminal::printable_json;

/// The largest waits of a container that are listed.
const LISTED_WAITS: usize = 20;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report<'p> {
    /// Version of this document's shape.
    pub schema: u32,
    /// When it was measured.
    pub window: Window,
    /// Where it was measured.
    pub host: Host<'p>,
    /// How much of what happened was seen.
    pub coverage: Coverage<'p>,
    /// What measuring cost.
    pub overhead: Overhead<'p>,
    /// The selected containers, most CPU time first.
    pub containers: Vec<Container<'p>>,
    /// Ranked optimization targets.
    pub targets: Vec<Target>,
    /// What the ranking rests on.
    pub analysis: Analysis,
}

/// What the ranking rests on.
#[derive(Debug, Serialize)]
pub struct Analysis {
    /// Why there is no ranking; empty where there is one.
    pub withheld: Vec<String>,
    /// What was not looked for, and why.
    pub not_looked_for: Vec<String>,
    /// Thread-seconds set aside as idle waiting.
    pub idle_s: f64,
    /// Why nothing can be said: nothing was seen of what was asked for. Absent where anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nothing_seen: Option<String>,
}

/// The stretch of time.
#[derive(Debug, Serialize)]
pub struct Window {
    /// Start, RFC 3339.
    pub start: String,
    /// Length in seconds.
    pub duration_s: f64,
}

impl Window {
    /// The window of a profile.
    pub fn of(profile: &Profile) -> Self {
        Self { start: start(profile), duration_s: seconds(profile.window.duration_ns) }
    }
}

/// Start of the window in RFC 3339.
pub fn start(profile: &Profile) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(profile.window.start_unix_ns))
        .ok()
        .and_then(|start| start.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The machine.
#[derive(Debug, Serialize)]
pub struct Host<'p> {
    /// Kernel release.
    pub kernel: &'p str,
    /// Online CPUs.
    pub cpus: u32,
    /// Node name.
    pub node: &'p str,
    /// Time the hypervisor gave to others, in seconds.
    pub steal_s: f64,
    /// Machine architecture.
    pub architecture: &'p str,
}

impl<'p> Host<'p> {
    /// The host of a profile.
    pub fn of(profile: &'p Profile) -> Self {
        let host = &profile.host;
        Self {
            kernel: &host.kernel,
            cpus: host.cpus,
            node: &host.node,
            steal_s: seconds(host.steal_ns),
            architecture: &host.architecture,
        }
    }
}

/// How much was seen.
#[derive(Debug, Serialize)]
pub struct Coverage<'p> {
    /// On-CPU samples; expected = kept + idle + filtered + all of lost.
    pub cpu_samples: &'p profile::CpuSampleCoverage,
    /// Completeness of stacks.
    pub stacks: Stacks<'p>,
    /// Names of frames.
    pub symbols: Symbols<'p>,
    /// Off-CPU time.
    pub offcpu: OffCpu,
    /// Syscalls.
    pub syscalls: profile::SyscallCoverage,
    /// Losses that concern no single signal, by reason.
    pub other_losses: &'p BTreeMap<String, u64>,
}

/// Completeness of user stacks.
#[derive(Debug, Serialize)]
pub struct Stacks<'p> {
    /// Share of the time, on and off the CPU, that lies in stacks whose user part reaches its root.
    pub complete: f64,
    /// Stacks that do not, by reason: a sample counts once, a wait where it has a stack of its own.
    pub incomplete: &'p BTreeMap<String, u64>,
    /// The same in thread-seconds.
    pub incomplete_s: BTreeMap<String, f64>,
    /// Share among on-CPU stacks alone; null where there are none.
    pub on_cpu: Option<f64>,
    /// Share among off-CPU stacks alone; null where there are none.
    pub off_cpu: Option<f64>,
}

impl<'p> Stacks<'p> {
    fn of(complete: f64, counted: &'p profile::StackCoverage, time: &profile::TimeCoverage) -> Self {
        Self {
            complete,
            incomplete: &counted.incomplete,
            incomplete_s: time.stacks().without_ns.into_iter().map(|(reason, ns)| (reason, seconds(ns))).collect(),
            on_cpu: time.on_cpu.stacks.share(),
            off_cpu: time.off_cpu.stacks.share(),
        }
    }
}

/// Names of frames.
#[derive(Debug, Serialize)]
pub struct Symbols<'p> {
    /// Share of frames that have one, weighted by the time that their stacks stand for.
    pub resolved: f64,
    /// Frames that have none, weighted by their samples and waits, by reason.
    pub unresolved: &'p BTreeMap<String, u64>,
    /// Share among frames of on-CPU stacks alone; null where there are none.
    pub on_cpu: Option<f64>,
    /// Share among frames of off-CPU stacks alone; null where there are none.
    pub off_cpu: Option<f64>,
}

impl<'p> Symbols<'p> {
    fn of(resolved: f64, unresolved: &'p BTreeMap<String, u64>, time: &profile::TimeCoverage) -> Self {
        Self { resolved, unresolved, on_cpu: time.on_cpu.frames.share(), off_cpu: time.off_cpu.frames.share() }
    }
}

/// How far a container's stacks can be trusted.
#[derive(Debug, Serialize)]
pub struct ContainerCoverage<'p> {
    /// Completeness of its stacks.
    pub stacks: Stacks<'p>,
    /// Names of its frames.
    pub symbols: Symbols<'p>,
}

/// Off-CPU time.
#[derive(Debug, Serialize)]
pub struct OffCpu {
    /// Exact, in thread-seconds.
    pub time_s: f64,
    /// What the stacks account for, in thread-seconds.
    pub with_stack_s: f64,
    /// Waits shorter than this are sampled, in seconds.
    pub threshold_s: f64,
    /// Waits that could not be kept.
    pub lost: u64,
}

impl<'p> Coverage<'p> {
    /// The coverage of a profile.
    pub fn of(profile: &'p Profile) -> Self {
        let coverage = &profile.coverage;
        Self {
            cpu_samples: &coverage.cpu_samples,
            stacks: Stacks::of(coverage.stacks_complete(), &coverage.stacks, &coverage.time),
            symbols: Symbols::of(coverage.symbols_resolved(), &coverage.frames_unresolved, &coverage.time),
            offcpu: OffCpu {
                time_s: seconds(coverage.off_cpu.time_ns),
                with_stack_s: seconds(coverage.off_cpu.with_stack_ns),
                threshold_s: seconds(profile.settings.offcpu_threshold_ns),
                lost: coverage.off_cpu.lost,
            },
            syscalls: coverage.syscalls,
            other_losses: &coverage.other_losses,
        }
    }
}

/// What measuring cost.
#[derive(Debug, Serialize)]
pub struct Overhead<'p> {
    /// Time in kernel programs; null where the kernel did not count it.
    pub bpf_cpu_s: Option<f64>,
    /// The profiler's own CPU time.
    pub agent_cpu_s: f64,
    /// Its peak resident memory.
    pub agent_rss_bytes: u64,
    /// Memory of all BPF maps.
    pub map_bytes: u64,
    /// Time by kernel program.
    pub programs_s: BTreeMap<&'p str, f64>,
}

/// A container.
#[derive(Debug, Serialize)]
pub struct Container<'p> {
    /// Full id; empty for a unit and for `host`.
    pub id: &'p str,
    /// Display name.
    pub name: &'p str,
    /// Image reference.
    pub image: Option<&'p str>,
    /// `docker`, `podman`, `containerd`, `cri-o` or `host`.
    pub runtime: &'p str,
    /// Kubernetes pod.
    pub pod: Option<&'p str>,
    /// Kubernetes namespace.
    pub namespace: Option<&'p str>,
    /// Topmost cgroup.
    pub cgroup: &'p str,
    /// CPU limit in cores.
    pub cpu_limit: Option<f64>,
    /// Share of the window with a stall.
    pub pressure: profile::Pressure,
    /// How far its stacks can be trusted.
    pub coverage: ContainerCoverage<'p>,
    /// Where its thread-seconds went.
    pub ledger: Ledger,
    /// Of `blocked_other_s`: time that the hypervisor gave to other machines while a thread was on the CPU.
    pub stolen_s: f64,
    /// How long its threads waited for a CPU.
    pub run_queue: RunQueue,
    /// On whom `runnable_other_s` was spent waiting.
    pub waited_behind: Vec<WaitedBehind<'p>>,
    /// Its largest waits.
    pub waits: Vec<Wait<'p>>,
    /// Its syscalls, largest total time first.
    pub syscalls: Vec<Syscall<'p>>,
}

/// Thread-seconds by what the threads were doing; the parts sum to `thread_s`.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// Lifetime of all threads inside the window.
    pub thread_s: f64,
    /// On a CPU, in user mode.
    pub cpu_user_s: f64,
    /// On a CPU, in the kernel.
    pub cpu_kernel_s: f64,
    /// Runnable behind the same container.
    pub runnable_self_s: f64,
    /// Runnable behind anybody else.
    pub runnable_other_s: f64,
    /// Runnable, but out of quota.
    pub throttled_s: f64,
    /// Blocked in the futex family.
    pub blocked_lock_s: f64,
    /// Blocked on block I/O.
    pub blocked_disk_s: f64,
    /// Blocked on sockets.
    pub blocked_network_s: f64,
    /// Sleeping until a time.
    pub blocked_sleep_s: f64,
    /// Blocked on anything else.
    pub blocked_other_s: f64,
}

/// Run-queue latency.
#[derive(Debug, Serialize)]
pub struct RunQueue {
    /// Number of waits.
    pub count: u64,
    /// Median.
    pub p50_s: Option<f64>,
    /// 99th percentile.
    pub p99_s: Option<f64>,
    /// Longest.
    pub max_s: f64,
}

/// Time spent behind somebody.
#[derive(Debug, Serialize)]
pub struct WaitedBehind<'p> {
    /// Who ran.
    pub container: &'p str,
    /// Thread-seconds.
    pub s: f64,
}

/// Blocked time by reason and peer.
#[derive(Debug, Serialize)]
pub struct Wait<'p> {
    /// Why.
    pub reason: &'static str,
    /// Remote address or path.
    pub peer: Option<&'p str>,
    /// Thread-seconds.
    pub s: f64,
    /// Number of waits.
    pub count: u64,
}

/// A syscall.
#[derive(Debug, Serialize)]
pub struct Syscall<'p> {
    /// Name.
    pub name: &'p str,
    /// Calls.
    pub count: u64,
    /// Failed calls by errno.
    pub errors: BTreeMap<String, u64>,
    /// Bytes moved.
    pub bytes: u64,
    /// Summed latency.
    pub total_s: f64,
    /// Longest latency.
    pub max_s: f64,
    /// Median latency.
    pub p50_s: Option<f64>,
    /// 99th percentile of the latency.
    pub p99_s: Option<f64>,
    /// Upper bound in seconds and count of every bucket that is not empty.
    pub buckets: Vec<(f64, u64)>,
}

/// Nanoseconds in seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Writes the report.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let document = serde_json::to_string_pretty(&report(scope)).map_err(std::io::Error::from)?;
    writer.write_all(printable_json(&document).as_bytes())?;
    writeln!(writer)?;
    Ok(())
}

/// The report on the selected containers.
pub fn report<'p>(scope: &Scope<'p>) -> Report<'p> {
    let profile = scope.profile;
    let overhead = &profile.overhead;
    let analysis = target::analyse(profile);
    Report {
        schema: 1,
        window: Window::of(profile),
        host: Host::of(profile),
        coverage: Coverage::of(profile),
        overhead: Overhead {
            bpf_cpu_s: overhead.bpf_cpu_ns.map(seconds),
            agent_cpu_s: seconds(overhead.agent_cpu_ns),
            agent_rss_bytes: overhead.agent_rss_bytes,
            map_bytes: overhead.map_bytes,
            programs_s: overhead.programs.iter().map(|(name, ns)| (name.as_str(), seconds(*ns))).collect(),
        },
        containers: selected(scope).map(container).collect(),
        targets: super::targets::selected(scope, analysis.targets),
        analysis: Analysis {
            withheld: analysis.withheld,
            not_looked_for: analysis.not_looked_for,
            idle_s: analysis.idle_s,
            nothing_seen: super::targets::nothing_seen(scope),
        },
    }
}

fn container(container: &profile::Container) -> Container<'_> {
    let run_queue = &container.run_queue;
    let waited_behind = container.waited_behind.iter();
    let waits = container.waits.iter().take(LISTED_WAITS);
    Container {
        id: &container.id,
        name: &container.name,
        image: container.image.as_deref(),
        runtime: &container.runtime,
        pod: container.pod.as_deref(),
        namespace: container.namespace.as_deref(),
        cgroup: &container.cgroup,
        cpu_limit: container.cpu_limit_cores,
        pressure: container.pressure,
        ledger: ledger(&container.ledger),
        coverage: ContainerCoverage {
            stacks: Stacks::of(container.stacks_complete(), &container.stacks, &container.time),
            symbols: Symbols::of(container.symbols_resolved(), &container.symbols.unresolved, &container.time),
        },
        stolen_s: seconds(container.ledger.stolen_ns),
        run_queue: RunQueue {
            count: run_queue.latency.count(),
            p50_s: quantile(&run_queue.latency, 0.5),
            p99_s: quantile(&run_queue.latency, 0.99),
            max_s: seconds(run_queue.max_ns),
        },
        waited_behind: waited_behind
            .map(|behind| WaitedBehind { container: &behind.container, s: seconds(behind.ns) })
            .collect(),
        waits: waits
            .map(|wait| Wait {
                reason: wait.reason.name(),
                peer: wait.peer.as_deref(),
                s: seconds(wait.ns),
                count: wait.count,
            })
            .collect(),
        syscalls: container.syscalls.iter().map(syscall).collect(),
    }
}

/// The parts of a ledger in seconds.
pub fn ledger(ledger: &profile::Ledger) -> Ledger {
    Ledger {
        thread_s: seconds(ledger.thread_ns),
        cpu_user_s: seconds(ledger.cpu_user_ns),
        cpu_kernel_s: seconds(ledger.cpu_kernel_ns),
        runnable_self_s: seconds(ledger.runnable_self_ns),
        runnable_other_s: seconds(ledger.runnable_other_ns),
        throttled_s: seconds(ledger.throttled_ns),
        blocked_lock_s: seconds(ledger.blocked_lock_ns),
        blocked_disk_s: seconds(ledger.blocked_disk_ns),
        blocked_network_s: seconds(ledger.blocked_network_ns),
        blocked_sleep_s: seconds(ledger.blocked_sleep_ns),
        blocked_other_s: seconds(ledger.blocked_other_ns),
    }
}

fn syscall(syscall: &profile::SyscallStats) -> Syscall<'_> {
    Syscall {
        name: &syscall.name,
        count: syscall.count,
        errors: syscall.errors.iter().map(|(number, count)| (errno::name(*number), *count)).collect(),
        bytes: syscall.bytes,
        total_s: seconds(syscall.total_ns),
        max_s: seconds(syscall.max_ns),
        p50_s: quantile(&syscall.latency, 0.5),
        p99_s: quantile(&syscall.latency, 0.99),
        buckets: syscall.latency.buckets().map(|(index, count)| (bucket_upper_ns(index) / 1e9, count)).collect(),
    }
}

fn quantile(histogram: &profile::Histogram, q: f64) -> Option<f64> {
    histogram.quantile_ns(q).map(|ns| ns / 1e9)
}
