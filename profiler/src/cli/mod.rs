//! The command line: one file a verb.
//!
//! A verb is a clap `Args` struct and a function that takes it. What goes wrong is an [`anyhow::Error`]; [`WrongUsage`]
//! in its chain makes the exit status 2.

mod bench_empty;
mod bench_unwind_tables;
mod completions;
pub mod containers;
mod daemon;
mod diff;
mod doctor;
mod export;
mod flamegraph;
mod input;
mod interruption;
mod man;
pub mod record;
mod report;
mod top;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

pub use input::WrongUsage;

use crate::terminal::{printable, printable_lines};

/// Per-container on-CPU, off-CPU and syscall profiles of this host, measured with eBPF.
#[derive(Debug, Parser)]
#[command(name = "profiler", version, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

// Verbs stand in the order in which the help lists them: those that measure, those that show, those that tell about
// the program itself.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure this host, some containers, some processes or one command
    Record(record::Args),
    /// Draw a recording as an interactive flamegraph (SVG)
    Flamegraph(flamegraph::Args),
    /// Say where the time went: ledger, hottest functions, longest waits, system calls
    Report(report::Args),
    /// Compare two recordings: what moved, and a verdict
    Diff(diff::Args),
    /// Write a recording in another program's format: pprof, folded, speedscope, JSON
    Export(export::Args),
    /// List the containers of this host as the profiler sees them
    Containers(containers::ContainersArgs),
    /// Show live where each container's time goes
    Top(top::Args),
    /// Collect for as long as it runs: windows in memory, HTTP API, Prometheus metrics, web page
    Daemon(Box<daemon::Args>),
    /// Say whether the profiler can run here, and what to do about what is missing
    Doctor(doctor::Args),
    /// Print the completion script for a shell
    Completions(completions::Args),
    /// Print the manual page, or write one for each verb
    Man(man::Args),
    /// Attach programs that do nothing until interrupted, for the benchmark
    #[command(hide = true)]
    BenchEmpty(bench_empty::Args),
    /// Build the unwind tables of binaries and say what it cost, for the benchmark
    #[command(hide = true)]
    BenchUnwindTables(bench_unwind_tables::Args),
}

/// What is wrong with `profiler record --`.
const NO_COMMAND: &str = "there is no command after `--`; name one, or leave `--` out to record the whole host";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All done.
    Done,
    /// Something failed.
    Failed,
    /// The command line makes no sense.
    WrongUsage,
    /// A verdict or check failed.
    VerdictFailed,
    /// Interrupted; what was captured until then is written.
    Interrupted,
    /// The status of the command that was profiled.
    Command(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done => 0,
            Status::Failed => 1,
            Status::WrongUsage => 2,
            Status::VerdictFailed => 3,
            Status::Interrupted => 130,
            Status::Command(status) => status,
        })
    }
}

/// Runs the program with the process's arguments; the exit status is the one that `INTERFACE` promises.
pub fn run() -> ExitCode {
    run_with(std::env::args_os()).into()
}

/// Runs the program with these arguments, the program's name first.
pub fn run_with(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Status {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let ends_in_dashes = arguments.last().is_some_and(|last| last == "--");
    let parsed = Cli::try_parse_from(arguments).and_then(|cli| match &cli.verb {
        // A command that a script's empty variable took away, and not a wish for the whole host.
        Verb::Record(args) if ends_in_dashes && !args.has_command() => {
            Err(Cli::command().error(ErrorKind::MissingRequiredArgument, NO_COMMAND))
        }
        _ => Ok(cli),
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Where not even this can be written, nobody reads it.
            drop(error.print());
            return if error.use_stderr() { Status::WrongUsage } else { Status::Done };
        }
    };
    match dispatch(cli.verb) {
        Ok(status) => status,
        Err(error) => {
            print_error(&error);
            if input::is_wrong_usage(&error) { Status::WrongUsage } else { Status::Failed }
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<Status> {
    match verb {
        Verb::Record(args) => record::run(&args),
        Verb::Flamegraph(args) => flamegraph::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Diff(args) => diff::run(&args),
        Verb::Export(args) => export::run(args),
        Verb::Containers(args) => containers::run(&args).map(|()| Status::Done),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Daemon(args) => daemon::run(*args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::BenchEmpty(args) => bench_empty::run(&args),
        Verb::BenchUnwindTables(args) => bench_unwind_tables::run(&args),
    }
}

/// Says on standard error what went wrong. Where not even that can be written, nobody reads it.
fn print_error(error: &anyhow::Error) {
    drop(writeln!(io::stderr(), "error: {}", printable_lines(&format!("{error:#}"))));
}

/// Says on standard error what goes on.
fn print_note(note: &str) {
    drop(writeln!(io::stderr(), "{}", printable(note)));
}

/// Says on standard error what is not as it should be.
fn print_warning(warning: &str) {
    drop(writeln!(io::stderr(), "warning: {}", printable(warning)));
}
