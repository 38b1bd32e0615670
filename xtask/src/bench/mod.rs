//! `cargo xtask bench`: what a scheduler switch and a system call cost while somebody looks at them, `profiler` beside an
//! empty program on the same hooks and beside tools that people use today, all in one run on one machine.
//!
//! Time inside kernel programs is the kernel's own figure (`kernel.bpf_stats_enabled`), with the load pinned to one CPU;
//! unpinned it varies up to twofold. Wall time is taken in a pass of its own, with those statistics off.

mod beside;
mod cold_memory;
mod contender;
mod daemon;
mod growth;
mod kernel_figures;
mod load;
mod tracefs;
mod unwind_tables;
mod unwinding;

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::build;
use crate::setup;
use crate::step::say;
use contender::Cost;
pub use daemon::BenchDaemon;
use load::Loads;

#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
/// Measures what profiling costs, beside other tools.
#[derive(Args)]
pub struct Bench {
    /// The CPU that the loads are pinned to.
    #[arg(long, default_value_t = 1)]
    cpu: u32,
    /// How often each load runs; wall times are the median.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Leave out the other tools.
    #[arg(long)]
    own: bool,
    /// Leave out the growth with containers and stacks.
    #[arg(long)]
    no_growth: bool,
    /// Only what concerns user stacks.
    #[arg(long)]
    only_stacks: bool,
    /// Use the programs in target/release as they are.
    #[arg(long)]
    no_build: bool,
}

impl Bench {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if !setup::is_root()? {
            bail!("loading kernel programs needs root: run this as root");
        }
        setup::install(&setup::BENCH)?;
        if !self.no_build {
            build::programs(true)?;
        }
        let others = kernel_figures::programs()?;
        if !others.is_empty() {
            let names: Vec<&str> = others.values().map(|program| program.name.as_str()).collect();
            say(format!(
                "{} kernel programs of others are loaded and may change the figures: {}",
                names.len(),
                names.join(", ")
            ));
        }
        println!("\nUnwind tables\n{}", unwind_tables::table()?);
        let _tracefs = tracefs::Mounted::ensure()?;
        println!("\nUser stacks, at {} samples a second\n{}", unwinding::FREQUENCY, unwinding::stacks(self.own)?);
        println!("\nMemory of unwinding\n{}", unwinding::memory()?);
        if self.only_stacks {
            return Ok(());
        }
        let loads = Loads { cpu: self.cpu, rounds: self.rounds, divisor: 1 };

        say("loads alone");
        let bare = loads.run()?;
        let mut costs = Vec::new();
        for contender in contender::ours().into_iter().chain(if self.own { Vec::new() } else { contender::theirs() }) {
            match contender.measure(&loads) {
                Ok(cost) => costs.push(cost),
                Err(error) => say(format!("{} could not be measured: {error:#}", contender.name)),
            }
        }
        println!("\nKernel programs, by the kernel's own clock\n{}", programs(&costs));
        println!("\nCost of a switch and of a call\n{}", comparison(&costs, &bare));
        if !self.no_growth {
            println!("\nGrowth with containers\n{}", growth::with_containers(&loads)?);
            println!(
                "\nGrowth with stacks (the lower the threshold, the more are kept)\n{}",
                growth::with_stacks(&loads)?
            );
        }
        Ok(())
    }
}

/// Each program of each contender.
fn programs(costs: &[Cost]) -> Table {
    let mut table = figures(["tool", "program", "load", "runs", "ns/run"]);
    for cost in costs {
        for (load, runs) in [("switches", &cost.pipe.programs), ("calls", &cost.calls.programs)] {
            for program in runs.iter().filter(|program| program.runs > 0) {
                let each = program.time_ns as f64 / program.runs as f64;
                let runs = program.runs.to_string();
                table.add_row([cost.name, &program.name, load, &runs, &format!("{each:.0}")]);
            }
        }
    }
    table
}

/// One line a contender; ratios are to all of `profiler record`.
fn comparison(costs: &[Cost], bare: &load::Walls) -> Table {
    let mut table = figures([
        "tool",
        "switch ns",
        "ratio",
        "switch wall +ns",
        "call ns",
        "ratio",
        "call wall +ns",
        "CPU s",
        "RSS MB",
        "maps MB",
    ]);
    let own = costs.iter().find(|cost| cost.name == contender::ALL);
    let ratio = |value: f64, own: Option<f64>| match own {
        Some(own) if own > 0.0 && value > 0.0 => format!("{:.2}", value / own),
        _ => "-".to_owned(),
    };
    for cost in costs {
        let switch = cost.pipe.ns_per_event;
        let call = cost.calls.ns_per_event;
        table.add_row([
            cost.name.to_owned(),
            nanoseconds(switch),
            ratio(switch, own.map(|own| own.pipe.ns_per_event)),
            format!("{:+.0}", cost.walls.switch_ns - bare.switch_ns),
            nanoseconds(call),
            ratio(call, own.map(|own| own.calls.ns_per_event)),
            format!("{:+.0}", cost.walls.call_ns - bare.call_ns),
            format!("{:.2}", cost.agent.cpu_s),
            megabytes(cost.agent.peak_rss_bytes),
            megabytes(cost.map_bytes),
        ]);
    }
    table.add_row([
        "(alone)".to_owned(),
        String::new(),
        String::new(),
        format!("{:.0}", bare.switch_ns),
        String::new(),
        String::new(),
        format!("{:.0}", bare.call_ns),
    ]);
    table
}

/// An empty table of figures: names to the left, numbers to the right.
fn figures<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

fn nanoseconds(value: f64) -> String {
    if value > 0.0 { format!("{value:.0}") } else { "-".to_owned() }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
