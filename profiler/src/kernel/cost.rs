//! What the kernel programs themselves cost. The kernel counts their run time only while it is told to, which makes every
//! run a little dearer, so it is told to for a tenth of the time and the figure is scaled up: an estimate. Telling it takes
//! CAP_SYS_ADMIN; where the host has it on for good (`kernel.bpf_stats_enabled`) nobody needs to, and the figure is exact.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::Program};

use super::sys::{self, ProgramStatistics};

/// How often, and for how long, run times are counted. Each time that it begins and ends, the kernel rewrites its own code on all
/// CPUs: a fifth of a millisecond.
const EVERY: Duration = Duration::from_millis(2500);
const FOR: Duration = Duration::from_millis(250);

/// Whether the host counts at all times.
const ALWAYS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Run times so far.
#[derive(Default)]
pub struct Costs {
    /// Whether the host was counting by itself when the window began.
    always: bool,
    counting: Option<(OwnedFd, Instant)>,
    last_began: Option<Instant>,
    counted: Duration,
    window_began: Option<Instant>,
    at_window_start: BTreeMap<String, ProgramStatistics>,
}

/// What the programs cost in a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowCosts {
    /// Estimated run time by program in nanoseconds; `None` where the kernel does not count.
    pub run_time_ns: Option<BTreeMap<String, u64>>,
    /// Runs that the kernel skipped, by program.
    pub recursion_misses: BTreeMap<String, u64>,
}

impl Costs {
    /// Switches counting on and off as time passes; called often.
    pub fn tick(&mut self) {
        if self.always {
            return;
        }
        let now = Instant::now();
        match &self.counting {
            Some((_, began)) if now.duration_since(*began) >= FOR => self.pause(now),
            None if self.last_began.is_none_or(|began| now.duration_since(began) >= EVERY) => {
                self.last_began = Some(now);
                match sys::enable_run_time_statistics() {
                    Ok(statistics) => self.counting = Some((statistics, now)),
                    Err(error) => tracing::debug!("the kernel does not count the programs' run time: {error}"),
                }
            }
            _ => {}
        }
    }

    fn pause(&mut self, now: Instant) {
        if let Some((_, began)) = self.counting.take() {
            self.counted += now.duration_since(began);
        }
    }

    /// Ends the window and begins the next.
    pub fn end_window(&mut self, ebpf: &Ebpf) -> WindowCosts {
        let now = Instant::now();
        self.pause(now);
        self.last_began = None;
        let statistics = statistics(ebpf);
        let length = self.window_began.map_or(Duration::ZERO, |began| now.duration_since(began));
        let always = std::fs::read_to_string(ALWAYS).is_ok_and(|text| text.trim() == "1");
        // Switched on or off within the window, it says nothing of all of it.
        let scale = match (std::mem::replace(&mut self.always, always), always) {
            (true, true) => Some(1.0),
            (false, false) => scale(length, self.counted),
            _ => None,
        };
        let costs = growth(&self.at_window_start, &statistics, scale);
        self.at_window_start = statistics;
        self.window_began = Some(now);
        self.counted = Duration::ZERO;
        costs
    }
}

/// By how much longer the window was than the time in which run times were counted, if they were.
fn scale(length: Duration, counted: Duration) -> Option<f64> {
    (!counted.is_zero()).then(|| length.as_secs_f64() / counted.as_secs_f64())
}

/// What was added in the window, with run times scaled up to all of it.
fn growth(
    before: &BTreeMap<String, ProgramStatistics>,
    now: &BTreeMap<String, ProgramStatistics>,
    scale: Option<f64>,
) -> WindowCosts {
    let mut costs = WindowCosts { run_time_ns: scale.map(|_| BTreeMap::new()), ..WindowCosts::default() };
    for (program, now) in now {
        let before = before.get(program).copied().unwrap_or_default();
        if let (Some(scale), Some(times)) = (scale, &mut costs.run_time_ns) {
            let counted = now.run_time_ns.saturating_sub(before.run_time_ns);
            times.insert(program.clone(), (counted as f64 * scale) as u64);
        }
        let misses = now.recursion_misses.saturating_sub(before.recursion_misses);
        if misses > 0 {
            costs.recursion_misses.insert(program.clone(), misses);
        }
    }
    costs
}

fn statistics(ebpf: &Ebpf) -> BTreeMap<String, ProgramStatistics> {
    let mut all = BTreeMap::new();
    for (name, program) in ebpf.programs() {
        let fd = match program {
            Program::BtfTracePoint(program) => program.fd(),
            Program::PerfEvent(program) => program.fd(),
            Program::Iter(program) => program.fd(),
            _ => continue,
        };
        let Ok(fd) = fd else { continue };
        match sys::program_statistics(std::os::fd::AsFd::as_fd(fd)) {
            Ok(statistics) => {
                all.insert(name.to_owned(), statistics);
            }
            Err(error) => tracing::debug!("no statistics of {name}: {error}"),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(run_time_ns: u64, recursion_misses: u64) -> ProgramStatistics {
        ProgramStatistics { run_time_ns, runs: 1, recursion_misses }
    }

    fn programs(all: &[(&str, ProgramStatistics)]) -> BTreeMap<String, ProgramStatistics> {
        all.iter().map(|(name, statistics)| ((*name).to_owned(), *statistics)).collect()
    }

    #[test]
    fn a_tenth_of_the_time_counted_is_a_tenth_of_the_cost() {
        let ten = scale(Duration::from_secs(10), Duration::from_secs(1));
        let before = programs(&[("sched_switch", counted(5_000, 2))]);
        let now = programs(&[("sched_switch", counted(7_000, 2)), ("sys_enter", counted(300, 4))]);
        let costs = growth(&before, &now, ten);
        let times = [("sched_switch".to_owned(), 20_000), ("sys_enter".to_owned(), 3_000)];
        assert_eq!(costs.run_time_ns, Some(times.into()));
        assert_eq!(costs.recursion_misses, [("sys_enter".to_owned(), 4)].into());
    }

    #[test]
    fn where_nothing_was_counted_the_cost_is_unknown_and_not_nought() {
        assert_eq!(scale(Duration::from_secs(10), Duration::ZERO), None);
        let costs = growth(&BTreeMap::new(), &programs(&[("cpu_clock", counted(0, 7))]), None);
        assert_eq!(costs.run_time_ns, None);
        assert_eq!(costs.recursion_misses, [("cpu_clock".to_owned(), 7)].into());
    }
}
