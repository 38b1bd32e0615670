//! The profile: accounts by container, samples with names, coverage. In: everything that was collected. Out: the model.

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::RecvTimeoutError;
use profiler_ebpf::{CONTAINER_FIRST, CONTAINER_IDLE, CONTAINER_KERNEL, CONTAINER_OVERFLOW, unwind::Stop};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    CollectError, Collection, Owner, Waited, accounts, counted, machine,
    peers::Peers,
    stacks::{Program, RawStack},
};
use crate::{
    container::{
        CgroupId, ContainerKey, Description,
        limits::{self, PressureTotals},
    },
    kernel::{Counter, RawWindow},
    process::{Leaf, Location, ProcessTable, kernel_locations},
    profile::{
        Container, ContainerIndex, Coverage, CpuSampleCoverage, Frame, FrameId, FrameKind, Histogram, KindCoverage,
        OffCpuCoverage, OffCpuReason, OffCpuSample, OnCpuSample, Overhead, Pressure, Process, ProcessIndex, Profile,
        RunQueue, Settings, StackId, StackTable, SyscallCoverage, TextId, TimeCoverage, Wait, WaitedBehind, Window,
    },
    symbol::{self, ResolvedFrame, ResolvedFrames, SymbolError},
};

/// Time between two looks at events while names are looked up.
const WHILE_NAMING: Duration = Duration::from_millis(50);

/// How long names are waited for once there is haste.
const NAMES_IN_HASTE: Duration = Duration::from_millis(300);

/// Longest lists of a container in the profile.
const MOST_WAITS: usize = 20;

/// Outermost functions that a whole user stack ends in: program and thread entries of the C library and of runtimes.
const ROOTS: [&str; 16] = [
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "main",
    "start_thread",
    "clone",
    "__clone",
    "clone3",
    "__clone3",
    "_dl_start_user",
    "_dl_start",
    "runtime.goexit",
    "runtime.mstart",
    "runtime.rt0_go",
    "_rt0_amd64",
    "__restore_rt",
];

/// A stack of the profile.
struct NamedStack {
    id: StackId,
    /// Why its user part is not whole; `None` where it is, or there is none.
    incomplete: Option<&'static str>,
    /// Whether there is a user part or a reason why not.
    has_user: bool,
    frames: u64,
    named: u64,
    /// Frames without a name, by reason.
    unnamed: BTreeMap<&'static str, u64>,
}

/// Which kind of stacks something is counted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StackKind {
    OnCpu,
    OffCpu,
}

impl StackKind {
    fn of(self, time: &mut TimeCoverage) -> &mut KindCoverage {
        match self {
            Self::OnCpu => &mut time.on_cpu,
            Self::OffCpu => &mut time.off_cpu,
        }
    }
}

impl NamedStack {
    /// Counts whether it is whole, as found `count` times in a container.
    fn count_whole(&self, count: u64, coverage: &mut Coverage, container: &mut Container) {
        if !self.has_user {
            return;
        }
        for stacks in [&mut coverage.stacks, &mut container.stacks] {
            match self.incomplete {
                None => stacks.complete += count,
                Some(reason) => *stacks.incomplete.entry(reason.to_owned()).or_default() += count,
            }
        }
    }

    /// Counts its frames as found in `count` samples or waits of a container.
    fn count_frames(&self, count: u64, coverage: &mut Coverage, container: &mut Container) {
        coverage.frames_total += self.frames * count;
        coverage.frames_resolved += self.named * count;
        container.symbols.resolved += self.named * count;
        for (reason, frames) in &self.unnamed {
            for counts in [&mut coverage.frames_unresolved, &mut container.symbols.unresolved] {
                *counts.entry((*reason).to_owned()).or_default() += frames * count;
            }
        }
    }

    /// Weighs whether it is whole and named by the time that it stands for.
    fn weigh(&self, kind: StackKind, ns: u64, coverage: &mut Coverage, container: &mut Container) {
        for time in [&mut coverage.time, &mut container.time] {
            let KindCoverage { stacks, frames } = kind.of(time);
            if self.has_user {
                stacks.add(self.incomplete, ns);
            }
            frames.add(None, self.named.saturating_mul(ns));
            for (reason, unnamed) in &self.unnamed {
                frames.add(Some(reason), unnamed.saturating_mul(ns));
            }
        }
    }
}

/// Containers of the profile, by everything that may stand for one.
struct Containers {
    list: Vec<Container>,
    by_index: FxHashMap<u32, usize>,
    /// Names of indices for `waited_behind`.
    names: FxHashMap<u32, String>,
}

impl Collection {
    pub(super) fn assemble(&mut self) -> Result<Profile, CollectError> {
        let mut table = StackTable::default();
        let mut owners = Owners { commands: self.stacks.commands(&self.tracker)?, ..Owners::default() };
        let next = self.stacks.next(self.end_ns);
        let stacks = std::mem::replace(&mut self.stacks, next).into_stacks();
        let (start_ns, end_ns) = (self.start_ns, self.end_ns);
        let duration_ns = end_ns.saturating_sub(start_ns);
        let mut containers = self.containers(duration_ns);
        let wanted = self.wanted_stacks(&containers);
        let named = self.name_stacks(&stacks, &wanted, &mut table)?;
        let mut profile = Profile {
            window: Window { start_unix_ns: self.start_unix_ns, duration_ns },
            host: machine::host(self.options.node.clone()),
            settings: self.settings(),
            overhead: self.overhead(),
            ..Profile::default()
        };
        let steal_ns = machine::steal_ns();
        profile.host.steal_ns = steal_ns.saturating_sub(std::mem::replace(&mut self.steal_ns, steal_ns));
        profile.coverage = self.coverage();
        let events_lost = self.tracker.call(ProcessTable::take_events_lost)?;
        add_loss(&mut profile.coverage.other_losses, "process_events_lost", events_lost);
        let unheard = self.tracker.call(ProcessTable::take_unheard)?;
        for (reason, n) in [("foreign_files_unanswered", unheard.requests), ("processes_unanswered", unheard.processes)]
        {
            add_loss(&mut profile.coverage.other_losses, reason, n);
        }
        let forgotten = self.tracker.call(ProcessTable::take_history_forgotten)?;
        add_loss(&mut profile.coverage.other_losses, "process_history_forgotten", forgotten);
        if let Some(unwinder) = self.tracker.call(ProcessTable::take_unwinder_counters)? {
            tracing::debug!("unwind tables: {} built, {} rows", unwinder.built, unwinder.rows);
            for (reason, n) in [
                ("unwind_bad_files", unwinder.bad),
                ("unwind_tables_without_room", unwinder.no_room),
                ("unwind_mappings_without_room", unwinder.lists_without_room),
                ("unwind_processes_without_room", unwinder.processes_without_room),
                ("unwind_mappings_cut", unwinder.mappings_cut),
                ("unwind_rules_refused", unwinder.rules_refused),
            ] {
                add_loss(&mut profile.coverage.other_losses, reason, n);
            }
        }
        for window in &mut self.windows {
            add_window(&mut containers, window);
        }
        profile.on_cpu_by_second = std::mem::take(&mut self.by_second);
        add_seconds(&mut containers, self.seconds.take());
        self.add_on_cpu(&mut profile, &mut containers, &mut table, &mut owners, &named);
        self.add_off_cpu(&mut profile, &mut containers, &mut table, &mut owners, &named);
        profile.processes = owners.list;
        for container in &mut containers.list {
            finish_container(container);
        }
        profile.containers = containers.list;
        profile.stacks = table;
        drop_empty(&mut profile);
        Ok(profile)
    }

    fn settings(&self) -> Settings {
        Settings {
            on_cpu: self.options.on_cpu,
            off_cpu: self.options.off_cpu,
            syscalls: self.options.syscalls,
            frequency_hz: self.options.frequency_hz,
            offcpu_threshold_ns: self.options.offcpu_threshold.as_nanos() as u64,
            threads: self.options.threads,
            lines: self.options.lines,
            filters: self.options.filters.clone(),
        }
    }

    fn overhead(&mut self) -> Overhead {
        let mut programs: BTreeMap<String, u64> = BTreeMap::new();
        let mut counted = false;
        for window in &self.windows {
            if let Some(times) = &window.costs.run_time_ns {
                counted = true;
                for (program, ns) in times {
                    *programs.entry(program.clone()).or_default() += ns;
                }
            }
        }
        let own_cpu_ns = machine::own_cpu_ns();
        Overhead {
            bpf_cpu_ns: counted.then(|| programs.values().sum()),
            agent_cpu_ns: own_cpu_ns.saturating_sub(std::mem::replace(&mut self.own_cpu_ns, own_cpu_ns)),
            agent_rss_bytes: machine::peak_resident_bytes(),
            agent_pid: std::process::id(),
            // Gone only if its thread is, and then so is everything else.
            map_bytes: self.kernel.map_bytes(machine::threads())
                + self.tracker.call(|table| table.unwinder_bytes()).unwrap_or(0),
            programs,
        }
    }

    /// What the counters say; samples and stacks are added as they are attributed.
    fn coverage(&self) -> Coverage {
        let count = |counter| counted(&self.windows, counter);
        let expected: u64 = self.windows.iter().map(|window| window.samples_expected).sum();
        let (idle, filtered) = (count(Counter::SamplesIdle), count(Counter::SamplesFiltered));
        let (full, no_slot) = (count(Counter::SamplesRingFull), count(Counter::SamplesNoSlot));
        let seen = count(Counter::SamplesKept) + idle + filtered + full + no_slot;
        // The kernel skips the program while its CPU is inside a map call, and timers that fire late skip periods.
        let not_run = expected.saturating_sub(seen);
        // Some kernels do not run it on a sleeping CPU either, where there is nothing to lose.
        let due_idle: u64 = self.windows.iter().map(|window| window.samples_due_idle).sum();
        let asleep = not_run.min(due_idle.saturating_sub(idle));
        let (idle, not_run) = (idle + asleep, not_run - asleep);
        let lost = [("ring_full", full), ("no_slot", no_slot), ("not_run", not_run)];
        let mut other_losses: BTreeMap<String, u64> = BTreeMap::new();
        for counter in [
            Counter::SwitchNoSlot,
            Counter::SlotNotCreated,
            Counter::ContainersExhausted,
            Counter::UserStackRingFull,
            Counter::UserStackBusy,
            Counter::EventsRingFull,
            Counter::WaitedBehindFull,
            Counter::OpenWaitsLost,
        ] {
            add_loss(&mut other_losses, counter.name(), count(counter));
        }
        for window in &self.windows {
            add_loss(&mut other_losses, "record_bytes_skipped", window.record_bytes_skipped);
            add_loss(&mut other_losses, "records_lost", window.records_lost);
            for (program, misses) in &window.costs.recursion_misses {
                add_loss(&mut other_losses, &format!("recursion_{program}"), *misses);
            }
        }
        Coverage {
            cpu_samples: CpuSampleCoverage {
                // A sample that fires while the count is read belongs to both or neither: never less than was seen.
                expected: expected.max(seen),
                kept: 0,
                idle,
                filtered,
                lost: lost.into_iter().filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect(),
            },
            off_cpu: OffCpuCoverage { lost: count(Counter::GapsRingFull), ..OffCpuCoverage::default() },
            syscalls: SyscallCoverage {
                counted: 0,
                lost: [Counter::SyscallRowsExhausted, Counter::SyscallsNoSlot, Counter::SyscallsNotEntered]
                    .into_iter()
                    .map(count)
                    .sum(),
            },
            other_losses,
            ..Coverage::default()
        }
    }

    /// One entry for each container that a cgroup of this collection stands for, and one for the host.
    fn containers(&mut self, duration_ns: u64) -> Containers {
        let indices = CONTAINER_FIRST..self.kernel.containers();
        let cgroups: Vec<(u32, u64)> =
            indices.filter_map(|index| Some((index, self.kernel.cgroup_of(index)?))).collect();
        let keys: Vec<(u32, ContainerKey)> = cgroups
            .into_iter()
            .map(|(index, cgroup)| (index, self.resolver.container_of(CgroupId(cgroup))))
            .chain([(CONTAINER_KERNEL, ContainerKey::Host), (CONTAINER_OVERFLOW, ContainerKey::Host)])
            .collect();
        let descriptions = self.resolver.describe_all();
        let known: FxHashMap<&ContainerKey, &Description> =
            descriptions.iter().map(|description| (&description.key, description)).collect();
        // Read before the containers': what grows between the two is found in the next window.
        let host = limits::host_pressure_totals();
        let host = (std::mem::replace(&mut self.host_pressure, host), host);
        let mut this = Containers { list: Vec::new(), by_index: FxHashMap::default(), names: FxHashMap::default() };
        let mut places: BTreeMap<ContainerKey, Option<usize>> = BTreeMap::new();
        for (index, key) in keys {
            let place = *places.entry(key.clone()).or_insert_with(|| {
                let description =
                    known.get(&key).map_or_else(|| self.resolver.describe(&key), |description| (*description).clone());
                this.names.insert(index, description.name.clone());
                let wanted = self.options.selection.matches(&description);
                wanted.then(|| {
                    let pressure = self.pressure(&description, duration_ns, host);
                    this.list.push(described(description, pressure));
                    this.list.len() - 1
                })
            });
            if let Some(place) = place {
                this.by_index.insert(index, place);
                this.names.insert(index, this.list[place].name.clone());
            } else if let Some(description) = known.get(&key) {
                this.names.insert(index, description.name.clone());
            }
        }
        this.names.insert(CONTAINER_IDLE, "idle".to_owned());
        this.names.insert(CONTAINER_KERNEL, "kernel".to_owned());
        this.names.insert(CONTAINER_OVERFLOW, "unknown".to_owned());
        this
    }

    /// Shares of the window with a stall: what the kernel's totals grew by. `host` are the whole host's, before and now.
    fn pressure(
        &mut self,
        description: &Description,
        duration_ns: u64,
        host: (PressureTotals, PressureTotals),
    ) -> Pressure {
        let before = self.pressure.get(&description.key).copied().unwrap_or_default();
        let standing = before.standing(host.0, host.1);
        let now = limits::pressure_totals(self.resolver.hierarchy(), &description.cgroup, standing);
        self.pressure.insert(description.key.clone(), now);
        let share = |now: Option<u64>, before: Option<u64>| {
            let grown_us = now?.saturating_sub(before.unwrap_or(0));
            let window = Duration::from_nanos(duration_ns).as_secs_f64();
            (window > 0.0).then(|| (grown_us as f64 / 1e6 / window).clamp(0.0, 1.0))
        };
        Pressure {
            cpu: share(now.cpu_us, before.cpu_us),
            io: share(now.io_us, before.io_us),
            memory: share(now.memory_us, before.memory_us),
        }
    }

    /// Positions of the stacks that somebody wanted has: others' were taken before it was known whose they are.
    fn wanted_stacks(&self, containers: &Containers) -> FxHashSet<usize> {
        let on_cpu = self.on_cpu.keys().map(|(owner, stack)| (owner.0, *stack));
        let off_cpu = self.off_cpu.keys().map(|(owner, stack, ..)| (owner.0, *stack));
        let wanted = on_cpu.chain(off_cpu).filter(|(index, _)| containers.by_index.contains_key(index));
        wanted.map(|(_, stack)| stack.position()).collect()
    }

    /// Gives every wanted stack its names, all in one go. Reading the symbols of large binaries takes seconds, in which what
    /// the kernel tells of processes and cgroups is taken in all the same.
    fn name_stacks(
        &mut self,
        stacks: &[RawStack],
        wanted: &FxHashSet<usize>,
        table: &mut StackTable,
    ) -> Result<Vec<NamedStack>, CollectError> {
        const BATCH: usize = 4096;
        let mut named = Vec::with_capacity(stacks.len());
        let nobody = RawStack { kernel: Vec::new(), user: Err(None), broken: false, stop: Stop::NotWalked };
        let stacks: Vec<&RawStack> = stacks
            .iter()
            .enumerate()
            .map(|(position, stack)| if wanted.contains(&position) { stack } else { &nobody })
            .collect();
        let mut haste = None;
        for batch in stacks.chunks(BATCH) {
            let resolved = match self.names_of(locations_of(batch), &mut haste)? {
                Some(resolved) => resolved,
                None => symbol::numbers(&locations_of(batch)),
            };
            let mut rest = resolved.as_slice();
            let mut frames = Frames::default();
            for stack in batch {
                let users = stack.user.as_ref().map_or(0, Vec::len);
                let (user, after) = rest.split_at(users.min(rest.len()));
                let (kernel, after) = after.split_at(stack.kernel.len().min(after.len()));
                rest = after;
                named.push(name_stack(stack, user, kernel, &mut frames, table));
            }
        }
        Ok(named)
    }

    /// The names of locations. Once there is haste (noted in `since`) they are waited for a moment longer; `None` if they are
    /// not there by then.
    fn names_of(
        &mut self,
        locations: Vec<Location>,
        since: &mut Option<Instant>,
    ) -> Result<Option<Vec<ResolvedFrames>>, CollectError> {
        let over = |since: &Option<Instant>| since.is_some_and(|since| since.elapsed() >= NAMES_IN_HASTE);
        if over(since) {
            return Ok(None);
        }
        let answer = self.symbolizer.ask(locations)?;
        loop {
            match answer.recv_timeout(WHILE_NAMING) {
                Ok(resolved) => return Ok(Some(resolved)),
                Err(RecvTimeoutError::Timeout) => self.take_events(),
                Err(RecvTimeoutError::Disconnected) => return Err(SymbolError::Gone.into()),
            }
            if self.options.haste.is_made() {
                since.get_or_insert_with(Instant::now);
            }
            if over(since) {
                // It may be reading a large file, and is asked nothing more.
                self.symbolizer.leave();
                return Ok(None);
            }
        }
    }

    fn add_on_cpu(
        &mut self,
        profile: &mut Profile,
        containers: &mut Containers,
        table: &mut StackTable,
        owners: &mut Owners,
        named: &[NamedStack],
    ) {
        let mut sums: BTreeMap<(ContainerIndex, ProcessIndex, TextId, StackId), u64> = BTreeMap::new();
        let on_cpu = std::mem::take(&mut self.on_cpu);
        let (written, read) = (counted(&self.windows, Counter::SamplesKept), on_cpu.values().sum::<u64>());
        let unread = self.samples.add(written, read);
        let period_ns = profile.settings.sample_period_ns();
        let samples = &mut profile.coverage.cpu_samples;
        add_loss(&mut samples.lost, "unread", unread);
        // The last samples are read a moment after the events' own counts are: what is read ahead is due here, and not in the
        // window that it was written in.
        samples.expected = (samples.expected + read + unread).saturating_sub(written);
        for ((owner, stack), count) in on_cpu {
            let Some(place) = containers.by_index.get(&owner.0).copied() else {
                // Taken before its container had a name, and not wanted.
                profile.coverage.cpu_samples.filtered += count;
                continue;
            };
            let Some(stack) = named.get(stack.position()) else { continue };
            let container = &mut containers.list[place];
            let coverage = &mut profile.coverage;
            coverage.cpu_samples.kept += count;
            container.cpu_samples.kept += count;
            container.cpu_samples.expected += count;
            stack.count_frames(count, coverage, container);
            stack.count_whole(count, coverage, container);
            stack.weigh(StackKind::OnCpu, count.saturating_mul(period_ns), coverage, container);
            let (process, thread) = owners.of(&owner, table);
            *sums.entry((ContainerIndex(place as u32), process, thread, stack.id)).or_default() += count;
        }
        profile.on_cpu = sums
            .into_iter()
            .map(|((container, process, thread, stack), count)| OnCpuSample {
                container,
                process,
                thread,
                stack,
                count,
            })
            .collect();
    }

    fn add_off_cpu(
        &mut self,
        profile: &mut Profile,
        containers: &mut Containers,
        table: &mut StackTable,
        owners: &mut Owners,
        named: &[NamedStack],
    ) {
        let mut sums: BTreeMap<OffCpuKey, (f64, f64)> = BTreeMap::new();
        let mut waits: BTreeMap<WaitKey, (f64, f64)> = BTreeMap::new();
        let (mut with_stack_ns, mut without_stack_ns) = (0.0, 0.0);
        for ((owner, stack, reason, peer), waited) in std::mem::take(&mut self.off_cpu) {
            let Waited { weight_ns, waits: count, stacks } = waited;
            let Some(place) = containers.by_index.get(&owner.0).copied() else { continue };
            let Some(stack) = named.get(stack.position()) else { continue };
            if stack.frames > 0 {
                with_stack_ns += weight_ns;
            } else {
                without_stack_ns += weight_ns;
            }
            let (coverage, container) = (&mut profile.coverage, &mut containers.list[place]);
            stack.count_whole(stacks, coverage, container);
            stack.count_frames(count.max(1.0) as u64, coverage, container);
            stack.weigh(StackKind::OffCpu, weight_ns as u64, coverage, container);
            let wait = waits.entry((place, reason, peer.clone())).or_default();
            wait.0 += weight_ns;
            wait.1 += count;
            let (process, thread) = owners.of(&owner, table);
            let peer = peer.map(|peer| table.text(&peer));
            let sum = sums.entry((ContainerIndex(place as u32), process, thread, stack.id, reason, peer)).or_default();
            sum.0 += weight_ns;
            sum.1 += count;
        }
        for (place, container) in containers.list.iter().enumerate().filter(|(_, one)| one.ledger.stolen_ns > 0) {
            let key = stolen(ContainerIndex(place as u32), table, owners);
            with_stack_ns += container.ledger.stolen_ns as f64;
            sums.insert(key, (container.ledger.stolen_ns as f64, 1.0));
        }
        // Another window may meet others.
        self.peers = Peers::default();
        let time_ns = containers.list.iter().map(|container| container.ledger.off_cpu_ns()).sum();
        let off_cpu = &mut profile.coverage.off_cpu;
        off_cpu.time_ns = time_ns;
        off_cpu.with_stack_ns = OffCpuCoverage::within_exact(time_ns, with_stack_ns, without_stack_ns);
        for ((place, reason, peer), (ns, count)) in waits {
            let wait =
                Wait { reason, peer: peer.map(|peer| peer.to_string()), ns: ns as u64, count: count.round() as u64 };
            containers.list[place].waits.push(wait);
        }
        profile.off_cpu = sums
            .into_iter()
            .filter(|(_, (weight_ns, _))| *weight_ns > 0.0)
            .map(|((container, process, thread, stack, reason, peer), (weight_ns, count))| OffCpuSample {
                container,
                process,
                thread,
                stack,
                reason,
                weight_ns,
                count,
                peer,
            })
            .collect();
    }
}

/// Outermost first: user frames, then kernel frames.
fn locations_of(stacks: &[&RawStack]) -> Vec<Location> {
    let mut locations: Vec<Location> = Vec::new();
    for stack in stacks {
        locations.extend(stack.user.iter().flatten().rev().cloned());
        locations.extend(kernel_locations(&stack.kernel, Leaf::Instruction).into_iter().rev());
    }
    locations
}

/// What makes waits of a container the same: its place, why, and for whom.
type WaitKey = (usize, OffCpuReason, Option<Arc<str>>);

/// What makes off-CPU samples the same.
type OffCpuKey = (ContainerIndex, ProcessIndex, TextId, StackId, OffCpuReason, Option<TextId>);

/// Stolen time has no stack: it is exact, and stands in the off-CPU profile under a note.
fn stolen(container: ContainerIndex, table: &mut StackTable, owners: &mut Owners) -> OffCpuKey {
    let nobody: Arc<str> = "[stolen]".into();
    let (process, thread) = owners.of(&(0, (0, 0), nobody), table);
    let note = note("[stolen by the hypervisor]", table);
    (container, process, thread, table.stack(&[note]), OffCpuReason::Other, None)
}

fn add_loss(losses: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    if n > 0 {
        *losses.entry(name.to_owned()).or_default() += n;
    }
}

fn described(description: Description, pressure: Pressure) -> Container {
    Container {
        id: description.id,
        name: description.name,
        image: description.image,
        runtime: description.runtime.to_owned(),
        pod: description.pod,
        namespace: description.namespace,
        container: description.container,
        labels: description.labels,
        cgroup: description.cgroup,
        cpu_limit_cores: description.cpu_limit_cores,
        pressure,
        ..Container::default()
    }
}

/// Adds the seconds of all indices that stand for a container.
fn add_seconds(containers: &mut Containers, seconds: FxHashMap<u32, Vec<u64>>) {
    for (index, series) in seconds {
        if let Some(place) = containers.by_index.get(&index) {
            containers.list[*place].add_seconds(0, &series);
        }
    }
}

/// Adds a window's exact accounts to their containers.
/// The accounts of system calls are taken out of the window: they are most of it.
fn add_window(containers: &mut Containers, window: &mut RawWindow) {
    for (index, account) in &window.ledgers {
        if let Some(place) = containers.by_index.get(index) {
            let container = &mut containers.list[*place];
            container.ledger.merge(&accounts::ledger(account, *index == CONTAINER_KERNEL));
            let latency = Histogram::from_counts(account.run_queue.iter().copied());
            container.run_queue.latency.merge(&latency);
            let RunQueue { max_ns, .. } = &mut container.run_queue;
            *max_ns = (*max_ns).max(account.run_queue_max_ns);
        }
    }
    for account in std::mem::take(&mut window.syscalls) {
        if let Some(place) = containers.by_index.get(&account.container) {
            accounts::add_syscall(&mut containers.list[*place].syscalls, account);
        }
    }
    for (waiter, runner, ns) in &window.waited_behind {
        let Some(place) = containers.by_index.get(waiter) else { continue };
        if *runner >= CONTAINER_FIRST && containers.by_index.get(runner) == Some(place) {
            containers.list[*place].ledger.waited_behind_itself(*ns);
            continue;
        }
        let name = containers.names.get(runner).map_or("unknown", String::as_str);
        let behind = &mut containers.list[*place].waited_behind;
        match behind.iter_mut().find(|known| known.container == name) {
            Some(known) => known.ns += ns,
            None => behind.push(WaitedBehind { container: name.to_owned(), ns: *ns }),
        }
    }
}

fn finish_container(container: &mut Container) {
    container.sort_syscalls();
    container.waited_behind.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.container.cmp(&b.container)));
    container.waits.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| (a.reason, &a.peer).cmp(&(b.reason, &b.peer))));
    container.waits.truncate(MOST_WAITS);
}

/// Leaves out containers that had no thread alive, and counts the syscalls of the others.
fn drop_empty(profile: &mut Profile) {
    let mut places = Vec::with_capacity(profile.containers.len());
    let mut kept = Vec::new();
    for container in std::mem::take(&mut profile.containers) {
        let alive = container.ledger.thread_ns > 0 || container.cpu_samples.kept > 0 || !container.syscalls.is_empty();
        places.push(alive.then_some(kept.len() as u32));
        if alive {
            kept.push(container);
        }
    }
    let place_of = |index: ContainerIndex| places.get(index.0 as usize).copied().flatten().map(ContainerIndex);
    profile.on_cpu.retain_mut(|sample| {
        place_of(sample.container).is_some_and(|place| {
            sample.container = place;
            true
        })
    });
    profile.off_cpu.retain_mut(|sample| {
        place_of(sample.container).is_some_and(|place| {
            sample.container = place;
            true
        })
    });
    profile.coverage.syscalls.counted =
        kept.iter().flat_map(|container| &container.syscalls).map(|syscall| syscall.count).sum();
    profile.containers = kept;
}

/// Processes of the profile, each once.
#[derive(Default)]
struct Owners {
    list: Vec<Process>,
    places: FxHashMap<(u32, Arc<str>), ProcessIndex>,
    /// Command names; kernel threads have none.
    commands: FxHashMap<Program, Arc<str>>,
}

impl Owners {
    fn of(&mut self, owner: &Owner, table: &mut StackTable) -> (ProcessIndex, TextId) {
        let (_, program, thread) = owner;
        let pid = program.0;
        let command = self.commands.get(program).unwrap_or(thread);
        let process = *self.places.entry((pid, command.clone())).or_insert_with(|| {
            self.list.push(Process { pid, command: table.text(command) });
            ProcessIndex(self.list.len() as u32 - 1)
        });
        (process, table.text(thread))
    }
}

fn name_stack<'r>(
    stack: &RawStack,
    user: &'r [ResolvedFrames],
    kernel: &'r [ResolvedFrames],
    known: &mut Frames<'r>,
    table: &mut StackTable,
) -> NamedStack {
    let mut frames: Vec<FrameId> = Vec::new();
    let (mut total, mut resolved, mut unnamed) = (0, 0, BTreeMap::new());
    let incomplete = match &stack.user {
        Ok(_) if stack.stop != Stop::NotWalked => (!stack.stop.is_complete()).then(|| stack.stop.name()),
        // The kernel's own walk, by frame pointers, does not say how it ended.
        Ok(_) if stack.broken => Some("broken_chain"),
        Ok(_) => missing_root(user),
        Err(None) => None,
        Err(Some(reason)) => {
            frames.push(note(&format!("[user stack: {}]", reason.replace('_', " ")), table));
            Some(*reason)
        }
    };
    for location in user.iter().chain(kernel) {
        for frame in location.iter() {
            total += 1;
            match frame.unresolved {
                None => resolved += 1,
                Some(reason) => *unnamed.entry(reason).or_default() += 1,
            }
        }
        frames.extend(known.of(location, table));
    }
    NamedStack {
        id: table.stack(&frames),
        incomplete,
        has_user: !matches!(stack.user, Err(None)),
        frames: total,
        named: resolved,
        unnamed,
    }
}

/// Frames of the table for the frames of a location. The same location has the same frames in memory, as long as a batch is
/// held.
#[derive(Default)]
struct Frames<'r> {
    known: FxHashMap<*const ResolvedFrame, Vec<FrameId>>,
    of: PhantomData<&'r ResolvedFrames>,
}

impl<'r> Frames<'r> {
    fn of(&mut self, location: &'r ResolvedFrames, table: &mut StackTable) -> &[FrameId] {
        self.known.entry(location.as_ptr()).or_insert_with(|| {
            let frames = location.iter().map(|frame| Frame {
                kind: frame.kind,
                function: table.text(&frame.function),
                module: table.text(&frame.module),
                file: table.text(&frame.file),
                line: frame.line,
            });
            frames.collect::<Vec<_>>().into_iter().map(|frame| table.frame(frame)).collect()
        })
    }
}

fn note(text: &str, table: &mut StackTable) -> FrameId {
    let function = table.text(text);
    let empty = table.text("");
    table.frame(Frame { kind: FrameKind::Note, function, module: empty, file: empty, line: 0 })
}

/// Why a user stack does not reach its root; `None` if it does.
fn missing_root(user: &[ResolvedFrames]) -> Option<&'static str> {
    if user.len() >= profiler_ebpf::MAX_FRAMES {
        return Some("too_deep");
    }
    let Some(outermost) = user.first().and_then(|frames| frames.first()) else { return Some("empty") };
    let name = outermost.function.split('@').next().unwrap_or_default();
    let root = ROOTS.contains(&name) || name.starts_with("__libc_start");
    if root {
        None
    } else if outermost.is_named() {
        Some("no_root")
    } else {
        Some("unnamed_root")
    }
}
