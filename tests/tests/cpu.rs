//! CPU time and the samples of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::figures::{at_most_off, measured, seconds, within};
use tests::observation::{Observation, observe, observe_beside};
use tests::requirement::kernel;
use tests::workload::Workload;

/// The frequency asked for in these tests, in hertz.
const FREQUENCY: &str = "199";
const FREQUENCY_HZ: f64 = 199.0;

/// Samples of a container are within three standard deviations of its CPU time.
fn samples_fit(observation: &Observation, name: &str, cpu_s: f64) -> Result<()> {
    let samples = observation.profile.sum("samples/count", |sample| sample.is("container", name))?;
    let expected = cpu_s * FREQUENCY_HZ;
    at_most_off(&format!("samples of {name}"), samples, expected, 3.0 * expected.sqrt())?;
    let cpu_ns = observation.profile.sum("cpu/nanoseconds", |sample| sample.is("container", name))?;
    at_most_off("nanoseconds of these samples", cpu_ns / 1e9, samples / FREQUENCY_HZ, 0.001)
}

#[test]
fn cpu_time_is_the_kernels_own_for_three_containers_at_once() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let settings: [&[&str]; 3] = [
            &["--threads", "1", "--duty", "100"],
            &["--threads", "2", "--duty", "40"],
            &["--threads", "1", "--duty", "20", "--kernel", "80", "--period", "20"],
        ];
        let mut cgroups = Vec::new();
        let mut workloads = Vec::new();
        let mut cpu_before_ns = Vec::new();
        for arguments in settings {
            let cgroup = Cgroup::new()?;
            workloads.push(Workload::start_in(&cgroup, "spinner", &[arguments, &["--seconds", "4"]].concat())?);
            cpu_before_ns.push(cgroup.cpu_ns()?);
            cgroups.push(cgroup);
        }
        let observation = observe(workloads, &["--frequency", FREQUENCY])?;
        for ((cgroup, truth), before_ns) in cgroups.iter().zip(&observation.truths).zip(cpu_before_ns) {
            let container = observation.report.container(cgroup.name())?;
            within("CPU time by schedstat", container.ledger.cpu_s(), truth.seconds("/exec_ns")?, 0.01)?;
            let by_controller_s = seconds(cgroup.cpu_ns()? - before_ns);
            within("CPU time by the CPU controller", container.ledger.cpu_s(), by_controller_s, 0.02)?;
            samples_fit(&observation, cgroup.name(), truth.seconds("/exec_ns")?)?;
        }
        observation.report.coverage.cpu_samples.adds_up()
    })
}

#[test]
fn user_and_kernel_time_are_told_apart() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let spinner = Workload::start_in(&cgroup, "spinner", &["--kernel", "50", "--seconds", "4"])?;
        let observation = observe(vec![spinner], &["--frequency", FREQUENCY])?;
        let ledger = &observation.report.container(cgroup.name())?.ledger;
        let truth = &observation.truths[0];
        let kernel_share =
            truth.seconds("/kernel_path_ns")? / (truth.seconds("/kernel_path_ns")? + truth.seconds("/user_path_ns")?);
        let samples = truth.seconds("/exec_ns")? * FREQUENCY_HZ;
        // The split may be estimated from samples; a little of the kernel path is user code.
        let sigma = (kernel_share * (1.0 - kernel_share) / samples).sqrt();
        at_most_off("share of kernel time", ledger.cpu_kernel_s / ledger.cpu_s(), kernel_share, 0.03 + 3.0 * sigma)
    })
}

#[test]
fn samples_lie_below_the_named_path() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let spinner = Workload::start_in(&cgroup, "spinner", &["--depth", "20", "--seconds", "3"])?;
        let observation = observe(vec![spinner], &["--frequency", FREQUENCY])?;
        let mut path = vec!["spinner_enter"];
        path.extend(["spinner_descend"; 21]);
        path.push("spinner_burn");
        let mine = |sample: &tests::pprof::Sample| sample.is("container", cgroup.name());
        let all = observation.profile.sum("samples/count", mine)?;
        let below = observation.profile.sum("samples/count", |sample| mine(sample) && sample.goes_through(&path))?;
        ensure!(below > 0.95 * all, "{below} of {all} samples go through all 21 levels");
        Ok(())
    })
}

#[test]
fn expected_samples_are_all_accounted_for() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let (inside, outside) = (Cgroup::new()?, Cgroup::new()?);
        let workloads = vec![
            Workload::start_in(&inside, "spinner", &["--duty", "50"])?,
            Workload::start_in(&outside, "spinner", &["--duty", "50"])?,
        ];
        let observation = observe(workloads, &["--frequency", FREQUENCY, "--container", inside.name()])?;
        let coverage = &observation.report.coverage.cpu_samples;
        coverage.adds_up()?;
        let cpus = f64::from(observation.report.host.cpus);
        let expected = observation.window_s() * FREQUENCY_HZ * cpus;
        at_most_off("samples expected", coverage.expected as f64, expected, 0.02 * expected + cpus)?;
        ensure!(coverage.filtered > 0, "the other container's samples are filtered out: {coverage:?}");
        ensure!(observation.report.container(outside.name()).is_err(), "the filter let the other container in");
        samples_fit(&observation, inside.name(), observation.truths[0].seconds("/exec_ns")?)
    })
}

/// Calls bpf(2) on a map as fast as it can until told to stop: a sampler is skipped while its CPU is in there.
fn hammer_map_calls(stop: &AtomicBool) -> Result<u64> {
    const MAP_CREATE: libc::c_long = 0;
    const MAP_LOOKUP_ELEM: libc::c_long = 1;
    const HASH: u32 = 1;
    let create: [u32; 18] = {
        let mut attributes = [0; 18];
        attributes[..4].copy_from_slice(&[HASH, 4, 8, 16]);
        attributes
    };
    // SAFETY: the attributes are readable for the length passed, and ask for nothing but a new map.
    let map = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, create.as_ptr(), size_of_val(&create)) };
    ensure!(map >= 0, "cannot create a map: {}", std::io::Error::last_os_error());
    let (key, mut value) = (7_u32, 0_u64);
    let lookup: [u64; 4] = [map as u64, &raw const key as u64, &raw mut value as u64, 0];
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: key and value are as large as the map was told, and outlive the call.
        unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_ELEM, lookup.as_ptr(), size_of_val(&lookup)) };
        calls += 1;
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(map as i32) };
    Ok(calls)
}

#[test]
fn samples_lost_to_map_calls_are_counted_as_lost() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let spinner = Workload::start_in(&cgroup, "spinner", &["--duty", "50", "--seconds", "3"])?;
        let stop = Arc::new(AtomicBool::new(false));
        let hammers: Vec<_> = (0..2)
            .map(|_| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || hammer_map_calls(&stop))
            })
            .collect();
        let observation = observe_beside(vec![spinner], &["--frequency", FREQUENCY], |_| Ok(()));
        stop.store(true, Ordering::Relaxed);
        for hammer in hammers {
            let calls = hammer.join().ok().context("a hammering thread panicked")??;
            ensure!(calls > 0, "nothing was hammered");
        }
        let observation = observation?;
        let coverage = &observation.report.coverage.cpu_samples;
        coverage.adds_up()?;
        ensure!(coverage.lost_total() > 0, "hammering map calls loses samples, and none is reported: {coverage:?}");
        let container = observation.report.container(cgroup.name())?;
        within("CPU time all the same", container.ledger.cpu_s(), observation.truths[0].seconds("/exec_ns")?, 0.01)
    })
}
