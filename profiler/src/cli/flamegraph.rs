//! `profiler flamegraph`: a recording in, an interactive SVG out.

use std::path::PathBuf;

use super::Status;
use super::input::{self, RecordingArgs};
use crate::output::{self, Format, Growth, Kind, Lines, Threads, WriteOptions};
use crate::profile::recording;

/// Arguments of `profiler flamegraph`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: RecordingArgs,
    /// Which stacks; on-CPU where it was recorded, else off-CPU
    #[arg(short, long, env = "PROFILER_KIND")]
    kind: Option<Kind>,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", env = "PROFILER_OUTPUT")]
    output: PathBuf,
    /// Grow from the top down
    #[arg(long, env = "PROFILER_ICICLE")]
    icicle: bool,
    /// Put the thread's name below the process
    #[arg(long, env = "PROFILER_THREADS")]
    threads: bool,
    /// Show file and line, where they were recorded
    #[arg(long, env = "PROFILER_LINES")]
    lines: bool,
    /// Heading of the picture
    #[arg(long, env = "PROFILER_TITLE")]
    title: Option<String>,
}

/// Draws the flamegraph.
pub fn run(args: Args) -> anyhow::Result<Status> {
    input::refuse_output(&args.input.recording, Format::Svg, &args.output)?;
    let profile = recording::read(&args.input.recording)?;
    let options = WriteOptions {
        kind: args.kind,
        selection: args.input.selection.into(),
        threads: if args.threads { Threads::Named } else { Threads::Together },
        lines: if args.lines { Lines::Shown } else { Lines::Hidden },
        growth: if args.icicle { Growth::Icicle } else { Growth::Flame },
        title: args.title,
        ..WriteOptions::default()
    };
    output::write_as(&profile, Format::Svg, &args.output, &options)?;
    Ok(Status::Done)
}
