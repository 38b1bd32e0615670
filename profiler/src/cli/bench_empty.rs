//! `profiler bench-empty`: programs that do nothing, attached until interrupted. The benchmark measures the real ones
//! beside them.

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Status;
use crate::kernel::EmptyPrograms;

/// The hooks that have an empty program.
const HOOKS: [&str; 4] = ["sched_switch", "sched_wakeup", "sys_enter", "sys_exit"];

/// Arguments of `profiler bench-empty`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Hooks to attach an empty program to
    #[arg(
        long,
        env = "PROFILER_HOOKS",
        value_delimiter = ',',
        value_parser = HOOKS,
        default_values_t = HOOKS.map(str::to_owned)
    )]
    hooks: Vec<String>,
    /// Attach programs that read the clock and do nothing else, to system calls only
    #[arg(long, env = "PROFILER_CLOCK")]
    clock: bool,
}

/// Attaches them and waits to be interrupted.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    // Before anything is attached, so that no signal finds the default action.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let programs = EmptyPrograms::attach(&args.hooks, args.clock)?;
    signals.forever().next();
    drop(programs);
    Ok(Status::Done)
}
