//! The loads: two processes that pass a byte back and forth (every step is a switch), and a loop of one cheap call.

use anyhow::{Context, Result};

use crate::step::Step;

/// Round trips of the pipe, two switches each.
const ROUND_TRIPS: u64 = 100_000;
/// Calls of getppid.
const CALLS: u64 = 1_000_000;

/// How the loads are run.
#[derive(Clone, Copy)]
pub struct Loads {
    /// The CPU they are pinned to.
    pub cpu: u32,
    /// How often each runs.
    pub rounds: u32,
    /// How many times shorter each is: some tools cost a hundred microseconds a call.
    pub divisor: u64,
}

/// Wall time of one switch and of one call.
pub struct Walls {
    /// Nanoseconds from switch to switch, the two processes' own work included.
    pub switch_ns: f64,
    /// Nanoseconds from call to call.
    pub call_ns: f64,
}

impl Loads {
    /// Runs both; median of the rounds.
    pub fn run(&self) -> Result<Walls> {
        let switches = (0..self.rounds).map(|_| self.pipe()).collect::<Result<Vec<_>>>()?;
        let calls = (0..self.rounds).map(|_| self.calls()).collect::<Result<Vec<_>>>()?;
        Ok(Walls { switch_ns: median(switches), call_ns: median(calls) })
    }

    /// Runs the pipe once; nanoseconds a switch.
    pub fn pipe(&self) -> Result<f64> {
        Ok(self.perf(["sched", "pipe"], ROUND_TRIPS / self.divisor)? / 2.0)
    }

    /// Runs the calls once; nanoseconds a call.
    pub fn calls(&self) -> Result<f64> {
        self.perf(["syscall", "basic"], self.calls_a_round())
    }

    /// How many calls a round makes.
    pub fn calls_a_round(&self) -> u64 {
        CALLS / self.divisor
    }

    fn perf(&self, bench: [&str; 2], loops: u64) -> Result<f64> {
        let text = Step::new(format!("run perf bench {}", bench.join(" ")), "taskset")
            .args(["-c", &self.cpu.to_string(), "perf", "bench"])
            .args(bench)
            .args(["-l", &loops.to_string()])
            .read()?;
        nanoseconds_an_operation(&text).with_context(|| format!("perf bench printed no usecs/op:\n{text}"))
    }
}

fn nanoseconds_an_operation(text: &str) -> Option<f64> {
    let microseconds = text.lines().find_map(|line| line.trim().strip_suffix("usecs/op"))?;
    microseconds.trim().parse::<f64>().ok().map(|value| value * 1000.0)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_figure_is_read_in_nanoseconds() {
        let text = "# Running 'sched/pipe' benchmark:\n\n     Total time: 0.5 [sec]\n\n       5.250000 usecs/op\n  190476 ops/sec\n";
        assert_eq!(nanoseconds_an_operation(text), Some(5250.0));
        assert_eq!(nanoseconds_an_operation("perf: not found"), None);
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
