//! What a workload measured of itself: clocks and the scheduler's own accounting. In: the running process. Out: the
//! JSON line that a test compares the profiler with.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

/// A moment by both clocks that matter: the workload's own and the recording's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { monotonic_ns: monotonic_ns(), unix_ns: clock_ns(ClockId::Realtime) }
    }
}

/// One line of `/proc/PID/task/TID/schedstat`: exact while the thread is off the CPU, up to a tick old while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Schedstat {
    /// Time on a CPU.
    pub exec_ns: u64,
    /// Time runnable without a CPU.
    pub run_delay_ns: u64,
    /// Times it was given a CPU.
    pub slices: u64,
}

impl Schedstat {
    /// Parses the three figures of a schedstat file.
    pub fn parse(text: &str) -> Result<Self> {
        let figures = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()
            .with_context(|| format!("schedstat holds no three figures but {text:?}"))?;
        match figures[..] {
            [exec_ns, run_delay_ns, slices] => Ok(Self { exec_ns, run_delay_ns, slices }),
            _ => anyhow::bail!("schedstat holds no three figures but {text:?}"),
        }
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            exec_ns: self.exec_ns.saturating_sub(earlier.exec_ns),
            run_delay_ns: self.run_delay_ns.saturating_sub(earlier.run_delay_ns),
            slices: self.slices.saturating_sub(earlier.slices),
        }
    }
}

/// One thread of the workload, over its measured run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ThreadTruth {
    /// Thread id, in the workload's own pid namespace.
    pub tid: u32,
    /// Name, as the kernel keeps it (at most 15 characters).
    pub name: String,
    /// What the scheduler accounted to it.
    #[serde(flatten)]
    pub schedstat: Schedstat,
}

/// Schedstat of every thread of this process by thread id.
pub fn threads() -> Result<BTreeMap<u32, ThreadTruth>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").context("cannot list the threads of this process")? {
        let directory = entry?.path();
        let Some(tid) = directory.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // A thread may end between the listing and the reading; then it is not one of the parked workers.
        let (Ok(schedstat), Ok(name)) =
            (fs::read_to_string(directory.join("schedstat")), fs::read_to_string(directory.join("comm")))
        else {
            continue;
        };
        let schedstat = Schedstat::parse(&schedstat)?;
        threads.insert(tid, ThreadTruth { tid, name: name.trim_end().to_owned(), schedstat });
    }
    Ok(threads)
}

/// Figures of the CPU controller's `cpu.stat` of this process' cgroup (v2, else v1), by name; empty where there is none.
pub fn cgroup_cpu_stat() -> BTreeMap<String, u64> {
    let Ok(membership) = fs::read_to_string("/proc/self/cgroup") else { return BTreeMap::new() };
    membership
        .lines()
        .find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let roots: &[&str] = match controllers {
                "" => &["/sys/fs/cgroup"],
                _ if controllers.split(',').any(|name| name == "cpu") => {
                    &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
                }
                _ => &[],
            };
            // Inside a container the path may be the host's while the file lies at the root of what is mounted.
            roots
                .iter()
                .flat_map(|root| [format!("{root}{path}/cpu.stat"), format!("{root}/cpu.stat")])
                .find_map(|file| fs::read_to_string(file).ok())
                .filter(|text| text.contains("nr_throttled"))
        })
        .map(|text| {
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect()
        })
        .unwrap_or_default()
}

/// The workload's answer. Its own figures stand beside these, under their own names.
#[derive(Debug, Clone, Serialize)]
pub struct Truth<D> {
    /// Name of the workload.
    pub workload: &'static str,
    /// Process id, in the workload's own pid namespace.
    pub pid: u32,
    /// When the work began.
    pub begin: Moment,
    /// When the work had ended.
    pub end: Moment,
    /// CPU time of all threads, from before the work to after it.
    pub exec_ns: u64,
    /// Runnable time of all threads, throttled time included, from before the work to after it.
    pub run_delay_ns: u64,
    /// The same by thread; those that were alive both before and after the work.
    pub threads: Vec<ThreadTruth>,
    /// What only this workload knows.
    #[serde(flatten)]
    pub details: D,
}

/// The value below which a share `q` (0 to 1) of `sorted` lies; 0 when there are none.
pub fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = ((sorted.len() as f64 * q).ceil() as usize).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_has_three_figures() -> Result<()> {
        assert_eq!(Schedstat::parse("7 8 9\n")?, Schedstat { exec_ns: 7, run_delay_ns: 8, slices: 9 });
        assert!(Schedstat::parse("7 8").is_err());
        assert!(Schedstat::parse("a b c").is_err());
        Ok(())
    }

    #[test]
    fn quantiles_are_the_smallest_value_that_covers_the_share() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&values, 0.5), 50);
        assert_eq!(quantile(&values, 0.99), 99);
        assert_eq!(quantile(&values, 1.0), 100);
        assert_eq!(quantile(&[], 0.5), 0);
    }

    #[test]
    fn cpu_time_by_clock_is_within_what_the_scheduler_accounts() -> Result<()> {
        let begin = thread_cpu_ns();
        crate::path::spinner_enter(3, monotonic_ns() + 30_000_000);
        let by_clock = thread_cpu_ns() - begin;
        // Giving the CPU up brings schedstat up to date.
        std::thread::sleep(std::time::Duration::from_millis(1));
        let by_scheduler = Schedstat::parse(&fs::read_to_string("/proc/thread-self/schedstat")?)?.exec_ns;
        assert!(by_scheduler >= by_clock, "{by_scheduler} < {by_clock}");
        Ok(())
    }
}
