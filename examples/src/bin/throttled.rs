//! Plants: threads that want more CPU than their cgroup's quota gives them. To be run in a cgroup with a quota.
//!
//! The profiler must say: `throttled_s + runnable_self_s + runnable_other_s` = `run_delay_ns`, nearly all of it throttled
//! and counted per thread, which `throttled_time` of the cgroup's `cpu.stat` is not: it counts the group once.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Parser;
use examples::crew::Crew;
use examples::path::throttled_enter;
use examples::run::{RunOptions, deadline_ns, goes_on, parse_seconds};
use examples::truth::{cgroup_cpu_stat, monotonic_ns, thread_cpu_ns};
use serde::Serialize;

/// Threads that burn CPU below `throttled_enter;throttled_burn`.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    seconds: f64,
    /// Number of threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
}

#[derive(Serialize)]
struct Throttled {
    /// CPU time of the spinning threads by their own clocks.
    cpu_ns: u64,
    /// Wall time of the spinning threads.
    wall_ns: u64,
    /// Growth of the figures in the cgroup's `cpu.stat`.
    cpu_stat: BTreeMap<String, u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut crew = Crew::new(&options.run)?;
    for index in 0..options.threads {
        crew.worker(&format!("burn-{index}"), || {
            let (cpu_begin_ns, begin_ns) = (thread_cpu_ns(), monotonic_ns());
            while goes_on() {
                throttled_enter(deadline_ns().min(monotonic_ns() + 10_000_000));
            }
            (thread_cpu_ns() - cpu_begin_ns, monotonic_ns() - begin_ns)
        })?;
    }
    let before = cgroup_cpu_stat();
    crew.measure("throttled", Some(options.seconds), |threads| Throttled {
        cpu_ns: threads.iter().map(|(cpu_ns, _)| cpu_ns).sum(),
        wall_ns: threads.iter().map(|(_, wall_ns)| wall_ns).sum(),
        cpu_stat: cgroup_cpu_stat()
            .into_iter()
            .map(|(name, value)| {
                let earlier = before.get(&name).copied().unwrap_or(0);
                (name, value.saturating_sub(earlier))
            })
            .collect(),
    })
}
