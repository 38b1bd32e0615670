//! A private Docker Engine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::daemon::{Daemon, Ground, remove_cgroups};
use super::{IMAGE, RunOptions, RunningContainer, Shared, image, run};

static SHARED: Shared<Docker> = Shared::new();

/// A Docker Engine of our own, without networks.
pub struct Docker {
    // Stopped before its directory goes.
    daemon: Daemon,
    ground: Ground,
}

impl Docker {
    /// The one that this program's tests share.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        SHARED.get(Self::start)
    }

    /// Starts one and loads the image.
    pub fn start() -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let socket = ground.path("docker.sock");
        let arguments = [
            "--iptables=false".to_owned(),
            "--ip6tables=false".to_owned(),
            "--bridge=none".to_owned(),
            "--userland-proxy=false".to_owned(),
            "--storage-driver=vfs".to_owned(),
            "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
            "--shutdown-timeout=1".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--data-root={}", ground.text("data")),
            format!("--exec-root={}", ground.text("exec")),
            format!("--pidfile={}", ground.text("pid")),
            format!("--host=unix://{}", socket.display()),
        ];
        let archive = image::build(&ground.path("image"))?;
        let daemon = Daemon::start("dockerd", &arguments, &socket, &ground.path("log"))?;
        let docker = Self { daemon, ground };
        run(docker.command().arg("load").arg("--input").arg(archive))?;
        Ok(docker)
    }

    /// Where its API listens.
    pub fn socket(&self) -> PathBuf {
        self.ground.path("docker.sock")
    }

    /// Its data root.
    pub fn data_root(&self) -> PathBuf {
        self.ground.path("data")
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Docker's client, talking to this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        command
    }

    /// Starts a container.
    pub fn run(self: &Arc<Self>, options: &RunOptions) -> anyhow::Result<RunningContainer> {
        let id = run(self.command().args(options.arguments()).arg(IMAGE).args(&options.command))?;
        let inspect = ["inspect", "--format", "{{.State.Pid}} {{.Name}}", &id];
        let state = run(self.command().args(inspect))?;
        let (pid, name) = state.split_once(" /").unwrap_or_default();
        let (docker, removed) = (Arc::clone(self), id.clone());
        let remove = Box::new(move || {
            if let Err(error) = run(docker.command().args(["rm", "--force", "--volumes", &removed])) {
                eprintln!("{error:#}");
            }
            remove_cgroups(&removed);
        });
        Ok(RunningContainer { id, name: name.to_owned(), pid: pid.parse().unwrap_or_default(), remove })
    }
}
