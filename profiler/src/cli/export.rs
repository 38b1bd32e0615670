//! `profiler export`: a recording in, another program's format out.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Status;
use super::input::{self, RecordingArgs, WrongUsage};
use crate::output::{self, Format, Kind, Lines, Threads, WriteOptions};
use crate::profile::recording;

/// Arguments of `profiler export`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: RecordingArgs,
    /// How to write it; without it, the output's extension tells
    #[arg(short, long, env = "PROFILER_FORMAT")]
    format: Option<ExportFormat>,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", env = "PROFILER_OUTPUT")]
    output: PathBuf,
    /// Which stacks, for folded (one kind) and speedscope (all, unless given)
    #[arg(short, long, env = "PROFILER_KIND")]
    kind: Option<Kind>,
    /// Put the thread's name below the process
    #[arg(long, env = "PROFILER_THREADS")]
    threads: bool,
    /// Show file and line, where they were recorded
    #[arg(long, env = "PROFILER_LINES")]
    lines: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Gzipped protobuf for `go tool pprof`, Pyroscope, Parca.
    Pprof,
    /// One line a stack.
    Folded,
    /// For speedscope.app.
    Speedscope,
    /// The stacks, for programs.
    Json,
}

impl From<ExportFormat> for Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Pprof => Self::Pprof,
            ExportFormat::Folded => Self::Folded,
            ExportFormat::Speedscope => Self::Speedscope,
            ExportFormat::Json => Self::StacksJson,
        }
    }
}

fn format(args: &Args) -> anyhow::Result<Format> {
    match args.format {
        Some(format) => Ok(format.into()),
        None if args.output.as_os_str() == "-" => {
            Err(WrongUsage("which format? add --format pprof, folded, speedscope or json".to_owned()).into())
        }
        None => match Format::from_path(&args.output)? {
            // An export holds stacks; the report has a verb of its own.
            Format::ReportJson => Ok(Format::StacksJson),
            format => Ok(format),
        },
    }
}

/// Writes the export.
pub fn run(args: Args) -> anyhow::Result<Status> {
    let format = format(&args)?;
    input::refuse_output(&args.input.recording, format, &args.output)?;
    let profile = recording::read(&args.input.recording)?;
    let options = WriteOptions {
        kind: args.kind,
        selection: args.input.selection.into(),
        threads: if args.threads { Threads::Named } else { Threads::Together },
        lines: if args.lines { Lines::Shown } else { Lines::Hidden },
        ..WriteOptions::default()
    };
    output::write_as(&profile, format, &args.output, &options)?;
    Ok(Status::Done)
}
