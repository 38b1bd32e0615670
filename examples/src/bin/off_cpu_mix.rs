//! Plants: two call paths of one process that both spend most of their time waiting, one some 20 µs at a time at a very
//! high rate, one 5 ms at a time.
//!
//! The profiler must say: off-CPU time below `brief_wait_root;brief_wait_step;brief_wait_block` and below
//! `slow_wait_root;slow_wait_step;slow_wait_block` in the proportion of `brief.waited_ns` to `slow.waited_ns`, although
//! hardly any of the brief waits is sampled. `brief.off_cpu_ns` (wall time less CPU time of the path's threads) bounds
//! the brief path's off-CPU time from above: it also holds the little time preempted while working.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsRawFd;

use anyhow::Result;
use clap::Parser;
use examples::crew::Crew;
use examples::path::{brief_wait_root, slow_wait_root, work_between_waits};
use examples::run::{RunOptions, deadline_ns, goes_on, parse_seconds};
use examples::truth::{monotonic_ns, thread_cpu_ns};
use serde::Serialize;

/// Pairs of threads that hand a byte to and fro, beside threads that sleep.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "3", value_parser = parse_seconds)]
    seconds: f64,
    /// Pairs that hand a byte to and fro, each pinned to one CPU where `--cpu` names some
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pairs: u32,
    /// Work of each side before it hands the byte back, in microseconds: about as long the other side waits
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(0..=1000))]
    work: u64,
    /// Threads that sleep
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    sleepers: u32,
    /// Length of a sleep in microseconds
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    sleep: u64,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Path {
    /// Threads on this path.
    threads: u32,
    /// Number of waits.
    waits: u64,
    /// Length of all waits by the clock, the calls' own CPU time included.
    waited_ns: u64,
    /// Wall time less CPU time of the path's threads.
    off_cpu_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PathName {
    Brief,
    Slow,
}

#[derive(Serialize)]
struct Mix {
    brief: Path,
    slow: Path,
}

/// Calls `wait` until it says that the end has come, with `work` in between.
fn on_path(mut wait: impl FnMut() -> bool, mut work: impl FnMut() -> bool) -> Path {
    let mut path = Path { threads: 1, ..Path::default() };
    let (begin_ns, cpu_begin_ns) = (monotonic_ns(), thread_cpu_ns());
    loop {
        let wait_begin_ns = monotonic_ns();
        let more = wait();
        path.waited_ns += monotonic_ns() - wait_begin_ns;
        path.waits += 1;
        if !more || !work() {
            break;
        }
    }
    path.off_cpu_ns = (monotonic_ns() - begin_ns).saturating_sub(thread_cpu_ns() - cpu_begin_ns);
    path
}

/// One side of a pair: ends when the work is over or the other side has gone.
fn hand_over(from: &PipeReader, mut to: PipeWriter, work_ns: u64) -> Path {
    on_path(
        || brief_wait_root(from.as_raw_fd()) == 1,
        || {
            work_between_waits(work_ns);
            goes_on() && to.write_all(b"o").is_ok()
        },
    )
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (work_ns, sleep_ns) = (options.work * 1000, options.sleep * 1000);
    let mut crew = Crew::new(&options.run)?;
    for pair in 0..options.pairs {
        let (ping_reader, mut ping_writer) = pipe()?;
        let (pong_reader, pong_writer) = pipe()?;
        ping_writer.write_all(b"o")?;
        let cpu = crew.cpu(pair as usize);
        let (ping, pong) = (format!("ping-{pair}"), format!("pong-{pair}"));
        crew.worker_on(cpu, &ping, move || (PathName::Brief, hand_over(&ping_reader, pong_writer, work_ns)))?;
        crew.worker_on(cpu, &pong, move || (PathName::Brief, hand_over(&pong_reader, ping_writer, work_ns)))?;
    }
    for index in 0..options.sleepers {
        let sleep = move || {
            let sleep_once = || {
                slow_wait_root(sleep_ns.min(deadline_ns().saturating_sub(monotonic_ns())));
                goes_on()
            };
            (PathName::Slow, on_path(sleep_once, || true))
        };
        crew.worker(&format!("sleep-{index}"), sleep)?;
    }
    crew.measure("off_cpu_mix", Some(options.seconds), |paths| {
        let sum = |name| {
            paths.iter().filter(|(path, _)| *path == name).fold(Path::default(), |sum, (_, path)| Path {
                threads: sum.threads + path.threads,
                waits: sum.waits + path.waits,
                waited_ns: sum.waited_ns + path.waited_ns,
                off_cpu_ns: sum.off_cpu_ns + path.off_cpu_ns,
            })
        };
        Mix { brief: sum(PathName::Brief), slow: sum(PathName::Slow) }
    })
}
