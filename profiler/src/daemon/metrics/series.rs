//! Windows added up by container. In: profiles and a bound on the number of series. Out: counters that never go backwards
//! while they are exposed.
//!
//! Containers with the same labels are one series: one that was restarted goes on counting where it left off. A series that
//! does not get in under the bound is counted, and added up under `container="other"` for as long as it lives, so that
//! neither it nor `other` ever goes backwards. The text formats have a bound of their own, in lines, and an `other` of their
//! own for the same reason.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Exposition, Family, Kind, Value, counts::Counts, labels::Owner, text::HISTOGRAM_LINES};
use crate::profile::{Container, Errno, Ledger, OffCpuReason, Pressure, Profile};

/// Series that every container has besides its syscalls.
const BASIC_SERIES: usize = 28;

/// How long a container counts as living without another window: a collection that fails makes none. Windows are a minute
/// at most.
const STALLED: Duration = Duration::from_secs(150);

/// Lines that those take as text.
const BASIC_LINES: usize = BASIC_SERIES - 1 + HISTOGRAM_LINES;

/// Which of the two views an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Bounded by series.
    Whole,
    /// Bounded by lines as well.
    Text,
}

/// Where something is added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Admission {
    /// As a series of its own, in [`View::Whole`].
    own: bool,
    /// As a series of its own, in [`View::Text`].
    text: bool,
}

/// Counts of one container, or of `other`.
#[derive(Debug, Clone, Default)]
struct Totals {
    ledger: Ledger,
    run_queue: Counts,
    pressure: Pressure,
    /// By name, in its order.
    syscalls: Vec<(Box<str>, Calls)>,
}

/// Counts of one syscall.
#[derive(Debug, Clone, Default)]
struct Calls {
    admission: Admission,
    latency: Counts,
    total_ns: u64,
    /// By number, in its order: few calls fail in more than one way.
    errors: Vec<(Errno, Failed)>,
}

/// Counts of one way in which a syscall failed.
#[derive(Debug, Clone, Copy, Default)]
struct Failed {
    admission: Admission,
    count: u64,
}

#[derive(Debug)]
struct Series {
    admission: Admission,
    last_seen: Instant,
    totals: Totals,
}

/// All series.
#[derive(Debug)]
pub struct AllSeries {
    most: usize,
    linger: Duration,
    by_owner: BTreeMap<Owner, Series>,
    /// When the newest window ended: who was seen then is alive as far as is known.
    newest: Option<Instant>,
    /// What has no series of its own in [`View::Whole`].
    other: Totals,
    /// What has none in [`View::Text`].
    text_other: Totals,
    count: usize,
    lines: usize,
    dropped: u64,
}

impl AllSeries {
    /// None yet; `most` at a time, and a dead container's stay for `linger`.
    pub fn new(most: usize, linger: Duration) -> Self {
        Self {
            most,
            linger,
            by_owner: BTreeMap::new(),
            newest: None,
            other: Totals::default(),
            text_other: Totals::default(),
            count: 0,
            lines: 0,
            dropped: 0,
        }
    }

    /// Other bounds from now on: what is exposed already stays.
    pub fn set(&mut self, most: usize, linger: Duration) {
        (self.most, self.linger) = (most, linger);
    }

    /// Series exposed as their own.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bound.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Series that were added to `other` instead.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds a window.
    pub fn add(&mut self, profile: &Profile, now: Instant) {
        self.newest = Some(now);
        // Pressure is of the window: with several containers of the same labels the last one's.
        for container in &profile.containers {
            self.add_container(container, now);
        }
        self.forget(now);
    }

    /// Forgets series whose container has been dead for long enough: since the end of the last window in which it lived.
    /// Between two windows all are alive that the first one had.
    pub fn forget(&mut self, now: Instant) {
        let (linger, newest) = (self.linger, self.newest);
        let lives = |last_seen| newest == Some(last_seen) && now.saturating_duration_since(last_seen) <= STALLED;
        let (mut series, mut lines) = (0, 0);
        self.by_owner.retain(|_, one| {
            let stays = lives(one.last_seen) || now.saturating_duration_since(one.last_seen) <= linger;
            if !stays {
                let freed = one.size();
                series += freed.0;
                lines += freed.1;
            }
            stays
        });
        self.count = self.count.saturating_sub(series);
        self.lines = self.lines.saturating_sub(lines);
    }

    fn add_container(&mut self, container: &Container, now: Instant) {
        let owner = Owner::of(container);
        let mut room = Room {
            series: self.most.saturating_sub(self.count),
            lines: self.most.saturating_sub(self.lines),
            dropped: 0,
        };
        let before = (room.series, room.lines);
        let series = self.by_owner.entry(owner).or_insert_with(|| Series {
            admission: room.admit(BASIC_SERIES, BASIC_LINES, None),
            last_seen: now,
            totals: Totals::default(),
        });
        series.last_seen = now;
        let basic = series.admission;
        for (wanted, totals) in
            [(basic.own, &mut series.totals), (!basic.own, &mut self.other), (!basic.text, &mut self.text_other)]
        {
            if wanted {
                totals.add_basic(container);
            }
        }
        for syscall in &container.syscalls {
            let calls = series.totals.syscall(&syscall.name, || room.admit(1, HISTOGRAM_LINES, Some(basic)));
            let admission = calls.admission;
            if admission.own {
                calls.latency.add(&syscall.latency);
                calls.total_ns += syscall.total_ns;
            }
            for (wanted, totals) in [(!admission.own, &mut self.other), (!admission.text, &mut self.text_other)] {
                if wanted {
                    let calls = totals.syscall(&syscall.name, Admission::default);
                    calls.latency.add(&syscall.latency);
                    calls.total_ns += syscall.total_ns;
                }
            }
            for (errno, count) in &syscall.errors {
                let failed = calls.failed(*errno, || room.admit(1, 1, Some(admission)));
                let admission = failed.admission;
                if admission.own {
                    failed.count += count;
                }
                for (wanted, totals) in [(!admission.own, &mut self.other), (!admission.text, &mut self.text_other)] {
                    if wanted {
                        let calls = totals.syscall(&syscall.name, Admission::default);
                        calls.failed(*errno, Admission::default).count += count;
                    }
                }
            }
        }
        self.count += before.0 - room.series;
        self.lines += before.1 - room.lines;
        self.dropped += room.dropped;
    }

    /// Tells every figure.
    pub fn expose(&self, view: View, into: &mut dyn Exposition) {
        let other = Owner::other();
        let rest = match view {
            View::Whole => &self.other,
            View::Text => &self.text_other,
        };
        let has_rest = rest.ledger.thread_ns > 0 || !rest.syscalls.is_empty();
        let shown = |admission: Admission| match view {
            View::Whole => admission.own,
            View::Text => admission.text,
        };
        let own = || {
            self.by_owner
                .iter()
                .filter(|(_, series)| shown(series.admission))
                .map(|(owner, series)| (owner, &series.totals))
        };
        let all = || own().chain(has_rest.then_some((&other, rest)));
        for family in BASIC {
            into.family(family.0);
            for (owner, totals) in all() {
                (family.1)(owner, totals, into);
            }
        }
        into.family(PRESSURE);
        for (owner, totals) in own() {
            pressure(owner, totals, into);
        }
        let syscalls = || {
            let own = self.by_owner.iter().flat_map(|(owner, series)| {
                series.totals.syscalls.iter().map(move |(name, calls)| (owner, name, calls, shown(calls.admission)))
            });
            own.chain(rest.syscalls.iter().map(|(name, calls)| (&other, name, calls, true)))
        };
        into.family(SYSCALL_DURATION);
        for (owner, name, calls, _) in syscalls().filter(|(_, _, _, shown)| *shown) {
            let labels = owner.with(("syscall", name), ("", ""));
            into.sample(&labels, Value::Histogram(&calls.latency.histogram(), seconds(calls.total_ns)));
        }
        into.family(SYSCALL_ERRORS);
        for (owner, name, calls, _) in syscalls() {
            let of_rest = std::ptr::eq(owner, &raw const other);
            let mine = calls.errors.iter().filter(|(_, failed)| of_rest || shown(failed.admission));
            for (errno, failed) in mine {
                let errno = crate::profile::errno::name(*errno);
                into.sample(&owner.with(("syscall", name), ("errno", &errno)), Value::Number(failed.count as f64));
            }
        }
    }
}

/// How much more gets in.
struct Room {
    series: usize,
    lines: usize,
    dropped: u64,
}

impl Room {
    /// Lets something in where there is room for it, and where what it belongs to got in.
    fn admit(&mut self, series: usize, lines: usize, parent: Option<Admission>) -> Admission {
        let parent = parent.unwrap_or(Admission { own: true, text: true });
        let own = parent.own && self.series >= series;
        let text = own && parent.text && self.lines >= lines;
        if own {
            self.series -= series;
        } else {
            self.dropped += series as u64;
        }
        if text {
            self.lines -= lines;
        }
        Admission { own, text }
    }
}

impl Series {
    /// Series and lines that it takes.
    fn size(&self) -> (usize, usize) {
        let mut size = (0, 0);
        let mut add = |admission: Admission, series: usize, lines: usize| {
            size.0 += if admission.own { series } else { 0 };
            size.1 += if admission.text { lines } else { 0 };
        };
        add(self.admission, BASIC_SERIES, BASIC_LINES);
        for (_, calls) in &self.totals.syscalls {
            add(calls.admission, 1, HISTOGRAM_LINES);
            for (_, failed) in &calls.errors {
                add(failed.admission, 1, 1);
            }
        }
        size
    }
}

impl Totals {
    fn add_basic(&mut self, container: &Container) {
        self.ledger.merge(&container.ledger);
        self.run_queue.add(&container.run_queue.latency);
        self.pressure = container.pressure;
    }

    /// Those of a syscall, let in as `admit` says where they are new.
    fn syscall(&mut self, name: &str, admit: impl FnOnce() -> Admission) -> &mut Calls {
        let at = match self.syscalls.binary_search_by(|(other, _)| (**other).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.syscalls.insert(at, (name.into(), Calls { admission: admit(), ..Calls::default() }));
                at
            }
        };
        &mut self.syscalls[at].1
    }
}

impl Calls {
    /// Those that failed in one way, let in as `admit` says where they are new.
    fn failed(&mut self, errno: Errno, admit: impl FnOnce() -> Admission) -> &mut Failed {
        let at = match self.errors.binary_search_by_key(&errno, |(other, _)| *other) {
            Ok(at) => at,
            Err(at) => {
                self.errors.reserve_exact(1);
                self.errors.insert(at, (errno, Failed { admission: admit(), count: 0 }));
                at
            }
        };
        &mut self.errors[at].1
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

type Tell = fn(&Owner, &Totals, &mut dyn Exposition);

/// Families that every container has.
const BASIC: [(Family, Tell); 6] = [
    (
        Family {
            name: "profiler_cpu_seconds_total",
            help: "Time that threads ran on a CPU; the sum is exact, the split by mode follows the kernel's ticks",
            kind: Kind::Counter,
        },
        |owner, totals, into| {
            for (mode, ns) in [("user", totals.ledger.cpu_user_ns), ("kernel", totals.ledger.cpu_kernel_ns)] {
                into.sample(&owner.with(("mode", mode), ("", "")), Value::Number(seconds(ns)));
            }
        },
    ),
    (
        Family {
            name: "profiler_thread_seconds_total",
            help: "Thread-seconds by what the threads were doing; the states add up to their lifetime",
            kind: Kind::Counter,
        },
        |owner, totals, into| {
            let on_cpu = [("cpu_user", totals.ledger.cpu_user_ns), ("cpu_kernel", totals.ledger.cpu_kernel_ns)];
            let off_cpu = OffCpuReason::ALL.map(|reason| (state(reason), totals.ledger.reason_ns(reason)));
            for (state, ns) in on_cpu.into_iter().chain(off_cpu) {
                into.sample(&owner.with(("state", state), ("", "")), Value::Number(seconds(ns)));
            }
        },
    ),
    (
        Family {
            name: "profiler_run_queue_latency_seconds",
            help: "How long threads waited for a CPU each time they became runnable",
            kind: Kind::Histogram,
        },
        |owner, totals, into| {
            let sum = seconds(totals.ledger.runnable_ns());
            into.sample(&owner.with(("", ""), ("", "")), Value::Histogram(&totals.run_queue.histogram(), sum));
        },
    ),
    (
        Family {
            name: "profiler_context_switches_total",
            help: "Switches away from a thread that blocked (voluntary) or could have run on (involuntary)",
            kind: Kind::Counter,
        },
        |owner, totals, into| {
            let ledger = &totals.ledger;
            for (kind, n) in [("voluntary", ledger.voluntary_switches), ("involuntary", ledger.involuntary_switches)] {
                into.sample(&owner.with(("kind", kind), ("", "")), Value::Number(n as f64));
            }
        },
    ),
    (
        Family {
            name: "profiler_offcpu_seconds_total",
            help: "Thread-seconds off the CPU by reason",
            kind: Kind::Counter,
        },
        |owner, totals, into| {
            for reason in OffCpuReason::ALL {
                let labels = owner.with(("reason", reason.name()), ("", ""));
                into.sample(&labels, Value::Number(seconds(totals.ledger.reason_ns(reason))));
            }
        },
    ),
    (
        Family {
            name: "profiler_throttled_seconds_total",
            help: "Thread-seconds runnable but out of CPU quota",
            kind: Kind::Counter,
        },
        |owner, totals, into| {
            into.sample(&owner.with(("", ""), ("", "")), Value::Number(seconds(totals.ledger.throttled_ns)));
        },
    ),
];

const PRESSURE: Family = Family {
    name: "profiler_pressure_ratio",
    help: "Share of the last window in which some thread was stalled on the resource",
    kind: Kind::Gauge,
};

const SYSCALL_DURATION: Family =
    Family { name: "profiler_syscall_duration_seconds", help: "Latency of system calls", kind: Kind::Histogram };

const SYSCALL_ERRORS: Family =
    Family { name: "profiler_syscall_errors_total", help: "Failed system calls by errno", kind: Kind::Counter };

fn pressure(owner: &Owner, totals: &Totals, into: &mut dyn Exposition) {
    let pressure = totals.pressure;
    for (resource, share) in [("cpu", pressure.cpu), ("io", pressure.io), ("memory", pressure.memory)] {
        if let Some(share) = share {
            into.sample(&owner.with(("resource", resource), ("", "")), Value::Number(share));
        }
    }
}

/// The ledger's name of a reason.
fn state(reason: OffCpuReason) -> &'static str {
    match reason {
        OffCpuReason::Lock => "blocked_lock",
        OffCpuReason::Disk => "blocked_disk",
        OffCpuReason::Network => "blocked_network",
        OffCpuReason::Sleep => "blocked_sleep",
        OffCpuReason::Other => "blocked_other",
        OffCpuReason::RunnableSelf => "runnable_self",
        OffCpuReason::RunnableOther => "runnable_other",
        OffCpuReason::Throttled => "throttled",
    }
}

#[cfg(test)]
mod tests;
