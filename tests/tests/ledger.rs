//! The time ledger: every moment of every thread belongs to exactly one part, and to the right one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::figures::{between, measured, within};
use tests::observation::{Observation, observe, observe_for};
use tests::report::Container;
use tests::requirement::kernel;
use tests::workload::{Truth, Workload};

/// The parts sum to `thread_s`, and the runnable ones to schedstat's run_delay.
fn adds_up(container: &Container, truth: &Truth, runnable_share: f64) -> Result<()> {
    let ledger = &container.ledger;
    within("the sum of the parts", ledger.sum_s(), ledger.thread_s, 0.01)?;
    within("CPU time", ledger.cpu_s(), truth.seconds("/exec_ns")?, 0.01)?;
    within("self + other + throttled", ledger.runnable_s(), truth.seconds("/run_delay_ns")?, runnable_share)
        .with_context(|| format!("{ledger:?}"))
}

/// All threads of the workload live through the whole window.
fn lives_throughout(observation: &Observation, container: &Container, truth: &Truth) -> Result<()> {
    within("thread lifetime", container.ledger.thread_s, truth.threads()? * observation.window_s(), 0.01)
}

#[test]
fn the_parts_sum_to_the_threads_lifetimes() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let spinner = Workload::start_in(&cgroup, "spinner", &["--threads", "4", "--duty", "60", "--kernel", "30"])?;
        let observation = observe(vec![spinner], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        // Four unpinned threads on few CPUs migrate.
        adds_up(container, truth, 0.02)?;
        lives_throughout(&observation, container, truth)?;
        within("slept between spins", container.ledger.blocked_sleep_s, truth.seconds("/slept_ns")?, 0.05)
    })
}

#[test]
fn every_container_of_the_host_adds_up() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let mixed = Workload::start("mixed", &["--seconds", "2"])?;
        let observation = observe(vec![mixed], &[])?;
        ensure!(!observation.report.containers.is_empty(), "a host without anything on it");
        for container in &observation.report.containers {
            within(&container.name, container.ledger.sum_s(), container.ledger.thread_s, 0.01)?;
        }
        Ok(())
    })
}

#[test]
fn threads_on_one_cpu_wait_behind_their_own_container() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let spinner = Workload::start_in(&cgroup, "spinner", &["--threads", "3", "--cpu", "0"])?;
        let observation = observe(vec![spinner], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        adds_up(container, truth, 0.01)?;
        // While one of the three runs the other two wait; nobody else on this CPU is asked for more than a little.
        within("waiting behind itself", container.ledger.runnable_self_s, 2.0 * truth.seconds("/exec_ns")?, 0.02)
    })
}

#[test]
fn a_neighbour_of_known_share_is_the_time_waited_for_others_and_is_named() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let (victim, neighbour) = (Cgroup::new()?, Cgroup::new()?);
        let wanting = Workload::start_in(&victim, "spinner", &["--cpu", "0", "--seconds", "4"])?;
        let disturbing = Workload::start_in(&neighbour, "spinner", &["--cpu", "0", "--seconds", "3", "--duty", "40"])?;
        let observation = observe(vec![wanting, disturbing], &[])?;
        let (victim, truth) = (observation.report.container(victim.name())?, &observation.truths[0]);
        adds_up(victim, truth, 0.01)?;
        ensure!(victim.ledger.throttled_s < 0.001, "throttled without a quota: {:?}", victim.ledger);
        within("waiting for others", victim.ledger.runnable_other_s, truth.seconds("/run_delay_ns")?, 0.01)?;
        // The victim always wants this CPU, so all that the neighbour gets of it is waited for.
        let taken_s = observation.truths[1].seconds("/exec_ns")?;
        within("waited behind the neighbour", victim.waited_behind_s(neighbour.name()), taken_s, 0.05)?;
        let first = victim.waited_behind.first().map(|entry| entry.container.as_str());
        ensure!(first == Some(neighbour.name()), "waited longest behind {first:?}: {:?}", victim.waited_behind);
        let named_s: f64 = victim.waited_behind.iter().map(|entry| entry.s).sum();
        within("all that was waited behind", named_s, victim.ledger.runnable_other_s, 0.01)
    })
}

fn throttled_with(threads: u32, cores: f64) -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::with_quota(cores)?;
    // Pinned evenly: how long threads wait behind each other would else depend on where the kernel leaves them.
    let places = std::thread::available_parallelism()?.get().min(2) as u32;
    let threads_text = threads.to_string();
    let mut arguments = vec!["--threads", &threads_text, "--seconds", "4"];
    if threads > 1 {
        arguments.extend(["--cpu", if places == 2 { "0,1" } else { "0" }]);
    }
    let burning = Workload::start_in(&cgroup, "throttled", &arguments)?;
    let observation = observe(vec![burning], &[])?;
    let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
    let ledger = &container.ledger;
    adds_up(container, truth, 0.02)?;
    lives_throughout(&observation, container, truth)?;
    let limit = container.cpu_limit.unwrap_or(0.0);
    ensure!((limit - cores).abs() < 0.001, "the limit is {cores} cores, the report says {limit}");
    // While a thread runs, those that share its CPU wait behind it; all the other waiting is the quota's.
    let behind_own_s = truth.seconds("/cpu_ns")? * (f64::from(threads) / f64::from(places) - 1.0).max(0.0);
    let expected_s = truth.seconds("/run_delay_ns")? - behind_own_s - ledger.runnable_other_s;
    within("throttled", ledger.throttled_s, expected_s, 0.05)?;
    let own_s = ledger.throttled_s + ledger.runnable_self_s;
    ensure!(ledger.throttled_s > 0.5 * own_s, "throttling is most of what is not waited behind others: {ledger:?}");
    Ok(())
}

#[test]
fn a_quota_throttles_one_thread() -> Result<()> {
    measured(|| throttled_with(1, 0.3))
}

#[test]
fn a_quota_throttles_two_threads_each() -> Result<()> {
    measured(|| throttled_with(2, 0.3))
}

#[test]
fn a_quota_throttles_four_threads_each() -> Result<()> {
    measured(|| throttled_with(4, 0.3))
}

#[test]
fn a_quota_throttles_six_threads_each() -> Result<()> {
    measured(|| throttled_with(6, 0.5))
}

#[test]
fn waits_of_every_reason_are_as_long_as_the_clock_says() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let kinds = "nanosleep,clock-nanosleep,poll,select,timerfd,epoll,pipe,wait4,unix,tcp,futex";
        let sleeper = Workload::start_in(&cgroup, "sleeper", &["--kinds", kinds, "--wait", "50"])?;
        let observation = observe(vec![sleeper], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        let ledger = &container.ledger;
        within("the sum of the parts", ledger.sum_s(), ledger.thread_s, 0.01)?;
        within("sleep", ledger.blocked_sleep_s, truth.seconds("/by_reason/sleep")?, 0.05)?;
        within("lock", ledger.blocked_lock_s, truth.seconds("/by_reason/lock")?, 0.05)?;
        within("network", ledger.blocked_network_s, truth.seconds("/by_reason/network")?, 0.05)?;
        // Parked threads read from pipes: all of the workload's threads outside of the work, the main one inside of it too.
        let parked_s = truth.threads()? * (observation.window_s() - truth.work_s()?) + truth.work_s()?;
        let other_s = truth.seconds("/by_reason/other")? + parked_s;
        // The peers that answer over sockets are threads as well; they park for as long as the workers do.
        let peers_s = 4.0 * (observation.window_s() - truth.work_s()?);
        between("other", ledger.blocked_other_s, 0.95 * other_s, 1.05 * (other_s + peers_s))
    })
}

#[test]
fn each_way_to_wait_belongs_to_its_own_reason() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let ways = [
            ("nanosleep", "sleep"),
            ("clock-nanosleep", "sleep"),
            ("poll", "sleep"),
            ("select", "sleep"),
            ("timerfd", "sleep"),
            ("epoll", "network"),
            ("unix", "network"),
            ("tcp", "network"),
            ("futex", "lock"),
        ];
        let mut cgroups = Vec::new();
        let mut workloads = Vec::new();
        for (kind, _) in ways {
            let cgroup = Cgroup::new()?;
            workloads.push(Workload::start_in(&cgroup, "sleeper", &["--kinds", kind, "--wait", "50"])?);
            cgroups.push(cgroup);
        }
        let observation = observe(workloads, &[])?;
        for (((kind, reason), cgroup), truth) in ways.iter().zip(&cgroups).zip(&observation.truths) {
            let ledger = &observation.report.container(cgroup.name())?.ledger;
            let expected_s = truth.seconds(&format!("/by_reason/{reason}"))?;
            within(kind, ledger.reason_s(reason).unwrap_or(0.0), expected_s, 0.05)?;
        }
        Ok(())
    })
}

#[test]
fn waiting_for_a_lock_is_as_long_as_the_clock_says() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let fighters = Workload::start_in(&cgroup, "lock_fighter", &["--threads", "4", "--hold", "2000"])?;
        let observation = observe(vec![fighters], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        adds_up(container, truth, 0.02)?;
        within("lock", container.ledger.blocked_lock_s, truth.seconds("/waited_ns")?, 0.05)?;
        within("sleeping with the lock held", container.ledger.blocked_sleep_s, truth.seconds("/held_ns")?, 0.05)
    })
}

#[test]
fn a_wait_longer_than_the_window_fills_it() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let hour = ["--kinds", "nanosleep,poll,futex,epoll", "--wait", "3600000", "--once", "--seconds", "3600"];
        let mut sleeper = Workload::start_in(&cgroup, "sleeper", &hour)?;
        sleeper.begin()?;
        let observation = observe_for(Duration::from_secs(2), &[])?;
        let ledger = &observation.report.container(cgroup.name())?.ledger;
        let window_s = observation.window_s();
        within("four waiting threads and the main one", ledger.thread_s, 5.0 * window_s, 0.01)?;
        within("nanosleep and poll", ledger.blocked_sleep_s, 2.0 * window_s, 0.01)?;
        within("futex", ledger.blocked_lock_s, window_s, 0.01)?;
        within("epoll", ledger.blocked_network_s, window_s, 0.01)?;
        within("the main thread", ledger.blocked_other_s, window_s, 0.01)
    })
}

#[test]
fn threads_that_never_ran_in_the_window_are_in_the_ledger() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let _sleeper = Workload::start_in(&cgroup, "sleeper", &["--never", "40", "--kinds", "nanosleep"])?;
        let observation = observe_for(Duration::from_secs(1), &[])?;
        let ledger = &observation.report.container(cgroup.name())?.ledger;
        let window_s = observation.window_s();
        within("42 threads", ledger.thread_s, 42.0 * window_s, 0.01)?;
        within("20 of them on a futex", ledger.blocked_lock_s, 20.0 * window_s, 0.01)?;
        within("22 of them on pipes", ledger.blocked_other_s, 22.0 * window_s, 0.01)?;
        within("none on a CPU", ledger.cpu_s(), 0.0, 0.01)
    })
}

#[test]
fn processes_born_and_dead_inside_the_window_are_in_the_ledger() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let arguments = ["--count", "100", "--life", "40", "--doing", "sleep", "--threads", "4"];
        let storm = Workload::start_in(&cgroup, "process_storm", &arguments)?;
        let observation = observe(vec![storm], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        ensure!(truth.number("/ended_well")? == 100, "children failed: {}", truth.0);
        within("the sum of the parts", container.ledger.sum_s(), container.ledger.thread_s, 0.01)?;
        let children_s = container.ledger.thread_s - truth.threads()? * observation.window_s();
        between("the children's lifetimes", children_s, 100.0 * 0.040, truth.seconds("/lived_ns")? * 1.01)?;
        between(
            "the children's sleep",
            container.ledger.blocked_sleep_s,
            100.0 * 0.040 * 0.99,
            truth.seconds("/lived_ns")?,
        )
    })
}

#[test]
fn a_container_that_lives_a_moment_has_its_name_and_its_cpu_time() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let storm = Workload::start_in(&cgroup, "process_storm", &["--count", "100", "--life", "5"])?;
        let observation = observe(vec![storm], &[])?;
        let (container, truth) = (observation.report.container(cgroup.name())?, &observation.truths[0]);
        ensure!(container.id == cgroup.id(), "the id is {}, the report says {}", cgroup.id(), container.id);
        let cpu_s = truth.seconds("/exec_ns")? + truth.seconds("/children_cpu_ns")?;
        within("CPU time of parents and children", container.ledger.cpu_s(), cpu_s, 0.02)
    })
}
