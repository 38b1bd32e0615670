//! Joins cgroups, identities and metadata for a collection: cgroup ids and lifecycle hints in, containers with their
//! descriptions out.
//!
//! The collection's thread owns the [`ContainerResolver`]; the threads that ask the runtimes send it what they learn.
//! Nothing that has been learnt is forgotten when a container ends: a container that lived 200 ms keeps its name.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::ContainerError;
use super::cgroup::{self, CgroupId};
use super::hierarchy::Hierarchy;
use super::identity::{ContainerIdentity, Identity, Runtime, identify};
use super::limits;
use super::naming::{self, Description};
use super::runtime::{self, Age, Lookup, Metadata, MetadataThread, RuntimeSocket, StateRoots, Update};

/// The least time between two walks made for an id that nobody announced.
const REWALK: Duration = Duration::from_millis(200);

/// Who owns cgroups. Many cgroups may have the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerKey {
    /// A container, by its full id.
    Container(Arc<str>),
    /// A systemd unit, by its cgroup path.
    Unit(Arc<str>),
    /// What is in neither.
    Host,
}

/// How to find containers and their names.
#[derive(Debug, Clone)]
pub struct ResolverOptions {
    /// Where the cgroup hierarchy is mounted; found through the mount table if `None`.
    pub cgroup_root: Option<PathBuf>,
    /// Sockets of runtimes, named by the user.
    pub sockets: Vec<RuntimeSocket>,
    /// Whether to try the places where runtimes listen by default, too.
    pub well_known_sockets: bool,
    /// Where runtimes keep their state.
    pub state: StateRoots,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self { cgroup_root: None, sockets: Vec::new(), well_known_sockets: true, state: StateRoots::default() }
    }
}

/// What could not be resolved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResolverLosses {
    /// Cgroup ids that no walk and no hint explained; their time is the host's.
    pub unknown_cgroups: u64,
    /// Directories of the hierarchy that could not be read.
    pub unreadable_cgroups: u64,
    /// Lookups and answers that found a queue full.
    pub dropped_messages: u64,
    /// Containers that no runtime named.
    pub unnamed_containers: u64,
}

/// A container as far as its cgroup tells, and what was read from there while it lived.
struct Known {
    identity: ContainerIdentity,
    cpu_limit_cores: Option<f64>,
    removed: Option<Instant>,
}

/// Knows which container a cgroup belongs to, and what that container is.
pub struct ContainerResolver {
    hierarchy: Hierarchy,
    cgroups: FxHashMap<CgroupId, (ContainerKey, String)>,
    containers: FxHashMap<Arc<str>, Known>,
    units: FxHashMap<Arc<str>, String>,
    metadata: FxHashMap<String, Metadata>,
    thread: MetadataThread,
    /// Lookups under way, with the number of sources that have not reported.
    outstanding: FxHashMap<Arc<str>, u32>,
    /// Ids already counted as unknown.
    unknown: FxHashSet<CgroupId>,
    last_walk: Instant,
    warnings: Vec<String>,
    losses: ResolverLosses,
}

impl ContainerResolver {
    /// Finds the hierarchy, walks it and begins to ask the runtimes. Returns without waiting for any of them.
    pub fn start(options: ResolverOptions) -> Result<Self, ContainerError> {
        let (hierarchy, warnings) = Hierarchy::detect(options.cgroup_root.as_deref())?;
        let sockets = runtime::sockets(&options.sockets, options.well_known_sockets);
        let thread = MetadataThread::start(sockets, options.state)?;
        let mut resolver = Self {
            hierarchy,
            cgroups: FxHashMap::default(),
            containers: FxHashMap::default(),
            units: FxHashMap::default(),
            metadata: FxHashMap::default(),
            thread,
            outstanding: FxHashMap::default(),
            unknown: FxHashSet::default(),
            last_walk: Instant::now(),
            warnings,
            losses: ResolverLosses::default(),
        };
        resolver.walk(Age::Old);
        Ok(resolver)
    }

    /// The hierarchy whose ids tell containers apart.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// All cgroups known, with their paths.
    pub fn cgroups(&self) -> Vec<(CgroupId, String)> {
        self.cgroups.iter().map(|(id, (_, path))| (*id, path.clone())).collect()
    }

    /// All cgroups known that belong to `key`; what a filter in the kernel needs.
    pub fn cgroups_of(&self, key: &ContainerKey) -> Vec<CgroupId> {
        self.cgroups.iter().filter(|(_, (owner, _))| owner == key).map(|(id, _)| *id).collect()
    }

    /// Takes note of a cgroup that has just been made; `path` is what the kernel's event said, if it did. Names are
    /// asked for at once, since the container may be gone in a moment.
    pub fn cgroup_created(&mut self, id: CgroupId, path: Option<&str>) -> Option<ContainerKey> {
        self.absorb();
        if let Some(path) = path {
            return Some(self.learn_cgroup(id, path, Age::New));
        }
        if !self.cgroups.contains_key(&id) {
            self.walk(Age::New);
        }
        self.cgroups.get(&id).map(|(key, _)| key.clone())
    }

    /// Takes note of a cgroup that has been removed. What is known about it stays until [`Self::forget_removed`].
    pub fn cgroup_removed(&mut self, id: CgroupId) {
        self.absorb();
        if let Some((ContainerKey::Container(container), path)) = self.cgroups.get(&id)
            && let Some(known) = self.containers.get_mut(container)
            && known.identity.cgroup == *path
        {
            known.removed = Some(Instant::now());
        }
    }

    /// Forgets containers that were removed longer than `age` ago, so that a process that runs for months does not grow.
    pub fn forget_removed(&mut self, age: Duration) {
        let gone: FxHashSet<Arc<str>> = self
            .containers
            .iter()
            .filter(|(_, known)| known.removed.is_some_and(|removed| removed.elapsed() > age))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        self.containers.retain(|id, _| !gone.contains(id));
        self.metadata.retain(|id, _| !gone.contains(id.as_str()));
        self.cgroups.retain(|_, (key, _)| !matches!(key, ContainerKey::Container(id) if gone.contains(id)));
    }

    /// Finds the container of a process through /proc: for hosts whose containers the kernel's ids do not tell apart,
    /// and for processes moved between cgroups. `None` if the process is gone.
    pub fn process_seen(&mut self, pid: u32) -> Option<ContainerKey> {
        self.absorb();
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = self.hierarchy.path_of_process(&text)?;
        Some(match cgroup::id_of(&self.hierarchy.root, path) {
            Some(id) => self.learn_cgroup(id, path, Age::New),
            None => self.learn_path(path, Age::New),
        })
    }

    /// Whose cgroup this is. An id that nobody announced is searched for; if it is not there (any more), it is counted
    /// and its time is the host's.
    pub fn container_of(&mut self, id: CgroupId) -> ContainerKey {
        self.absorb();
        if !self.cgroups.contains_key(&id) && !self.unknown.contains(&id) && self.last_walk.elapsed() >= REWALK {
            self.walk(Age::New);
        }
        if let Some((key, _)) = self.cgroups.get(&id) {
            return key.clone();
        }
        if self.unknown.insert(id) {
            self.losses.unknown_cgroups += 1;
        }
        ContainerKey::Host
    }

    /// Everything known about `key` now. Its name is unique among all containers seen so far.
    pub fn describe(&mut self, key: &ContainerKey) -> Description {
        let found = self.describe_all().into_iter().find(|description| description.key == *key);
        found.unwrap_or_else(|| {
            let mut alone = [self.describe_without_name(key)];
            naming::name_all(&mut alone);
            let [description] = alone;
            description
        })
    }

    /// Everything seen so far, ended containers included, sorted by name.
    pub fn describe_all(&mut self) -> Vec<Description> {
        self.absorb();
        self.read_limits();
        let containers = self.containers.keys().cloned().map(ContainerKey::Container);
        let units = self.units.keys().cloned().map(ContainerKey::Unit);
        let keys = containers.chain(units).chain([ContainerKey::Host]);
        let mut all: Vec<Description> = keys.map(|key| self.describe_without_name(&key)).collect();
        naming::name_all(&mut all);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether the container or unit has a process now.
    pub fn is_populated(&self, key: &ContainerKey) -> bool {
        let path = match key {
            ContainerKey::Container(id) => self.containers.get(id).map(|known| known.identity.cgroup.as_str()),
            ContainerKey::Unit(path) => Some(&**path),
            ContainerKey::Host => return true,
        };
        let Some(path) = path else { return false };
        let directory = cgroup::directory(&self.hierarchy.root, path);
        match fs::read_to_string(directory.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 1"),
            // v1 does not say so for a whole tree.
            Err(_) => cgroup::walk(&directory).cgroups.iter().any(|below| {
                let procs = cgroup::directory(&directory, &below.path).join("cgroup.procs");
                fs::read_to_string(procs).is_ok_and(|procs| !procs.is_empty())
            }),
        }
    }

    /// Waits until every lookup under way has been answered, `timeout` at most; true if all were.
    pub fn settle(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.absorb();
        while !self.outstanding.is_empty() {
            match self.thread.updates.recv_deadline(deadline) {
                Ok(update) => self.take(update),
                Err(_) => return false,
            }
            self.absorb();
        }
        true
    }

    /// Ends a recording: waits for outstanding lookups, `timeout` at most, and says which containers stay without a
    /// name.
    pub fn finish(&mut self, timeout: Duration) {
        self.settle(timeout);
        let mut unnamed: Vec<String> = Vec::new();
        for (id, known) in &self.containers {
            if !self.metadata.get(&**id).is_some_and(is_named) {
                unnamed.push(format!("{} ({})", id.get(..12).unwrap_or(id), known.identity.runtime));
            }
        }
        self.losses.unnamed_containers = unnamed.len() as u64;
        if !unnamed.is_empty() {
            unnamed.sort_unstable();
            self.warn(format!(
                "no runtime told the name of {}; if its runtime listens elsewhere, give --runtime-socket unix:///path",
                unnamed.join(", ")
            ));
        }
    }

    /// What the user should be told, each once, since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.absorb();
        std::mem::take(&mut self.warnings)
    }

    /// What could not be resolved so far.
    pub fn losses(&self) -> ResolverLosses {
        let lost_updates = self.thread.lost_updates.load(Ordering::Relaxed);
        ResolverLosses { dropped_messages: self.losses.dropped_messages + lost_updates, ..self.losses }
    }

    fn walk(&mut self, age: Age) {
        let found = cgroup::walk(&self.hierarchy.root);
        self.last_walk = Instant::now();
        self.losses.unreadable_cgroups = self.losses.unreadable_cgroups.max(found.unreadable);
        for cgroup in found.cgroups {
            if !self.cgroups.contains_key(&cgroup.id) {
                self.learn_cgroup(cgroup.id, &cgroup.path, age);
            }
        }
    }

    fn learn_cgroup(&mut self, id: CgroupId, path: &str, age: Age) -> ContainerKey {
        let key = self.learn_path(path, age);
        self.unknown.remove(&id);
        self.cgroups.insert(id, (key.clone(), path.to_owned()));
        key
    }

    fn learn_path(&mut self, path: &str, age: Age) -> ContainerKey {
        match identify(path) {
            Identity::Container(identity) => {
                let id: Arc<str> = Arc::from(identity.id.as_str());
                if !self.containers.contains_key(&id) {
                    let known = Known { identity, cpu_limit_cores: None, removed: None };
                    self.containers.insert(Arc::clone(&id), known);
                    if !self.metadata.get(&*id).is_some_and(is_complete) {
                        self.ask(&id, age);
                    }
                }
                ContainerKey::Container(id)
            }
            Identity::Unit { name, cgroup } => {
                let cgroup: Arc<str> = Arc::from(cgroup);
                self.units.entry(Arc::clone(&cgroup)).or_insert(name);
                ContainerKey::Unit(cgroup)
            }
            Identity::Host => ContainerKey::Host,
        }
    }

    fn ask(&mut self, id: &Arc<str>, age: Age) {
        match self.thread.ask(Lookup { id: Arc::clone(id), age }) {
            Some(sources) => {
                self.outstanding.insert(Arc::clone(id), sources);
            }
            None => self.losses.dropped_messages += 1,
        }
    }

    /// Takes in what the metadata threads have sent.
    fn absorb(&mut self) {
        while let Ok(update) = self.thread.updates.try_recv() {
            self.take(update);
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Learnt(metadata) => {
                let id = metadata.id.clone();
                let known = self.metadata.entry(id.clone()).or_default();
                known.id.clone_from(&id);
                known.merge(*metadata);
                if is_complete(known) {
                    self.outstanding.remove(id.as_str());
                }
            }
            Update::Finished(id) => {
                if let Some(sources) = self.outstanding.get_mut(&id) {
                    *sources = sources.saturating_sub(1);
                    if *sources == 0 {
                        self.outstanding.remove(&id);
                    }
                }
            }
            Update::Warning { socket, fault } => {
                self.warn(format!("container runtime at unix://{}: {fault}", socket.display()));
            }
        }
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn describe_without_name(&self, key: &ContainerKey) -> Description {
        let nobody = Description {
            key: key.clone(),
            id: String::new(),
            name: String::new(),
            image: None,
            runtime: "host",
            pod: None,
            namespace: None,
            container: None,
            labels: std::collections::BTreeMap::new(),
            cgroup: "/".to_owned(),
            cpu_limit_cores: None,
        };
        match key {
            ContainerKey::Host => Description { container: Some("host".to_owned()), ..nobody },
            ContainerKey::Unit(path) => Description {
                container: self.units.get(path).cloned(),
                cgroup: path.to_string(),
                cpu_limit_cores: limits::cpu_limit_cores(&self.hierarchy, path),
                ..nobody
            },
            ContainerKey::Container(id) => {
                let known = self.containers.get(id);
                let metadata = self.metadata.get(&**id).cloned().unwrap_or_default();
                let by_path = known.map_or(Runtime::Unknown, |known| known.identity.runtime);
                let runtime = if metadata.runtime == Runtime::Unknown { by_path } else { metadata.runtime };
                // Within a pod the runtime's own name (`k8s_app_…`) is noise.
                let container =
                    if metadata.pod.is_some() { metadata.container } else { metadata.container.or(metadata.name) };
                Description {
                    id: id.to_string(),
                    image: metadata.image,
                    runtime: runtime.name(),
                    pod: metadata.pod,
                    namespace: metadata.namespace,
                    container,
                    labels: metadata.labels,
                    cgroup: known.map_or_else(String::new, |known| known.identity.cgroup.clone()),
                    cpu_limit_cores: known.and_then(|known| known.cpu_limit_cores).or(metadata.cpu_limit_cores),
                    ..nobody
                }
            }
        }
    }

    /// Reads the limits of containers that are alive; an ended one keeps what was read last.
    fn read_limits(&mut self) {
        for known in self.containers.values_mut() {
            if known.removed.is_none() {
                let limit = limits::cpu_limit_cores(&self.hierarchy, &known.identity.cgroup);
                known.cpu_limit_cores = limit.or(known.cpu_limit_cores);
            }
        }
    }
}

/// Whether there is nothing more to be asked for.
fn is_complete(metadata: &Metadata) -> bool {
    let is_sandbox = metadata.pod.is_some() && metadata.container.is_none() && metadata.name.is_none();
    is_sandbox || (is_named(metadata) && metadata.image.is_some())
}

fn is_named(metadata: &Metadata) -> bool {
    metadata.name.is_some() || metadata.pod.is_some()
}
