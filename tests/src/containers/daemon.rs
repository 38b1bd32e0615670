//! A daemon in a temporary directory, and its end.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(30);
/// How long a daemon may take to end on its own.
const STOP: Duration = Duration::from_secs(10);

/// A process that is ended when this is dropped, or when the test program dies.
pub struct Daemon {
    pid: u32,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts `program` and waits until it listens at `socket`. What it says goes to `log`.
    pub fn start(program: &str, arguments: &[String], socket: &Path, log: &Path) -> anyhow::Result<Self> {
        let output = File::create(log)?;
        let mut command = Command::new("setpriv");
        // The kernel sends the signal when the thread that started the daemon ends: hence a thread that only keeps it.
        command.args(["--pdeathsig", "TERM", "--", program]).args(arguments);
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let (stop, stopped) = mpsc::channel();
        let (started, pid) = mpsc::channel();
        let keeper = thread::spawn(move || match command.spawn() {
            Ok(child) => {
                if started.send(Ok(child.id())).is_ok() {
                    keep(child, &stopped);
                }
            }
            Err(error) => drop(started.send(Err(error))),
        });
        let pid = pid.recv().context("the daemon's keeper died")?.with_context(|| format!("cannot start {program}"))?;
        let daemon = Self { pid, stop: Some(stop), keeper: Some(keeper) };
        let deadline = Instant::now() + START;
        while UnixStream::connect(socket).is_err() {
            let ended = daemon.keeper.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{program} does not listen at {}: {said}", socket.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it and waits for its end.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            eprintln!("the keeper of process {} panicked", self.pid);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until the process ends or is to be ended.
fn keep(mut child: Child, stopped: &mpsc::Receiver<()>) {
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(50)) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
    }
    if let Err(error) = end(&mut child) {
        eprintln!("process {} could not be ended: {error}", child.id());
    }
}

fn end(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or_else(|| anyhow!("no process id"))?;
    kill_process(pid, Signal::TERM)?;
    let deadline = Instant::now() + STOP;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    Ok(child.wait()?)
}

/// A temporary directory in which runtimes mount things: what is still mounted when it goes is unmounted.
pub struct Ground(TempDir);

impl Ground {
    /// Makes one with a short path, since the paths of sockets are limited.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("pt").tempdir_in("/tmp")?))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path in it, as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let mut ours: Vec<&str> = points.filter(|point| Path::new(point).starts_with(self.0.path())).collect();
        ours.reverse();
        for point in ours {
            if let Err(error) = super::run(Command::new("umount").args(["--lazy", point])) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Removes cgroups of container `id` that its runtime left behind, in every hierarchy.
pub fn remove_cgroups(id: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchies =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    for root in hierarchies {
        let walk = profiler::container::cgroup::walk(Path::new(root));
        // Children first. One that cannot be removed still has a process, and was not left behind.
        for cgroup in walk.cgroups.iter().rev().filter(|cgroup| cgroup.path.contains(id)) {
            let directory = profiler::container::cgroup::directory(Path::new(root), &cgroup.path);
            if let Err(error) = fs::remove_dir(&directory)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                eprintln!("cannot remove {}: {error}", directory.display());
            }
        }
    }
}
