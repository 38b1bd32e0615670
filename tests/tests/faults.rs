//! Bad input and faults: each is a clear error, or a counted loss.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::tempdir;
use tests::cgroup::Cgroup;
use tests::figures::within;
use tests::observation::{observe_for, wait_for};
use tests::program::{self, Finished, run};
use tests::report::Report;
use tests::requirement::{kernel, missing};
use tests::workload::{self, Workload};

/// Runs `record` for a moment into `output`, with further arguments.
fn record_briefly(output: &Path, arguments: &[&str]) -> Result<Finished> {
    let mut command = program::command(["record", "--duration", "300ms", "--output"])?;
    program::finish(command.arg(output).args(arguments))
}

/// Runs `record -- COMMAND` into a directory of its own.
fn record_command(command: &[&str]) -> Result<Finished> {
    let directory = tempdir()?;
    let mut record = program::command(["record", "--output"])?;
    program::finish(record.arg(directory.path().join("x.profile")).arg("--").args(command))
}

/// A small real recording in `directory`.
fn recording_in(directory: &Path) -> Result<std::path::PathBuf> {
    let recording = directory.join("real.profile");
    record_briefly(&recording, &[])?.expect_code(0)?;
    Ok(recording)
}

fn report_of(recording: &Path) -> Result<Finished> {
    program::finish(program::command(["report", "--format", "json"])?.arg(recording))
}

// ---- rights ----

#[test]
fn without_rights_it_says_which_are_missing() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    // Nobody may not read the build directory, perhaps: a copy where everybody may.
    let directory = tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
    let copy = directory.path().join("profiler");
    fs::copy(program::path()?, &copy)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.arg(&copy).args(["record", "--duration", "300ms", "--output"]).arg(directory.path().join("x.profile"));
    if Command::new("setpriv").arg("--version").output().is_err() {
        missing::<()>("needs setpriv (util-linux)")?;
        return Ok(());
    }
    program::finish(&mut command)?.expect_code(1)?.expect_message(&["root", "CAP_BPF", "privilege"])
}

/// Runs `record` in a mount namespace of its own after `change` was made to it.
fn record_where(change: &str) -> Result<Option<Finished>> {
    let mut probe = Command::new("unshare");
    if !probe.args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        return missing("needs unshare (util-linux) and the right to make mount namespaces");
    }
    let directory = tempdir()?;
    let script = format!(r#"{change} && exec "$0" record --duration 300ms --output "$1""#);
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script]).arg(program::path()?).arg(directory.path().join("x.profile"));
    program::finish(&mut unshare).map(Some)
}

#[test]
fn without_btf_it_says_so() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let Some(finished) = record_where("mount -t tmpfs none /sys/kernel/btf")? else { return Ok(()) };
    finished.expect_code(1)?.expect_message(&["BTF"])
}

#[test]
fn without_cgroup2_it_records_by_v1_or_says_so() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let unmount =
        "for path in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/self/mounts); do umount -l $path || exit 99; done";
    let Some(finished) = record_where(unmount)? else { return Ok(()) };
    if finished.code() == 0 { Ok(()) } else { finished.expect_code(1)?.expect_message(&["cgroup2", "cgroup v2"]) }
}

#[test]
fn root_without_capabilities_is_told_which_are_missing() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(program::path()?);
    command.args(["record", "--duration", "300ms", "--output"]).arg(directory.path().join("x.profile"));
    program::finish(&mut command)?.expect_code(1)?.expect_message(&["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"])
}

// ---- usage ----

#[test]
fn an_unknown_container_pattern_lists_those_that_exist() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let _parked = Workload::start_in(&cgroup, "sleeper", &[])?;
    let directory = tempdir()?;
    let finished = record_briefly(&directory.path().join("x.profile"), &["--container", "no-such-container*"])?;
    let finished = finished.expect_code(1)?;
    ensure!(finished.stderr.contains("no-such-container*"), "the pattern is not named:\n{}", finished.stderr);
    ensure!(finished.stderr.contains(cgroup.name()), "what exists is not listed:\n{}", finished.stderr);
    Ok(())
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_recording() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    record_briefly(Path::new("/nonexistent/directory/x.profile"), &[])?
        .expect_code(1)?
        .expect_message(&["/nonexistent/directory/x.profile", "/nonexistent/directory"])
}

#[test]
fn an_unknown_extension_is_wrong_usage_and_the_known_ones_are_listed() -> Result<()> {
    let directory = tempdir()?;
    let finished = record_briefly(&directory.path().join("x.docx"), &[])?.expect_code(2)?;
    for known in [".profile", ".svg", ".folded", ".pb.gz", ".json", ".speedscope.json"] {
        ensure!(finished.stderr.contains(known), "{known} is not listed:\n{}", finished.stderr);
    }
    Ok(())
}

#[test]
fn a_frequency_of_nothing_or_too_much_is_wrong_usage() -> Result<()> {
    let directory = tempdir()?;
    let output = directory.path().join("x.profile");
    for frequency in ["0", "-1", "1000000", "99999999999999999999", "many"] {
        let flag = format!("--frequency={frequency}");
        record_briefly(&output, &[&flag])?.expect_code(2)?.expect_message(&["frequency"])?;
    }
    ensure!(!output.exists(), "wrong usage left an output file");
    Ok(())
}

#[test]
fn a_duration_of_nothing_is_wrong_usage() -> Result<()> {
    for duration in ["0s", "-3s", "soon", ""] {
        let flag = format!("--duration={duration}");
        run(["record", "--output", "x.profile", &flag])?.expect_code(2)?.expect_message(&["duration"])?;
    }
    Ok(())
}

#[test]
fn a_process_that_does_not_exist_is_named() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    // Beyond the largest pid that Linux gives.
    record_briefly(&directory.path().join("x.profile"), &["--pid", "4194305"])?
        .expect_code(1)?
        .expect_message(&["4194305"])
}

// ---- recordings ----

#[test]
fn what_is_not_a_recording_is_refused() -> Result<()> {
    let directory = tempdir()?;
    let cases: [(&str, &[u8]); 4] =
        [("empty", b""), ("text", b"hello, world\n"), ("zeroes", &[0; 4096]), ("gzip", &[0x1f, 0x8b, 8, 0, 0, 0])];
    for (name, bytes) in cases {
        let file = directory.path().join(format!("{name}.profile"));
        fs::write(&file, bytes)?;
        report_of(&file)?.expect_code(1)?.expect_message(&[&format!("{name}.profile")])?;
    }
    report_of(&directory.path().join("absent.profile"))?.expect_code(1)?.expect_message(&["absent.profile"])?;
    report_of(directory.path())?.expect_code(1)?.expect_message(&["directory"])
}

#[test]
fn a_truncated_recording_is_refused_wherever_it_was_cut() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let whole = fs::read(recording_in(directory.path())?)?;
    let cut = directory.path().join("cut.profile");
    for kept in [1, 4, 8, 16, whole.len() / 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&cut, &whole[..kept])?;
        report_of(&cut)?
            .expect_code(1)
            .with_context(|| format!("cut to {kept} of {} bytes", whole.len()))?
            .expect_message(&["truncated", "incomplete", "not a recording", "damaged", "cut"])?;
    }
    Ok(())
}

#[test]
fn a_damaged_recording_is_never_a_crash() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let whole = fs::read(recording_in(directory.path())?)?;
    let damaged = directory.path().join("damaged.profile");
    for place in (0..whole.len()).step_by((whole.len() / 40).max(1)) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        fs::write(&damaged, &bytes)?;
        let finished = report_of(&damaged)?;
        // A flipped byte may go unseen only where no checksum covers it; a panic is 101, a signal 128 and more.
        ensure!(
            matches!(finished.code(), 0 | 1) && !finished.stderr.contains("panicked"),
            "byte {place} flipped: exit code {}\n{}",
            finished.code(),
            finished.stderr
        );
    }
    Ok(())
}

// ---- commands ----

#[test]
fn a_command_that_does_not_exist_is_127() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    record_command(&["/nonexistent/command"])?.expect_code(127)?.expect_message(&["/nonexistent/command"])?;
    record_command(&["no-such-command-anywhere"])?.expect_code(127)?.expect_message(&["no-such-command-anywhere"])
}

#[test]
fn a_command_that_is_not_executable_is_126() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let file = directory.path().join("plain");
    fs::write(&file, "no program")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let name = file.to_str().context("the temporary directory has no UTF-8 name")?;
    record_command(&[name])?.expect_code(126)?.expect_message(&[name])
}

#[test]
fn a_commands_exit_status_is_passed_on() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    record_command(&["true"])?.expect_code(0)?;
    record_command(&["sh", "-c", "exit 42"])?.expect_code(42)?;
    let finished = record_command(&["sh", "-c", "echo told; echo warned >&2; exit 3"])?.expect_code(3)?;
    ensure!(finished.stdout.contains("told") && finished.stderr.contains("warned"), "the command's output is gone");
    Ok(())
}

#[test]
fn a_command_that_dies_of_a_signal_is_128_and_the_signal() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    record_command(&["sh", "-c", "kill -KILL $$"])?.expect_code(128 + 9)?;
    record_command(&["sh", "-c", "kill -TERM $$"])?.expect_code(128 + 15)?;
    Ok(())
}

#[test]
fn a_recording_that_fails_is_125_whatever_the_command_says() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let finished = run(["record", "--output", "/nonexistent/directory/x.profile", "--", "true"])?;
    finished.expect_code(125)?.expect_message(&["/nonexistent/directory"])
}

#[test]
fn a_command_and_its_children_are_all_that_is_recorded() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let output = directory.path().join("x.json");
    let spinner = workload::path("spinner")?;
    let script = format!("{} --seconds 1 > /dev/null & wait", spinner.display());
    let mut record = program::command(["record", "--output"])?;
    program::finish(record.arg(&output).args(["--", "sh", "-c", &script]))?.expect_code(0)?;
    let report = Report::read(&output)?;
    report.coverage.cpu_samples.adds_up()?;
    let cpu_s: f64 = report.containers.iter().map(|container| container.ledger.cpu_s()).sum();
    within("CPU time of the command's child", cpu_s, 1.0, 0.15)
}

// ---- ends ----

#[test]
fn ctrl_c_writes_what_was_captured() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let output = directory.path().join("x.json");
    let name = output.to_str().context("the temporary directory has no UTF-8 name")?;
    program::record(["--duration", "600s", "--output", name])?.interrupt()?.expect_code(130)?;
    let report = Report::read(&output)?;
    ensure!(report.window.duration_s > 0.0 && report.window.duration_s < 600.0, "{:?}", report.window);
    report.coverage.cpu_samples.adds_up()
}

#[test]
fn kill_9_leaves_no_program_attached() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if Command::new("bpftool").arg("version").output().is_err() {
        missing::<()>("needs bpftool")?;
        return Ok(());
    }
    let directory = tempdir()?;
    let output = directory.path().join("x.profile");
    let name = output.to_str().context("the temporary directory has no UTF-8 name")?;
    let running = program::record(["--duration", "600s", "--output", name])?;
    let programs = running.programs()?;
    ensure!(!programs.is_empty(), "the profiler holds no programs");
    let loaded = |id: &u32| {
        let show = Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]).output();
        show.is_ok_and(|output| output.status.success())
    };
    ensure!(programs.iter().all(loaded), "bpftool does not see the programs {programs:?}");
    running.signal(Signal::KILL)?;
    running.wait()?.expect_code(128 + 9)?;
    wait_for("the programs to go", || !programs.iter().any(loaded))
}

#[test]
fn a_process_that_vanishes_meanwhile_is_no_error() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let output = directory.path().join("x.json");
    let name = output.to_str().context("the temporary directory has no UTF-8 name")?;
    let mut storm = Workload::start("process_storm", &["--count", "300", "--life", "1", "--threads", "4"])?;
    let running = program::record(["--duration", "600s", "--output", name])?;
    storm.begin()?;
    storm.wait_ended()?;
    running.interrupt()?.expect_code(130)?;
    Report::read(&output)?.coverage.cpu_samples.adds_up()
}

#[test]
fn a_binary_deleted_while_it_runs_still_has_its_names() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let copy = directory.path().join("deleted-spinner");
    fs::copy(workload::path("spinner")?, &copy)?;
    let cgroup = Cgroup::new()?;
    let mut command = cgroup.command(&copy);
    let mut spinner = Workload::spawn("deleted spinner", command.args(["--handshake", "--seconds", "3600"]))?;
    fs::remove_file(&copy)?;
    spinner.begin()?;
    let observation = observe_for(std::time::Duration::from_secs(2), &[])?;
    let named = observation.profile.sum("samples/count", |sample| {
        sample.is("container", cgroup.name()) && sample.goes_through(&["spinner_descend", "spinner_burn"])
    })?;
    ensure!(named > 0.0, "no sample of the deleted binary has its function names");
    Ok(())
}

#[test]
fn tiny_maps_lose_and_everything_still_adds_up() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let output = directory.path().join("x.json");
    let cgroup = Cgroup::new()?;
    let mut storm = Workload::start_in(&cgroup, "process_storm", &["--count", "300", "--life", "10"])?;
    let mut command = program::command(["record", "--duration", "600s", "--frequency", "999", "--output"])?;
    let mut running = program::start(command.arg(&output).env("PROFILER_TINY_MAPS", "1"))?;
    running.wait_until_attached()?;
    storm.begin()?;
    storm.wait_ended()?;
    running.interrupt()?.expect_code(130)?;
    let report = Report::read(&output)?;
    let coverage = &report.coverage.cpu_samples;
    coverage.adds_up()?;
    ensure!(coverage.lost_total() > 0, "maps of a few entries hold hundreds of stacks: {coverage:?}");
    for container in &report.containers {
        within(&container.name, container.ledger.sum_s(), container.ledger.thread_s, 0.01)?;
    }
    Ok(())
}
