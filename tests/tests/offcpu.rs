//! Off-CPU stacks: unbiased, and never without the long waits.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::figures::{EDGE_S, at_most_off, measured, within};
use tests::observation::{Observation, observe, observe_for};
use tests::pprof::Sample;
use tests::requirement::kernel;
use tests::workload::{Workload, compile_chain};

const REASONS: [&str; 8] =
    ["lock", "disk", "network", "sleep", "other", "runnable_self", "runnable_other", "throttled"];

/// Weighted off-CPU seconds of the samples that `wanted` picks.
fn weight_s(observation: &Observation, wanted: impl Fn(&Sample) -> bool) -> Result<f64> {
    Ok(observation.profile.sum("off_cpu/nanoseconds", wanted)? / 1e9)
}

/// For each reason the weighted sum is within 3 sqrt(T D) of the exact total D.
fn sums_are_unbiased(observation: &Observation, name: &str) -> Result<()> {
    let threshold_s = observation.report.coverage.offcpu.threshold_s;
    let ledger = &observation.report.container(name)?.ledger;
    for reason in REASONS {
        let exact_s = ledger.reason_s(reason).context("a reason without a part of the ledger")?;
        let weighted_s = weight_s(observation, |sample| sample.is("container", name) && sample.is("reason", reason))?;
        let allowed_s = 3.0 * (threshold_s * exact_s).sqrt() + EDGE_S;
        at_most_off(&format!("weighted {reason} of {name}"), weighted_s, exact_s, allowed_s)?;
    }
    Ok(())
}

#[test]
fn weighted_sums_meet_the_exact_totals_for_each_reason() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let (sleeping, fighting, mixing) = (Cgroup::new()?, Cgroup::new()?, Cgroup::new()?);
        let kinds = ["--kinds", "nanosleep,poll,unix,tcp,futex,pipe", "--wait", "3"];
        let workloads = vec![
            Workload::start_in(&sleeping, "sleeper", &kinds)?,
            Workload::start_in(&fighting, "lock_fighter", &["--hold", "200"])?,
            Workload::start_in(&mixing, "mixed", &["--seconds", "2"])?,
        ];
        let observation = observe(workloads, &[])?;
        for cgroup in [&sleeping, &fighting, &mixing] {
            sums_are_unbiased(&observation, cgroup.name())?;
        }
        let offcpu = &observation.report.coverage.offcpu;
        let allowed_s = 3.0 * (offcpu.threshold_s * offcpu.time_s).sqrt() + EDGE_S;
        at_most_off("off-CPU time with a stack", offcpu.with_stack_s, offcpu.time_s, allowed_s)
    })
}

#[test]
fn a_wait_for_an_answer_names_who_is_to_give_it() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let asking = Workload::start_in(&cgroup, "sleeper", &["--kinds", "tcp", "--wait", "20"])?;
        let observation = observe(vec![asking], &[])?;
        let container = observation.report.container(cgroup.name())?;
        let answers = container.waits.iter().find(|wait| wait["peer"].is_string()).context("no wait has a peer")?;
        ensure!(answers["reason"] == "network", "{answers}");
        let peer: std::net::SocketAddr = answers["peer"].as_str().unwrap_or_default().parse()?;
        ensure!(peer.ip().is_loopback() && peer.port() != 0, "{peer} is not the other end");
        let waited_s = observation.truths[0].seconds("/by_reason/network")?;
        within("waited for the peer", answers["s"].as_f64().unwrap_or(0.0), waited_s, 0.05)
    })
}

#[test]
fn brief_and_long_waits_get_their_true_shares() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let mix = Workload::start_in(&cgroup, "off_cpu_mix", &["--seconds", "6", "--cpu", "0,1"])?;
        let observation = observe(vec![mix], &[])?;
        let truth = &observation.truths[0];
        let switches_per_s = truth.number("/brief/waits")? as f64 / truth.work_s()?;
        println!("{switches_per_s:.0} brief waits a second");
        // All off-CPU time below each of the two: blocked, and waiting for a CPU in the same calls. (The clock around a wait
        // also counts what the call itself takes on the CPU, which for the brief waits is a third of it.)
        let below_s = |function: &str, thread: &str| {
            weight_s(&observation, |sample| {
                sample.is("container", cgroup.name())
                    && sample.goes_through(&[function])
                    && sample.labels.get("thread").is_some_and(|name| name.contains(thread))
            })
        };
        let brief_s = below_s("off_cpu_mix::hand_over", "-")?;
        let slow_s = below_s("slow_wait_root", "sleep-")?;
        let (true_brief_s, true_slow_s) = (truth.seconds("/brief/off_cpu_ns")?, truth.seconds("/slow/off_cpu_ns")?);
        within("slow path", slow_s, true_slow_s, 0.05)?;
        let share = brief_s / (brief_s + slow_s);
        let true_share = true_brief_s / (true_brief_s + true_slow_s);
        at_most_off("the brief path's share", share, true_share, 0.05 * true_share)?;
        sums_are_unbiased(&observation, cgroup.name())
    })
}

#[test]
fn one_hang_of_five_seconds_is_there_with_its_stack() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let hang = Workload::start_in(&cgroup, "hang", &["--seconds", "5"])?;
        let observation = observe(vec![hang], &[])?;
        let path = ["hang_handle_request", "hang_query_backend", "hang_wait_for_answer"];
        // The thread is parked, on another path, before and after it hangs.
        let hung_s = weight_s(&observation, |sample| sample.goes_through(&path))?;
        within("the hang", hung_s, observation.truths[0].seconds("/hung_ns")?, 0.01)?;
        let whole = observation.profile.samples.iter().filter(|sample| sample.goes_through(&path)).all(|sample| {
            // Woken, it waits for a CPU for a moment, still in the same place.
            let reason = ["other", "runnable_self", "runnable_other"].iter().any(|reason| sample.is("reason", reason));
            reason && sample.frames.iter().any(|frame| frame.contains("pipe_read"))
        });
        ensure!(whole, "the kernel's side of the stack is missing, or the reason is wrong");
        Ok(())
    })
}

#[test]
fn waits_that_began_before_and_never_end_are_there_with_their_stacks() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let _hang = Workload::start_in(&cgroup, "hang", &[])?;
        let observation = observe_for(Duration::from_secs(2), &[])?;
        let waits: [(&[&str], &str); 2] = [
            (&["never_answered_root", "never_answered_step", "never_answered_block"], "other"),
            (&["never_woken_root", "never_woken_block"], "lock"),
        ];
        for (path, reason) in waits {
            let waited_s = weight_s(&observation, |sample| sample.goes_through(path) && sample.is("reason", reason))?;
            within(path[0], waited_s, observation.window_s(), 0.01)?;
        }
        sums_are_unbiased(&observation, cgroup.name())
    })
}

#[test]
fn a_chain_of_known_depth_is_whole_from_main_to_the_kernel() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempfile::tempdir()?;
        let chain = compile_chain(directory.path())?;
        let cgroup = Cgroup::new()?;
        let mut child = cgroup
            .command(&chain)
            .arg("40")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("no chain")?;
        let observed = (|| {
            let mut ready = [0; 6];
            child.stdout.as_mut().context("chain without output")?.read_exact(&mut ready)?;
            observe_for(Duration::from_secs(1), &[])
        })();
        drop(child.stdin.take());
        child.wait()?;
        let observation = observed?;
        let mut path = vec!["main", "chain_enter"];
        path.extend(["chain_descend"; 41]);
        path.push("chain_block");
        let waited_s = weight_s(&observation, |sample| sample.goes_through(&path))?;
        within("the chain's wait", waited_s, observation.window_s(), 0.01)
    })
}

/// Kernel stacks are compared with those that were walked before, and these threads block in turn on one CPU, two of them in the
/// same call: none may get another's stack.
#[test]
fn threads_that_block_at_different_places_have_kernel_stacks_of_their_own() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let cgroup = Cgroup::new()?;
        let places = [
            ("timerfd", "timerfd_read"),
            ("pipe", "pipe_read"),
            ("unix", "unix_stream_read"),
            ("tcp", "tcp_recvmsg"),
            ("select", "core_sys_select"),
        ];
        let kinds = places.map(|(kind, _)| kind).join(",");
        let options = ["--kinds", &kinds, "--wait", "2", "--cpu", "0"];
        let observation = observe(vec![Workload::start_in(&cgroup, "sleeper", &options)?], &[])?;
        let waiters = observation.truths[0].0["waiters"].as_array().context("no waiters in the truth")?;
        for (kind, place) in places {
            let truth = waiters.iter().find(|waiter| waiter["kind"] == kind).context("a thread without truth")?;
            let waited_s = truth["waited_ns"].as_f64().context("no time")? / 1e9;
            let here_s = weight_s(&observation, |sample| {
                sample.is("thread", kind) && sample.frames.iter().any(|frame| frame.contains(place))
            })?;
            within(place, here_s, waited_s, 0.05)?;
        }
        Ok(())
    })
}
