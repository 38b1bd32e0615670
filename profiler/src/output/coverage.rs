//! The coverage in words, as titles, comments and reports carry it: nothing is shown without what it misses.

use std::collections::BTreeMap;

use super::{Kind, Scope};
use crate::profile::{Coverage, CpuSampleCoverage, TimeCoverage};

/// The coverage of one kind of stacks on one line.
pub fn summary(scope: &Scope<'_>, kind: Kind) -> String {
    let coverage = &scope.profile.coverage;
    let mut parts = Vec::new();
    if kind != Kind::OffCpu {
        parts.push(samples(&coverage.cpu_samples));
    }
    if kind != Kind::Cpu {
        parts.push(off_cpu(scope));
    }
    parts.extend(incomplete_stacks(coverage));
    parts.push(named_frames(coverage));
    parts.join(" · ")
}

/// [`summary`], without the reasons of losses if it would be longer than `most` characters.
pub fn summary_within(scope: &Scope<'_>, kind: Kind, most: usize) -> String {
    let full = summary(scope, kind);
    if full.chars().count() <= most {
        return full;
    }
    let coverage = &scope.profile.coverage;
    let mut parts = Vec::new();
    if kind != Kind::OffCpu {
        let samples = &coverage.cpu_samples;
        parts.push(format!("{} of {} samples kept, {} lost", samples.kept, samples.expected, samples.lost_total()));
    }
    if kind != Kind::Cpu {
        parts.push(off_cpu(scope));
    }
    parts.push(format!("{} of stacks complete", percent(coverage.stacks_complete())));
    parts.push(format!("{} of frames named", percent(coverage.symbols_resolved())));
    parts.join(" · ")
}

/// Expected, kept and lost on-CPU samples.
pub fn samples(samples: &CpuSampleCoverage) -> String {
    let mut parts = vec![format!("{} samples expected", samples.expected), format!("{} kept", samples.kept)];
    if samples.idle > 0 {
        parts.push(format!("{} idle", samples.idle));
    }
    if samples.filtered > 0 {
        parts.push(format!("{} filtered out", samples.filtered));
    }
    parts.push(format!("{} lost{}", samples.lost_total(), reasons(&samples.lost)));
    parts.join(", ")
}

/// Off-CPU time and how much of it carries stacks.
pub fn off_cpu(scope: &Scope<'_>) -> String {
    let coverage = &scope.profile.coverage.off_cpu;
    let share = if coverage.time_ns == 0 { 1.0 } else { coverage.with_stack_ns as f64 / coverage.time_ns as f64 };
    let lost = if coverage.lost > 0 { format!(", {} waits lost", coverage.lost) } else { String::new() };
    format!("{} off-CPU, {} with a stack{lost}", seconds(coverage.time_ns as f64), percent(share))
}

/// How much of the stacks' time does not reach its root, on the CPU and off it, and why; nothing where all of it does.
pub fn incomplete_stacks(coverage: &Coverage) -> Option<String> {
    if coverage.stacks.incomplete_total() == 0 {
        return None;
    }
    let time = &coverage.time;
    if *time == TimeCoverage::default() {
        let share = 1.0 - coverage.stacks.complete_share();
        return Some(format!("{} of stacks incomplete{}", percent(share), reasons(&coverage.stacks.incomplete)));
    }
    let kinds = [("on-CPU", &time.on_cpu.stacks), ("off-CPU", &time.off_cpu.stacks)];
    let parts = kinds.into_iter().filter(|(_, stacks)| stacks.without_total_ns() > 0).map(|(kind, stacks)| {
        let share = 1.0 - stacks.share().unwrap_or(1.0);
        format!("{} of {kind} time in incomplete stacks{}", percent(share), times(&stacks.without_ns))
    });
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Share of frames that have a name, on the CPU and off it where they differ, and why the others have none.
pub fn named_frames(coverage: &Coverage) -> String {
    let why = reasons(&coverage.frames_unresolved);
    let kinds = (coverage.time.on_cpu.frames.share(), coverage.time.off_cpu.frames.share());
    match kinds {
        (Some(on_cpu), Some(off_cpu)) if percent(on_cpu) != percent(off_cpu) => {
            format!("{} of on-CPU frames named, {} of off-CPU frames{why}", percent(on_cpu), percent(off_cpu))
        }
        _ => format!("{} of frames named{why}", percent(coverage.symbols_resolved())),
    }
}

/// Times by reason in brackets, largest first; nothing where there are none.
fn times(ns: &BTreeMap<String, u64>) -> String {
    let mut ns: Vec<_> = ns.iter().filter(|(_, ns)| **ns > 0).collect();
    ns.sort_by_key(|(_, ns)| std::cmp::Reverse(**ns));
    let named: Vec<String> = ns.iter().map(|(reason, ns)| format!("{reason} {}", seconds(**ns as f64))).collect();
    if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) }
}

/// Counts by reason in brackets, largest first; nothing where there are none.
pub fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) }
}

/// `97.3 %`; never `100 %` or `0 %` for what is only nearly so.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 99.9 && share < 1.0 {
        ">99.9 %".to_owned()
    } else if value > 0.0 && value < 0.1 {
        "<0.1 %".to_owned()
    } else if (value - value.round()).abs() < 0.05 {
        format!("{value:.0} %")
    } else {
        format!("{value:.1} %")
    }
}

/// A duration in the unit that suits it.
pub fn seconds(ns: f64) -> String {
    let (value, unit) = if ns == 0.0 {
        (0.0, "s")
    } else if ns >= 1e9 {
        (ns / 1e9, "s")
    } else if ns >= 1e6 {
        (ns / 1e6, "ms")
    } else if ns >= 1e3 {
        (ns / 1e3, "µs")
    } else {
        (ns, "ns")
    };
    // Three significant digits; more would pretend.
    if value >= 100.0 || value == 0.0 {
        format!("{value:.0} {unit}")
    } else if value >= 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}
