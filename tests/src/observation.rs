//! Workloads, recorded from before their work to after it.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::pprof::Pprof;
use crate::program;
use crate::report::Report;
use crate::workload::{Truth, Workload};

/// What was recorded, and what is true.
#[derive(Debug)]
pub struct Observation {
    /// The report.
    pub report: Report,
    /// All stacks.
    pub profile: Pprof,
    /// What each workload said, in the order they were given.
    pub truths: Vec<Truth>,
    /// The recording itself.
    pub recording: PathBuf,
    /// Where the recording lies; removed when dropped.
    pub directory: TempDir,
}

impl Observation {
    /// Length of the window in seconds.
    pub fn window_s(&self) -> f64 {
        self.report.window.duration_s
    }
}

/// Records while `workloads` do their work: they are parked when the recording starts and parked again when it is
/// stopped (as Ctrl-C does). They begin in the order given.
pub fn observe(workloads: Vec<Workload>, record_options: &[&str]) -> Result<Observation> {
    observe_beside(workloads, record_options, |_| Ok(()))
}

/// The same, with something done to the recording profiler (its process id is passed) meanwhile.
pub fn observe_beside(
    mut workloads: Vec<Workload>,
    record_options: &[&str],
    beside: impl FnOnce(u32) -> Result<()>,
) -> Result<Observation> {
    let directory = TempDir::new()?;
    let recording = directory.path().join("recording.profile");
    let output = recording.to_str().context("the temporary directory has no UTF-8 name")?;
    let mut arguments = vec!["--duration", "600s", "--output", output];
    arguments.extend(record_options);

    let running = program::record(arguments)?;
    for workload in &mut workloads {
        workload.begin()?;
    }
    beside(running.pid())?;
    for workload in &mut workloads {
        workload.wait_ended()?;
    }
    running.interrupt()?.expect_code(130)?;

    let (report, profile) = read(&directory, &recording)?;
    let truths = workloads.into_iter().map(Workload::truth).collect::<Result<Vec<_>>>()?;
    for truth in &truths {
        let (begin, end) = (truth.number("/begin/unix_ns")?, truth.number("/end/unix_ns")?);
        let (window_begin, window_end) = (report.window.start_unix_ns()?, report.window.end_unix_ns()?);
        ensure!(
            window_begin <= begin && end <= window_end,
            "the work from {begin} to {end} is not inside the window from {window_begin} to {window_end}"
        );
    }
    Ok(Observation { report, profile, truths, recording, directory })
}

/// Records for `duration` while whatever runs keeps running.
pub fn observe_for(duration: Duration, record_options: &[&str]) -> Result<Observation> {
    let directory = TempDir::new()?;
    let recording = directory.path().join("recording.profile");
    let output = recording.to_str().context("the temporary directory has no UTF-8 name")?;
    let duration = format!("{}ms", duration.as_millis());
    let mut arguments = vec!["record", "--duration", &duration, "--output", output];
    arguments.extend(record_options);
    program::run(arguments)?.expect_code(0)?;
    let (report, profile) = read(&directory, &recording)?;
    Ok(Observation { report, profile, truths: Vec::new(), recording, directory })
}

fn read(directory: &TempDir, recording: &PathBuf) -> Result<(Report, Pprof)> {
    let report = program::finish(program::command(["report", "--format", "json"])?.arg(recording))?.expect_code(0)?;
    let stacks = directory.path().join("stacks.pb.gz");
    let mut export = program::command(["export", "--format", "pprof", "--output"])?;
    program::finish(export.arg(&stacks).arg(recording))?.expect_code(0)?;
    Ok((Report::parse(&report.stdout)?, Pprof::read(&stacks)?))
}

/// Calls `look` until it says yes; fails with `what` after a minute.
pub fn wait_for(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..3000 {
        if look() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("waited a minute for {what}")
}
