//! The profiler's report, as far as the score needs it: runs `record` and `report --format json`, reads the answer.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// `report --format json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// The recorded time.
    pub window: Window,
    /// Containers with their ledgers.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Ranked targets of all containers.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// The recorded time.
#[derive(Debug, Clone, Deserialize)]
pub struct Window {
    /// In seconds.
    pub duration_s: f64,
}

/// One container.
#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Whom it waited behind.
    #[serde(default)]
    pub waited_behind: Vec<WaitedBehind>,
}

/// Time that a container waited behind another.
#[derive(Debug, Clone, Deserialize)]
pub struct WaitedBehind {
    /// Who ran meanwhile.
    pub container: String,
    /// Thread-seconds.
    pub s: f64,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Target {
    /// Place in the ranking of the whole node.
    pub rank: u64,
    /// What names it from recording to recording.
    #[serde(default)]
    pub id: String,
    /// The command that shows it again.
    #[serde(default)]
    pub recheck: String,
    /// The container's name.
    pub container: String,
    /// What kind of waste.
    pub kind: String,
    /// One sentence.
    pub title: String,
    /// Whose code.
    pub blame: Option<Blame>,
    /// The most that could be won.
    pub gain_at_most: Amount,
    /// Figures and their sources.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// The frame that is blamed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Blame {
    /// The function's name.
    pub function: Option<String>,
}

/// A figure with its unit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Amount {
    /// Cores, or thread-seconds a second.
    pub value: f64,
}

impl Target {
    /// Whether its text names something.
    pub fn names(&self, what: &str) -> bool {
        self.title.contains(what) || self.evidence.iter().any(|line| line.contains(what))
    }
}

/// Runs the program that is appended as the first in line for a CPU. On a busy machine a profiler would attach when the program has
/// ended; and the containers have taken precedence. Where the kernel groups threads by session, being nice counts within the session
/// alone, and the session's own place is set beside it.
pub fn before_others() -> Command {
    const FIRST: &str = "[ -w /proc/self/autogroup ] && echo -20 >/proc/self/autogroup; exec nice -n -20 \"$@\"";
    let mut command = Command::new("setsid");
    command.args(["--wait", "sh", "-c", FIRST, "sh"]);
    command
}

/// A recording that is going on.
pub struct Recording(std::process::Child);

impl Recording {
    /// Starts to record containers into a file.
    pub fn start(profiler: &Path, containers: &[&str], duration: &str, file: &Path) -> Result<Self> {
        let mut command = before_others();
        command.arg(profiler).args(["record", "--duration", duration]);
        command.arg("--output").arg(file);
        for container in containers {
            command.args(["--container", container]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", profiler.display()))?))
    }

    /// Waits until the recording is written.
    pub fn finish(self) -> Result<()> {
        let output = self.0.wait_with_output().context("cannot wait for the profiler")?;
        if !output.status.success() {
            bail!("the profiler ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }
}

/// The report on a recording.
pub fn read(profiler: &Path, file: &Path) -> Result<Report> {
    let output = Command::new(profiler).args(["report", "--format", "json"]).arg(file).output()?;
    if !output.status.success() {
        bail!("the report ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    serde_json::from_slice(&output.stdout).context("the report is not the JSON it should be")
}
