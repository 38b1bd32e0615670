//! Puts programs into containers of their own, waits until they are ready, and takes their figures when they end.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::cgroup::Cgroup;
use super::language::Runnable;
use crate::step::say;

/// What a program measured of itself between `ready` and its end.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Figures {
    /// Pieces of work done.
    pub work: f64,
    /// How long it worked.
    pub seconds: f64,
    /// Seconds that threads spent on pieces of work, waits included.
    pub busy_s: f64,
    /// CPU seconds: of the whole container, by the kernel's accounting.
    pub cpu_s: f64,
}

/// Limits of a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// CPU quota, in cores.
    pub cpus: Option<f64>,
    /// Share of the CPU beside siblings.
    pub weight: Option<u64>,
}

/// Containers go before what else runs on this machine, while this lives: a busy machine changes what programs wait for.
pub struct Precedence(Cgroup);

impl Precedence {
    /// What the kernel gives every group of processes.
    const USUAL: u64 = 1024;
    /// As if there were so many of them.
    const HIGH: u64 = 64 * Self::USUAL;

    /// Takes it.
    pub fn take() -> Result<Self> {
        let cgroup = Cgroup::new()?;
        cgroup.set_weight_of_all(Self::HIGH)?;
        Ok(Self(cgroup))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_weight_of_all(Self::USUAL) {
            say(format!("cannot give containers their usual weight back: {error:#}"));
        }
    }
}

/// A program that runs in a container. Ended when dropped.
pub struct Actor {
    // Ended before its cgroup is removed.
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    cgroup: Cgroup,
    cpu_begun_ns: u64,
    begun: Instant,
}

impl Actor {
    /// Starts it and waits until it says that it is ready.
    pub fn start(
        name: &str,
        runnable: &Runnable,
        arguments: &[String],
        cpu_list: Option<&str>,
        limits: Limits,
    ) -> Result<Self> {
        let cgroup = limits.cpus.map_or_else(Cgroup::new, Cgroup::with_quota)?;
        if let Some(weight) = limits.weight {
            cgroup.set_weight(weight)?;
        }
        let mut command = match cpu_list {
            Some(list) => {
                let mut command = cgroup.command("taskset".as_ref());
                command.args(["-c", list]).arg(&runnable.program);
                command
            }
            None => cgroup.command(&runnable.program),
        };
        command.args(&runnable.arguments).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        // A group of its own, so that its children end with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("a child without standard output")?;
        let mut actor =
            Self { child, lines: BufReader::new(stdout).lines(), cgroup, cpu_begun_ns: 0, begun: Instant::now() };
        match actor.lines.next().transpose()? {
            Some(line) if line == "ready" => {}
            other => {
                bail!("{name} said {other:?} instead of `ready`; run {} by hand to see why", runnable.program.display())
            }
        }
        actor.cpu_begun_ns = actor.cgroup.cpu_ns()?;
        actor.begun = Instant::now();
        Ok(actor)
    }

    /// The container's name, as the profiler shows it.
    pub fn container(&self) -> &str {
        self.cgroup.name()
    }

    /// CPU seconds of its control group since it was ready, by the kernel's accounting.
    pub fn cpu_s(&self) -> Result<f64> {
        Ok((self.cgroup.cpu_ns()? - self.cpu_begun_ns) as f64 / 1e9)
    }

    /// Whether it has not ended yet.
    pub fn runs(mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot wait for a child")?.is_none())
    }

    /// Waits for its end and its figures.
    pub fn finish(mut self, name: &str) -> Result<Figures> {
        let line = self.lines.next().transpose()?.with_context(|| format!("{name} ended without its figures"))?;
        let cpu_s = self.cpu_s()?;
        let figures: Figures = serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{name} ended with {status}");
        }
        Ok(Figures { cpu_s, ..figures })
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        // Nothing is left of the group in the good case, and `kill` then says so to nobody.
        let killed = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        if let Err(error) = killed.and_then(|_| self.child.wait()) {
            say(format!("cannot end process group {group}: {error}"));
        }
    }
}
