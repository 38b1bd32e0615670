//! What the profiler says of itself and of the whole host. In: profiles, window by window, and the state of the daemon. Out:
//! counters of samples, losses and costs.

use std::collections::BTreeMap;

use super::{Exposition, Family, Kind, Value};
use crate::{
    daemon::push::PushFigures,
    profile::Profile,
    target::{self, Amount},
};

/// Sums since the daemon began.
#[derive(Debug, Default)]
pub struct Own {
    windows: u64,
    steal_ns: u64,
    samples: u64,
    samples_lost: BTreeMap<String, u64>,
    stacks_incomplete: BTreeMap<String, u64>,
    losses: BTreeMap<String, u64>,
    bpf_ns: BTreeMap<String, u64>,
}

/// What is read at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// CPU time of this process in nanoseconds.
    pub agent_cpu_ns: u64,
    /// Resident memory of this process in bytes.
    pub resident_bytes: u64,
    /// Entries and capacity of kernel maps, by map.
    pub maps: Vec<(&'static str, u64, u64)>,
    /// Series that were added up under `other`.
    pub series_dropped: u64,
    /// Windows in the history, and their bytes.
    pub history: (u64, u64),
    /// Windows dropped from the history before their time.
    pub history_dropped: u64,
    /// Windows that could not be written to disk.
    pub storage_failures: Option<u64>,
    /// Windows that were ready faster than they could be kept.
    pub windows_lost: u64,
    /// Requests and connections refused, by reason.
    pub requests_refused: Vec<(&'static str, u64)>,
    /// Whether the configuration was taken when it was last read.
    pub config_good: bool,
    /// Ranked targets: labels, cost, gain and rank.
    pub targets: Vec<TargetFigures>,
    /// What became of what is sent elsewhere.
    pub pushes: Vec<PushFigures>,
}

/// An optimization target's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetFigures {
    /// Whose.
    pub owner: super::labels::Owner,
    /// Stable id.
    pub target: String,
    /// Its kind.
    pub kind: target::Kind,
    /// Cost.
    pub cost: Amount,
    /// What could be won at most.
    pub gain: Amount,
    /// Place in the ranking, from 1.
    pub rank: u32,
}

fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Counter }
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Gauge }
}

impl Own {
    /// Adds a window.
    pub fn add(&mut self, profile: &Profile) {
        let coverage = &profile.coverage;
        self.windows += 1;
        self.steal_ns += profile.host.steal_ns;
        self.samples += coverage.cpu_samples.kept;
        let mut losses = coverage.other_losses.clone();
        for (name, n) in [("offcpu_gaps", coverage.off_cpu.lost), ("syscalls", coverage.syscalls.lost)] {
            *losses.entry(name.to_owned()).or_default() += n;
        }
        for (sums, window) in [
            (&mut self.samples_lost, &coverage.cpu_samples.lost),
            (&mut self.stacks_incomplete, &coverage.stacks.incomplete),
            (&mut self.losses, &losses),
            (&mut self.bpf_ns, &profile.overhead.programs),
        ] {
            for (name, n) in window {
                *sums.entry(name.clone()).or_default() += n;
            }
        }
    }

    /// Tells every figure.
    pub fn expose(&self, now: &Now, into: &mut dyn Exposition) {
        let mut one = |family: Family, value: f64| {
            into.family(family);
            into.sample(&[], Value::Number(value));
        };
        one(
            counter("profiler_host_steal_seconds_total", "CPU time that the hypervisor gave to other machines"),
            self.steal_ns as f64 / 1e9,
        );
        one(counter("profiler_windows_total", "Windows collected"), self.windows as f64);
        one(counter("profiler_samples_total", "On-CPU samples kept"), self.samples as f64);
        one(
            counter("profiler_agent_cpu_seconds_total", "CPU time of the profiler's own process"),
            now.agent_cpu_ns as f64 / 1e9,
        );
        one(
            gauge("profiler_agent_resident_bytes", "Resident memory of the profiler's own process"),
            now.resident_bytes as f64,
        );
        one(
            counter("profiler_series_dropped_total", "Series that were added up under container other"),
            now.series_dropped as f64,
        );
        one(gauge("profiler_history_windows", "Windows kept in memory"), now.history.0 as f64);
        one(gauge("profiler_history_bytes", "Memory of the windows kept"), now.history.1 as f64);
        one(
            counter("profiler_history_dropped_total", "Windows dropped before their time because memory was short"),
            now.history_dropped as f64,
        );
        one(
            counter("profiler_windows_lost_total", "Windows that were ready faster than they could be kept"),
            now.windows_lost as f64,
        );
        one(
            gauge("profiler_config_last_reload_successful", "Whether the configuration was taken when last read"),
            if now.config_good { 1.0 } else { 0.0 },
        );
        if let Some(failures) = now.storage_failures {
            one(
                counter("profiler_storage_failures_total", "Windows that could not be written to or removed from disk"),
                failures as f64,
            );
        }
        into.family(gauge("profiler_build_info", "The program's version"));
        into.sample(&[("version", env!("CARGO_PKG_VERSION"))], Value::Number(1.0));
        into.family(counter("profiler_http_requests_refused_total", "Requests and connections refused, by reason"));
        for (reason, n) in &now.requests_refused {
            into.sample(&[("reason", reason)], Value::Number(*n as f64));
        }
        self.expose_by_name(into);
        for (name, help, capacity) in [
            ("profiler_map_entries", "Entries in use in kernel maps", false),
            ("profiler_map_capacity", "Entries that kernel maps have room for", true),
        ] {
            into.family(gauge(name, help));
            for (map, entries, most) in &now.maps {
                into.sample(&[("map", map)], Value::Number(if capacity { *most } else { *entries } as f64));
            }
        }
        expose_pushes(&now.pushes, into);
        expose_targets(&now.targets, into);
    }

    fn expose_by_name(&self, into: &mut dyn Exposition) {
        let families: [(Family, &str, &BTreeMap<String, u64>, f64); 4] = [
            (
                counter("profiler_samples_lost_total", "On-CPU samples that are missing, by reason"),
                "reason",
                &self.samples_lost,
                1.0,
            ),
            (
                counter("profiler_stacks_incomplete_total", "Samples whose user stack is not whole, by reason"),
                "reason",
                &self.stacks_incomplete,
                1.0,
            ),
            (counter("profiler_losses_total", "Everything else that was lost, by reason"), "reason", &self.losses, 1.0),
            (
                counter("profiler_bpf_run_seconds_total", "Run time of kernel programs, estimated from a tenth of it"),
                "program",
                &self.bpf_ns,
                1e9,
            ),
        ];
        for (family, label, sums, unit) in families {
            into.family(family);
            for (name, n) in sums {
                into.sample(&[(label, name)], Value::Number(*n as f64 / unit));
            }
        }
    }
}

type PushFigure = fn(&PushFigures) -> u64;

fn expose_pushes(pushes: &[PushFigures], into: &mut dyn Exposition) {
    // Families of what nobody asked for would only be in the way.
    if pushes.is_empty() {
        return;
    }
    let families: [(Family, PushFigure); 5] = [
        (counter("profiler_push_windows_sent_total", "Windows that a destination has accepted"), |push| push.sent),
        (counter("profiler_push_failures_total", "Requests to a destination that failed"), |push| push.failures),
        (
            counter("profiler_push_profiles_rejected_total", "Profiles rejected out of requests that were accepted"),
            |push| push.rejected,
        ),
        (gauge("profiler_push_windows_waiting", "Windows that wait to be sent"), |push| push.waiting.0),
        (gauge("profiler_push_waiting_bytes", "Memory of the windows that wait to be sent"), |push| push.waiting.1),
    ];
    for (family, figure) in families {
        into.family(family);
        for push in pushes {
            into.sample(&[("destination", push.destination)], Value::Number(figure(push) as f64));
        }
    }
    into.family(counter("profiler_push_windows_dropped_total", "Windows that were never sent, by reason"));
    for push in pushes {
        for (reason, windows) in &push.dropped {
            into.sample(&[("destination", push.destination), ("reason", reason)], Value::Number(*windows as f64));
        }
    }
}

type Figure = fn(&TargetFigures) -> (f64, &'static str);

fn expose_targets(targets: &[TargetFigures], into: &mut dyn Exposition) {
    let families: [(&'static str, &'static str, Figure); 3] = [
        ("profiler_optimization_target_cost", "What an optimization target costs", |target| {
            (target.cost.value, target.cost.unit.name())
        }),
        ("profiler_optimization_target_gain", "What could be won from a target at most", |target| {
            (target.gain.value, target.gain.unit.name())
        }),
        ("profiler_optimization_target_rank", "Place of a target, 1 for the most to win", |target| {
            (f64::from(target.rank), "")
        }),
    ];
    for (name, help, figure) in families {
        into.family(gauge(name, help));
        for target in targets {
            let (value, unit) = figure(target);
            let owner = target.owner.with(("target", &target.target), ("kind", target.kind.name()));
            let labels: Vec<(&str, &str)> = owner.into_iter().chain([("unit", unit)]).collect();
            into.sample(&labels, Value::Number(value));
        }
    }
}
