//! The profiler, run as a user runs it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_mins(1);

/// The directory that cargo builds into.
pub fn target_directory() -> Result<PathBuf> {
    let test = std::env::current_exe().context("cannot find this test's own program")?;
    // target/PROFILE/deps/TEST
    test.ancestors().nth(3).map(Path::to_owned).context("this test lies in no target directory")
}

/// The program under test: `PROFILER_BIN`, or what `cargo xtask build` leaves.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PROFILER_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "PROFILER_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    let path = target_directory()?.join("release/profiler");
    ensure!(path.is_file(), "{} is missing: run `cargo xtask build`", path.display());
    Ok(path)
}

/// A command that runs the profiler, with nothing set in its environment that a developer may have set.
pub fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command> {
    let mut command = Command::new(path()?);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PROFILER_")) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; a signal counts as 128 + signal, as in a shell.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails unless it ended with this exit code.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(
            self.code() == code,
            "exit code {} instead of {code}\nstandard output:\n{}\nstandard error:\n{}",
            self.code(),
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Fails unless standard error has one of `words`, whatever their case: messages may be reworded, not emptied.
    pub fn expect_message(&self, words: &[&str]) -> Result<()> {
        let message = self.stderr.to_lowercase();
        ensure!(
            words.iter().any(|word| message.contains(&word.to_lowercase())),
            "standard error says none of {words:?}:\n{}",
            self.stderr
        );
        Ok(())
    }
}

/// Runs the profiler to its end.
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
    finish(&mut command(arguments)?)
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A profiler that is recording. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    streams: Option<(Drain, Drain)>,
    begins: Receiver<()>,
}

type Drain = JoinHandle<String>;

/// Starts `profiler record` and waits until its kernel programs are attached.
pub fn record<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Running> {
    let mut command = command(["record"])?;
    command.args(arguments);
    let mut running = start(&mut command)?;
    running.wait_until_attached()?;
    Ok(running)
}

/// Starts a profiler.
pub fn start(command: &mut Command) -> Result<Running> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let (begun, begins) = channel();
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(|stream| drain_and_tell(stream, begun));
    Ok(Running { child, streams: stdout.zip(stderr), begins })
}

fn drain(mut stream: impl Read + Send + 'static) -> Drain {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is all there is to say.
        drop(stream.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Collects the lines and tells when one says that the recording has begun.
fn drain_and_tell(stream: impl Read + Send + 'static, begun: Sender<()>) -> Drain {
    thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if line.starts_with("recording") {
                // Nobody listens to a profiler that is run to its end.
                begun.send(()).ok();
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    })
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is recording.
    pub fn wait_until_attached(&mut self) -> Result<()> {
        match self.begins.recv_timeout(PATIENCE) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("the profiler did not begin to record within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                let (stdout, stderr) = self.collect();
                bail!("the profiler ended with {status} before it recorded:\n{stdout}{stderr}")
            }
        }
    }

    /// Ids of the kernel programs that it holds descriptors or links of.
    pub fn programs(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let directory = format!("/proc/{}/fdinfo", self.pid());
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let of_program = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
            ids.extend(of_program.and_then(|id| id.trim().parse::<u32>().ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid() as i32).context("a process without an id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal the profiler with {signal:?}"))
    }

    /// Ends the recording as Ctrl-C does and waits until it is written.
    pub fn interrupt(self) -> Result<Finished> {
        self.signal(Signal::INT)?;
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Finished> {
        let status = self.child.wait().context("cannot wait for the profiler")?;
        let (stdout, stderr) = self.collect();
        Ok(Finished { status, stdout, stderr })
    }

    fn collect(&mut self) -> (String, String) {
        let text = |drain: Drain| drain.join().unwrap_or_default();
        self.streams.take().map(|(stdout, stderr)| (text(stdout), text(stderr))).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone and reaped in the good case; then both are refused, and that is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
