//! `profiler report`: a recording in; ledger, functions, waits and system calls out.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Status;
use super::input::{self, RecordingArgs};
use crate::output::{self, Format, Style, WriteOptions, destination};
use crate::profile::recording;

/// Arguments of `profiler report`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: RecordingArgs,
    /// How to write it; without it, the output's extension tells, and text is the rest
    #[arg(short, long, env = "PROFILER_FORMAT")]
    format: Option<ReportFormat>,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", env = "PROFILER_OUTPUT")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For a terminal.
    Text,
    /// For tickets and merge requests.
    Markdown,
    /// For programs.
    Json,
}

impl From<ReportFormat> for Format {
    fn from(format: ReportFormat) -> Self {
        match format {
            ReportFormat::Text => Self::ReportText,
            ReportFormat::Markdown => Self::ReportMarkdown,
            ReportFormat::Json => Self::ReportJson,
        }
    }
}

fn format(args: &Args) -> Format {
    match (args.format, Format::from_path(&args.output)) {
        (Some(format), _) => format.into(),
        (None, Ok(format @ (Format::ReportJson | Format::ReportMarkdown))) => format,
        (None, _) => Format::ReportText,
    }
}

/// Writes the report.
pub fn run(args: Args) -> anyhow::Result<Status> {
    let format = format(&args);
    input::refuse_output(&args.input.recording, format, &args.output)?;
    let profile = recording::read(&args.input.recording)?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = if destination::is_terminal(&args.output) && !no_color { Style::Terminal } else { Style::Plain };
    let options = WriteOptions { selection: args.input.selection.into(), style, ..WriteOptions::default() };
    output::write_as(&profile, format, &args.output, &options)?;
    Ok(Status::Done)
}
