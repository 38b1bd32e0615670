//! A Docker container, a Podman container and a host process busy at once: each has its name and its own figures.

use anyhow::{Context, Result, ensure};
use tests::containers::{DOCKER, Docker, PODMAN, Podman, RunOptions, check_requirements};
use tests::figures::{at_most_off, within};
use tests::observation::observe;
use tests::report::{Container, Report};
use tests::requirement::kernel;
use tests::workload::{Packed, Truth, Workload};

const FREQUENCY_HZ: f64 = 99.0;

fn by_id<'a>(report: &'a Report, id: &str) -> Result<&'a Container> {
    report.containers.iter().find(|container| container.id == id).with_context(|| format!("{id} is not in the report"))
}

fn options(name: &str, packed: &Packed, arguments: &[&str]) -> Result<RunOptions> {
    Ok(RunOptions { mounts: packed.mounts()?, ..RunOptions::new(name, packed.command(arguments)) })
}

fn cpu_is_right(container: &Container, truth: &Truth, samples: f64) -> Result<()> {
    let cpu_s = truth.seconds("/exec_ns")?;
    within(&format!("CPU time of {}", container.name), container.ledger.cpu_s(), cpu_s, 0.01)?;
    let expected = cpu_s * FREQUENCY_HZ;
    at_most_off(&format!("samples of {}", container.name), samples, expected, 3.0 * expected.sqrt())?;
    within(&format!("the parts of {}", container.name), container.ledger.sum_s(), container.ledger.thread_s, 0.01)
}

#[test]
fn docker_podman_and_the_host_are_named_and_measured_at_once() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if !check_requirements(&DOCKER)? || !check_requirements(&PODMAN)? {
        return Ok(());
    }
    let (docker, podman) = (Docker::shared()?, Podman::shared()?);
    let (in_docker, in_podman) = (Packed::new("spinner")?, Packed::new("spinner")?);
    let busy = ["--seconds", "5", "--duty", "60"];
    let docked = docker.run(&options("scene-docker", &in_docker, &busy)?)?;
    let podded = podman.run(&options("scene-podman", &in_podman, &busy)?)?;
    let workloads = vec![
        in_docker.connect(docked.pid)?,
        in_podman.connect(podded.pid)?,
        Workload::start("spinner", &["--seconds", "5", "--duty", "30", "--kernel", "50"])?,
    ];
    let sockets = [docker.socket(), podman.socket()].map(|path| format!("unix://{}", path.display()));
    let observation = observe(workloads, &["--runtime-socket", &sockets[0], "--runtime-socket", &sockets[1]])?;
    let report = &observation.report;
    report.coverage.cpu_samples.adds_up()?;

    for (running, runtime, truth) in
        [(&docked, "docker", &observation.truths[0]), (&podded, "podman", &observation.truths[1])]
    {
        let container = by_id(report, &running.id)?;
        ensure!(
            container.runtime == runtime && container.name == running.name,
            "{} of {}",
            container.name,
            container.runtime
        );
        let samples = observation.profile.sum("samples/count", |sample| sample.is("container", &container.name))?;
        cpu_is_right(container, truth, samples)?;
    }
    let host_truth = &observation.truths[2];
    let of_spinner = |sample: &tests::pprof::Sample| {
        sample.is("process", "spinner")
            && !sample.labels.get("container").is_some_and(|name| name.starts_with("scene-"))
    };
    ensure!(observation.profile.sum("samples/count", of_spinner)? > 0.0, "no samples of the host's spinner");
    let host_s: f64 = report.containers.iter().filter(|one| one.runtime == "host").map(|one| one.ledger.cpu_s()).sum();
    ensure!(
        host_s >= host_truth.seconds("/exec_ns")? * 0.99,
        "the host has less CPU time than its spinner: {host_s} s"
    );
    Ok(())
}
