//! Two profiles in, one out: the windows of one long recording become one profile again.

use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Container, ContainerIndex, Coverage, CpuSampleCoverage, Frame, Host, OffCpuSample, OnCpuSample, Overhead, Pressure,
    Process, ProcessIndex, Profile, Settings, StackCoverage, StackId, StackTable, SyscallStats, TextId, Wait,
    WaitedBehind, Window,
};

impl Profile {
    /// Adds what `other` measured on the same host with the same settings.
    ///
    /// Containers are the same when runtime, id and cgroup are, since a user may make a cgroup that bears any id; what has
    /// no id, when runtime, name and cgroup are. Times, counts, histograms and coverage are summed, and so is the profiler's own CPU time; of its memory the peak is kept. The window becomes the shortest
    /// that holds both; pressure is the mean, weighted by the length of each window.
    pub fn merge(&mut self, other: Profile) {
        let tables = Tables::absorb(&mut self.stacks, &other.stacks);
        let weights = (self.window.duration_ns, other.window.duration_ns);
        let containers = merge_containers(&mut self.containers, other.containers, weights);
        let processes = merge_processes(&mut self.processes, &other.processes, &tables);

        let moved = other.on_cpu.into_iter().filter_map(|sample| {
            Some(OnCpuSample {
                container: *containers.get(sample.container.0 as usize)?,
                process: *processes.get(sample.process.0 as usize)?,
                thread: tables.text(sample.thread),
                stack: tables.stack(sample.stack)?,
                ..sample
            })
        });
        let key = |sample: &OnCpuSample| (sample.container, sample.process, sample.thread, sample.stack);
        aggregate(&mut self.on_cpu, moved, key, |mine, theirs| mine.count = mine.count.saturating_add(theirs.count));

        let moved = other.off_cpu.into_iter().filter_map(|sample| {
            Some(OffCpuSample {
                container: *containers.get(sample.container.0 as usize)?,
                process: *processes.get(sample.process.0 as usize)?,
                thread: tables.text(sample.thread),
                stack: tables.stack(sample.stack)?,
                peer: sample.peer.map(|peer| tables.text(peer)),
                ..sample
            })
        });
        let key = |sample: &OffCpuSample| {
            (sample.container, sample.process, sample.thread, sample.stack, sample.reason, sample.peer)
        };
        aggregate(&mut self.off_cpu, moved, key, |mine, theirs| {
            mine.weight_ns += theirs.weight_ns;
            mine.count += theirs.count;
        });

        self.on_cpu_by_second.extend(other.on_cpu_by_second);
        self.window = merge_windows(self.window, other.window);
        merge_host(&mut self.host, other.host);
        merge_settings(&mut self.settings, other.settings);
        merge_coverage(&mut self.coverage, other.coverage);
        merge_overhead(&mut self.overhead, other.overhead);
    }
}

/// Where the entries of one stack table are in another.
struct Tables {
    texts: Vec<TextId>,
    stacks: Vec<StackId>,
}

impl Tables {
    fn absorb(into: &mut StackTable, from: &StackTable) -> Self {
        let texts: Vec<TextId> =
            (0..from.text_count()).map(|index| into.text(from.text_of(TextId(index as u32)))).collect();
        let text = |id: TextId| texts.get(id.0 as usize).copied().unwrap_or_default();
        let frames: Vec<_> = from
            .frames()
            .iter()
            .map(|frame| {
                into.frame(Frame {
                    function: text(frame.function),
                    module: text(frame.module),
                    file: text(frame.file),
                    ..*frame
                })
            })
            .collect();
        let mut moved = Vec::new();
        let stacks = from
            .stacks()
            .iter()
            .map(|stack| {
                moved.clear();
                moved.extend(stack.iter().filter_map(|frame| frames.get(frame.0 as usize)));
                into.stack(&moved)
            })
            .collect();
        Self { texts, stacks }
    }

    fn text(&self, id: TextId) -> TextId {
        self.texts.get(id.0 as usize).copied().unwrap_or_default()
    }

    fn stack(&self, id: StackId) -> Option<StackId> {
        self.stacks.get(id.0 as usize).copied()
    }
}

/// Adds `theirs` to `mine`: `join` where the key is there already, at the end where it is new.
fn aggregate<T, K: Hash + Eq>(
    mine: &mut Vec<T>,
    theirs: impl Iterator<Item = T>,
    key: impl Fn(&T) -> K,
    join: impl Fn(&mut T, T),
) {
    let mut positions: FxHashMap<K, usize> = mine.iter().enumerate().map(|(index, item)| (key(item), index)).collect();
    for item in theirs {
        let position = *positions.entry(key(&item)).or_insert(mine.len());
        match mine.get_mut(position) {
            Some(there) => join(there, item),
            None => mine.push(item),
        }
    }
}

fn merge_processes(mine: &mut Vec<Process>, theirs: &[Process], tables: &Tables) -> Vec<ProcessIndex> {
    let mut positions: FxHashMap<Process, usize> =
        mine.iter().enumerate().map(|(index, process)| (process.clone(), index)).collect();
    theirs
        .iter()
        .map(|process| {
            let process = Process { pid: process.pid, command: tables.text(process.command) };
            let position = *positions.entry(process.clone()).or_insert_with(|| {
                mine.push(process);
                mine.len() - 1
            });
            ProcessIndex(position as u32)
        })
        .collect()
}

fn merge_containers(mine: &mut Vec<Container>, theirs: Vec<Container>, weights: (u64, u64)) -> Vec<ContainerIndex> {
    let places = place_containers(mine, &theirs);
    let seconds = mine.iter().map(|container| container.cpu_ns_by_second.len()).max().unwrap_or(0);
    let mut indices = Vec::with_capacity(theirs.len());
    for (mut container, (position, name)) in theirs.into_iter().zip(places.positions) {
        for behind in &mut container.waited_behind {
            if let Some(name) = places.names.get(&behind.container) {
                behind.container.clone_from(name);
            }
        }
        if let Some(there) = mine.get_mut(position) {
            merge_container(there, container, weights, seconds);
        } else {
            let series = std::mem::take(&mut container.cpu_ns_by_second);
            container.add_seconds(seconds, &series);
            container.name = name;
            scale_pressure(&mut container.pressure, weights);
            mine.push(container);
        }
        indices.push(ContainerIndex(position as u32));
    }
    indices
}

/// Where the containers of one profile go in another.
struct Places {
    /// Position and display name of each.
    positions: Vec<(usize, String)>,
    /// Display names there, by the names they had.
    names: BTreeMap<String, String>,
}

fn place_containers(mine: &mut [Container], theirs: &[Container]) -> Places {
    let mut positions: FxHashMap<Identity, usize> =
        mine.iter().enumerate().map(|(index, container)| (identity(container), index)).collect();
    let mut taken: FxHashSet<String> = mine.iter().map(|container| container.name.clone()).collect();
    let mut places = Places { positions: Vec::with_capacity(theirs.len()), names: BTreeMap::new() };
    let mut next = mine.len();
    for container in theirs {
        let known = positions.get(&identity(container)).or_else(|| positions.get(&renamed(container))).copied();
        let position = known.unwrap_or(next);
        let name = if known.is_some() {
            learn_name(mine, position, &container.name, &mut taken);
            mine.get(position).map_or_else(|| container.name.clone(), |there| there.name.clone())
        } else {
            next += 1;
            unused_name(container, &taken)
        };
        positions.entry(identity(container)).or_insert(position);
        taken.insert(name.clone());
        if name != container.name {
            places.names.insert(container.name.clone(), name.clone());
        }
        places.positions.push((position, name));
    }
    places
}

/// Runtime, id and cgroup; for what has no id (units, the host), runtime, name and cgroup.
type Identity = (String, String, String);

fn identity(container: &Container) -> Identity {
    let own = if container.id.is_empty() { &container.name } else { &container.id };
    (container.runtime.clone(), own.clone(), container.cgroup.clone())
}

/// The identity it has if an earlier merge had to rename it.
fn renamed(container: &Container) -> Identity {
    let (runtime, name, cgroup) = identity(container);
    if container.id.is_empty() { (runtime, distinct_name(container), cgroup) } else { (runtime, name, cgroup) }
}

/// A container that was known by its id only takes the name that a later window learned.
fn learn_name(mine: &mut [Container], position: usize, name: &str, taken: &mut FxHashSet<String>) {
    let unnamed = mine.get(position).filter(|there| there.id.starts_with(&there.name) && !taken.contains(name));
    let Some(old) = unnamed.map(|there| there.name.clone()).filter(|old| !old.is_empty()) else {
        return;
    };
    for container in mine.iter_mut() {
        for behind in &mut container.waited_behind {
            if behind.container == old {
                name.clone_into(&mut behind.container);
            }
        }
    }
    if let Some(there) = mine.get_mut(position) {
        name.clone_into(&mut there.name);
    }
    taken.insert(name.to_owned());
}

/// Display names stay unique: a container that took over another's name gets its id behind it.
fn unused_name(container: &Container, taken: &FxHashSet<String>) -> String {
    if !taken.contains(&container.name) {
        return container.name.clone();
    }
    let mut name = distinct_name(container);
    while taken.contains(&name) {
        name.push('\'');
    }
    name
}

fn distinct_name(container: &Container) -> String {
    let id: String = container.id.chars().take(12).collect();
    let tail = if id.is_empty() { &container.cgroup } else { &id };
    format!("{}@{tail}", container.name)
}

fn merge_container(mine: &mut Container, theirs: Container, weights: (u64, u64), seconds: usize) {
    mine.image = theirs.image.or(mine.image.take());
    mine.pod = theirs.pod.or(mine.pod.take());
    mine.namespace = theirs.namespace.or(mine.namespace.take());
    mine.container = theirs.container.or(mine.container.take());
    mine.labels.extend(theirs.labels);
    mine.cpu_limit_cores = theirs.cpu_limit_cores.or(mine.cpu_limit_cores);
    mine.pressure = Pressure {
        cpu: mean(mine.pressure.cpu, theirs.pressure.cpu, weights),
        io: mean(mine.pressure.io, theirs.pressure.io, weights),
        memory: mean(mine.pressure.memory, theirs.pressure.memory, weights),
    };
    mine.ledger.merge(&theirs.ledger);
    mine.add_seconds(seconds, &theirs.cpu_ns_by_second);
    mine.run_queue.latency.merge(&theirs.run_queue.latency);
    mine.run_queue.max_ns = mine.run_queue.max_ns.max(theirs.run_queue.max_ns);

    let join = |mine: &mut WaitedBehind, theirs: WaitedBehind| mine.ns = mine.ns.saturating_add(theirs.ns);
    aggregate(&mut mine.waited_behind, theirs.waited_behind.into_iter(), |behind| behind.container.clone(), join);
    mine.waited_behind.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.container.cmp(&b.container)));

    let join = |mine: &mut Wait, theirs: Wait| {
        mine.ns = mine.ns.saturating_add(theirs.ns);
        mine.count = mine.count.saturating_add(theirs.count);
    };
    aggregate(&mut mine.waits, theirs.waits.into_iter(), |wait| (wait.reason, wait.peer.clone()), join);
    mine.waits.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| (a.reason, &a.peer).cmp(&(b.reason, &b.peer))));

    aggregate(&mut mine.syscalls, theirs.syscalls.into_iter(), |syscall| syscall.name.clone(), merge_syscall);
    mine.sort_syscalls();

    merge_cpu_samples(&mut mine.cpu_samples, theirs.cpu_samples);
    merge_stack_coverage(&mut mine.stacks, theirs.stacks);
    mine.symbols.resolved = mine.symbols.resolved.saturating_add(theirs.symbols.resolved);
    add_counts(&mut mine.symbols.unresolved, theirs.symbols.unresolved);
    mine.time.merge(&theirs.time);
}

impl Container {
    /// Adds others' syscalls to this container's, by name.
    pub fn add_syscalls(&mut self, syscalls: &[SyscallStats]) {
        aggregate(&mut self.syscalls, syscalls.iter().cloned(), |syscall| syscall.name.clone(), merge_syscall);
        self.sort_syscalls();
    }
}

/// Mean of two shares, each weighted by its window; an unknown one has no say.
fn mean(mine: Option<f64>, theirs: Option<f64>, (my_ns, their_ns): (u64, u64)) -> Option<f64> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) if my_ns > 0 || their_ns > 0 => {
            let (my_ns, their_ns) = (my_ns as f64, their_ns as f64);
            Some((mine * my_ns + theirs * their_ns) / (my_ns + their_ns))
        }
        (mine, theirs) => theirs.or(mine),
    }
}

/// A container that was not there in the first window was not stalled in it either.
fn scale_pressure(pressure: &mut Pressure, weights: (u64, u64)) {
    for share in [&mut pressure.cpu, &mut pressure.io, &mut pressure.memory] {
        if share.is_some() {
            *share = mean(Some(0.0), *share, weights);
        }
    }
}

fn merge_syscall(mine: &mut SyscallStats, theirs: SyscallStats) {
    mine.count = mine.count.saturating_add(theirs.count);
    add_counts(&mut mine.errors, theirs.errors);
    mine.bytes = mine.bytes.saturating_add(theirs.bytes);
    mine.total_ns = mine.total_ns.saturating_add(theirs.total_ns);
    mine.max_ns = mine.max_ns.max(theirs.max_ns);
    mine.latency.merge(&theirs.latency);
}

fn add_counts<K: Ord>(mine: &mut BTreeMap<K, u64>, theirs: BTreeMap<K, u64>) {
    for (key, count) in theirs {
        let mine = mine.entry(key).or_default();
        *mine = mine.saturating_add(count);
    }
}

fn merge_cpu_samples(mine: &mut CpuSampleCoverage, theirs: CpuSampleCoverage) {
    mine.expected = mine.expected.saturating_add(theirs.expected);
    mine.kept = mine.kept.saturating_add(theirs.kept);
    mine.idle = mine.idle.saturating_add(theirs.idle);
    mine.filtered = mine.filtered.saturating_add(theirs.filtered);
    add_counts(&mut mine.lost, theirs.lost);
}

fn merge_stack_coverage(mine: &mut StackCoverage, theirs: StackCoverage) {
    mine.complete = mine.complete.saturating_add(theirs.complete);
    add_counts(&mut mine.incomplete, theirs.incomplete);
}

fn merge_coverage(mine: &mut Coverage, theirs: Coverage) {
    merge_cpu_samples(&mut mine.cpu_samples, theirs.cpu_samples);
    merge_stack_coverage(&mut mine.stacks, theirs.stacks);
    mine.frames_resolved = mine.frames_resolved.saturating_add(theirs.frames_resolved);
    mine.frames_total = mine.frames_total.saturating_add(theirs.frames_total);
    add_counts(&mut mine.frames_unresolved, theirs.frames_unresolved);
    mine.time.merge(&theirs.time);
    mine.off_cpu.time_ns = mine.off_cpu.time_ns.saturating_add(theirs.off_cpu.time_ns);
    mine.off_cpu.with_stack_ns = mine.off_cpu.with_stack_ns.saturating_add(theirs.off_cpu.with_stack_ns);
    mine.off_cpu.lost = mine.off_cpu.lost.saturating_add(theirs.off_cpu.lost);
    mine.syscalls.counted = mine.syscalls.counted.saturating_add(theirs.syscalls.counted);
    mine.syscalls.lost = mine.syscalls.lost.saturating_add(theirs.syscalls.lost);
    add_counts(&mut mine.other_losses, theirs.other_losses);
}

fn merge_windows(mine: Window, theirs: Window) -> Window {
    if mine == Window::default() {
        return theirs;
    }
    if theirs == Window::default() {
        return mine;
    }
    let end = |window: Window| window.start_unix_ns.saturating_add(window.duration_ns);
    let start_unix_ns = mine.start_unix_ns.min(theirs.start_unix_ns);
    Window { start_unix_ns, duration_ns: end(mine).max(end(theirs)) - start_unix_ns }
}

fn merge_host(mine: &mut Host, theirs: Host) {
    let steal_ns = mine.steal_ns.saturating_add(theirs.steal_ns);
    if mine.node.is_empty() && mine.kernel.is_empty() {
        *mine = theirs;
    } else {
        mine.cpus = mine.cpus.max(theirs.cpus);
    }
    mine.steal_ns = steal_ns;
}

fn merge_settings(mine: &mut Settings, theirs: Settings) {
    mine.on_cpu |= theirs.on_cpu;
    mine.off_cpu |= theirs.off_cpu;
    mine.syscalls |= theirs.syscalls;
    mine.threads |= theirs.threads;
    mine.lines |= theirs.lines;
    if mine.frequency_hz == 0 {
        mine.frequency_hz = theirs.frequency_hz;
    }
    mine.offcpu_threshold_ns = mine.offcpu_threshold_ns.max(theirs.offcpu_threshold_ns);
    for filter in theirs.filters {
        if !mine.filters.contains(&filter) {
            mine.filters.push(filter);
        }
    }
}

fn merge_overhead(mine: &mut Overhead, theirs: Overhead) {
    mine.bpf_cpu_ns = match (mine.bpf_cpu_ns, theirs.bpf_cpu_ns) {
        (Some(mine), Some(theirs)) => Some(mine.saturating_add(theirs)),
        (mine, theirs) => mine.or(theirs),
    };
    mine.agent_cpu_ns = mine.agent_cpu_ns.saturating_add(theirs.agent_cpu_ns);
    mine.agent_rss_bytes = mine.agent_rss_bytes.max(theirs.agent_rss_bytes);
    mine.map_bytes = mine.map_bytes.max(theirs.map_bytes);
    add_counts(&mut mine.programs, theirs.programs);
}

#[cfg(test)]
mod tests;
