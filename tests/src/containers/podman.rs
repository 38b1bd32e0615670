//! A private Podman: containers with a storage of their own, and the service that answers its API.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::daemon::{Daemon, Ground, remove_cgroups};
use super::{IMAGE, RunOptions, RunningContainer, Shared, image, run};

static SHARED: Shared<Podman> = Shared::new();

/// A Podman of our own.
pub struct Podman {
    // Stopped before its directory goes.
    service: Option<Daemon>,
    ground: Ground,
}

impl Podman {
    /// The one that this program's tests share.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        SHARED.get(Self::start)
    }

    /// Prepares one, loads the image and starts the service.
    pub fn start() -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let archive = image::build(&ground.path("image"))?;
        // crun refuses hybrid cgroups; locks in shared memory would be shared with the host's Podman.
        let engine = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nlog_driver = \"k8s-file\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             tmp_dir = \"{}\"\n",
            ground.text("tmp")
        );
        fs::write(ground.path("containers.conf"), engine)?;
        fs::write(ground.path("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
        let mut podman = Self { service: None, ground };
        run(podman.command().args(["load", "--quiet", "--input"]).arg(archive))?;
        let socket = podman.socket();
        let mut arguments = vec![format!("CONTAINERS_CONF={}", podman.ground.text("containers.conf"))];
        arguments.push("podman".to_owned());
        arguments.extend(podman.globals());
        arguments.extend(["system", "service", "--time=0"].map(str::to_owned));
        arguments.push(format!("unix://{}", socket.display()));
        podman.service = Some(Daemon::start("env", &arguments, &socket, &podman.ground.path("log"))?);
        Ok(podman)
    }

    /// Where its API listens.
    pub fn socket(&self) -> PathBuf {
        self.ground.path("podman.sock")
    }

    /// Its storage.
    pub fn storage_root(&self) -> PathBuf {
        self.ground.path("root")
    }

    fn globals(&self) -> [String; 3] {
        [
            format!("--root={}", self.ground.text("root")),
            format!("--runroot={}", self.ground.text("run")),
            "--storage-driver=vfs".to_owned(),
        ]
    }

    /// Podman's client on this storage.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.ground.path("containers.conf")).args(self.globals());
        command
    }

    /// Starts a container.
    pub fn run(self: &Arc<Self>, options: &RunOptions) -> anyhow::Result<RunningContainer> {
        let id = run(self.command().args(options.arguments()).arg(IMAGE).args(&options.command))?;
        let inspect = ["inspect", "--format", "{{.State.Pid}} {{.Name}}", &id];
        let state = run(self.command().args(inspect))?;
        let (pid, name) = state.split_once(' ').unwrap_or_default();
        let (podman, removed) = (Arc::clone(self), id.clone());
        let remove = Box::new(move || {
            if let Err(error) = run(podman.command().args(["rm", "--force", "--time=0", &removed])) {
                eprintln!("{error:#}");
            }
            remove_cgroups(&removed);
        });
        Ok(RunningContainer { id, name: name.to_owned(), pid: pid.parse().unwrap_or_default(), remove })
    }
}
