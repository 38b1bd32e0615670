//! A private containerd, driven through CRI v1 as kubelet drives it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use profiler::container::runtime::cri::{self, ContainerMetadata, ImageSpec, PodSandboxMetadata};

use super::daemon::{Daemon, Ground, remove_cgroups};
use super::{IMAGE, RunOptions, RunningContainer, Shared, image, run};

static SHARED: Shared<Cri> = Shared::new();
static PODS: AtomicU32 = AtomicU32::new(0);

/// A containerd of our own.
pub struct Cri {
    // Stopped before its directory goes.
    daemon: Daemon,
    ground: Ground,
}

impl Cri {
    /// The one that this program's tests share.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        SHARED.get(Self::start)
    }

    /// Starts one and loads the image.
    pub fn start() -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let archive = image::build(&ground.path("image"))?;
        let socket = ground.path("containerd.sock");
        let text = |name| ground.text(name);
        let config = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\n\
             [grpc]\naddress = \"{socket}\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{opt}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\n\
             stream_server_port = \"0\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{cni}\"\nconf_dir = \"{cni}\"\n",
            root = text("root"),
            state = text("state"),
            socket = socket.display(),
            opt = text("opt"),
            cni = text("cni"),
        );
        fs::write(ground.path("config.toml"), config)?;
        let arguments = ["--config".to_owned(), text("config.toml"), "--log-level".to_owned(), "warn".to_owned()];
        let daemon = Daemon::start("containerd", &arguments, &socket, &ground.path("log"))?;
        let cri = Self { daemon, ground };
        run(cri.ctr().args(["images", "import", "--snapshotter", "native"]).arg(archive))?;
        Ok(cri)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.ground.path("containerd.sock")
    }

    /// Where it keeps the bundles of running tasks.
    pub fn bundles(&self) -> PathBuf {
        self.ground.path("state").join("io.containerd.runtime.v2.task")
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        command
    }

    /// Starts a pod without containers, in the cgroup that kubelet would give it.
    pub fn run_pod(self: &Arc<Self>, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), number);
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            labels: HashMap::from([
                ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
                ("io.kubernetes.pod.namespace".to_owned(), namespace.to_owned()),
                ("io.kubernetes.pod.uid".to_owned(), uid.clone()),
            ]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
                security_context: Some(SandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let answer: IdResponse = call(&self.socket(), "RunPodSandbox", request)?;
        Ok(Pod {
            sandbox: answer.id,
            uid,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            config,
            cri: Arc::clone(self),
        })
    }
}

/// A pod; stopped and removed when dropped.
pub struct Pod {
    /// Full id of its sandbox.
    pub sandbox: String,
    /// Uid.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    config: PodSandboxConfig,
    cri: Arc<Cri>,
}

impl Pod {
    /// Starts a container in the pod.
    pub fn run(self: &Arc<Self>, options: &RunOptions) -> anyhow::Result<RunningContainer> {
        let mut labels = self.config.labels.clone();
        labels.insert("io.kubernetes.container.name".to_owned(), options.name.clone());
        labels.extend(options.labels.iter().cloned());
        let mounts = options.mounts.iter().map(|(host, inside)| Mount {
            container_path: inside.clone(),
            host_path: host.display().to_string(),
            readonly: true,
        });
        let period = 100_000;
        let quota = options.cpus.map_or(0, |cpus| (cpus * f64::from(period)) as i64);
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: options.name.clone(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned(), user_specified_image: String::new() }),
            command: options.command.clone(),
            mounts: mounts.collect(),
            labels,
            linux: Some(LinuxContainerConfig {
                resources: Some(Resources { cpu_period: i64::from(period), cpu_quota: quota }),
                security_context: Some(ContainerSecurityContext {
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let socket = self.cri.socket();
        let request = CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let IdResponse { id } = call(&socket, "CreateContainer", request)?;
        let (pod, removed) = (Arc::clone(self), id.clone());
        let remove = Box::new(move || {
            let request = IdRequest { id: removed.clone() };
            if let Err(error) = call::<_, Empty>(&pod.cri.socket(), "RemoveContainer", request) {
                eprintln!("{error:#}");
            }
            remove_cgroups(&removed);
        });
        let mut container = RunningContainer { id, name: options.name.clone(), pid: 0, remove };
        call::<_, Empty>(&socket, "StartContainer", IdRequest { id: container.id.clone() })?;
        let tasks = run(self.cri.ctr().args(["tasks", "list"]))?;
        let task = tasks.lines().find(|line| line.starts_with(&container.id));
        let pid = task.and_then(|line| line.split_whitespace().nth(1));
        container.pid = pid.and_then(|pid| pid.parse().ok()).unwrap_or_default();
        Ok(container)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let request = IdRequest { id: self.sandbox.clone() };
            if let Err(error) = call::<_, Empty>(&self.cri.socket(), method, request) {
                eprintln!("{error:#}");
            }
        }
        remove_cgroups(&format!("pod{}", self.uid));
    }
}

/// One call of the runtime service, on a connection of its own.
fn call<Q, A>(socket: &Path, method: &str, request: Q) -> anyhow::Result<A>
where
    Q: prost::Message + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = async {
            let channel = cri::channel(socket).await?;
            let answer = cri::call(&channel, &format!("/runtime.v1.RuntimeService/{method}"), request).await;
            answer.map_err(|status| anyhow!("{method}: {}", status.message()))
        };
        tokio::time::timeout(Duration::from_secs(30), answer).await.with_context(|| format!("{method} hangs"))?
    })
}

/// `NamespaceMode.NODE`: the host's network.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// `StartContainerRequest` and all others whose only field used is an id.
#[derive(Clone, PartialEq, prost::Message)]
struct IdRequest {
    #[prost(string, tag = "1")]
    id: String,
}

/// `RunPodSandboxResponse` and `CreateContainerResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct IdResponse {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<SandboxSecurityContext>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(bool, tag = "3")]
    readonly: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "1")]
    resources: Option<Resources>,
    #[prost(message, optional, tag = "2")]
    security_context: Option<ContainerSecurityContext>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resources {
    #[prost(int64, tag = "1")]
    cpu_period: i64,
    #[prost(int64, tag = "2")]
    cpu_quota: i64,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, prost::Message)]
struct SandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, PartialEq, prost::Message)]
struct ContainerSecurityContext {
    #[prost(message, optional, tag = "3")]
    namespace_options: Option<NamespaceOption>,
}
