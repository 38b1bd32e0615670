//! `profiler diff`: two recordings in; a differential flamegraph, what moved, a verdict and checks out.

use std::path::PathBuf;

use anyhow::Context;

use super::input::{self, SelectionArgs};
use super::{Status, WrongUsage};
use crate::diff::check::Check;
use crate::diff::work::Work;
use crate::diff::{Comparison, Done, Side, picture, text};
use crate::output::destination::{self, Access};
use crate::output::{Format, Kind, OutputError, Scope, WriteOptions};
use crate::profile::{Selection, recording};

/// Arguments of `profiler diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The recording before the change
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The recording after it
    #[arg(value_name = "B")]
    b: PathBuf,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Work done while A was recorded: a number, a Locust _stats.csv or JSON file, or a JMeter JTL file
    #[arg(long, value_name = "N|FILE", env = "PROFILER_WORK_A", requires = "work_b")]
    work_a: Option<String>,
    /// Work done while B was recorded
    #[arg(long, value_name = "N|FILE", env = "PROFILER_WORK_B")]
    work_b: Option<String>,
    /// What a piece of work is called
    #[arg(long, default_value = "requests", env = "PROFILER_UNIT")]
    unit: String,
    /// Exit with 3 if this holds: 'cpu_per_request > +5%'; may be repeated
    #[arg(long, value_name = "EXPR", env = "PROFILER_FAIL_IF")]
    fail_if: Vec<String>,
    /// Exit with 3 unless this holds for B: 'p95 < 100ms'; may be repeated
    #[arg(long, value_name = "EXPR", env = "PROFILER_SLO")]
    slo: Vec<String>,
    /// Which stacks the flamegraph compares
    #[arg(short, long, env = "PROFILER_KIND")]
    kind: Option<Kind>,
    /// Where to write: .svg is the differential flamegraph, .md and .json the comparison, else text; may be repeated
    #[arg(short, long, value_name = "FILE", default_value = "-", env = "PROFILER_OUTPUT", value_delimiter = ',')]
    output: Vec<PathBuf>,
}

/// Compares.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    let wrong = |error: String| anyhow::Error::from(WrongUsage(error));
    let parse = |texts: &[String]| texts.iter().map(|text| Check::parse(text)).collect::<Result<Vec<_>, _>>();
    let fail_if = parse(&args.fail_if).map_err(wrong)?;
    let slo = parse(&args.slo).map_err(wrong)?;
    for output in &args.output {
        input::refuse_output(&args.a, Format::ReportText, output)?;
        input::refuse_output(&args.b, Format::ReportText, output)?;
    }
    let read = |text: &Option<String>| text.as_deref().map(Work::parse).transpose();
    let done = Done { a: read(&args.work_a)?, b: read(&args.work_b)?, unit: args.unit.clone() };
    let (a, b) = (recording::read(&args.a)?, recording::read(&args.b)?);
    let options = WriteOptions { selection: args.selection.clone().into(), ..WriteOptions::default() };
    let select = |profile, path: &PathBuf| {
        let selected =
            Selection::resolve(&options.selection, profile).with_context(|| format!("in {}", path.display()))?;
        Ok::<_, anyhow::Error>(Side { profile, selected })
    };
    let (side_a, side_b) = (select(&a, &args.a)?, select(&b, &args.b)?);
    let comparison = Comparison::of(&side_a, &side_b, &done);
    let scope = |side: &Side<'_>| side.selected.clone();
    let (scope_a, scope_b) = (
        Scope { profile: &a, selected: scope(&side_a), options: &options },
        Scope { profile: &b, selected: scope(&side_b), options: &options },
    );
    let scale = match (&done.a, &done.b) {
        (Some(a), Some(b)) => b.done / a.done,
        _ => side_b.window_s() / side_a.window_s(),
    };
    for output in &args.output {
        let format = Format::from_path(output).ok();
        destination::write(output, Access::Usual, |writer| match format {
            Some(Format::Svg) => {
                let kind = Kind::choose(args.kind, &b)?;
                picture::write(&scope_a, &scope_b, kind, scale, writer)
            }
            Some(Format::ReportJson) => {
                serde_json::to_writer_pretty(&mut *writer, &comparison).map_err(std::io::Error::from)?;
                Ok(writer.write_all(b"\n")?)
            }
            Some(Format::ReportMarkdown) => Ok(text::write_markdown(&comparison, writer)?),
            _ => Ok::<(), OutputError>(text::write_text(&comparison, writer)?),
        })?;
    }
    let mut failed = false;
    for check in &fail_if {
        let holds = check.holds(&comparison).map_err(wrong)?;
        super::print_note(&format!("{}: {}", if holds { "FAILED" } else { "passed" }, check.text));
        failed |= holds;
    }
    for check in &slo {
        let holds = check.holds(&comparison).map_err(wrong)?;
        super::print_note(&format!("{}: {}", if holds { "met" } else { "MISSED" }, check.text));
        failed |= !holds;
    }
    Ok(if failed { Status::VerdictFailed } else { Status::Done })
}
