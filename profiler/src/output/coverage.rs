//! The coverage in words, as titles, comments and reports carry it: nothing is shown without what it misses.

use std::collections::BTreeMap;

use super::{Kind, Scope};
use crate::profile::{Coverage, CpuSampleCoverage, StackCoverage};

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
    parts.extend(incomplete_stacks(&coverage.stacks));
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
    parts.push(format!("{} of stacks complete", percent(coverage.stacks.complete_share())));
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

/// Share and reasons of stacks that do not reach their root; nothing when there are none.
pub fn incomplete_stacks(stacks: &StackCoverage) -> Option<String> {
    if stacks.incomplete_total() == 0 {
        return None;
    }
    let share = 1.0 - stacks.complete_share();
    Some(format!("{} of stacks incomplete{}", percent(share), reasons(&stacks.incomplete)))
}

/// Share of frames that have a name, and why the others have none.
pub fn named_frames(coverage: &Coverage) -> String {
    format!("{} of frames named{}", percent(coverage.symbols_resolved()), reasons(&coverage.frames_unresolved))
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
