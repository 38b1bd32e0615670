//! Claims become targets. In: findings, what was seen of everything. Out: a ranking, or why there is none.
//!
//! **Rank** is by what could be won, in thread-seconds a second over the node (cores, for CPU), then by claims, then by
//! id: the order never depends on how a hash falls.
//!
//! **Confidence** falls with coverage: high where nine tenths of what the figures rest on were seen and there are
//! [`MANY_SAMPLES`] of it (then the standard error is at most a tenth), medium from seven tenths and [`FEW_SAMPLES`] on,
//! else low. A function that is not the application's own is never more than medium, nor is a network wait whose peer is unknown.
//!
//! **Withheld** is the whole ranking where less than half was seen of what it rests on, or hardly anything happened: what comes
//! first is then decided by what was lost.

use super::calls::name_of;
use super::finding::{Basis, Finding, LEAST_CORES};
use super::kind::{Kind, Unit};
use super::recheck;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};
use super::{Amount, Analysis, Blame, Confidence, Target};
use crate::profile::{Container, KindCoverage, Profile};

/// Standard error of a tenth.
const MANY_SAMPLES: u64 = 100;

/// Standard error of a fifth to a sixth.
const FEW_SAMPLES: u64 = 30;

/// More unseen than seen.
const LEAST_SEEN: f64 = 0.5;

/// A window in which nothing can be told from chance.
const SHORTEST_WINDOW_NS: u64 = 1_000_000_000;

/// Ranks what was found.
pub fn finish(scene: &Scene<'_>, mut findings: Vec<Finding>, waits: &Waits) -> Analysis {
    let profile = scene.profile;
    let seen = Seen::of(profile);
    let idle: Vec<f64> = (0..scene.places.len()).map(|place| idle_ns(scene, place, waits)).collect();
    let mut analysis = Analysis {
        withheld: seen.withheld(profile),
        not_looked_for: not_looked_for(profile),
        idle_s: idle.iter().sum::<f64>() / 1e9,
        ..Analysis::default()
    };
    if !analysis.withheld.is_empty() {
        return analysis;
    }
    findings.retain(|finding| finding.gain_ns > 0.0);
    let mut targets: Vec<Target> =
        findings.iter().map(|finding| target(scene, finding, &seen, idle[finding.place])).collect();
    targets.sort_by(|a, b| {
        b.gain_at_most
            .value
            .total_cmp(&a.gain_at_most.value)
            .then(b.claims_s.total_cmp(&a.claims_s))
            .then_with(|| a.id.cmp(&b.id))
    });
    for (at, target) in targets.iter_mut().enumerate() {
        target.rank = at as u32 + 1;
    }
    analysis.targets = targets;
    analysis
}

/// Blocked time that nothing harmful explains.
fn idle_ns(scene: &Scene<'_>, place: usize, waits: &Waits) -> f64 {
    let harmful: f64 = scene.places[place]
        .waits
        .iter()
        .zip(&waits[place])
        .filter(|(_, class)| !matches!(class, WaitFor::Idle | WaitFor::Cpu))
        .map(|(row, _)| row.ns)
        .sum();
    (scene.places[place].container.ledger.blocked_ns() as f64 - harmful).max(0.0)
}

fn target(scene: &Scene<'_>, finding: &Finding, seen: &Seen, idle_ns: f64) -> Target {
    let profile = scene.profile;
    let container = scene.places[finding.place].container;
    let function = finding.blame.and_then(|blame| scene.functions.get(blame.0 as usize));
    let path = finding.stack.zip(finding.blame).map(|(stack, blame)| scene.path(stack, blame)).unwrap_or_default();
    let frames: Vec<String> = path
        .iter()
        .filter_map(|id| profile.stacks.frame_of(*id))
        .map(|frame| profile.stacks.text_of(frame.function).to_owned())
        .collect();
    let line = path.last().and_then(|id| profile.stacks.frame_of(*id)).map(|frame| frame.line).filter(|line| *line > 0);
    let about = finding.about.as_deref().unwrap_or_default();
    let blamed = finding.blame.map(|blame| name_of(scene, blame)).unwrap_or_default();
    // Of two functions that wait alike, another may be the first in the next window.
    let told_apart_by = if finding.kind.is_of_the_container() { "" } else { blamed.as_str() };
    let amount = |ns: f64| Amount { value: ns / scene.window_ns, unit: finding.kind.unit() };
    let wanted_ns = (container.ledger.thread_ns as f64 - idle_ns).max(finding.claims_ns).max(1.0);
    let mut confidence = seen.confidence(finding.basis, container);
    let guess = function.is_some_and(|function| !function.own) || finding.kind == Kind::NetworkWait && about.is_empty();
    if guess {
        confidence = confidence.min(Confidence::Medium);
    }
    Target {
        id: id(finding.kind, &[&container.runtime, identity(container), told_apart_by, about]),
        rank: 0,
        container: container.name.clone(),
        kind: finding.kind,
        title: finding.title.clone(),
        blame: Blame {
            function: blamed,
            module: function.map(|function| function.module.clone()).unwrap_or_default(),
            line,
        },
        frames,
        claims_s: finding.claims_ns / 1e9,
        share: (finding.claims_ns / wanted_ns).clamp(0.0, 1.0),
        cost: amount(finding.claims_ns),
        gain_at_most: amount(finding.gain_ns.min(finding.claims_ns)),
        evidence: finding.evidence.clone(),
        remedy: finding.remedy.clone().unwrap_or_else(|| finding.kind.remedy().to_owned()),
        confidence,
        recheck: recheck::command(profile, container),
    }
}

/// What a container is called from window to window: its id changes with every start.
fn identity(container: &Container) -> &str {
    if container.name.is_empty() { &container.id } else { &container.name }
}

/// `kind-` and FNV-1a of the parts, as 8 digits.
fn id(kind: Kind, parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{}-{:08x}", kind.name(), (hash >> 32) ^ (hash & 0xffff_ffff))
}

fn not_looked_for(profile: &Profile) -> Vec<String> {
    let settings = &profile.settings;
    let mut missing = Vec::new();
    if !settings.on_cpu {
        missing.push("what the CPU time is spent on: on-CPU stacks were not recorded (--cpu)".to_owned());
    }
    if !settings.off_cpu {
        missing.push("locks, disk, network: off-CPU stacks were not recorded (--offcpu)".to_owned());
    }
    if !settings.syscalls {
        missing.push("failing, small, vain and needless calls: system calls were not counted (--syscalls)".to_owned());
    }
    missing
}

/// Shares of what happened that were seen.
struct Seen {
    samples: f64,
    kept: u64,
    off_cpu: f64,
    /// Off-CPU time without a stack, in thread-seconds a second.
    unseen_off_cpu: f64,
    /// Named frames among those of on-CPU and of off-CPU stacks.
    names: (f64, f64),
}

impl Seen {
    fn of(profile: &Profile) -> Self {
        let coverage = &profile.coverage;
        let samples = &coverage.cpu_samples;
        let kept = samples.kept as f64;
        // Periods that an idle CPU slept through are no loss: what had to be seen is what the ledger says was used.
        let used_ns: f64 = profile.containers.iter().map(|container| container.ledger.cpu_ns() as f64).sum();
        let used = used_ns / profile.settings.sample_period_ns().max(1) as f64;
        let dropped = samples.lost.iter().filter(|(reason, _)| reason.as_str() != "not_run").map(|(_, n)| *n as f64);
        let wanted = if used < MANY_SAMPLES as f64 { kept } else { used.max(kept) } + dropped.sum::<f64>();
        let off_cpu = &coverage.off_cpu;
        let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 };
        Self {
            samples: share(kept, wanted),
            kept: samples.kept,
            off_cpu: share(off_cpu.with_stack_ns as f64, off_cpu.time_ns as f64),
            unseen_off_cpu: off_cpu.time_ns.saturating_sub(off_cpu.with_stack_ns) as f64
                / profile.window.duration_ns.max(1) as f64,
            names: (
                coverage.time.on_cpu.frames.share().unwrap_or(coverage.symbols_resolved()),
                coverage.time.off_cpu.frames.share().unwrap_or(coverage.symbols_resolved()),
            ),
        }
    }

    fn withheld(&self, profile: &Profile) -> Vec<String> {
        let mut why = Vec::new();
        if profile.window.duration_ns < SHORTEST_WINDOW_NS {
            why.push("the window is shorter than a second: record longer (-d 10s)".to_owned());
        }
        if profile.settings.on_cpu && self.samples < LEAST_SEEN {
            why.push(format!(
                "{:.0} % of the on-CPU samples were lost: what is first may be what was not seen; see the losses above",
                100.0 * (1.0 - self.samples)
            ));
        }
        // So little that no target could hide in it is not worth a stack's being missed: a busy program hardly waits at all.
        if profile.settings.off_cpu && self.off_cpu < LEAST_SEEN && self.unseen_off_cpu >= LEAST_CORES {
            why.push(format!(
                "{:.0} % of the off-CPU time has no stack; see the losses above",
                100.0 * (1.0 - self.off_cpu)
            ));
        }
        if !profile.settings.on_cpu
            && !profile.settings.off_cpu
            && profile.on_cpu.is_empty()
            && profile.off_cpu.is_empty()
        {
            why.push("no stacks were recorded: record with --cpu and --offcpu".to_owned());
        }
        why
    }

    fn confidence(&self, basis: Basis, container: &Container) -> Confidence {
        let whole = |kind: &KindCoverage| kind.stacks.share().unwrap_or_else(|| container.stacks_complete());
        let (seen, samples) = match basis {
            Basis::Ledger => return Confidence::High,
            Basis::CpuSamples(samples) => {
                let whole = whole(&container.time.on_cpu);
                (self.samples.min(whole).min(self.names.0), samples.min(self.kept))
            }
            Basis::OffCpuStacks(waits) => {
                let whole = whole(&container.time.off_cpu);
                (self.off_cpu.min(whole).min(self.names.1), waits)
            }
        };
        if seen >= 0.9 && samples >= MANY_SAMPLES {
            Confidence::High
        } else if seen >= 0.7 && samples >= FEW_SAMPLES {
            Confidence::Medium
        } else {
            Confidence::Low
        }
    }
}

impl Unit {
    /// After a figure: `cores`, or `thread-seconds a second`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::SecondsPerSecond => "thread-seconds/s",
        }
    }
}
