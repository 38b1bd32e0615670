//! The workloads' own answers, checked by other means than theirs and without the profiler: a ground truth that is
//! wrong would make every other test worthless.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::tempdir;
use tests::cgroup::Cgroup;
use tests::containers::{DOCKER, Docker, RunOptions, check_requirements};
use tests::figures::{seconds, within};
use tests::requirement::{kernel, missing};
use tests::workload::{self, Packed, Truth, Workload};

fn work(mut workload: Workload) -> Result<Truth> {
    workload.begin()?;
    workload.wait_ended()?;
    workload.truth()
}

#[test]
fn a_spinners_cpu_time_is_what_the_cpu_controller_accounts() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let spinner = Workload::start_in(&cgroup, "spinner", &["--threads", "3", "--seconds", "1", "--kernel", "30"])?;
    let before_ns = cgroup.cpu_ns()?;
    let truth = work(spinner)?;
    let accounted_s = seconds(cgroup.cpu_ns()? - before_ns);
    within("schedstat", truth.seconds("/exec_ns")?, accounted_s, 0.02)?;
    within("the threads' own clocks", truth.seconds("/cpu_ns")?, truth.seconds("/exec_ns")?, 0.02)
}

#[test]
fn a_threads_time_is_cpu_and_run_delay_when_it_only_spins() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let spinner = Workload::start("spinner", &["--threads", "4", "--seconds", "1", "--cpu", "0"])?;
    let truth = work(spinner)?;
    let accounted_s = truth.seconds("/exec_ns")? + truth.seconds("/run_delay_ns")?;
    within("CPU time and run delay", accounted_s, 4.0 * truth.work_s()?, 0.02)
}

#[test]
fn a_quota_holds_threads_back() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::with_quota(0.3)?;
    let truth = work(Workload::start_in(&cgroup, "throttled", &["--threads", "4", "--seconds", "2"])?)?;
    ensure!(truth.number("/cpu_stat/nr_throttled")? > 0, "never throttled: {}", truth.0);
    let waited_s = truth.seconds("/run_delay_ns")?;
    ensure!(waited_s > 2.0 * 2.0, "four threads at 0.3 cores waited only {waited_s} s in 2 s");
    within("CPU time and run delay", waited_s + truth.seconds("/exec_ns")?, 4.0 * truth.work_s()?, 0.05)
}

#[test]
fn strace_counts_the_same_calls() -> Result<()> {
    if Command::new("strace").arg("--version").output().is_err() {
        missing::<()>("needs strace")?;
        return Ok(());
    }
    let directory = tempdir()?;
    let (trace, truth) = (directory.path().join("trace"), directory.path().join("truth"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=read,write,openat,getppid,getpgid,fork,wait4", "-o"]).arg(&trace);
    strace.arg(workload::path("syscall_counter")?).args(["--count", "600", "--forks", "7", "--truth"]).arg(&truth);
    ensure!(strace.output().context("cannot run strace")?.status.success(), "strace failed");
    let lines = fs::read_to_string(&trace)?;
    let truth = Truth(serde_json::from_str(&fs::read_to_string(&truth)?)?);
    let traced = |parts: &[&str]| {
        // A call that another thread interrupts is printed in two lines; its end is the one with the result.
        lines.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count() as u64
    };
    for (pointer, parts) in [
        ("/syscalls/getppid/count", &["getppid", " = "][..]),
        ("/syscalls/getpgid/count", &["getpgid", " = "]),
        ("/syscalls/fork/count", &["fork", " = "]),
        ("/syscalls/wait4/count", &["wait4", " = "]),
        ("/syscalls/openat/errors/ENOENT", &["openat", "/nonexistent/syscall_counter", "ENOENT"]),
        ("/syscalls/read/errors/EAGAIN", &["read", "EAGAIN"]),
        ("/syscalls/write/count", &["write", " = 64"]),
    ] {
        let (made, traced) = (truth.number(pointer)?, traced(parts));
        ensure!(made == traced, "{pointer}: {made} made, {traced} traced");
    }
    Ok(())
}

#[test]
fn every_workload_speaks_the_handshake() -> Result<()> {
    let cases: [(&str, &[&str]); 9] = [
        ("spinner", &["--seconds", "0.1"]),
        ("throttled", &["--seconds", "0.1"]),
        ("sleeper", &["--seconds", "0.1", "--never", "2"]),
        ("lock_fighter", &["--seconds", "0.1"]),
        ("syscall_counter", &["--count", "600"]),
        ("off_cpu_mix", &["--seconds", "0.1"]),
        ("hang", &["--seconds", "0.1"]),
        ("process_storm", &["--count", "4"]),
        ("mixed", &["--seconds", "0.1"]),
    ];
    for (name, arguments) in cases {
        let truth = work(Workload::start(name, arguments)?).with_context(|| name.to_owned())?;
        ensure!(truth.0["workload"] == name, "{name} says it is {}", truth.0["workload"]);
        ensure!(truth.number("/end/unix_ns")? > truth.number("/begin/unix_ns")?, "{name} ended before it began");
    }
    Ok(())
}

#[test]
fn a_workload_ends_when_asked_and_still_tells_its_truth() -> Result<()> {
    let mut spinner = Workload::start("spinner", &["--seconds", "3600", "--duty", "10", "--period", "20"])?;
    spinner.begin()?;
    let pid = rustix::process::Pid::from_raw(spinner.pid() as i32).context("a process without an id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    spinner.wait_ended()?;
    let truth = spinner.truth()?;
    ensure!(truth.work_s()? < 3000.0, "it worked on: {}", truth.0);
    Ok(())
}

#[test]
fn the_chain_waits_for_its_byte() -> Result<()> {
    let directory = tempdir()?;
    let chain = workload::compile_chain(directory.path())?;
    let refused = Command::new(&chain).arg("deep").output()?;
    ensure!(refused.status.code() == Some(2), "a depth that is no number is wrong usage");
    let truth = Workload::spawn("chain", Command::new(&chain).arg("1000"))?.truth()?;
    ensure!(truth.number("/depth")? == 1000, "{}", truth.0);
    Ok(())
}

#[test]
fn an_installed_workload_runs_on_its_own_files_alone() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let root = tempdir()?;
    workload::install("lock_fighter", root.path())?;
    // The threads' schedstat is the one thing it needs besides: an empty directory stands in for it.
    fs::create_dir_all(root.path().join("proc/self/task"))?;
    let mut chroot = Command::new("chroot");
    let truth = work(Workload::spawn(
        "chroot",
        chroot.arg(root.path()).args(["/lock_fighter", "--handshake", "--seconds", "0.1"]),
    )?)?;
    ensure!(truth.number("/taken")? > 0, "{}", truth.0);
    Ok(())
}

#[test]
fn a_packed_workload_speaks_the_handshake_from_inside_a_container() -> Result<()> {
    if !check_requirements(&DOCKER)? {
        return Ok(());
    }
    let (docker, packed) = (Docker::shared()?, Packed::new("spinner")?);
    let command = packed.command(&["--seconds", "0.2", "--threads", "2"]);
    let options = RunOptions { mounts: packed.mounts()?, ..RunOptions::new("packed", command) };
    let running = docker.run(&options)?;
    let truth = work(packed.connect(running.pid)?)?;
    ensure!(truth.number("/exec_ns")? > 0, "{}", truth.0);
    Ok(())
}
