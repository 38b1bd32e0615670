//! Every output format, written by `record` and re-exported from a recording, read by other programs where there are any.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tests::pprof::Pprof;
use tests::program;
use tests::report::Report;
use tests::requirement::kernel;
use tests::workload::Workload;

/// Records the demonstration workload into `directory/NAME`, on its own process alone.
fn record_demo(directory: &TempDir, name: &str, options: &[&str]) -> Result<std::path::PathBuf> {
    let output = directory.path().join(name);
    let mut mixed = Workload::start("mixed", &["--seconds", "1"])?;
    let pid = mixed.pid().to_string();
    let file = output.to_str().context("the temporary directory has no UTF-8 name")?;
    let running = program::record([&["--duration", "600s", "--output", file, "--pid", &pid], options].concat())?;
    mixed.begin()?;
    mixed.wait_ended()?;
    running.interrupt()?.expect_code(130)?;
    Ok(output)
}

/// Runs a verb on a recording and returns what it printed.
fn print_from(recording: &Path, verb: &[&str]) -> Result<String> {
    Ok(program::finish(program::command(verb)?.arg(recording))?.expect_code(0)?.stdout)
}

fn is_flamegraph(svg: &str) -> Result<()> {
    ensure!(svg.trim_start().starts_with("<?xml") || svg.trim_start().starts_with("<svg"), "this is no SVG");
    ensure!(svg.trim_end().ends_with("</svg>"), "the SVG breaks off");
    ensure!(svg.contains("shop_price_order") || svg.contains("shop_"), "the workload's functions are not in it");
    Ok(())
}

/// Each line is `frame;…;frame count`; returns the sum of the counts.
fn is_folded(text: &str) -> Result<u64> {
    let mut sum = 0;
    for line in text.lines() {
        let (stack, count) = line.rsplit_once(' ').with_context(|| format!("no count in {line:?}"))?;
        sum += count.parse::<u64>().with_context(|| format!("no count in {line:?}"))?;
        ensure!(stack.split(';').count() >= 2, "no container and process in {line:?}");
        ensure!(stack.split(';').all(|frame| !frame.is_empty()), "an empty frame in {line:?}");
    }
    ensure!(sum > 0, "nothing in it");
    Ok(sum)
}

fn is_speedscope(text: &str) -> Result<()> {
    let file: Value = serde_json::from_str(text).context("this is no JSON")?;
    ensure!(file["$schema"] == "https://www.speedscope.app/file-format-schema.json", "no schema: {}", file["$schema"]);
    let frames = file["shared"]["frames"].as_array().context("no frames")?.len() as u64;
    let profiles = file["profiles"].as_array().context("no profiles")?;
    ensure!(!profiles.is_empty(), "one profile a kind, and there is none");
    for profile in profiles {
        ensure!(profile["type"] == "sampled", "type {}", profile["type"]);
        let samples = profile["samples"].as_array().context("no samples")?;
        let weights = profile["weights"].as_array().context("no weights")?;
        ensure!(samples.len() == weights.len(), "{} samples but {} weights", samples.len(), weights.len());
        for index in samples.iter().filter_map(Value::as_array).flatten() {
            ensure!(index.as_u64().is_some_and(|index| index < frames), "frame {index} of {frames}");
        }
    }
    Ok(())
}

fn is_pprof(path: &Path) -> Result<()> {
    let profile = Pprof::read(path)?;
    for value_type in ["samples/count", "cpu/nanoseconds", "waits/count", "off_cpu/nanoseconds"] {
        ensure!(profile.sum(value_type, |_| true)? > 0.0, "no {value_type}");
    }
    for sample in &profile.samples {
        ensure!(sample.values.len() == profile.types.len(), "a sample has {} values", sample.values.len());
        ensure!(sample.labels.contains_key("container") && sample.labels.contains_key("process"), "{sample:?}");
    }
    let Ok(go) = Command::new("go").args(["tool", "pprof", "-top", "-sample_index=samples"]).arg(path).output() else {
        println!("skipped: go tool pprof is not here to read it too");
        return Ok(());
    };
    let (top, errors) = (String::from_utf8_lossy(&go.stdout), String::from_utf8_lossy(&go.stderr));
    ensure!(go.status.success(), "go tool pprof does not read it: {errors}");
    ensure!(top.contains("shop_"), "go tool pprof shows none of the workload's functions:\n{top}");
    Ok(())
}

#[test]
fn record_writes_the_format_that_the_extension_names() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    is_flamegraph(&fs::read_to_string(record_demo(&directory, "x.svg", &[])?)?)?;
    is_folded(&fs::read_to_string(record_demo(&directory, "x.folded", &[])?)?)?;
    is_pprof(&record_demo(&directory, "x.pb.gz", &[])?)?;
    is_speedscope(&fs::read_to_string(record_demo(&directory, "x.speedscope.json", &[])?)?)?;
    let report = Report::read(&record_demo(&directory, "x.json", &[])?)?;
    ensure!(report.schema == 1, "schema {}", report.schema);
    Ok(())
}

#[test]
fn a_recording_gives_every_format_again() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let recording = record_demo(&directory, "x.profile", &[])?;
    for kind in ["cpu", "offcpu", "wall"] {
        is_flamegraph(&print_from(&recording, &["flamegraph", "--kind", kind])?)
            .with_context(|| format!("flamegraph of {kind}"))?;
    }
    is_speedscope(&print_from(&recording, &["export", "--format", "speedscope"])?)?;
    let pprof = directory.path().join("y.pb.gz");
    let mut export = program::command(["export", "--format", "pprof", "--output"])?;
    program::finish(export.arg(&pprof).arg(&recording))?.expect_code(0)?;
    is_pprof(&pprof)?;
    let stacks: Value = serde_json::from_str(&print_from(&recording, &["export", "--format", "json"])?)?;
    ensure!(stacks.is_object(), "the stacks are no JSON object");
    let report = Report::parse(&print_from(&recording, &["report", "--format", "json"])?)?;
    ensure!(report.schema == 1, "schema {}", report.schema);
    for format in ["text", "markdown"] {
        let text = print_from(&recording, &["report", "--format", format])?;
        ensure!(text.contains("mixed") || text.contains("host"), "the {format} report names nothing:\n{text}");
    }
    Ok(())
}

#[test]
fn folded_lines_and_pprof_agree() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let recording = record_demo(&directory, "x.profile", &[])?;
    let folded = print_from(&recording, &["export", "--format", "folded"])?;
    let pprof = directory.path().join("y.pb.gz");
    let mut export = program::command(["export", "--format", "pprof", "--output"])?;
    program::finish(export.arg(&pprof).arg(&recording))?.expect_code(0)?;
    let samples = Pprof::read(&pprof)?.sum("samples/count", |_| true)?;
    let lines = is_folded(&folded)?;
    ensure!(lines == samples as u64, "{lines} samples in the folded lines, {samples} in pprof");
    let chain = "shop_serve_orders;shop_price_order;shop_apply_discounts";
    ensure!(folded.contains(chain), "no {chain} among\n{folded}");
    ensure!(folded.lines().any(|line| line.contains("_[k]")), "no kernel frame is marked as one");
    Ok(())
}

#[test]
fn a_recording_is_read_without_rights_and_elsewhere() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let recording = record_demo(&directory, "x.profile", &[])?;
    let moved = tempdir()?;
    let copy = moved.path().join("copied.profile");
    fs::copy(&recording, &copy)?;
    let folded = print_from(&copy, &["export", "--format", "folded"])?;
    ensure!(folded.contains("shop_"), "names were not in the recording itself");
    Ok(())
}

#[test]
fn offcpu_alone_writes_offcpu_stacks() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let folded = fs::read_to_string(record_demo(&directory, "x.folded", &["--offcpu"])?)?;
    is_folded(&folded)?;
    if !folded.contains("shop_wait_for_next_tick") {
        bail!("the ticker's sleep is not in it:\n{folded}");
    }
    Ok(())
}
