//! How a container's load varies. In: its exact CPU time so far, read about once a second. Out: CPU time by second.

use std::time::{Duration, Instant};

use profiler_ebpf::Part;
use rustc_hash::FxHashMap;

use crate::kernel::RawWindow;

/// How often it is read.
const EVERY: Duration = Duration::from_secs(1);

/// Seconds that are told apart: an hour.
const LONGEST: usize = 3600;

/// CPU time by container index.
#[derive(Debug, Default)]
pub struct Seconds {
    begun: Option<Instant>,
    /// In the window that runs, at the last reading.
    last: FxHashMap<u32, u64>,
    /// Since the last reading, in windows that have ended.
    ended: FxHashMap<u32, u64>,
    series: FxHashMap<u32, Vec<u64>>,
    count: usize,
}

impl Seconds {
    /// Whether it is time to read.
    pub fn due(&self) -> bool {
        self.begun.is_none_or(|begun| begun.elapsed() >= EVERY) && self.count < LONGEST
    }

    /// Whether enough has gone by since the last reading for another at the end.
    pub fn due_at_end(&self) -> bool {
        self.begun.is_some_and(|begun| begun.elapsed() >= EVERY / 2) && self.count < LONGEST
    }

    /// The CPU time of the window that runs, in nanoseconds by container.
    pub fn read(&mut self, now: Instant, cpu_ns: &FxHashMap<u32, u64>) {
        let length = self.begun.replace(now).map(|begun| now.duration_since(begun).as_secs_f64());
        let ended = std::mem::take(&mut self.ended);
        let last = std::mem::replace(&mut self.last, cpu_ns.clone());
        let Some(length) = length.filter(|length| *length > 0.0) else { return };
        let of = |sums: &FxHashMap<u32, u64>, container| sums.get(container).copied().unwrap_or(0);
        for container in cpu_ns.keys().chain(ended.keys()) {
            let series = self.series.entry(*container).or_default();
            if series.len() > self.count {
                continue;
            }
            // Who was not there before used nothing.
            series.resize(self.count, 0);
            let used = of(cpu_ns, container).saturating_sub(of(&last, container)) + of(&ended, container);
            // Readings come a little early or late.
            series.push((used as f64 / length) as u64);
        }
        self.count += 1;
    }

    /// A window has ended: counting begins anew.
    pub fn end_window(&mut self, window: &RawWindow) {
        for (container, account) in &window.ledgers {
            let before = self.last.get(container).copied().unwrap_or(0);
            *self.ended.entry(*container).or_default() += account.parts_ns[Part::Cpu as usize].saturating_sub(before);
        }
        self.last.clear();
    }

    /// Takes the series, all equally long.
    pub fn take(&mut self) -> FxHashMap<u32, Vec<u64>> {
        let count = std::mem::take(&mut self.count);
        let mut series = std::mem::take(&mut self.series);
        for seconds in series.values_mut() {
            seconds.resize(count, 0);
        }
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::LedgerAccount;

    #[test]
    fn seconds_hold_what_was_used_in_them_across_the_end_of_a_window() {
        let mut seconds = Seconds::default();
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let sums = |ns: u64| FxHashMap::from_iter([(5, ns)]);
        seconds.read(at(0), &sums(10));
        seconds.read(at(1), &sums(110));
        let mut account = LedgerAccount::default();
        account.parts_ns[Part::Cpu as usize] = 150;
        let mut window = RawWindow::default();
        window.ledgers.insert(5, account);
        seconds.end_window(&window);
        seconds.read(at(2), &sums(30));
        // Twice as late: half as much in each second.
        seconds.read(at(4), &FxHashMap::from_iter([(5, 50), (6, 200)]));
        assert_eq!(seconds.take(), FxHashMap::from_iter([(5, vec![100, 70, 10]), (6, vec![0, 0, 100])]));
        assert_eq!(seconds.take(), FxHashMap::default());
    }
}
