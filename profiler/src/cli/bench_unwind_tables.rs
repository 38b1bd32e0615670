//! `profiler bench-unwind-tables`: what building the unwind tables of binaries costs, as JSON, one line a binary.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::Status;
use crate::process::unwind::{Limits, build};

/// Arguments of `profiler bench-unwind-tables`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often each table is built; the fastest counts
    #[arg(long, env = "PROFILER_ROUNDS", default_value_t = 5)]
    rounds: u32,
    /// Binaries
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Builds and tells.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    for path in &args.files {
        println!("{}", measure(path, args.rounds)?);
    }
    Ok(Status::Done)
}

fn measure(path: &Path, rounds: u32) -> anyhow::Result<serde_json::Value> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    let mut fastest = f64::INFINITY;
    let mut built = None;
    for _ in 0..rounds.max(1) {
        let start = thread_cpu_s();
        let table = build(&file, &Limits::default());
        fastest = fastest.min(thread_cpu_s() - start);
        built = Some(table);
    }
    let table = match built.context("no round was run")? {
        Ok(table) => table,
        Err(refused) => return Ok(json!({ "file": path, "bytes": bytes, "refused": refused.as_str() })),
    };
    let statistics = table.statistics();
    let unsupported: serde_json::Map<String, serde_json::Value> = statistics
        .unsupported()
        .filter(|(_, rows)| *rows > 0)
        .map(|(why, rows)| (why.as_str().to_owned(), rows.into()))
        .collect();
    Ok(json!({
        "file": path,
        "bytes": bytes,
        "build_cpu_s": fastest,
        "functions": statistics.functions,
        "rows_described": statistics.rows_described,
        "rows": table.rows().len(),
        "rules": table.rules().len(),
        "table_bytes": table.bytes(),
        "described": statistics.described_bytes as f64 / statistics.code_bytes.max(1) as f64,
        "derived_bytes": statistics.derived_bytes,
        "derived_cut_off": statistics.derived_cut_off,
        "unsupported": unsupported,
    }))
}

fn thread_cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
