//! How whole, how named and how right the stacks of one piece of software are. In: software under load. Out: shares.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::oracle::{Comparison, compare};
use crate::program;
use crate::software::Software;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The software.
    pub name: &'static str,
    /// On-CPU samples of it.
    pub samples: u64,
    /// Share of their user stacks that are whole.
    pub complete: f64,
    /// Why the others are not.
    pub incomplete: Value,
    /// Share of frames that have a name; distributions strip their programs.
    pub resolved: f64,
    /// The same stacks by framehop; none where it has nothing to read.
    pub comparison: Option<Comparison>,
    /// Share of stacks alike.
    pub alike: Option<f64>,
}

/// Samples a second, of the recording and of the comparison.
const FREQUENCY: u64 = 499;

/// Records software for a while, then has framehop walk other stacks of the same processes.
pub fn measure(software: &Software, duration: Duration) -> Result<Figures> {
    let mut stage = software.start()?;
    // Caches fill, pools grow.
    std::thread::sleep(Duration::from_secs(1));
    let directory = tempfile::tempdir()?;
    let (report, seconds) = (directory.path().join("report.json"), format!("{}s", duration.as_secs_f64()));
    let mut record = program::command(["record", "--cpu", "--duration", &seconds, "--frequency"])?;
    record.arg(FREQUENCY.to_string()).args(["--container", stage.container(), "--output"]).arg(&report);
    program::finish(&mut record)?.expect_code(0)?;
    let comparison =
        if software.is_described { Some(compare(duration / 2, FREQUENCY, |pid| stage.holds(pid))?) } else { None };
    stage.check()?;
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?).context("the report is not JSON")?;
    let samples = report["coverage"]["cpu_samples"]["kept"].as_u64().unwrap_or(0);
    ensure!(samples > 0, "{} was not seen to run", software.name);
    let share = |of: &str, what: &str| report["coverage"][of][what].as_f64().context("a share is missing");
    Ok(Figures {
        name: software.name,
        samples,
        complete: share("stacks", "complete")?,
        incomplete: report["coverage"]["stacks"]["incomplete"].clone(),
        resolved: share("symbols", "resolved")?,
        alike: comparison.as_ref().and_then(Comparison::share),
        comparison,
    })
}
