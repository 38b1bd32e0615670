//! Plants: very many processes that live a few milliseconds each.
//!
//! The profiler must say: `thread_s` holds the children's lifetimes (`lived_ns` from above: the clock also counts the
//! fork and the exec), their CPU time is in the ledger although they are gone, and their samples carry function names.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use examples::crew::Crew;
use examples::path::{slow_wait_root, spinner_enter};
use examples::run::{RunOptions, goes_on};
use examples::truth::monotonic_ns;
use serde::Serialize;

/// Processes that live a few milliseconds each.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Number of processes
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// How many at a time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How long each lives, in milliseconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    life: u64,
    /// What a process does in its life
    #[arg(long, value_enum, default_value_t = Doing::Spin)]
    doing: Doing,
    /// Be one of the processes
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Doing {
    Spin,
    Sleep,
}

#[derive(Default, Serialize)]
struct Storm {
    /// Processes that started.
    started: u64,
    /// Processes that ended well.
    ended_well: u64,
    /// Their lifetimes by the clock, from before the fork to after the wait.
    lived_ns: u64,
    /// CPU time of all children, from getrusage.
    children_cpu_ns: u64,
}

fn live(life: Duration, doing: Doing) {
    let life_ns = life.as_nanos() as u64;
    match doing {
        Doing::Spin => {
            spinner_enter(1, monotonic_ns() + life_ns);
        }
        Doing::Sleep => {
            slow_wait_root(life_ns);
        }
    }
}

fn storm(options: &Options, share: u64) -> Result<Storm> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut storm = Storm::default();
    while storm.started < share && goes_on() {
        let doing = options.doing.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let begin_ns = monotonic_ns();
        let status: ExitStatus = Command::new(&program)
            .args(["--child", "--life", &options.life.to_string(), "--doing", &doing])
            .status()
            .context("cannot start a process")?;
        storm.lived_ns += monotonic_ns() - begin_ns;
        storm.started += 1;
        storm.ended_well += u64::from(status.success() && status.signal().is_none());
    }
    Ok(storm)
}

fn children_cpu_ns() -> u64 {
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable and of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

fn main() -> Result<()> {
    let options: &'static Options = Box::leak(Box::new(Options::parse()));
    if options.child {
        live(Duration::from_millis(options.life), options.doing);
        return Ok(());
    }
    let mut crew = Crew::new(&options.run)?;
    let threads = u64::from(options.threads);
    for index in 0..threads {
        let share = options.count / threads + u64::from(index < options.count % threads);
        crew.worker(&format!("storm-{index}"), move || storm(options, share))?;
    }
    crew.measure("process_storm", None, |storms| {
        let mut sum = Storm { children_cpu_ns: children_cpu_ns(), ..Storm::default() };
        for storm in storms {
            match storm {
                Ok(storm) => {
                    sum.started += storm.started;
                    sum.ended_well += storm.ended_well;
                    sum.lived_ns += storm.lived_ns;
                }
                Err(error) => eprintln!("process_storm: {error:#}"),
            }
        }
        sum
    })
}
