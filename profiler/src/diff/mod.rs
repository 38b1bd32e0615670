//! Two recordings in; what moved between them, beyond what chance moves, and a verdict out.
//!
//! **Cost.** Everything is a cost per piece of work where the work is told, else per second. CPU time is the ledger's,
//! which is exact; functions are sampled.
//!
//! **Noise.** Each recording is split into its seconds. Their spread says how far the mean of as many seconds can be off:
//! the bound is 2.6 standard errors of both recordings together (99 %), and never below [`LEAST_NOISE`], because two runs of
//! the same program differ by more than the seconds within one: other memory layout, other neighbours, other frequency.
//!
//! A second's CPU time is known twice: from the ledger, which is exact but credits a thread that runs on and on only when it
//! is switched, and from samples, which are in time but few. Each adds its own error to the spread of the load, never takes
//! any away, so that the smaller of the two is the better one. Recordings without seconds have the spread of their samples'
//! counts. Where the work is told, a second in which little was done makes it no dearer, and is left out of the spread: load
//! begins after the recording does, and ends before it.

pub mod check;
pub mod functions;
pub mod picture;
pub mod text;
pub mod work;

use serde::Serialize;

use crate::profile::Profile;
use work::Work;

/// Standard errors that chance stays within 99 times of 100.
pub const WIDTH: f64 = 2.6;

/// Differences between two runs of the same thing that no number of seconds averages out: twenty pairs of recordings of one
/// program at a fixed rate differed by 2 % (standard deviation; `cargo xtask verdicts`), 2.6 times that is 5 %.
pub const LEAST_NOISE: f64 = 0.05;

/// What work was done, and what a piece of it is called.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// In A.
    pub a: Option<Work>,
    /// In B.
    pub b: Option<Work>,
    /// `requests`.
    pub unit: String,
}

/// The comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What the verdict is about, first; then waits, throughput, latencies.
    pub metrics: Vec<Metric>,
    /// Functions whose own CPU cost moved, largest movement first.
    pub functions: Vec<functions::Moved>,
    /// The verdict on the first metric.
    pub verdict: Verdict,
    /// `cpu-seconds per 1000 requests`, or `cores`.
    pub unit: String,
}

/// A figure of both recordings.
#[derive(Debug, Clone, Serialize)]
pub struct Metric {
    /// As `--fail-if` names it.
    pub name: String,
    /// What it counts.
    pub unit: &'static str,
    /// In A.
    pub a: f64,
    /// In B.
    pub b: f64,
    /// Share of A by which chance may move it.
    pub noise: f64,
}

impl Metric {
    /// Change against A, as a share; 0 where both are nothing.
    pub fn change(&self) -> f64 {
        if self.a.abs() > f64::EPSILON {
            self.b / self.a - 1.0
        } else if self.b.abs() > f64::EPSILON {
            f64::INFINITY
        } else {
            0.0
        }
    }

    /// Better, worse or the same, for a cost.
    pub fn verdict(&self) -> Verdict {
        let change = self.change();
        if change.abs() <= self.noise {
            Verdict::NoChange
        } else if change > 0.0 {
            Verdict::Worse
        } else {
            Verdict::Better
        }
    }
}

/// Whether B is better than A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It costs less.
    Better,
    /// It costs more.
    Worse,
    /// Nothing beyond the noise.
    NoChange,
}

impl Verdict {
    /// As a report says it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoChange => "no change",
        }
    }
}

impl Comparison {
    /// Compares the selected containers of two profiles.
    pub fn of(a: &Side<'_>, b: &Side<'_>, done: &Done) -> Self {
        let works = done.a.as_ref().zip(done.b.as_ref());
        let per = |side: &Side<'_>, work: Option<&Work>| work.map_or(side.window_s(), |work| work.done);
        let (per_a, per_b) = (per(a, works.map(|(a, _)| a)), per(b, works.map(|(_, b)| b)));
        let load = if works.is_some() { Load::Counted } else { Load::Unknown };
        let noise = WIDTH * (a.spread(load).powi(2) + b.spread(load).powi(2)).sqrt();
        let noise = noise.max(LEAST_NOISE);
        let singular = done.unit.strip_suffix('s').unwrap_or(&done.unit);
        let (name, unit) =
            if works.is_some() { (format!("cpu_per_{singular}"), "s") } else { ("cpu".to_owned(), "cores") };
        let cost = |name: String, unit, of: &dyn Fn(&Side<'_>) -> f64| Metric {
            name,
            unit,
            a: of(a) / per_a,
            b: of(b) / per_b,
            noise,
        };
        let mut metrics = vec![cost(name, unit, &|side: &Side<'_>| side.cpu_s())];
        let suffix = if works.is_some() { format!("_per_{singular}") } else { String::new() };
        let wait_unit = if works.is_some() { "s" } else { "thread-s/s" };
        for (part, of) in PARTS {
            let metric = cost(format!("{part}{suffix}"), wait_unit, &|side: &Side<'_>| side.ledger_s(of));
            // What is next to nothing in both only flickers.
            let least = 0.01 * (a.cpu_s() / per_a).max(b.cpu_s() / per_b);
            if metric.a.max(metric.b) > least {
                metrics.push(metric);
            }
        }
        if let Some((work_a, work_b)) = works {
            let rate = |side: &Side<'_>, work: &Work| work.done / side.window_s();
            metrics.push(Metric {
                name: format!("{}_per_second", done.unit),
                unit: "1/s",
                a: rate(a, work_a),
                b: rate(b, work_b),
                noise: LEAST_NOISE,
            });
        }
        metrics.extend(latencies(done));
        let verdict = metrics.first().map_or(Verdict::NoChange, Metric::verdict);
        Self {
            verdict,
            functions: functions::moved(a, b, (per_a, per_b)),
            unit: if works.is_some() { format!("CPU seconds per {singular}") } else { "cores".to_owned() },
            metrics,
        }
    }

    /// A figure by name; `p95` and the like are latencies of B.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

fn latencies(done: &Done) -> Vec<Metric> {
    let Some(b) = &done.b else { return Vec::new() };
    let of_a = |p: f64| done.a.as_ref().and_then(|a| a.percentile_ms(p));
    let latency = |(p, ms): &(f64, f64)| Metric {
        name: format!("p{p}"),
        unit: "s",
        a: of_a(*p).unwrap_or(*ms) / 1e3,
        b: ms / 1e3,
        // Nobody knows the spread of a percentile from one number; a tenth is what load tools repeat to.
        noise: 0.1,
    };
    let mut metrics: Vec<Metric> = b.percentiles_ms.iter().map(latency).collect();
    let share = |work: &Work| if work.done > 0.0 { work.failed / work.done } else { 0.0 };
    metrics.push(Metric {
        name: "error_share".to_owned(),
        unit: "",
        a: done.a.as_ref().map_or(0.0, share),
        b: share(b),
        noise: LEAST_NOISE,
    });
    metrics
}

type PartOf = fn(&crate::profile::Ledger) -> u64;

const PARTS: [(&str, PartOf); 5] = [
    ("throttled", |ledger| ledger.throttled_ns),
    ("runnable_other", |ledger| ledger.runnable_other_ns),
    ("runnable_self", |ledger| ledger.runnable_self_ns),
    ("blocked_lock", |ledger| ledger.blocked_lock_ns),
    ("blocked_disk", |ledger| ledger.blocked_disk_ns),
];

/// One recording, and which of its containers are compared.
#[derive(Debug)]
pub struct Side<'p> {
    /// The profile.
    pub profile: &'p Profile,
    /// The containers.
    pub selected: crate::profile::Selected,
}

impl Side<'_> {
    /// Length of the window in seconds, never 0.
    pub fn window_s(&self) -> f64 {
        (self.profile.window.duration_ns as f64 / 1e9).max(1e-9)
    }

    /// Seconds of a part of the ledger.
    fn ledger_s(&self, part: PartOf) -> f64 {
        let containers = self.profile.containers.iter().enumerate();
        let selected = containers.filter(|(at, _)| self.selected.contains(crate::profile::ContainerIndex(*at as u32)));
        selected.map(|(_, container)| part(&container.ledger) as f64 / 1e9).sum()
    }

    /// CPU seconds, exact.
    pub fn cpu_s(&self) -> f64 {
        self.ledger_s(crate::profile::Ledger::cpu_ns)
    }

    /// Samples of the selected containers.
    pub fn samples(&self) -> u64 {
        let selected = self.profile.on_cpu.iter().filter(|sample| self.selected.contains(sample.container));
        selected.fold(0, |sum, sample| sum.saturating_add(sample.count))
    }

    /// Standard error of the mean second, as a share of it.
    pub fn spread(&self, load: Load) -> f64 {
        let whole = (self.profile.window.duration_ns / 1_000_000_000) as usize;
        let samples = &self.profile.on_cpu_by_second;
        // Other containers' load is in the samples too; they say something of these only if these are most of it.
        let all: f64 = samples.iter().map(|n| *n as f64).sum();
        let by_samples = (self.samples() as f64 >= 0.5 * all)
            .then(|| load.standard_error(samples.iter().take(whole).map(|n| *n as f64).collect()));
        let by_ledger = load.standard_error(self.seconds());
        let least = by_samples.flatten().into_iter().chain(by_ledger).reduce(f64::min);
        least.unwrap_or_else(|| 1.0 / (self.samples().max(1) as f64).sqrt())
    }

    /// CPU time of the selected containers by second.
    fn seconds(&self) -> Vec<f64> {
        let containers = self.profile.containers.iter().enumerate();
        let selected = containers.filter(|(at, _)| self.selected.contains(crate::profile::ContainerIndex(*at as u32)));
        let mut sums: Vec<f64> = Vec::new();
        for (_, container) in selected {
            sums.resize(sums.len().max(container.cpu_ns_by_second.len()), 0.0);
            for (sum, ns) in sums.iter_mut().zip(&container.cpu_ns_by_second) {
                *sum += *ns as f64;
            }
        }
        sums
    }
}

/// Whether it is known how much work the load was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Then a second without load makes the work no dearer: seconds with less than half of the usual are left out.
    Counted,
    /// Then every second counts.
    Unknown,
}

impl Load {
    fn standard_error(self, mut seconds: Vec<f64>) -> Option<f64> {
        if self == Self::Counted {
            let mut sorted = seconds.clone();
            sorted.sort_by(f64::total_cmp);
            // The upper median: half of a recording may lie before the load and behind it.
            let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
            seconds.retain(|second| *second >= usual / 2.0);
        }
        standard_error(&seconds)
    }
}

/// Seconds below which their spread says nothing.
const LEAST_SECONDS: usize = 3;

/// Standard error of the mean, as a share of it.
fn standard_error(seconds: &[f64]) -> Option<f64> {
    let n = seconds.len() as f64;
    let mean = seconds.iter().sum::<f64>() / n;
    if seconds.len() < LEAST_SECONDS || mean <= 0.0 {
        return None;
    }
    let variance = seconds.iter().map(|second| (second - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some(variance.sqrt() / n.sqrt() / mean)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;
