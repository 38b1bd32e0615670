//! Plants: CPU time below a named call path, of known amount, for a known share of the time, in user or kernel mode.
//!
//! The profiler must say: `cpu_user_s + cpu_kernel_s` = `exec_ns`; `runnable_self_s + runnable_other_s + throttled_s` =
//! `run_delay_ns`; on-CPU samples below `spinner_enter;spinner_descend;…;spinner_burn` (and
//! `spinner_kernel_enter;spinner_kernel_read` for the kernel's share).

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use clap::Parser;
use examples::crew::Crew;
use examples::path::{slow_wait_root, spinner_enter, spinner_kernel_enter};
use examples::run::{RunOptions, deadline_ns, goes_on, parse_seconds};
use examples::truth::{monotonic_ns, thread_cpu_ns};
use serde::Serialize;

/// Threads that burn CPU below a named call path.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    seconds: f64,
    /// Number of threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Frames of recursion above the burning function
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    depth: u32,
    /// Share of each period to spin, in percent; the rest is slept
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    duty: u64,
    /// Share of the spinning to do in the kernel, in percent
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    kernel: u64,
    /// Length of a period in milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    period: u64,
}

#[derive(Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each name in the JSON")]
struct Spun {
    /// CPU time of the spinning threads by their own clocks.
    cpu_ns: u64,
    /// Time spent in the user path, by the wall clock.
    user_path_ns: u64,
    /// Time spent in the kernel path, by the wall clock.
    kernel_path_ns: u64,
    /// Time slept between spins, by the wall clock.
    slept_ns: u64,
}

fn spin(options: &Options, zero: &File) -> Spun {
    let period_ns = options.period * 1_000_000;
    let busy_ns = period_ns * options.duty / 100;
    let kernel_ns = busy_ns * options.kernel / 100;
    let mut spun = Spun::default();
    let cpu_begin_ns = thread_cpu_ns();
    let mut period_begin_ns = monotonic_ns();
    while goes_on() {
        let kernel_until_ns = (period_begin_ns + kernel_ns).min(deadline_ns());
        let user_until_ns = (period_begin_ns + busy_ns).min(deadline_ns());
        let begin_ns = monotonic_ns();
        if kernel_ns > 0 {
            spinner_kernel_enter(zero.as_raw_fd(), kernel_until_ns);
        }
        let middle_ns = monotonic_ns();
        spinner_enter(options.depth, user_until_ns);
        let end_ns = monotonic_ns();
        spun.kernel_path_ns += middle_ns - begin_ns;
        spun.user_path_ns += end_ns - middle_ns;
        period_begin_ns += period_ns;
        if end_ns < period_begin_ns && options.duty < 100 {
            slow_wait_root(period_begin_ns.min(deadline_ns()).saturating_sub(end_ns));
            spun.slept_ns += monotonic_ns() - end_ns;
        }
    }
    spun.cpu_ns = thread_cpu_ns() - cpu_begin_ns;
    spun
}

fn main() -> Result<()> {
    let options: &'static Options = Box::leak(Box::new(Options::parse()));
    let zero: &'static File = Box::leak(Box::new(File::open("/dev/zero").context("cannot open /dev/zero")?));
    let mut crew = Crew::new(&options.run)?;
    for index in 0..options.threads {
        crew.worker(&format!("spin-{index}"), move || spin(options, zero))?;
    }
    crew.measure("spinner", Some(options.seconds), |threads| {
        threads.into_iter().fold(Spun::default(), |mut sum, spun| {
            sum.cpu_ns += spun.cpu_ns;
            sum.user_path_ns += spun.user_path_ns;
            sum.kernel_path_ns += spun.kernel_path_ns;
            sum.slept_ns += spun.slept_ns;
            sum
        })
    })
}
