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
use super::delegated::{Delegated, Holder};
use super::hierarchy::Hierarchy;
use super::identity::{ContainerIdentity, Identity, Runtime, identify_believing};
use super::limits::CpuLimits;
use super::naming::{self, Description};
use super::ownership;
use super::runtime::labels::KeptLabels;
use super::runtime::{self, Age, Lookup, Metadata, MetadataThread, RuntimeSocket, StateRoots, Update};

/// The least time between two walks made for an id that nobody announced.
const REWALK: Duration = Duration::from_millis(200);

/// Containers that a runtime told of but that no cgroup was seen of: as many are remembered.
const MOST_UNSEEN: usize = 4096;

/// Who owns cgroups. Many cgroups may have the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerKey {
    /// A container, by its full id.
    Container(Arc<str>),
    /// What looks like a container where names prove nothing, or claims another's id: by its cgroup path.
    Delegated(Arc<str>),
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
    /// Which labels are kept.
    pub labels: KeptLabels,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            sockets: Vec::new(),
            well_known_sockets: true,
            state: StateRoots::default(),
            labels: KeptLabels::default(),
        }
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

/// A systemd unit.
struct Unit {
    name: String,
    by_user: bool,
}

/// Knows which container a cgroup belongs to, and what that container is.
pub struct ContainerResolver {
    hierarchy: Hierarchy,
    /// The user who owns the hierarchy: root.
    owner: u32,
    cgroups: FxHashMap<CgroupId, (ContainerKey, String)>,
    containers: FxHashMap<Arc<str>, Known>,
    delegated: FxHashMap<Arc<str>, Delegated>,
    units: FxHashMap<Arc<str>, Unit>,
    metadata: FxHashMap<String, Metadata>,
    thread: MetadataThread,
    /// Lookups under way, with the number of sources that have not reported.
    outstanding: FxHashMap<Arc<str>, u32>,
    /// Cgroups that were removed, and when.
    removed: FxHashMap<CgroupId, Instant>,
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
        Self::over(hierarchy, warnings, options)
    }

    fn over(hierarchy: Hierarchy, warnings: Vec<String>, options: ResolverOptions) -> Result<Self, ContainerError> {
        let sockets = runtime::sockets(&options.sockets, options.well_known_sockets);
        let thread = MetadataThread::start(sockets, options.state, options.labels)?;
        let mut resolver = Self {
            owner: ownership::owner(&hierarchy.root),
            hierarchy,
            cgroups: FxHashMap::default(),
            containers: FxHashMap::default(),
            delegated: FxHashMap::default(),
            units: FxHashMap::default(),
            metadata: FxHashMap::default(),
            thread,
            outstanding: FxHashMap::default(),
            removed: FxHashMap::default(),
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
        if self.cgroups.contains_key(&id) {
            self.removed.entry(id).or_insert_with(Instant::now);
        }
        match self.cgroups.get(&id) {
            Some((ContainerKey::Container(container), path)) => {
                if let Some(known) = self.containers.get_mut(container).filter(|known| known.identity.cgroup == *path) {
                    known.removed = Some(Instant::now());
                }
            }
            Some((ContainerKey::Delegated(topmost), path)) if **topmost == **path => {
                if let Some(known) = self.delegated.get_mut(topmost) {
                    known.removed = Some(Instant::now());
                }
            }
            _ => {}
        }
    }

    /// Walks the hierarchy for what no event told of: takes note of cgroups that are gone and returns them.
    pub fn reconcile(&mut self) -> Vec<CgroupId> {
        self.absorb();
        let found: FxHashSet<CgroupId> = self.walk(Age::New);
        let gone: Vec<CgroupId> =
            self.cgroups.keys().filter(|id| !found.contains(id) && !self.removed.contains_key(id)).copied().collect();
        for id in &gone {
            self.cgroup_removed(*id);
        }
        gone
    }

    /// Forgets what was removed longer than `age` ago, so that a process that runs for months does not grow.
    pub fn forget_removed(&mut self, age: Duration) {
        let gone: FxHashSet<Arc<str>> = self
            .containers
            .iter()
            .filter(|(_, known)| known.removed.is_some_and(|removed| removed.elapsed() > age))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        self.containers.retain(|id, _| !gone.contains(id));
        self.delegated.retain(|_, known| known.removed.is_none_or(|removed| removed.elapsed() <= age));
        self.metadata.retain(|id, _| !gone.contains(id.as_str()));
        let removed: FxHashSet<CgroupId> =
            self.removed.iter().filter(|(_, at)| at.elapsed() > age).map(|(id, _)| *id).collect();
        self.removed.retain(|id, _| !removed.contains(id));
        self.cgroups.retain(|id, (key, _)| {
            let forgotten = match key {
                ContainerKey::Container(id) => gone.contains(id),
                ContainerKey::Delegated(path) => !self.delegated.contains_key(path),
                ContainerKey::Unit(_) | ContainerKey::Host => false,
            };
            !removed.contains(id) && !forgotten
        });
        let units: FxHashSet<Arc<str>> = self
            .cgroups
            .values()
            .filter_map(|(key, _)| if let ContainerKey::Unit(path) = key { Some(Arc::clone(path)) } else { None })
            .collect();
        self.units.retain(|path, _| units.contains(path));
        // Ids are never used again; what no walk explained now would only be counted once more.
        self.unknown.clear();
        if self.metadata.len() > MOST_UNSEEN + self.containers.len() {
            let claimed: FxHashSet<&str> = self.delegated.values().map(|known| known.identity.id.as_str()).collect();
            self.metadata.retain(|id, _| self.containers.contains_key(id.as_str()) || claimed.contains(id.as_str()));
        }
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
        let delegated = self.delegated.keys().cloned().map(ContainerKey::Delegated);
        let units = self.units.keys().cloned().map(ContainerKey::Unit);
        let keys = containers.chain(delegated).chain(units).chain([ContainerKey::Host]);
        let mut all: Vec<Description> = keys.map(|key| self.describe_without_name(&key)).collect();
        naming::name_all(&mut all);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Everybody that owns a cgroup known now, and the host.
    pub fn keys(&self) -> impl Iterator<Item = ContainerKey> {
        let owners = self.cgroups.values().map(|(key, _)| key.clone());
        owners.chain([ContainerKey::Host])
    }

    /// Whether the container or unit has a process now.
    pub fn is_populated(&self, key: &ContainerKey) -> bool {
        let path = match key {
            ContainerKey::Container(id) => self.containers.get(id).map(|known| known.identity.cgroup.as_str()),
            ContainerKey::Unit(path) | ContainerKey::Delegated(path) => Some(&**path),
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
            if !self.metadata.get(&**id).is_some_and(|metadata| is_named(metadata, &known.identity)) {
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

    /// Walks the hierarchy, learns what is new and returns everything that is there.
    fn walk(&mut self, age: Age) -> FxHashSet<CgroupId> {
        let found = cgroup::walk(&self.hierarchy.root);
        self.last_walk = Instant::now();
        self.losses.unreadable_cgroups = self.losses.unreadable_cgroups.max(found.unreadable);
        let mut ids = FxHashSet::default();
        for cgroup in found.cgroups {
            ids.insert(cgroup.id);
            if !self.cgroups.contains_key(&cgroup.id) {
                self.learn_cgroup(cgroup.id, &cgroup.path, age);
            }
        }
        ids
    }

    fn learn_cgroup(&mut self, id: CgroupId, path: &str, age: Age) -> ContainerKey {
        let key = self.learn_path(path, age);
        self.unknown.remove(&id);
        self.cgroups.insert(id, (key.clone(), path.to_owned()));
        key
    }

    fn learn_path(&mut self, path: &str, age: Age) -> ContainerKey {
        let believed = ownership::believed(&self.hierarchy.root, path);
        match identify_believing(path, believed) {
            Identity::Container(identity) => self.learn_container(identity, age),
            Identity::Delegated(identity) => {
                let owner = ownership::owner_of(&self.hierarchy.root, &identity.cgroup);
                // A directory that is gone was nobody's we know of.
                self.learn_delegated(identity, Holder::User(owner.unwrap_or(u32::MAX)), age)
            }
            Identity::Unit { name, cgroup } => {
                let cgroup: Arc<str> = Arc::from(cgroup);
                let by_user =
                    cgroup.split('/').filter(|component| !component.is_empty()).count() > believed.saturating_add(1);
                self.units.entry(Arc::clone(&cgroup)).or_insert(Unit { name, by_user });
                ContainerKey::Unit(cgroup)
            }
            Identity::Host => ContainerKey::Host,
        }
    }

    /// A container by its path. Of several cgroups that bear one id the runtime's word decides, then who came first.
    fn learn_container(&mut self, identity: ContainerIdentity, age: Age) -> ContainerKey {
        let id: Arc<str> = Arc::from(identity.id.as_str());
        let mut successor = None;
        match self.containers.get_mut(&id) {
            None => {
                let complete = self.metadata.get(&*id).is_some_and(|known| is_complete(known, &identity));
                let known = Known { identity, cpu_limit_cores: None, removed: None };
                self.containers.insert(Arc::clone(&id), known);
                if !complete {
                    self.ask(&id, age);
                }
            }
            Some(known) if known.identity.cgroup == identity.cgroup => {}
            Some(known) => {
                let ended =
                    known.removed.is_some() || cgroup::id_of(&self.hierarchy.root, &known.identity.cgroup).is_none();
                if !ended {
                    return self.learn_delegated(identity, Holder::Root, age);
                }
                successor = Some(identity);
            }
        }
        if let (Some(identity), Some(known)) = (successor, self.containers.get_mut(&id)) {
            *known = Known { identity, cpu_limit_cores: None, removed: None };
        }
        ContainerKey::Container(id)
    }

    /// What bears a container's id without being that container for sure.
    fn learn_delegated(&mut self, identity: ContainerIdentity, holder: Holder, age: Age) -> ContainerKey {
        let cgroup: Arc<str> = Arc::from(identity.cgroup.as_str());
        if !self.delegated.contains_key(&cgroup) {
            let id: Arc<str> = Arc::from(identity.id.as_str());
            self.delegated.insert(Arc::clone(&cgroup), Delegated::new(identity, holder));
            match self.metadata.get(&*id).and_then(|known| known.pid) {
                Some(pid) => self.runtime_says(&id, pid),
                None => self.ask(&id, age),
            }
        }
        // The runtime may have meant this one.
        let confirmed = !self.delegated.contains_key(&cgroup);
        if confirmed { self.learn_path(&cgroup, age) } else { ContainerKey::Delegated(cgroup) }
    }

    /// Which of the cgroups that bear an id is the container: the one that its first process is in.
    fn runtime_says(&mut self, id: &Arc<str>, pid: u32) {
        let claims = |known: &Delegated| known.identity.id == **id;
        if !self.delegated.values().any(claims) {
            return;
        }
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return };
        if let Some(path) = self.hierarchy.path_of_process(&text) {
            self.runtime_means(id, path);
        }
    }

    /// The runtime's container `id` is where `path` leads.
    fn runtime_means(&mut self, id: &Arc<str>, path: &str) {
        let claims = |known: &Delegated| known.identity.id == **id;
        let within =
            |topmost: &str| path.strip_prefix(topmost).is_some_and(|below| below.is_empty() || below.starts_with('/'));
        let Some((cgroup, known)) = self.delegated.iter_mut().find(|(cgroup, known)| claims(known) && within(cgroup))
        else {
            return;
        };
        known.confirmed = true;
        if known.holder != Holder::Root {
            return;
        }
        // Root made both: the one that the runtime means takes the place of the other.
        let cgroup = Arc::clone(cgroup);
        let Some(meant) = self.delegated.remove(&cgroup) else { return };
        let fresh = Known { identity: meant.identity, cpu_limit_cores: None, removed: meant.removed };
        let other = self.containers.insert(Arc::clone(id), fresh);
        let (mine, mut theirs) = (ContainerKey::Delegated(cgroup), None);
        if let Some(other) = other {
            let path: Arc<str> = Arc::from(other.identity.cgroup.as_str());
            let known = Delegated { removed: other.removed, ..Delegated::new(other.identity, Holder::Root) };
            self.delegated.insert(Arc::clone(&path), known);
            theirs = Some(ContainerKey::Delegated(path));
        }
        let container = ContainerKey::Container(Arc::clone(id));
        for (key, _) in self.cgroups.values_mut() {
            if *key == mine {
                *key = container.clone();
            } else if *key == container
                && let Some(theirs) = &theirs
            {
                *key = theirs.clone();
            }
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
            Update::Learnt(metadata) => self.learn_metadata(*metadata),
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

    /// Adds what a runtime told. A user's runtime does not speak of what root's knows.
    fn learn_metadata(&mut self, metadata: Metadata) {
        let id: Arc<str> = Arc::from(metadata.id.as_str());
        let pid = metadata.pid;
        let owner = self.owner;
        let by_root = |metadata: &Metadata| metadata.teller.is_none_or(|teller| teller == owner);
        match self.metadata.get_mut(&*id) {
            Some(known) if by_root(known) && !by_root(&metadata) => return,
            Some(known) if by_root(known) == by_root(&metadata) => known.merge(metadata),
            Some(known) => *known = metadata,
            None => {
                self.metadata.insert(id.to_string(), metadata);
            }
        }
        if let Some(pid) = pid {
            self.runtime_says(&id, pid);
        }
        let identity = self.containers.get(&id).map(|known| &known.identity);
        if let (Some(identity), Some(known)) = (identity, self.metadata.get(&*id))
            && is_complete(known, identity)
            && !self.delegated.values().any(|claim| claim.identity.id == *id)
        {
            self.outstanding.remove(&id);
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
            by_user: false,
        };
        match key {
            ContainerKey::Host => Description { container: Some("host".to_owned()), ..nobody },
            ContainerKey::Unit(path) => Description {
                container: self.units.get(path).map(|unit| unit.name.clone()),
                by_user: self.units.get(path).is_some_and(|unit| unit.by_user),
                cgroup: path.to_string(),
                cpu_limit_cores: CpuLimits::new(&self.hierarchy).of(path),
                ..nobody
            },
            ContainerKey::Container(id) => {
                let known = self.containers.get(id);
                let metadata = self.metadata.get(&**id).cloned().unwrap_or_default();
                let by_path = known.map_or(Runtime::Unknown, |known| known.identity.runtime);
                let in_pod = known.is_some_and(|known| known.identity.pod_uid.is_some());
                let metadata = if in_pod { metadata.with_pod_as_labelled() } else { metadata };
                Description {
                    id: id.to_string(),
                    cgroup: known.map_or_else(String::new, |known| known.identity.cgroup.clone()),
                    ..told(
                        Description { cpu_limit_cores: known.and_then(|known| known.cpu_limit_cores), ..nobody },
                        metadata,
                        by_path,
                    )
                }
            }
            ContainerKey::Delegated(path) => {
                let limit = CpuLimits::new(&self.hierarchy).of(path);
                let nobody = Description { cgroup: path.to_string(), cpu_limit_cores: limit, by_user: true, ..nobody };
                let Some(known) = self.delegated.get(path) else { return nobody };
                let id = known.identity.id.as_str();
                if self.containers.contains_key(id) {
                    // Whoever asks for the container by its id does not mean this one.
                    let unit = path.rsplit('/').next().unwrap_or_default();
                    return Description { container: Some(naming::with_manager(unit, path)), ..nobody };
                }
                let metadata = self.metadata.get(id).filter(|metadata| known.may_be(metadata)).cloned();
                let metadata = Metadata { pod: None, namespace: None, ..metadata.unwrap_or_default() };
                Description { id: id.to_owned(), ..told(nobody, metadata, known.identity.runtime) }
            }
        }
    }

    /// Reads the limits of containers that are alive; an ended one keeps what was read last.
    fn read_limits(&mut self) {
        let mut limits = CpuLimits::new(&self.hierarchy);
        for known in self.containers.values_mut() {
            if known.removed.is_none() {
                let limit = limits.of(&known.identity.cgroup);
                known.cpu_limit_cores = limit.or(known.cpu_limit_cores);
            }
        }
    }
}

/// `known` with what a runtime told.
fn told(known: Description, metadata: Metadata, by_path: Runtime) -> Description {
    let runtime = if metadata.runtime == Runtime::Unknown { by_path } else { metadata.runtime };
    // Within a pod the runtime's own name (`k8s_app_…`) is noise.
    let container = if metadata.pod.is_some() { metadata.container } else { metadata.container.or(metadata.name) };
    Description {
        image: metadata.image,
        runtime: runtime.name(),
        pod: metadata.pod,
        namespace: metadata.namespace,
        container,
        labels: metadata.labels,
        cpu_limit_cores: known.cpu_limit_cores.or(metadata.cpu_limit_cores),
        ..known
    }
}

/// The pod that may be believed of what a runtime told about a container.
fn pod_of<'m>(metadata: &'m Metadata, identity: &ContainerIdentity) -> Option<&'m str> {
    let labelled = metadata.labelled.pod.as_deref().filter(|_| identity.pod_uid.is_some());
    metadata.pod.as_deref().or(labelled)
}

/// Whether there is nothing more to be asked for.
fn is_complete(metadata: &Metadata, identity: &ContainerIdentity) -> bool {
    let no_container = metadata.container.is_none() && metadata.labelled.container.is_none();
    let is_sandbox = pod_of(metadata, identity).is_some() && no_container && metadata.name.is_none();
    is_sandbox || (is_named(metadata, identity) && metadata.image.is_some())
}

fn is_named(metadata: &Metadata, identity: &ContainerIdentity) -> bool {
    metadata.name.is_some() || pod_of(metadata, identity).is_some()
}

#[cfg(test)]
mod tests;
