//! File systems that stop answering: what depends on them costs names and no window.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::daemon::{Answer, Daemon, sample};
use tests::hung::HungMount;
use tests::requirement::kernel;

/// The most that a daemon takes to end once everything answers: a last window, and names that are not waited for.
const END: Duration = Duration::from_secs(10);

/// Runs for ever, and was read from the file system by the time it has said so.
const LOOP: &str = "echo runs; while :; do :; done";

/// Makes code at run time: a page that may be run and belongs to no file.
const MADE_CODE: &str = "import mmap, time
code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
print('runs', flush=True)
while True:
    sum(range(1000))
";

/// A process that is killed in the end.
struct Process(Child);

impl Process {
    /// Starts it and waits until it says that it runs.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start a program")?;
        let output = child.stdout.take().context("no output")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "runs\n", "it says {line:?}");
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        // It may wait for the file system, which ends after it: nobody waits for it here.
        self.0.try_wait().ok();
    }
}

fn windows(daemon: &Daemon) -> Result<f64> {
    sample(&daemon.get("/metrics")?.text(), "profiler_windows_total", &[]).context("no windows")
}

/// Windows of a second go on ending in time for a while.
fn keeps_time(daemon: &Daemon) -> Result<()> {
    let (began, before) = (Instant::now(), windows(daemon)?);
    let mut last = before;
    while last < before + 8.0 {
        let answer = daemon.get("/healthz")?;
        ensure!(answer.status == 200, "it calls itself ill: {}", answer.text());
        ensure!(began.elapsed() < Duration::from_secs(40), "{} windows in {:?}", last - before, began.elapsed());
        thread::sleep(Duration::from_millis(250));
        last = windows(daemon)?;
    }
    Ok(())
}

/// Ends it in good time.
fn ends(daemon: Daemon) -> Result<()> {
    let began = Instant::now();
    ensure!(daemon.end()?.success(), "it does not end well");
    ensure!(began.elapsed() < END, "it took {:?} to end", began.elapsed());
    Ok(())
}

fn loss(answer: &Answer, reason: &str) -> Option<f64> {
    sample(&answer.text(), "profiler_losses_total", &[("reason", reason)]).filter(|lost| *lost > 0.0)
}

/// Threads that wait for an answer are few.
fn has_few_threads(daemon: &Daemon) -> Result<()> {
    let mut waiting = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let name = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        waiting += usize::from(name.trim() == "foreign-files");
    }
    ensure!(waiting <= 8, "{waiting} threads read other processes' files");
    Ok(())
}

#[test]
fn programs_on_a_file_system_that_hangs_lose_their_names_until_it_answers_again() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let Some(mount) = HungMount::new(Path::new("/bin/sh"))? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let programs = (0..6)
        .map(|_| Process::start(cgroup.command(&mount.program()).args(["-c", LOOP])))
        .collect::<Result<Vec<_>>>()?;
    mount.hang();
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    keeps_time(&daemon)?;
    daemon.says("does not answer")?;
    daemon.until("/metrics", |answer| loss(answer, "processes_unanswered"))?;
    ensure!(mount.waiting() >= 1, "nobody asked");
    has_few_threads(&daemon)?;
    // What is measured is whole without the names.
    let cpu = [("container", cgroup.name()), ("mode", "user")];
    daemon
        .until("/metrics", |answer| sample(&answer.text(), "profiler_cpu_seconds_total", &cpu).filter(|s| *s > 1.0))?;
    mount.recover();
    daemon.says("answers again")?;
    let named = |answer: &Answer| {
        let report = answer.json().ok()?;
        let containers = report["containers"].as_array()?.clone();
        let own = containers.into_iter().find(|one| one["name"] == cgroup.name())?;
        let symbols = &own["coverage"]["symbols"];
        // The shell is stripped, which is known once its file was read.
        let was_read = symbols["unresolved"]["stripped"].as_u64()? > 0;
        (was_read && symbols["unresolved"]["file_unanswered"].is_null()).then_some(())
    };
    daemon.until("/api/v1/report?from=-5s", named)?;
    keeps_time(&daemon)?;
    drop(programs);
    ends(daemon)
}

#[test]
fn a_file_system_that_hangs_after_it_was_looked_at_delays_no_window() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let Some(mount) = HungMount::new(Path::new("/bin/sh"))? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let _program = Process::start(cgroup.command(&mount.program()).args(["-c", LOOP]))?;
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    mount.hang();
    keeps_time(&daemon)?;
    mount.recover();
    ends(daemon)
}

#[test]
fn a_container_whose_tmp_hangs_loses_the_names_of_code_made_at_run_time_and_nothing_else() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let Some(mount) = HungMount::new(Path::new("/bin/true"))? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    let cgroup = Cgroup::new()?;
    let script = "mount --make-rprivate / && mount --bind \"$1\" /tmp && exec /usr/bin/python3 -c \"$2\"";
    let mut command = cgroup.command(Path::new("/usr/bin/unshare"));
    // The directory that this runs in may lie below the one that is covered.
    command.current_dir("/").args(["--mount", "sh", "-c", script, "sh"]).arg(mount.path()).arg(MADE_CODE);
    let _program = Process::start(&mut command)?;
    mount.hang();
    keeps_time(&daemon)?;
    daemon.until("/metrics", |answer| loss(answer, "foreign_files_unanswered"))?;
    has_few_threads(&daemon)?;
    // Its program lies elsewhere, and keeps its names.
    let path = format!("/api/v1/profile?format=folded&kind=cpu&from=-10s&container={}", cgroup.name());
    daemon.until(&path, |answer| answer.text().contains("Py").then_some(()))?;
    mount.recover();
    ends(daemon)
}
