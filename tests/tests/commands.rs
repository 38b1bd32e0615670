//! `record -- COMMAND` and `record --pid`: the command runs as it would without us, is ended as its user wants, and a
//! recording that saw nothing says so.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::{TempDir, tempdir};
use tests::cgroup::Cgroup;
use tests::figures::within;
use tests::observation::wait_for;
use tests::program::{self, Finished, Running};
use tests::report::Report;
use tests::requirement::{kernel, missing};
use tests::workload::Workload;

/// Says all that a process inherits, and what of it a parent may change unawares.
const INHERITED: &str = "grep -E '^(Sig(Blk|Ign)|Umask|NoNewPrivs|Cap)' /proc/self/status; ls /proc/self/fd; \
                         cat /proc/self/limits /proc/self/oom_score_adj; nice; env | grep -v '^_='; \
                         exec 3>&1; { yes 2> /dev/null; echo $? >&3; } | head -1 > /dev/null";

/// A directory, and the recording in it.
fn recording_in(directory: &TempDir) -> (PathBuf, String) {
    let path = directory.path().join("x.profile");
    (path.clone(), path.display().to_string())
}

fn report(recording: &Path, format: &str) -> Result<String> {
    let mut report = program::command(["report", "--format", format])?;
    Ok(program::finish(report.arg(recording))?.expect_code(0)?.stdout)
}

/// Starts a recording of a script in a process group of its own, and waits until the script has made the file `ready`.
fn record_script(directory: &TempDir, script: &str) -> Result<Running> {
    let (_, output) = recording_in(directory);
    let mut command = program::command(["record", "--output", &output, "--", "sh", "-c", script])?;
    command.current_dir(directory.path()).process_group(0);
    let running = program::start(&mut command)?;
    wait_for("the script to begin", || directory.path().join("ready").exists())?;
    Ok(running)
}

fn signal_group(running: &Running, signal: Signal) -> Result<()> {
    let group = Pid::from_raw(running.pid() as i32).context("a group without an id")?;
    kill_process_group(group, signal).context("cannot signal the group")
}

/// Whether a process runs no more: ended, or a zombie that nobody waits for.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

// ---- as it would without us ----

#[test]
fn a_command_inherits_what_it_would_without_the_profiler() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let recorded =
        format!("{} record --output {}/x.profile --", program::path()?.display(), directory.path().display());
    for before in ["", "trap '' PIPE INT HUP;", "exec <&-;", "umask 077; ulimit -n 200;"] {
        let inherited = |through: &str| -> Result<String> {
            let script = format!("{before} exec {through} sh -c \"$0\"");
            let finished = program::finish(Command::new("sh").args(["-c", &script, INHERITED]))?.expect_code(0)?;
            Ok(finished.stdout)
        };
        let (alone, profiled) = (inherited("")?, inherited(&recorded)?);
        ensure!(alone == profiled, "after `{before}`, alone:\n{alone}\nprofiled:\n{profiled}");
    }
    Ok(())
}

#[test]
fn an_executable_text_that_names_no_interpreter_is_run_by_the_shell() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (_, output) = recording_in(&directory);
    let script = directory.path().join("plain");
    fs::write(&script, "echo $0 $1; exit 5\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut command = program::command(["record", "--output", &output, "--"])?;
    let finished = program::finish(command.arg(&script).arg("one two"))?.expect_code(5)?;
    ensure!(finished.stdout == format!("{} one two\n", script.display()), "{}", finished.stdout);
    Ok(())
}

#[test]
fn the_ledger_of_a_command_begins_when_it_is_let_go() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    for kinds in [&["--cpu"][..], &["--offcpu"], &["--syscalls"], &[]] {
        let output = directory.path().join("x.json");
        let mut command = program::command(["record", "--output"])?;
        program::finish(command.arg(&output).args(kinds).args(["--", "true"]))?.expect_code(0)?;
        let report = Report::read(&output)?;
        let sum = |part: fn(&tests::report::Ledger) -> f64| -> f64 {
            report.containers.iter().map(|container| part(&container.ledger)).sum()
        };
        ensure!(sum(|ledger| ledger.thread_s) > 0.0, "{kinds:?}: the command is not in its ledger");
        // `true` blocks nowhere; its process was held in a read of a pipe for as long as the recording took to begin.
        let blocked_s = sum(|ledger| ledger.blocked_other_s);
        ensure!(blocked_s < 0.003, "{kinds:?}: {blocked_s} s before it was let go are in the ledger");
        for container in &report.containers {
            within(&container.name, container.ledger.sum_s(), container.ledger.thread_s, 0.01)?;
        }
    }
    Ok(())
}

// ---- how it ends ----

#[test]
fn every_signal_that_asks_for_the_end_writes_what_was_captured() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT] {
        let directory = tempdir()?;
        let (recording, output) = recording_in(&directory);
        let running = program::record(["--duration", "600s", "--output", &output])?;
        running.signal(signal)?;
        running.wait()?.expect_code(130)?;
        report(&recording, "text").with_context(|| format!("after {signal:?}"))?;
    }
    Ok(())
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (_, output) = recording_in(&directory);
    let script = format!("trap '' HUP; exec {} record -d 600s -o {output}", program::path()?.display());
    let mut running = program::start(Command::new("sh").args(["-c", &script]))?;
    running.wait_until_attached()?;
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid()))?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).context("no SigIgn")?;
    let ignored = u64::from_str_radix(ignored.trim(), 16)?;
    running.interrupt()?.expect_code(130)?;
    ensure!(ignored & 1 != 0, "SIGHUP is not ignored: {ignored:x}");
    Ok(())
}

/// Notes each signal it gets and takes its time to end, with a status of its own.
const ORDERLY: &str = "end() { echo $1 >> got; i=0; while [ $i -lt 8 ]; do sleep 0.1; i=$((i+1)); done; exit 7; }
                       trap 'end TERM' TERM; trap 'end INT' INT; touch ready; while :; do sleep 0.05; done";

#[test]
fn a_signal_to_the_profiler_alone_reaches_the_command_once() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    for (signal, name) in [(Signal::TERM, "TERM\n"), (Signal::INT, "INT\n")] {
        let directory = tempdir()?;
        let running = record_script(&directory, ORDERLY)?;
        running.signal(signal)?;
        running.wait()?.expect_code(7)?;
        let got = fs::read_to_string(directory.path().join("got"))?;
        ensure!(got == name, "the command got {got:?}");
        report(&recording_in(&directory).0, "text")?;
    }
    Ok(())
}

#[test]
fn a_signal_to_the_whole_group_reaches_the_command_once() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let running = record_script(&directory, ORDERLY)?;
    // As `timeout` does: to the profiler, then to the group.
    running.signal(Signal::INT)?;
    signal_group(&running, Signal::INT)?;
    running.wait()?.expect_code(7)?;
    let got = fs::read_to_string(directory.path().join("got"))?;
    ensure!(got.lines().all(|line| line == "INT") && got.lines().count() == 1, "the command got {got:?}");
    report(&recording_in(&directory).0, "text")?;
    Ok(())
}

#[test]
fn a_second_signal_kills_a_command_that_ignores_the_first_and_its_children() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (recording, _) = recording_in(&directory);
    let script = "trap '' INT TERM; sleep 600 & echo $! > child; touch ready; wait; sleep 600";
    let running = record_script(&directory, script)?;
    running.signal(Signal::TERM)?;
    wait_for("the recording to be written", || recording.exists())?;
    report(&recording, "text")?;
    let child = fs::read_to_string(directory.path().join("child"))?;
    ensure!(!has_ended(&child), "the first signal killed");
    running.signal(Signal::TERM)?;
    running.wait()?.expect_code(128 + 9)?.expect_message(&["one more signal kills it"])?;
    wait_for("the command's child to end", || has_ended(&child))
}

#[test]
fn a_command_that_ignores_the_first_signal_is_asked_once_more() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (recording, _) = recording_in(&directory);
    let running = record_script(&directory, "trap '' INT; touch ready; exec sleep 600")?;
    running.signal(Signal::INT)?;
    running.wait()?.expect_code(128 + 15)?;
    report(&recording, "text")?;
    Ok(())
}

#[test]
fn a_command_that_heeds_no_signal_is_left_to_itself_and_it_is_said() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (recording, _) = recording_in(&directory);
    let script = "trap '' INT TERM; echo $$ > pid; touch ready; exec sleep 600 > /dev/null 2>&1";
    let running = record_script(&directory, script)?;
    running.signal(Signal::INT)?;
    running.wait()?.expect_code(130)?.expect_message(&["does not heed", "goes on"])?;
    let pid = fs::read_to_string(directory.path().join("pid"))?;
    let ended = has_ended(&pid);
    kill_process(Pid::from_raw(pid.trim().parse()?).context("no id")?, Signal::KILL)?;
    ensure!(!ended, "the command was ended");
    report(&recording, "text")?;
    Ok(())
}

#[test]
fn a_command_that_outlives_the_duration_goes_on_and_it_is_said() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (recording, output) = recording_in(&directory);
    let mut command = program::command(["record", "--duration", "300ms", "--output", &output, "--", "sh", "-c"])?;
    // Its streams are not ours to wait for.
    command.arg("echo $$ > pid; exec sleep 600 > /dev/null 2>&1").current_dir(directory.path());
    let finished = program::finish(&mut command)?.expect_code(0)?;
    let pid = fs::read_to_string(directory.path().join("pid"))?;
    let ended = has_ended(&pid);
    kill_process(Pid::from_raw(pid.trim().parse()?).context("no id")?, Signal::KILL)?;
    ensure!(!ended, "the command was ended");
    ensure!(finished.stderr.contains("goes on") && finished.stderr.contains(pid.trim()), "{}", finished.stderr);
    report(&recording, "text")?;
    Ok(())
}

// ---- what is asked for ----

fn record_pid(directory: &TempDir, pid: u32, more: &[&str]) -> Result<Finished> {
    let (_, output) = recording_in(directory);
    program::run([&["record", "-d", "300ms", "-o", &output, "--pid", &pid.to_string()], more].concat())
}

/// Thread-seconds of all containers in a recording of `record_pid`, in windows.
fn threads_seen(directory: &TempDir) -> Result<f64> {
    let report = Report::parse(&report(&recording_in(directory).0, "json")?)?;
    let thread_s: f64 = report.containers.iter().map(|container| container.ledger.thread_s).sum();
    Ok(thread_s / report.window.duration_s)
}

#[test]
fn a_threads_id_records_that_thread_or_names_its_process() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let spinner = Workload::start("spinner", &["--threads", "3", "--seconds", "60"])?;
    let threads = fs::read_dir(format!("/proc/{}/task", spinner.pid()))?;
    let threads = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others: Vec<u32> = threads.filter(|thread| *thread != spinner.pid()).collect();
    let (one, two) = (others.first().context("one thread")?, others.get(1).context("two threads")?);
    let finished = record_pid(&directory, *one, &[])?;
    if finished.code() == 1 {
        // Before Linux 6.9.
        return finished.expect_message(&[&format!("--pid {}", spinner.pid())]);
    }
    finished.expect_code(0)?;
    within("one thread", threads_seen(&directory)?, 1.0, 0.02)?;
    record_pid(&directory, *one, &["--pid", &two.to_string()])?.expect_code(0)?;
    within("two threads", threads_seen(&directory)?, 2.0, 0.02)?;
    record_pid(&directory, *one, &["--pid", &spinner.pid().to_string()])?.expect_code(0)?;
    within("the whole process", threads_seen(&directory)?, others.len() as f64 + 1.0, 0.02)
}

#[test]
fn a_kernel_thread_can_be_recorded() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    record_pid(&directory, 2, &[])?.expect_code(0)?;
    within("kthreadd", threads_seen(&directory)?, 1.0, 0.02)
}

#[test]
fn a_recording_that_saw_nothing_fails_and_its_report_gives_no_verdict() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let (here, elsewhere) = (Cgroup::new()?, Cgroup::new()?);
    let asked = Workload::start_in(&here, "sleeper", &[])?;
    let _other = Workload::start_in(&elsewhere, "sleeper", &[])?;
    let finished = record_pid(&directory, asked.pid(), &["--container", elsewhere.name()])?.expect_code(1)?;
    ensure!(finished.stderr.contains("nothing was seen of what was asked for"), "{}", finished.stderr);
    let recording = recording_in(&directory).0;
    for format in ["text", "markdown", "json"] {
        let text = report(&recording, format)?;
        ensure!(text.contains("nothing was seen"), "the {format} report does not say it:\n{text}");
        ensure!(!text.contains("no waste"), "the {format} report gives a verdict:\n{text}");
    }
    Ok(())
}

#[test]
fn in_a_pid_namespace_of_its_own_it_refuses_to_pick_processes_and_warns_of_the_rest() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let mut probe = Command::new("unshare");
    if !probe.args(["-p", "-f", "--mount-proc", "true"]).status().is_ok_and(|status| status.success()) {
        missing::<()>("needs unshare (util-linux) and the right to make pid namespaces")?;
        return Ok(());
    }
    let directory = tempdir()?;
    let record = |arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["-p", "-f", "--mount-proc"]).arg(program::path()?).args(["record", "-o"]);
        program::finish(unshare.arg(recording_in(&directory).0).args(arguments))
    };
    record(&["--", "true"])?.expect_code(125)?.expect_message(&["hostPID"])?;
    record(&["-d", "300ms", "--pid", "1"])?.expect_code(1)?.expect_message(&["hostPID"])?;
    record(&["-d", "300ms"])?.expect_code(0)?.expect_message(&["hostPID"])
}
