//! How much of what happened was seen, and what seeing it cost. Every output carries these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Coverage of a whole profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// On-CPU samples.
    pub cpu_samples: CpuSampleCoverage,
    /// Completeness of user stacks, by number.
    pub stacks: StackCoverage,
    /// Frames that have a name, weighted by their samples and waits.
    pub frames_resolved: u64,
    /// All frames, weighted by their samples and waits.
    pub frames_total: u64,
    /// Frames without a name, weighted by their samples and waits, by reason (`stripped`, `no_perf_map`, …).
    pub frames_unresolved: BTreeMap<String, u64>,
    /// How whole and how named the stacks are, by the time that they stand for.
    pub time: TimeCoverage,
    /// Off-CPU time.
    pub off_cpu: OffCpuCoverage,
    /// Syscalls.
    pub syscalls: SyscallCoverage,
    /// Further counted losses that concern no single signal (`task_without_slot`, `containers_exhausted`, …).
    pub other_losses: BTreeMap<String, u64>,
}

impl Coverage {
    /// Share of the time that lies in stacks whose user part reaches its root, 0 to 1; 1 when there are none. A recording
    /// of an earlier version has counts alone: there it is a share of stacks.
    pub fn stacks_complete(&self) -> f64 {
        self.time.stacks().share().unwrap_or_else(|| self.stacks.complete_share())
    }

    /// Share of frames that have a name, weighted by time, 0 to 1; 1 when there are none. A recording of an earlier version
    /// has counts alone: there it is weighted by samples.
    pub fn symbols_resolved(&self) -> f64 {
        let counted =
            || if self.frames_total == 0 { 1.0 } else { self.frames_resolved as f64 / self.frames_total as f64 };
        self.time.frames().share().unwrap_or_else(counted)
    }
}

/// Thread-time of stacks, or of their frames, with what is asked of them and without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightedShare {
    /// Nanoseconds with it.
    pub with_ns: u64,
    /// Nanoseconds without it, by reason.
    pub without_ns: BTreeMap<String, u64>,
}

impl WeightedShare {
    /// Adds time that has it, or that lacks it for this reason.
    pub fn add(&mut self, lacking: Option<&str>, ns: u64) {
        match lacking {
            None => self.with_ns = self.with_ns.saturating_add(ns),
            Some(_) if ns == 0 => {}
            Some(reason) => {
                let sum = self.without_ns.entry(reason.to_owned()).or_default();
                *sum = sum.saturating_add(ns);
            }
        }
    }

    /// Nanoseconds without it, for all reasons.
    pub fn without_total_ns(&self) -> u64 {
        self.without_ns.values().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// The share of time with it, 0 to 1; none where there is no time at all.
    pub fn share(&self) -> Option<f64> {
        let total = self.with_ns as f64 + self.without_total_ns() as f64;
        (total > 0.0).then(|| self.with_ns as f64 / total)
    }

    /// Adds another's time.
    pub fn merge(&mut self, other: &Self) {
        self.add(None, other.with_ns);
        for (reason, ns) in &other.without_ns {
            self.add(Some(reason), *ns);
        }
    }
}

/// How whole and how named the stacks of one kind are, by time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KindCoverage {
    /// Time of stacks whose user part reaches its root. Kernel threads have none and are left out.
    pub stacks: WeightedShare,
    /// Time of frames that have a name: each frame weighs as much as the stack that it is in.
    pub frames: WeightedShare,
}

/// How whole and how named stacks are, by the time that they stand for: a sample stands for its period, a wait for its weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeCoverage {
    /// On-CPU stacks.
    pub on_cpu: KindCoverage,
    /// Off-CPU stacks.
    pub off_cpu: KindCoverage,
}

impl TimeCoverage {
    /// Stacks of both kinds.
    pub fn stacks(&self) -> WeightedShare {
        let mut both = self.on_cpu.stacks.clone();
        both.merge(&self.off_cpu.stacks);
        both
    }

    /// Frames of both kinds.
    pub fn frames(&self) -> WeightedShare {
        let mut both = self.on_cpu.frames.clone();
        both.merge(&self.off_cpu.frames);
        both
    }

    /// Adds another's time.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.on_cpu, &other.on_cpu), (&mut self.off_cpu, &other.off_cpu)] {
            mine.stacks.merge(&theirs.stacks);
            mine.frames.merge(&theirs.frames);
        }
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

/// Completeness of stacks, by number of samples and of waits with a stack of their own.
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

/// Names of frames, user's and kernel's, weighted by their samples and waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SymbolCoverage {
    /// Frames that have a name.
    pub resolved: u64,
    /// Frames that have none, by reason.
    pub unresolved: BTreeMap<String, u64>,
}

impl OffCpuCoverage {
    /// What `with_stack_ns` is when the stacks weigh `with_ns` and waits without one `without_ns`: weights are estimates, and
    /// where they sum to more than the exact time both are reduced alike.
    pub fn within_exact(time_ns: u64, with_ns: f64, without_ns: f64) -> u64 {
        let weighed_ns = with_ns + without_ns;
        let scale = if weighed_ns > time_ns as f64 { time_ns as f64 / weighed_ns } else { 1.0 };
        ((with_ns * scale) as u64).min(time_ns)
    }
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
    /// Off-CPU thread-time that carries a stack, in nanoseconds: what the weights of waits say, as a part of the exact time and
    /// never more than it. What the hypervisor stole needs no stack and counts as well.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_wait_without_a_caller_weighs_more_than_many_short_ones_with_one() {
        let stacks = StackCoverage { complete: 199, incomplete: BTreeMap::from([("no_root".to_owned(), 1)]) };
        let mut coverage = Coverage { stacks, ..Coverage::default() };
        coverage.time.off_cpu.stacks.add(None, 1_000);
        coverage.time.off_cpu.stacks.add(Some("no_root"), 1_000);
        assert!((coverage.stacks_complete() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_recording_with_counts_alone_tells_shares_of_counts() {
        let stacks = StackCoverage { complete: 3, incomplete: BTreeMap::from([("no_root".to_owned(), 1)]) };
        let coverage = Coverage { stacks, frames_total: 10, frames_resolved: 4, ..Coverage::default() };
        assert!((coverage.stacks_complete() - 0.75).abs() < 1e-9);
        assert!((coverage.symbols_resolved() - 0.4).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn time_with_a_stack_is_never_more_than_there_was_time(
            time_ns in 0_u64..1 << 50, with_ns in 0_f64..1e15, without_ns in 0_f64..1e15,
        ) {
            let told = OffCpuCoverage::within_exact(time_ns, with_ns, without_ns);
            prop_assert!(told <= time_ns);
            if with_ns + without_ns <= time_ns as f64 {
                prop_assert!((told as f64 - with_ns).abs() <= 1.0, "what is within the exact time stays as it is");
            } else {
                let share = with_ns / (with_ns + without_ns);
                prop_assert!((told as f64 - share * time_ns as f64).abs() <= 1.0 + time_ns as f64 * 1e-9);
            }
        }

        #[test]
        fn shares_stay_between_none_and_all_when_added_up(parts in prop::collection::vec((any::<bool>(), any::<u64>()), 0..20)) {
            let mut sum = WeightedShare::default();
            for (lacks, ns) in parts {
                let mut one = WeightedShare::default();
                one.add(lacks.then_some("no_root"), ns);
                sum.merge(&one);
            }
            prop_assert!(sum.share().is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}
