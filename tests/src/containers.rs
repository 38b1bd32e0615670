//! Private container runtimes with real containers: Docker, Podman, and containerd with the CRI that Kubernetes uses.
//!
//! Each daemon lives in a temporary directory of its own, so that any number of test programs may run beside each other
//! and beside the host's own runtimes. [`Docker::shared`] and its like start a daemon when the first test wants it and
//! stop it after the last; a daemon whose test program is killed is told to end by the kernel.

mod cri;
mod daemon;
mod docker;
mod image;
mod podman;
mod requirement;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, bail};

pub use cri::{Cri, Pod};
pub use docker::Docker;
pub use podman::Podman;
pub use requirement::{Requirement, check_requirements};

/// The image that every runtime here has: busybox.
pub const IMAGE: &str = "docker.io/profiler-test/busybox:1";

/// What [`Docker`] needs of the machine.
pub const DOCKER: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Program("dockerd"),
    Requirement::Program("docker"),
    Requirement::Program("busybox"),
];
/// What [`Podman`] needs of the machine.
pub const PODMAN: [Requirement; 4] =
    [Requirement::Root, Requirement::Program("podman"), Requirement::Program("runc"), Requirement::Program("busybox")];
/// What [`Cri`] needs of the machine.
pub const CRI: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Program("containerd"),
    Requirement::Program("ctr"),
    Requirement::Program("busybox"),
];

/// A container to start.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Its name; the runtime makes one up if empty.
    pub name: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// CPU limit in cores.
    pub cpus: Option<f64>,
    /// Directories or files of the host and where they appear in the container, read-only.
    pub mounts: Vec<(PathBuf, String)>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// The host's network instead of none.
    pub host_network: bool,
}

impl RunOptions {
    /// A container `name` that runs `command`.
    pub fn new<S: Into<String>>(name: impl Into<String>, command: impl IntoIterator<Item = S>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self { name: name.into(), command, ..Self::default() }
    }

    /// With a CPU limit in cores.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        Self { cpus: Some(cpus), ..self }
    }

    /// With a directory or file of the host at `inside`, read-only.
    #[must_use]
    pub fn mount(mut self, host: impl Into<PathBuf>, inside: impl Into<String>) -> Self {
        self.mounts.push((host.into(), inside.into()));
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// The arguments that Docker's and Podman's `run` have in common.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".to_owned(), "--detach".to_owned()];
        arguments.push(format!("--network={}", if self.host_network { "host" } else { "none" }));
        if !self.name.is_empty() {
            arguments.push(format!("--name={}", self.name));
        }
        arguments.extend(self.cpus.map(|cpus| format!("--cpus={cpus}")));
        arguments.extend(self.mounts.iter().map(|(host, inside)| format!("--volume={}:{inside}:ro", host.display())));
        arguments.extend(self.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
        arguments
    }
}

/// A container that was started; removed when this is dropped.
pub struct RunningContainer {
    /// Full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Process id of its first process, as the host sees it; 0 if it has ended by now.
    pub pid: u32,
    remove: Box<dyn FnMut() + Send>,
}

impl Drop for RunningContainer {
    fn drop(&mut self) {
        (self.remove)();
    }
}

/// A daemon that the tests of one program share: started by the first that asks, stopped with the last that holds it.
struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn get(&self, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Arc<T>> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(start()?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }
}

/// Runs a program to its end; its standard output, or an error that holds everything it said.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{command:?} failed with {status}: {stdout}{}", String::from_utf8_lossy(&stderr));
    }
    Ok(stdout.trim().to_owned())
}
