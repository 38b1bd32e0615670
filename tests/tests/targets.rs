//! Optimization targets of real workloads: what is planted is found, what is idle is not, and rechecks show it again.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cgroup::Cgroup;
use tests::observation::{Observation, observe, observe_for};
use tests::program;
use tests::requirement::kernel;
use tests::workload::Workload;

/// Kind, blamed function and recheck command of a container's targets, by rank.
fn targets_of<'o>(observation: &'o Observation, container: &str) -> Vec<&'o Value> {
    observation.report.targets.iter().filter(|target| target["container"] == container).collect()
}

fn kinds(targets: &[&Value]) -> Vec<String> {
    targets.iter().filter_map(|target| target["kind"].as_str()).map(str::to_owned).collect()
}

#[test]
fn a_spinning_program_is_hot_below_the_function_that_spins() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let spinner = Workload::start_in(&cgroup, "spinner", &["--seconds", "4"])?;
    let observation = observe(vec![spinner], &[])?;
    let targets = targets_of(&observation, cgroup.name());
    let hot = targets.iter().find(|target| target["kind"] == "cpu_hotspot");
    let hot = hot.with_context(|| format!("no hot function among {:?}", kinds(&targets)))?;
    let frames = hot["frames"].as_array().context("no frames")?;
    let last = frames.last().and_then(Value::as_str).unwrap_or_default();
    let blamed = hot["blame"]["function"].as_str().unwrap_or_default();
    ensure!(last.contains(blamed) && !blamed.is_empty(), "{blamed} is not the end of {frames:?}");
    let (cost, gain) = (hot["cost"]["value"].as_f64(), hot["gain_at_most"]["value"].as_f64());
    ensure!(gain <= cost && gain > Some(0.0), "{gain:?} of {cost:?}");
    Ok(())
}

#[test]
fn a_program_over_its_quota_is_throttled_and_no_neighbour_is_blamed() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::with_quota(0.2)?;
    let throttled = Workload::start_in(&cgroup, "throttled", &["--seconds", "4"])?;
    let observation = observe(vec![throttled], &[])?;
    let targets = targets_of(&observation, cgroup.name());
    let target = targets.iter().find(|target| target["kind"] == "cpu_throttled");
    let target = target.with_context(|| format!("not throttled: {:?}", kinds(&targets)))?;
    let ledger = &observation.report.container(cgroup.name())?.ledger;
    let claims_s = target["claims_s"].as_f64().context("no claim")?;
    let throttled_s = ledger.reason_s("throttled").context("no throttled time in the ledger")?;
    ensure!((claims_s - throttled_s).abs() < 1e-6, "claims {claims_s} of {throttled_s}");
    Ok(())
}

#[test]
fn threads_that_only_wait_are_nothing_to_say() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let sleeper = Workload::start_in(&cgroup, "sleeper", &["--kinds", "nanosleep,epoll,futex", "--wait", "20"])?;
    let observation = observe(vec![sleeper], &[])?;
    let targets = targets_of(&observation, cgroup.name());
    ensure!(targets.is_empty(), "said of a program that only waits: {targets:?}");
    Ok(())
}

#[test]
fn the_recheck_of_a_target_runs_as_it_stands_and_shows_it_again() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let mut spinner = Workload::start_in(&cgroup, "spinner", &["--seconds", "40"])?;
    spinner.begin()?;
    let observation = observe_for(Duration::from_secs(3), &["--container", cgroup.name()])?;
    let targets = targets_of(&observation, cgroup.name());
    let target = targets.first().context("nothing to recheck")?;
    let recheck = target["recheck"].as_str().context("no recheck")?;
    let mut directory = program::path()?;
    ensure!(directory.pop(), "the program has no directory");
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", recheck]).env("PATH", path).current_dir(observation.directory.path());
    program::finish(&mut shell)?.expect_code(0)?;
    let shown = std::fs::read_to_string(observation.directory.path().join("recheck.txt"))?;
    let id = target["id"].as_str().context("no id")?;
    ensure!(shown.contains(id), "{id} is not in\n{shown}");
    Ok(())
}

#[test]
fn two_recordings_of_the_same_load_have_not_changed_and_a_missed_objective_fails() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let mut spinner = Workload::start_in(&cgroup, "spinner", &["--seconds", "40"])?;
    spinner.begin()?;
    let options = ["--container", cgroup.name()];
    let (a, b) = (observe_for(Duration::from_secs(6), &options)?, observe_for(Duration::from_secs(6), &options)?);
    let mut diff = program::command(["diff"])?;
    let table = program::finish(diff.arg(&a.recording).arg(&b.recording))?.expect_code(0)?;
    ensure!(table.stdout.contains("Verdict:"), "{}", table.stdout);
    let mut strict = program::command(["diff", "--slo", "cpu < 0.000001"])?;
    program::finish(strict.arg(&a.recording).arg(&b.recording))?.expect_code(3)?;
    let mut unknown = program::command(["diff", "--fail-if", "cpu_per_cake > 5%"])?;
    program::finish(unknown.arg(&a.recording).arg(&b.recording))?.expect_code(2)?.expect_message(&["there are cpu"])
}
