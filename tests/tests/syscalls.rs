//! Syscalls: counts, errors, bytes and latencies of known loops.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cgroup::Cgroup;
use tests::figures::{between, measured};
use tests::observation::{Observation, observe};
use tests::requirement::kernel;
use tests::workload::Workload;

/// Every entry of the truth is in the report, with exactly these counts, errors and bytes.
fn exactly_as_made(observation: &Observation, cgroup: &Cgroup) -> Result<()> {
    let container = observation.report.container(cgroup.name())?;
    let truth = observation.truths[0].0["syscalls"].as_object().context("no syscalls in the truth")?;
    for (name, made) in truth {
        let seen = container.syscall(name)?;
        let figure = |field: &str| made[field].as_u64().with_context(|| format!("no {field} of {name}"));
        ensure!(seen.count == figure("count")?, "{name}: {} calls counted, {} made", seen.count, made["count"]);
        ensure!(seen.bytes == figure("bytes")?, "{name}: {} bytes counted, {} moved", seen.bytes, made["bytes"]);
        let errors: Value = seen.errors.iter().map(|(errno, count)| (errno.clone(), Value::from(*count))).collect();
        ensure!(errors == made["errors"], "{name}: errors {errors} counted, {} made", made["errors"]);
        let in_buckets: u64 = seen.buckets.iter().map(|(_, count)| count).sum();
        ensure!(in_buckets == seen.count, "{name}: {in_buckets} of {} calls are in buckets", seen.count);
    }
    let coverage = &observation.report.coverage.syscalls;
    ensure!(coverage.lost == 0, "{} calls lost", coverage.lost);
    let all: u64 = observation.report.containers.iter().flat_map(|c| &c.syscalls).map(|call| call.count).sum();
    ensure!(coverage.counted == all, "{} calls counted, {all} in the containers", coverage.counted);
    Ok(())
}

#[test]
fn a_million_calls_with_forks_are_counted_exactly() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let counter = Workload::start_in(&cgroup, "syscall_counter", &["--count", "1000000", "--forks", "200"])?;
        let observation = observe(vec![counter], &[])?;
        ensure!(observation.truths[0].number("/forks")? == 200, "not all children were forked");
        exactly_as_made(&observation, &cgroup)
    })
}

#[test]
fn calls_of_several_threads_at_once_are_counted_exactly() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let arguments = ["--count", "400000", "--threads", "4", "--bytes", "1000"];
        let counter = Workload::start_in(&cgroup, "syscall_counter", &arguments)?;
        exactly_as_made(&observe(vec![counter], &["--syscalls"])?, &cgroup)
    })
}

#[test]
fn two_containers_calls_are_kept_apart() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let (first, second) = (Cgroup::new()?, Cgroup::new()?);
        let workloads = vec![
            Workload::start_in(&first, "syscall_counter", &["--count", "50000", "--kinds", "getppid"])?,
            Workload::start_in(&second, "syscall_counter", &["--count", "70000", "--kinds", "getppid"])?,
        ];
        let observation = observe(workloads, &["--syscalls"])?;
        for (cgroup, made) in [(&first, 50_000), (&second, 70_000)] {
            let counted = observation.report.container(cgroup.name())?.syscall("getppid")?.count;
            ensure!(counted == made, "{counted} calls counted, {made} made");
        }
        Ok(())
    })
}

#[test]
fn percentiles_are_within_a_tenth_of_each_call_timed() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        // Long calls: what timing a call costs must not count.
        let arguments = ["--count", "20000", "--kinds", "read-zero", "--bytes", "1048576", "--trace", "--cpu", "0"];
        let counter = Workload::start_in(&cgroup, "syscall_counter", &arguments)?;
        let observation = observe(vec![counter], &["--syscalls"])?;
        let read = observation.report.container(cgroup.name())?.syscall("read")?;
        for (what, reported_s, field) in [("p50", read.p50_s, "p50_ns"), ("p99", read.p99_s, "p99_ns")] {
            let true_s = observation.truths[0].seconds(&format!("/syscalls/read/{field}"))?;
            between(what, reported_s / true_s, 0.9, 1.1)?;
        }
        ensure!(read.max_s >= read.p99_s * 0.9, "the longest call is shorter than the 99th percentile: {read:?}");
        Ok(())
    })
}
