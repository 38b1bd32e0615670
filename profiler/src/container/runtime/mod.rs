//! Asks container runtimes who a container is: ids in, names, images, pods and labels out.
//!
//! One thread with a runtime of its own talks to all sockets; a second one reads state files. Each socket is a
//! task: it finds out what speaks there, lists what runs, follows events where there are any, and looks up single ids
//! as they appear. Every request has a deadline. A runtime that is dead, refuses, hangs or talks nonsense ends in a
//! [`Fault`] with its name in it, and in nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ContainerError;
use super::identity::Runtime;
use labels::KeptLabels;

pub mod containerd;
pub mod cri;
pub mod docker;
pub mod labels;
pub mod podman;

/// A runtime that has not answered within this is hanging.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to leave a runtime alone that could not be reached.
const RECONNECT: Duration = Duration::from_secs(3);
/// How often runtimes without events are listed.
const POLL: Duration = Duration::from_secs(1);
/// When to ask for a container that has just begun, and that its runtime may not have registered yet.
const RETRIES: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
];
/// Lookups that may wait in a queue; more are counted as lost.
const QUEUE: usize = 8192;
/// Requests that one runtime is asked to answer at a time.
const CONCURRENT: usize = 16;

/// What a runtime knows about a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Full id.
    pub id: String,
    /// The runtime that told.
    pub runtime: Runtime,
    /// The name it has there.
    pub name: Option<String>,
    /// Image reference.
    pub image: Option<String>,
    /// Pod name, as CRI told it.
    pub pod: Option<String>,
    /// Pod namespace, as CRI told it.
    pub namespace: Option<String>,
    /// The container's own name within its pod, as CRI told it; `None` for the pod's sandbox.
    pub container: Option<String>,
    /// What labels or annotations say of a pod. Whoever may run a container may write them, so that they count below
    /// `kubepods` only.
    pub labelled: PodNames,
    /// Labels, those that may be kept.
    pub labels: BTreeMap<String, String>,
    /// CPU limit that the container was created with, in cores.
    pub cpu_limit_cores: Option<f64>,
    /// Its first process, as the runtime sees it.
    pub pid: Option<u32>,
    /// The user whose socket told; `None` for the state files of root's runtimes.
    pub teller: Option<u32>,
}

/// A container's place in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNames {
    /// Pod name.
    pub pod: Option<String>,
    /// Pod namespace.
    pub namespace: Option<String>,
    /// The container's own name within its pod; `None` for the pod's sandbox.
    pub container: Option<String>,
}

impl Metadata {
    /// Notes what the labels say that Kubernetes gives every container, where that is missing.
    fn with_pod_of_labels(mut self) -> Self {
        let label = |key: &str| self.labels.get(key).filter(|value| !value.is_empty()).cloned();
        let (pod, namespace) = (label("io.kubernetes.pod.name"), label("io.kubernetes.pod.namespace"));
        // What a sandbox is called through Docker.
        let container = label("io.kubernetes.container.name").filter(|name| name != "POD");
        self.labelled.pod = self.labelled.pod.or(pod);
        self.labelled.namespace = self.labelled.namespace.or(namespace);
        self.labelled.container = self.labelled.container.or(container);
        self
    }

    /// Fills pod, namespace and container from the labels: where those are Kubernetes' own.
    pub(super) fn with_pod_as_labelled(mut self) -> Self {
        let labelled = std::mem::take(&mut self.labelled);
        self.pod = self.pod.or(labelled.pod);
        self.namespace = self.namespace.or(labelled.namespace);
        self.container = self.container.or(labelled.container);
        self
    }

    /// Adds what `newer` knows; what it does not know stays.
    pub(super) fn merge(&mut self, newer: Self) {
        fn prefer<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        if newer.runtime != Runtime::Unknown {
            self.runtime = newer.runtime;
        }
        prefer(&mut self.name, newer.name);
        prefer(&mut self.image, newer.image);
        prefer(&mut self.pod, newer.pod);
        prefer(&mut self.namespace, newer.namespace);
        prefer(&mut self.container, newer.container);
        prefer(&mut self.labelled.pod, newer.labelled.pod);
        prefer(&mut self.labelled.namespace, newer.labelled.namespace);
        prefer(&mut self.labelled.container, newer.labelled.container);
        prefer(&mut self.cpu_limit_cores, newer.cpu_limit_cores);
        prefer(&mut self.pid, newer.pid);
        self.teller = newer.teller;
        self.labels.extend(newer.labels);
    }
}

/// What is wrong with a runtime's socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no such file.
    #[error("there is no such socket; is the runtime running?")]
    Missing,
    /// Nobody accepts connections.
    #[error("cannot connect ({0}); is the runtime running, and may this user talk to it?")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs_f64())]
    Hanging,
    /// Neither Docker's or Podman's API nor CRI.
    #[error("what answers there speaks neither the Docker or Podman API nor CRI v1 ({0})")]
    Garbage(String),
    /// containerd without its CRI plugin: names are Docker's or nobody's to tell.
    #[error("containerd has its CRI plugin switched off; give the socket of the runtime that uses it")]
    NoCri,
    /// A request failed.
    #[error("{0}")]
    Failed(String),
}

/// Where a runtime listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSocket {
    /// Path of the Unix socket.
    pub path: PathBuf,
    /// Whether the user asked for it; its absence is then worth a warning.
    pub origin: Origin,
}

/// Why a socket is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is where a runtime listens by default.
    WellKnown,
    /// The user named it.
    Named,
}

/// Where runtimes listen by default.
const WELL_KNOWN: [&str; 10] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
];

/// Reads a socket as the user writes it: `unix:///run/docker.sock` or a path.
pub fn parse_socket(text: &str) -> Result<RuntimeSocket, ContainerError> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if !path.starts_with('/') {
        return Err(ContainerError::BadSocket(text.to_owned()));
    }
    Ok(RuntimeSocket { path: PathBuf::from(path), origin: Origin::Named })
}

/// The named sockets and the well-known ones, each once.
pub fn sockets(named: &[RuntimeSocket], with_well_known: bool) -> Vec<RuntimeSocket> {
    let well_known = WELL_KNOWN.iter().filter(|_| with_well_known);
    let well_known = well_known.map(|path| RuntimeSocket { path: PathBuf::from(path), origin: Origin::WellKnown });
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for socket in named.iter().cloned().chain(well_known) {
        // /var/run is a link to /run nearly everywhere; the socket itself need not exist yet.
        let directory = socket.path.parent().unwrap_or(Path::new("/"));
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let real = socket.path.file_name().map_or_else(|| directory.clone(), |name| directory.join(name));
        if !seen.contains(&real) {
            seen.push(real);
            kept.push(socket);
        }
    }
    kept
}

/// Where runtimes keep state that can be read without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRoots {
    /// Docker's data roots.
    pub docker: Vec<PathBuf>,
    /// Podman's and CRI-O's storage roots.
    pub storage: Vec<PathBuf>,
    /// Directories of OCI bundles: containerd's tasks, by namespace.
    pub bundles: Vec<PathBuf>,
}

impl Default for StateRoots {
    fn default() -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Self {
            docker: paths(&["/var/lib/docker"]),
            storage: paths(&["/var/lib/containers/storage", "/run/containers/storage"]),
            bundles: paths(&[
                "/run/containerd/io.containerd.runtime.v2.task",
                "/run/k3s/containerd/io.containerd.runtime.v2.task",
            ]),
        }
    }
}

impl StateRoots {
    /// No state files.
    pub fn none() -> Self {
        Self { docker: Vec::new(), storage: Vec::new(), bundles: Vec::new() }
    }

    /// What state files say about container `id`.
    pub fn read(&self, id: &str) -> Option<Metadata> {
        // An id is one component of a path: nothing that came from outside may leave the roots.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        let docker = self.docker.iter().find_map(|root| docker::read_state(root, id));
        docker
            .or_else(|| self.storage.iter().find_map(|root| podman::read_state(root, id)))
            .or_else(|| self.bundles.iter().find_map(|root| containerd::read_state(root, id)))
    }
}

/// A container to look up.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    /// Full id.
    pub id: Arc<str>,
    /// Whether it has only just begun, so that its runtime may not know it yet.
    pub age: Age,
}

/// How long a container has been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Created a moment ago.
    New,
    /// There when the collection began.
    Old,
}

/// What the metadata threads have to say.
#[derive(Debug)]
pub(super) enum Update {
    /// Something about a container.
    Learnt(Box<Metadata>),
    /// One source has done what it can about a lookup.
    Finished(Arc<str>),
    /// A runtime failed.
    Warning { socket: PathBuf, fault: Fault },
}

/// The threads that ask; they end when this is dropped.
pub(super) struct MetadataThread {
    requests: mpsc::Sender<Lookup>,
    state_requests: crossbeam_channel::Sender<Lookup>,
    /// What they have to say.
    pub updates: crossbeam_channel::Receiver<Update>,
    /// Updates that found the queue full.
    pub lost_updates: Arc<AtomicU64>,
    sources: u32,
}

impl MetadataThread {
    pub(super) fn start(
        sockets: Vec<RuntimeSocket>,
        state: StateRoots,
        labels: KeptLabels,
    ) -> Result<Self, ContainerError> {
        let (updates, received) = crossbeam_channel::bounded(2 * QUEUE);
        let lost_updates = Arc::new(AtomicU64::new(0));
        let outbox = Outbox { updates, lost: Arc::clone(&lost_updates), labels: Arc::new(labels), teller: None };
        let (requests, incoming) = mpsc::channel(QUEUE);
        let (state_requests, state_incoming) = crossbeam_channel::bounded::<Lookup>(QUEUE);
        let sources = sockets.len() as u32 + 1;
        let asynchronous = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asynchronous = asynchronous.map_err(ContainerError::Thread)?;
        let state_outbox = outbox.clone();
        spawn("container-names", move || {
            asynchronous.block_on(serve_all(sockets, incoming, outbox));
            // A request that still hangs must not keep the thread.
            asynchronous.shutdown_background();
        })?;
        spawn("container-state", move || {
            for lookup in state_incoming {
                if let Some(metadata) = state.read(&lookup.id) {
                    state_outbox.learnt(metadata);
                }
                state_outbox.send(Update::Finished(lookup.id));
            }
        })?;
        Ok(Self { requests, state_requests, updates: received, lost_updates, sources })
    }

    /// Queues a lookup and says how many sources will report on it; `None` if a queue is full.
    pub(super) fn ask(&self, lookup: Lookup) -> Option<u32> {
        let by_socket = self.requests.try_send(lookup.clone()).is_ok();
        let by_state = self.state_requests.try_send(lookup).is_ok();
        match (by_socket, by_state) {
            (true, true) => Some(self.sources),
            (true, false) => Some(self.sources - 1),
            (false, true) => Some(1),
            (false, false) => None,
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ContainerError> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(ContainerError::Thread)
}

/// The way back to the resolver: never blocks; what does not fit is counted.
#[derive(Clone)]
struct Outbox {
    updates: crossbeam_channel::Sender<Update>,
    lost: Arc<AtomicU64>,
    /// What may go this way.
    labels: Arc<KeptLabels>,
    /// Whose runtime it is that tells: the owner of its socket.
    teller: Option<u32>,
}

impl Outbox {
    /// Passes on what is known of a container, without the labels that stay with the runtime.
    fn learnt(&self, mut metadata: Metadata) {
        self.labels.retain_in(&mut metadata.labels);
        metadata.teller = self.teller;
        self.send(Update::Learnt(Box::new(metadata)));
    }

    fn send(&self, update: Update) {
        if let Err(crossbeam_channel::TrySendError::Full(_)) = self.updates.try_send(update) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Hands every lookup to every source until nobody can ask any more.
async fn serve_all(sockets: Vec<RuntimeSocket>, mut incoming: mpsc::Receiver<Lookup>, outbox: Outbox) {
    let mut sources = Vec::new();
    for socket in sockets {
        let (sender, lookups) = mpsc::channel(QUEUE);
        sources.push(sender);
        tokio::spawn(serve(Source { socket, lookups, outbox: outbox.clone(), warned: None }));
    }
    while let Some(lookup) = incoming.recv().await {
        for source in &sources {
            if source.try_send(lookup.clone()).is_err() {
                outbox.send(Update::Finished(Arc::clone(&lookup.id)));
            }
        }
    }
}

/// One socket and what is asked of it.
struct Source {
    socket: RuntimeSocket,
    lookups: mpsc::Receiver<Lookup>,
    outbox: Outbox,
    warned: Option<Fault>,
}

impl Source {
    /// Reports a fault, unless it is the one reported last.
    fn warn(&mut self, fault: Fault) {
        let expected = self.socket.origin == Origin::WellKnown && matches!(fault, Fault::Missing | Fault::NoCri);
        if expected || self.warned.as_ref() == Some(&fault) {
            return;
        }
        self.warned = Some(fault.clone());
        self.outbox.send(Update::Warning { socket: self.socket.path.clone(), fault });
    }

    /// Answers every lookup with "not known here" for a while; false when nobody asks any more.
    async fn decline_for(&mut self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        loop {
            match timeout_at(end, self.lookups.recv()).await {
                Err(_) => return true,
                Ok(None) => return false,
                Ok(Some(lookup)) => self.outbox.send(Update::Finished(lookup.id)),
            }
        }
    }
}

async fn serve(mut source: Source) {
    let mut hung_before = false;
    loop {
        let connected = connect(&source.socket.path).await;
        let hangs = matches!(connected, Err(Fault::Hanging));
        match connected {
            Ok(api) => {
                source.warned = None;
                let owner = fs::metadata(&source.socket.path).map_or(u32::MAX, |metadata| metadata.uid());
                source.outbox.teller = Some(owner);
                if serve_connected(&mut source, api).await == Ended::NobodyAsks {
                    return;
                }
            }
            Err(fault) => source.warn(fault),
        }
        // A runtime that is merely slow still gets to answer what it is asked meanwhile.
        if hangs && !std::mem::replace(&mut hung_before, hangs) {
            continue;
        }
        hung_before = hangs;
        if !source.decline_for(RECONNECT).await {
            return;
        }
    }
}

/// Why a connection is no longer served.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The runtime is gone.
    Gone,
    /// The profiler is.
    NobodyAsks,
}

/// Serves lookups until the runtime is gone. A request that fails or hangs is a warning and no more: Podman, for one,
/// lets every request wait that touches a container which somebody is starting or removing.
async fn serve_connected(source: &mut Source, api: Api) -> Ended {
    let api = Arc::new(api);
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    let (faults, mut failed) = mpsc::channel(CONCURRENT);
    let follow = tokio::spawn(follow(Arc::clone(&api), source.outbox.clone(), faults.clone()));
    let ended = loop {
        tokio::select! {
            Some(fault) = failed.recv() => {
                source.warn(fault);
                if let Err(gone) = reach(&source.socket.path).await {
                    source.warn(gone);
                    break Ended::Gone;
                }
            }
            lookup = source.lookups.recv() => {
                let Some(lookup) = lookup else { break Ended::NobodyAsks };
                let (api, permits) = (Arc::clone(&api), Arc::clone(&permits));
                let (outbox, faults) = (source.outbox.clone(), faults.clone());
                tokio::spawn(async move {
                    let id = Arc::clone(&lookup.id);
                    match look_up(&api, &permits, lookup).await {
                        Ok(Some(metadata)) => outbox.learnt(metadata),
                        Ok(None) => {}
                        // Before the end of the lookup, so that the warning is there by then. A full queue holds
                        // enough faults of this runtime.
                        Err(fault) => faults.try_send(fault).unwrap_or_default(),
                    }
                    outbox.send(Update::Finished(id));
                });
            }
        }
    };
    follow.abort();
    ended
}

/// Asks for one container, several times if it may not be registered yet, and once more if the runtime fails.
async fn look_up(api: &Api, permits: &Semaphore, lookup: Lookup) -> Result<Option<Metadata>, Fault> {
    let attempts = if lookup.age == Age::New { RETRIES.len() } else { 2 };
    let mut outcome = Ok(None);
    for pause in &RETRIES[..attempts] {
        sleep(*pause).await;
        let _permit = permits.acquire().await.map_err(|_| Fault::Failed("shutting down".to_owned()))?;
        outcome = within(api.inspect(&lookup.id)).await;
        let unknown = matches!(outcome, Ok(None));
        if matches!(outcome, Ok(Some(_))) || (unknown && lookup.age == Age::Old) {
            break;
        }
    }
    outcome
}

/// Learns what runs, then follows what begins. Faults are reported and gone through.
async fn follow(api: Arc<Api>, outbox: Outbox, faults: mpsc::Sender<Fault>) {
    let learn = |found: Vec<Metadata>| {
        for metadata in found {
            outbox.learnt(metadata);
        }
    };
    // A full queue holds enough faults of this runtime.
    let report = |fault: Fault| faults.try_send(fault).unwrap_or_default();
    let list = async || match timeout(5 * REQUEST_TIMEOUT, api.list()).await {
        Ok(Ok(found)) => learn(found),
        Ok(Err(fault)) => report(fault),
        Err(_) => report(Fault::Hanging),
    };
    let Api::Engine(engine) = &*api else {
        loop {
            list().await;
            sleep(POLL).await;
        }
    };
    loop {
        let events = async {
            let mut events = std::pin::pin!(engine.events());
            while let Some(event) = events.next().await {
                match event {
                    Ok(found) => learn(found.into_iter().collect()),
                    Err(fault) => return report(fault),
                }
            }
        };
        // Subscribed first: what begins during the listing is in one of the two.
        tokio::join!(events, list());
        sleep(POLL).await;
    }
}

/// What came of asking at a socket who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Where.
    pub socket: RuntimeSocket,
    /// Who, or what is wrong.
    pub runtime: Result<Runtime, Fault>,
}

/// Asks at each socket who is there, all at once. None of them can take longer than a few requests may.
pub fn probe(sockets: Vec<RuntimeSocket>) -> Result<Vec<Answer>, ContainerError> {
    let asynchronous = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asynchronous = asynchronous.map_err(ContainerError::Thread)?;
    let ask = async |socket: RuntimeSocket| {
        let runtime = connect(&socket.path).await.map(|api| api.runtime());
        Answer { socket, runtime }
    };
    let answers = asynchronous.block_on(futures_util::future::join_all(sockets.into_iter().map(ask)));
    asynchronous.shutdown_background();
    Ok(answers)
}

/// What speaks at a socket.
enum Api {
    Engine(docker::Engine),
    Cri(cri::Cri),
}

impl Api {
    fn runtime(&self) -> Runtime {
        match self {
            Self::Engine(engine) => engine.runtime(),
            Self::Cri(cri) => cri.runtime(),
        }
    }

    async fn list(&self) -> Result<Vec<Metadata>, Fault> {
        match self {
            Self::Engine(engine) => engine.list().await,
            Self::Cri(cri) => cri.list().await,
        }
    }

    async fn inspect(&self, id: &str) -> Result<Option<Metadata>, Fault> {
        match self {
            Self::Engine(engine) => engine.inspect(id).await,
            Self::Cri(cri) => cri.inspect(id).await,
        }
    }
}

/// Finds out what speaks at `path`.
async fn connect(path: &Path) -> Result<Api, Fault> {
    reach(path).await?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cri_first = name.contains("cri") || name.contains("containerd");
    let first = if cri_first { connect_cri(path).await } else { connect_engine(path).await };
    match first {
        Err(first @ (Fault::Garbage(_) | Fault::Failed(_))) => {
            let second = if cri_first { connect_engine(path).await } else { connect_cri(path).await };
            second.map_err(|second| match second {
                Fault::Hanging | Fault::NoCri => second,
                _ => Fault::Garbage(first.to_string()),
            })
        }
        decided => decided,
    }
}

/// Whether somebody listens at `path`.
async fn reach(path: &Path) -> Result<(), Fault> {
    let stream = timeout(REQUEST_TIMEOUT, UnixStream::connect(path)).await.map_err(|_| Fault::Hanging)?;
    stream.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreachable(error.to_string()),
    })
}

async fn connect_cri(path: &Path) -> Result<Api, Fault> {
    within(cri::Cri::connect(path)).await.map(Api::Cri)
}

async fn connect_engine(path: &Path) -> Result<Api, Fault> {
    within(docker::Engine::connect(path)).await.map(Api::Engine)
}

async fn within<T>(request: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(REQUEST_TIMEOUT, request).await.map_err(|_| Fault::Hanging)?
}

#[cfg(test)]
mod tests;
