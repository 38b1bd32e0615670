//! Runs a collection: raw windows from the kernel in, a resolved profile out.
//!
//! [`Collection::start`] begins; [`Collection::poll`], called several times a second, takes what has gathered and
//! gives addresses their place in files while their processes live; [`Collection::finish`] ends the last window and
//! gives everything its name.

mod accounts;
mod asked;
mod assemble;
mod command;
mod first;
mod gaps;
mod machine;
mod peers;
mod rotate;
mod seconds;
mod stacks;

pub use command::{CommandError, HeldCommand, Outcome, displayed};
pub use machine::{host_name, own_cpu_ns};

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use profiler_ebpf::{Part, unwind::Stop};
use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;

use crate::{
    container::{
        CgroupId, ContainerError, ContainerKey, ContainerResolver, ResolverOptions, Selection, Version, limits,
    },
    kernel::{
        Counter, EventKind, HierarchyKind, Kernel, KernelError, KernelOptions, RawWindow, Record, RecordHeader,
        RecordKind, filter, parse_all,
    },
    memory,
    process::{Namespace, Pid, ProcessTable, Registers, Tracker, TrackerError, TrackerOptions, UnwinderOptions},
    profile::{OffCpuReason, Profile},
    symbol::{self, SymbolError, Symbolizer},
};
use asked::Asked;
use gaps::{Gap, GapJoin};
use peers::Peers;
use rotate::Rotation;
use seconds::Seconds;
use stacks::{Program, RawStackId, StackStore, UserPart};

/// Seconds that are told apart: an hour.
const LONGEST_SERIES: usize = 3600;

/// Longest window of the kernel side: keeps counts within their 32 bits and losses local. Whoever rotates does so sooner.
const WINDOW: Duration = Duration::from_secs(20);

/// How long names of containers are waited for, before filters are checked and at the end.
const NAMES_AT_START: Duration = Duration::from_millis(1500);
const NAMES_AT_END: Duration = Duration::from_millis(1500);

/// How long the unwind tables of what runs already are waited for.
const TABLES_AT_START: Duration = Duration::from_secs(2);

/// How long those are waited for that only the waits still open at the end of a window, or of the collection, turn out to
/// need.
const TABLES_AT_WINDOW_END: Duration = Duration::from_millis(100);
const TABLES_AT_END: Duration = Duration::from_millis(700);

/// What is wrong where /proc tells other ids than the kernel.
const FOREIGN_PIDS: &str = "this is not the host's pid namespace: processes cannot be looked up by the ids that the kernel \
    tells, so that stacks lack names and depth; run on the host, or with hostPID: true (docker run --pid=host)";

/// What to collect, and of whom.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct CollectOptions {
    /// Sample on-CPU stacks.
    pub on_cpu: bool,
    /// Sample off-CPU stacks.
    pub off_cpu: bool,
    /// Count syscalls.
    pub syscalls: bool,
    /// On-CPU sampling frequency in hertz.
    pub frequency_hz: u32,
    /// T: gaps shorter than this are sampled with probability gap / T.
    pub offcpu_threshold: Duration,
    /// Whether frames carry file and line, and inlined frames.
    pub lines: bool,
    /// Whether outputs show threads' names.
    pub threads: bool,
    /// Which containers.
    pub selection: Selection,
    /// The filters as the user wrote them.
    pub filters: Vec<String>,
    /// Which processes or threads, with the children they will have; all if there are none.
    pub processes: Vec<u32>,
    /// How to find containers.
    pub containers: ResolverOptions,
    /// Name of this node.
    pub node: Option<String>,
    /// Make room for at least this many containers at a time.
    pub least_containers: u32,
    /// Write the kernel programs' debugging messages to the log.
    pub kernel_log: bool,
    /// Make maps so small that losses occur.
    pub tiny_maps: bool,
    /// By which the collection can be told that it is to end soon.
    pub haste: Haste,
}

/// Tells a collection that it is to end soon: names that take long to find are then left out. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub struct Haste(Arc<AtomicBool>);

impl Haste {
    /// From now on.
    pub fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether there is haste.
    pub fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a collection cannot run.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Containers.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Processes.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// Symbols.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// The thread that collects.
    #[error("cannot start the thread that collects: {0}")]
    Thread(std::io::Error),
    /// A process to be measured does not exist.
    #[error("there is no process {0}; `ps` shows which there are")]
    NoProcess(u32),
    /// A process to be measured has ended and was not waited for yet.
    #[error("process {0} has ended (its parent has not waited for it yet): there is nothing to measure")]
    Ended(u32),
    /// The id of a thread, where the kernel cannot pick one.
    #[error(
        "{thread} is a thread ({name}) of process {process}; give --pid {process}, and --threads to tell its threads apart"
    )]
    IsThread {
        /// The id that was given.
        thread: u32,
        /// The thread's name.
        name: String,
        /// The process it belongs to.
        process: u32,
    },
    /// Ids of processes mean others to the kernel programs than here.
    #[error(
        "processes cannot be picked from here: this is not the host's pid namespace, and the kernel programs tell \
         processes by the host's ids; run on the host, or in a container with hostPID: true (docker run --pid=host)"
    )]
    PidNamespace,
}

/// On whose account something is: container index, process and the program it ran, and thread name.
type Owner = (u32, Program, Arc<str>);

/// What makes off-CPU time the same: whose, below which stack, why, and whom it waited for.
type Wait = (Owner, RawStackId, OffCpuReason, Option<Arc<str>>);

/// A collection under way.
pub struct Collection {
    options: CollectOptions,
    kernel: Kernel,
    resolver: ContainerResolver,
    tracker: Tracker,
    symbolizer: Symbolizer,
    stacks: StackStore,
    gaps: GapJoin,
    peers: Peers,
    threads: FxHashMap<[u8; 16], Arc<str>>,
    on_cpu: FxHashMap<(Owner, RawStackId), u64>,
    /// Samples by second of the window: how much the load varies.
    by_second: Vec<u64>,
    /// CPU time by second and container.
    seconds: Seconds,
    off_cpu: FxHashMap<Wait, Waited>,
    windows: Vec<RawWindow>,
    window_began: Instant,
    /// Indices that no verdict was given for yet.
    undecided: Vec<u32>,
    pressure: BTreeMap<ContainerKey, limits::PressureTotals>,
    host_pressure: limits::PressureTotals,
    start_ns: u64,
    /// `u64::MAX` until the last window has ended.
    end_ns: u64,
    start_unix_ns: u64,
    steal_ns: u64,
    own_cpu_ns: u64,
    /// Samples that the kernel side says were written, those that were read, and those already said to be lost between.
    samples: SamplesSoFar,
    /// What only a collection that goes on needs.
    rotation: Rotation,
    warnings: Vec<String>,
}

impl Collection {
    /// Loads, attaches and begins.
    pub fn start(options: CollectOptions) -> Result<Self, CollectError> {
        let asked = Asked::find(&options.processes)?;
        let own_cpu_ns = machine::own_cpu_ns();
        let mut resolver = ContainerResolver::start(options.containers.clone())?;
        let tracker = Tracker::spawn(TrackerOptions::default())?;
        let symbolizer = Symbolizer::spawn(symbol::Options { lines: options.lines, ..symbol::Options::default() })?;
        let filtered = !options.selection.is_everything();
        if filtered {
            resolver.settle(NAMES_AT_START);
            options.selection.check(&resolver.describe_all())?;
        }
        let owners = asked.threads.iter().map(|(_, process)| process);
        let mut first: Vec<Pid> = asked.processes.iter().chain(owners).copied().map(Pid).collect();
        let mut kernel = Kernel::start(KernelOptions {
            frequency_hz: options.on_cpu.then_some(options.frequency_hz),
            off_cpu: options.off_cpu,
            syscalls: options.syscalls,
            offcpu_threshold: options.offcpu_threshold,
            hierarchy: match &resolver.hierarchy().version {
                Version::V2 => HierarchyKind::V2,
                Version::V1 { controller, number } => {
                    HierarchyKind::V1 { controller: controller.clone(), number: *number }
                }
            },
            cgroups: resolver.cgroups().len(),
            least_containers: options.least_containers,
            filter_containers: filtered,
            processes: asked.processes,
            threads: asked.threads,
            kernel_log: options.kernel_log,
            tiny_maps: options.tiny_maps,
        })?;
        symbolizer.warm_up()?;
        if let Some(maps) = kernel.take_unwind_maps() {
            if filtered {
                let all = resolver.describe_all();
                first.extend(first::processes_of(all.iter().filter(|one| options.selection.matches(one))));
            }
            tracker.unwind(maps, UnwinderOptions::default(), first, TABLES_AT_START)?;
        }
        // From now on it is kept.
        tracker.call(ProcessTable::take_remapped)?;
        kernel.begin()?;
        let mut this = Self {
            start_ns: kernel.window_start_ns(),
            end_ns: u64::MAX,
            start_unix_ns: unix_ns(),
            steal_ns: machine::steal_ns(),
            own_cpu_ns,
            samples: SamplesSoFar::default(),
            rotation: Rotation::default(),
            options,
            kernel,
            resolver,
            tracker,
            symbolizer,
            stacks: StackStore::default(),
            gaps: GapJoin::default(),
            threads: FxHashMap::default(),
            on_cpu: FxHashMap::default(),
            by_second: Vec::new(),
            seconds: Seconds::default(),
            off_cpu: FxHashMap::default(),
            peers: Peers::default(),
            windows: Vec::new(),
            window_began: Instant::now(),
            undecided: Vec::new(),
            pressure: BTreeMap::new(),
            host_pressure: limits::PressureTotals::default(),
            warnings: Vec::new(),
        };
        this.follow_containers();
        this.note_pressure();
        if Namespace::Pid.is_of_our_own() {
            this.warnings.push(FOREIGN_PIDS.to_owned());
        }
        // What the loading took is many times what goes on to be needed.
        memory::give_back();
        Ok(this)
    }

    /// Lets the time of a process begin now, one that is selected and about to become the command to be measured. Its only
    /// thread is blocked.
    pub fn begin_process_anew(&mut self, pid: u32) -> Result<(), CollectError> {
        Ok(self.kernel.begin_process_anew(pid)?)
    }

    /// Takes what has gathered. To be called several times a second; what processes have mapped is remembered for a minute after
    /// their end.
    pub fn poll(&mut self) -> Result<(), CollectError> {
        self.take_events();
        self.take_records()?;
        self.follow_containers();
        if self.seconds.due() {
            self.read_second();
        }
        if self.window_began.elapsed() >= WINDOW {
            self.end_window(TABLES_AT_WINDOW_END)?;
            if let Err(error) = self.kernel.follow_cpus() {
                tracing::warn!("{error}");
            }
        }
        Ok(())
    }

    /// What the user should know, since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(self.resolver.take_warnings());
        warnings
    }

    /// On-CPU samples taken so far, for progress.
    pub fn samples(&self) -> u64 {
        self.on_cpu.values().sum()
    }

    /// Ends the collection and gives everything its name.
    pub fn finish(mut self) -> Result<Profile, CollectError> {
        self.kernel.stop_sampling();
        self.kernel.drain_rings();
        self.take_events();
        self.take_records()?;
        self.end_window(TABLES_AT_END)?;
        self.end_ns = self.windows.last().map_or(u64::MAX, |window| window.end_ns);
        self.kernel.drain_rings();
        self.take_records()?;
        self.follow_containers();
        for gap in std::mem::take(&mut self.gaps).finish() {
            self.account_gap(gap);
        }
        self.stacks.locate(&self.tracker)?;
        self.resolver.finish(NAMES_AT_END);
        self.assemble()
    }

    fn end_window(&mut self, patience: Duration) -> Result<(), CollectError> {
        if self.seconds.due_at_end() {
            self.read_second();
        }
        self.window_began = Instant::now();
        let mut window = self.kernel.end_window()?;
        let open_gaps = std::mem::take(&mut window.open_gaps);
        let stacks = self.walk_open_gaps(&open_gaps, patience)?;
        for (record, user) in open_gaps.into_iter().zip(stacks) {
            self.account_open_gap(record, user);
        }
        self.stacks.locate(&self.tracker)?;
        if !window.grace_by_kernel && self.windows.is_empty() {
            self.warnings.push(
                "the kernel refuses membarrier(GLOBAL) (a nohz_full host?): the ends of windows are waited out for 50 ms \
                 instead"
                    .to_owned(),
            );
        }
        self.seconds.end_window(&window);
        self.windows.push(window);
        Ok(())
    }

    fn read_second(&mut self) {
        let cpu_ns = self.kernel.cpu_ns();
        self.seconds.read(Instant::now(), &cpu_ns);
    }

    fn take_events(&mut self) {
        let mut events = Vec::new();
        self.kernel.drain_events(|event, path| events.push((event, String::from_utf8_lossy(path).into_owned())));
        for (event, path) in events {
            match event.kind {
                kind if kind == EventKind::Exec as u32 => self.stacks.exec(event.pid, event.time_ns),
                kind if kind == EventKind::CgroupCreated as u32 => {
                    self.resolver.cgroup_created(CgroupId(event.cgroup), Some(&path));
                }
                kind if kind == EventKind::CgroupRemoved as u32 => {
                    self.resolver.cgroup_removed(CgroupId(event.cgroup));
                    self.rotation.cgroup_removed(event.cgroup);
                }
                _ => {}
            }
        }
    }

    /// Where other libraries, or other processes, have taken the place of those before, up to now.
    fn take_remapped(&mut self) -> Result<(), CollectError> {
        for (pid, at_ns) in self.tracker.call(ProcessTable::take_remapped)? {
            self.stacks.remap(pid.0, at_ns);
        }
        Ok(())
    }

    /// Lets the resolver ask for the names of containers as soon as they are seen, and gives filters' verdicts.
    fn follow_containers(&mut self) {
        for (index, cgroup) in self.kernel.new_containers() {
            self.resolver.container_of(CgroupId(cgroup));
            if !self.undecided.contains(&index) {
                self.undecided.push(index);
            }
        }
        if self.options.selection.is_everything() {
            self.undecided.clear();
        }
        if self.undecided.is_empty() {
            return;
        }
        let all = self.resolver.describe_all();
        let (kernel, resolver, selection) = (&self.kernel, &mut self.resolver, &self.options.selection);
        self.undecided.retain(|index| {
            let Some(cgroup) = kernel.cgroup_of(*index) else { return true };
            let key = resolver.container_of(CgroupId(cgroup));
            let Some(container) = all.iter().find(|container| container.key == key) else { return true };
            let verdict = if selection.matches(container) { filter::KEEP } else { filter::DROP };
            // A container may get its name later than its cgroup: until then it is measured.
            let nameless =
                matches!(key, ContainerKey::Container(_) | ContainerKey::Delegated(_)) && container.container.is_none();
            if verdict == filter::KEEP || !nameless {
                kernel.set_filter(*index, verdict);
                return false;
            }
            true
        });
        if !self.options.selection.is_everything() {
            // Kernel threads and what has no index of its own are the host's.
            let host = all.iter().any(|one| one.key == ContainerKey::Host && selection.matches(one));
            let verdict = if host { filter::KEEP } else { filter::DROP };
            self.kernel.set_filter(profiler_ebpf::CONTAINER_KERNEL, verdict);
            self.kernel.set_filter(profiler_ebpf::CONTAINER_OVERFLOW, verdict);
        }
    }

    fn note_pressure(&mut self) {
        self.host_pressure = limits::host_pressure_totals();
        for container in self.resolver.describe_all() {
            let nothing = limits::PressureTotals::default();
            let totals = limits::pressure_totals(self.resolver.hierarchy(), &container.cgroup, nothing);
            self.pressure.insert(container.key, totals);
        }
    }

    fn take_records(&mut self) -> Result<(), CollectError> {
        let batches = self.kernel.drain_records();
        // What the records were taken in the midst of: programs that began before the last of them.
        self.take_events();
        self.take_remapped()?;
        // Processes whose stacks could not be walked for want of their mappings or tables.
        let mut wanting: FxHashSet<Pid> = FxHashSet::default();
        for batch in batches {
            for record in parse_all(&batch) {
                if is_for_want(Stop::from_number(record.header.user_stop)) {
                    wanting.insert(Pid(record.header.pid));
                }
                self.take_in(record);
            }
            for gap in self.gaps.join() {
                self.account_gap(gap);
            }
        }
        if !wanting.is_empty() {
            self.tracker.tell(move |table| table.want_unwinding(wanting))?;
        }
        self.stacks.locate(&self.tracker)?;
        Ok(())
    }

    fn take_in(&mut self, record: Record) {
        if record.header.kind == RecordKind::OnCpu as u8 {
            self.account_sample(record);
        } else {
            self.gaps.add(record);
        }
    }

    fn owner(&mut self, record: &Record) -> Owner {
        let header = &record.header;
        let thread = self.threads.entry(header.comm).or_insert_with(|| record.thread_name().into()).clone();
        let program = self.stacks.program(header.pid, header.time_ns);
        (header.container, program, thread)
    }

    fn account_sample(&mut self, mut record: Record) {
        let owner = self.owner(&record);
        let user = gaps::take_user_part(&mut record);
        let stack = self.stacks.intern(record.header.pid, record.header.time_ns, record.kernel, user);
        *self.on_cpu.entry((owner, stack)).or_default() += 1;
        let second = (record.header.time_ns.saturating_sub(self.start_ns) / 1_000_000_000) as usize;
        if second < LONGEST_SERIES {
            if self.by_second.len() <= second {
                self.by_second.resize(second + 1, 0);
            }
            self.by_second[second] += 1;
        }
    }

    fn account_gap(&mut self, gap: Gap) {
        let header = gap.record.header;
        let owner = self.owner(&gap.record);
        // What was taken as the thread left execve is of another program than the one that called it.
        let is_of_caller = owner.1 == self.stacks.program_at(header.pid, gap.user_ns);
        let is_taken = matches!(gap.user, UserPart::Taken(..));
        let user = if is_taken && !is_of_caller { UserPart::Missing("never_left_syscall") } else { gap.user };
        let stack = self.stacks.intern(header.pid, gap.user_ns, gap.record.kernel, user);
        let total_ns = header.blocked_ns + header.runnable_self_ns + header.runnable_other_ns + header.throttled_ns;
        let threshold_ns = self.options.offcpu_threshold.as_nanos() as f64;
        let weight = (threshold_ns / total_ns.max(1) as f64).max(1.0) * self.share_inside(&gap.record.header);
        self.add_parts(&owner, stack, &header, weight);
    }

    /// The share of a gap that lies inside the collection: gaps may begin before it and end after it.
    fn share_inside(&self, header: &RecordHeader) -> f64 {
        share_inside(header.gap_start_ns, header.time_ns, self.start_ns, self.end_ns)
    }

    /// The user stacks of threads that were still waiting when the window ended. A thread that has not moved since the last
    /// window has the stack it had. What tables are missing is waited for as long as `patience`.
    fn walk_open_gaps(&mut self, records: &[Record], patience: Duration) -> Result<Vec<UserPart>, CollectError> {
        let mut parts = Vec::with_capacity(records.len());
        let mut moved = Vec::new();
        for record in records {
            let known =
                if record.header.ip == 0 { Some(UserPart::None) } else { self.rotation.known_stack(&record.header) };
            if known.is_none() {
                moved.push((parts.len(), record.header));
            }
            parts.push(known.unwrap_or(UserPart::Missing("moved_on")));
        }
        let mut wanting = self.walk_moved(moved, &mut parts)?;
        if wanting.is_empty() {
            return Ok(parts);
        }
        // Who has not run since the beginning was never seen to need tables.
        let pids: Vec<Pid> = wanting.iter().map(|(_, header)| Pid(header.pid)).collect();
        self.tracker.want_unwinding(pids, patience)?;
        wanting = self.walk_moved(wanting, &mut parts)?;
        tracing::debug!("{} open waits without tables", wanting.len());
        Ok(parts)
    }

    /// Walks the stacks of threads that wait, and returns those for which something is still to be laid out.
    fn walk_moved(
        &mut self,
        moved: Vec<(usize, RecordHeader)>,
        parts: &mut [UserPart],
    ) -> Result<Vec<(usize, RecordHeader)>, CollectError> {
        let walked = self.tracker.call(move |table| {
            moved
                .into_iter()
                .filter_map(|(at, header)| {
                    let mut registers = Registers { ip: header.ip, sp: header.sp, bp: header.fp, di: None };
                    let mut stack = table.walk_thread(Pid(header.pid), registers);
                    if stack.stop == Stop::LostRegister && stack.addresses.len() == 1 {
                        registers.di = first_argument(&header);
                        stack = table.walk_thread(Pid(header.pid), registers);
                    }
                    is_still_there(&header).then_some((at, header, UserPart::Taken(stack.addresses, stack.stop)))
                })
                .collect::<Vec<_>>()
        })?;
        let mut wanting = Vec::new();
        for (at, header, user) in walked {
            match &user {
                UserPart::Taken(_, stop) if is_for_want(*stop) => wanting.push((at, header)),
                _ => self.rotation.remember_stack(&header, &user),
            }
            parts[at] = user;
        }
        Ok(wanting)
    }

    fn account_open_gap(&mut self, record: Record, user: UserPart) {
        let header = record.header;
        for gap in self.gaps.complete_open(header.tid, header.sequence, &user, header.time_ns) {
            self.account_gap(gap);
        }
        let owner = self.owner(&record);
        let stack = self.stacks.intern(header.pid, header.time_ns, record.kernel, user);
        self.add_parts(&owner, stack, &header, 1.0);
    }

    fn add_parts(&mut self, owner: &Owner, stack: RawStackId, header: &RecordHeader, weight: f64) {
        let parts = [
            (blocked_reason(header.reason), header.blocked_ns),
            (OffCpuReason::RunnableSelf, header.runnable_self_ns),
            (OffCpuReason::RunnableOther, header.runnable_other_ns),
            (OffCpuReason::Throttled, header.throttled_ns),
        ];
        for (place, (reason, ns)) in parts.into_iter().filter(|(_, ns)| *ns > 0).enumerate() {
            let peer = if reason == OffCpuReason::Network { self.peers.text(&header.peer) } else { None };
            let sum = self.off_cpu.entry((owner.clone(), stack, reason, peer)).or_default();
            sum.weight_ns += ns as f64 * weight;
            sum.waits += weight;
            // A wait of several parts has one stack.
            sum.stacks += u64::from(place == 0);
        }
    }
}

/// What was waited with one stack for one reason.
#[derive(Debug, Default, Clone, Copy)]
struct Waited {
    /// Time, weighted by how likely each wait was to be kept.
    weight_ns: f64,
    /// How many waits these stand for.
    waits: f64,
    /// How many were kept.
    stacks: u64,
}

/// On-CPU samples since the collection began. The kernel side's count is read before the last of them are, so that what
/// is lost between shows in the sums only.
#[derive(Debug, Default)]
struct SamplesSoFar {
    written: u64,
    read: u64,
    said_lost: u64,
}

impl SamplesSoFar {
    /// Adds a window's figures and returns how many more are lost.
    fn add(&mut self, written: u64, read: u64) -> u64 {
        self.written += written;
        self.read += read;
        let lost = self.written.saturating_sub(self.read);
        let more = lost.saturating_sub(self.said_lost);
        self.said_lost += more;
        more
    }
}

/// Whether a walk ended for want of what userspace lays out for it.
fn is_for_want(stop: Stop) -> bool {
    matches!(stop, Stop::NoProcess | Stop::NoMapping | Stop::NoTable | Stop::NoRoom)
}

/// The share of [`from`, `to`] that lies in [`start`, `end`].
fn share_inside(from: u64, to: u64, start: u64, end: u64) -> f64 {
    if to <= from {
        return if (start..=end).contains(&to) { 1.0 } else { 0.0 };
    }
    to.min(end).saturating_sub(from.max(start)) as f64 / (to - from) as f64
}

/// The first argument of the syscall that a thread is blocked in: the same register as it has in user mode.
fn first_argument(header: &RecordHeader) -> Option<u64> {
    let text = std::fs::read_to_string(syscall_file(header)).ok()?;
    // `NUMBER ARGUMENTS… SP IP`; fewer words where it is blocked elsewhere.
    let mut words = text.split_ascii_whitespace();
    let argument = words.nth(1).filter(|_| words.count() == 7)?;
    u64::from_str_radix(argument.strip_prefix("0x")?, 16).ok()
}

fn syscall_file(header: &RecordHeader) -> String {
    format!("/proc/{}/task/{}/syscall", header.pid, header.tid)
}

/// Whether the thread still stands where the iterator saw it, so that the stack just read is the one it waited in.
fn is_still_there(header: &RecordHeader) -> bool {
    // `NUMBER ARGUMENTS… SP IP` while blocked in a syscall, `-1 SP IP` while blocked elsewhere, `running` otherwise.
    let Ok(text) = std::fs::read_to_string(syscall_file(header)) else { return true };
    stands_at(&text, header.sp, header.ip)
}

fn stands_at(syscall: &str, sp: u64, ip: u64) -> bool {
    let words: Vec<&str> = syscall.split_ascii_whitespace().collect();
    let [.., at_sp, at_ip] = words.as_slice() else { return false };
    let hex = |word: &str| word.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    hex(at_sp) == Some(sp) && hex(at_ip) == Some(ip)
}

fn blocked_reason(part: u8) -> OffCpuReason {
    match u32::from(part) {
        part if part == Part::BlockedLock as u32 => OffCpuReason::Lock,
        part if part == Part::BlockedDisk as u32 => OffCpuReason::Disk,
        part if part == Part::BlockedNetwork as u32 => OffCpuReason::Network,
        part if part == Part::BlockedSleep as u32 => OffCpuReason::Sleep,
        _ => OffCpuReason::Other,
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Sum of a counter over windows.
fn counted(windows: &[RawWindow], counter: Counter) -> u64 {
    windows.iter().map(|window| window.counter(counter)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_as_far_as_it_lies_inside() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(share_inside(10, 20, 0, 100), 1.0));
        assert!(close(share_inside(0, 20, 10, 100), 0.5));
        assert!(close(share_inside(90, 110, 0, 100), 0.5));
        assert!(close(share_inside(100, 120, 0, 100), 0.0));
        assert!(close(share_inside(5, 5, 0, 100), 1.0));
        assert!(close(share_inside(0, 200, 50, 100), 0.25));
    }

    #[test]
    fn a_thread_that_moved_on_is_told_from_one_that_stands() {
        assert!(stands_at("0 0x3 0x7f 0x1 0x0 0x0 0x0 0x7ffe10 0x4567\n", 0x7f_fe10, 0x4567));
        assert!(!stands_at("0 0x3 0x7f 0x1 0x0 0x0 0x0 0x7ffe10 0x4568\n", 0x7f_fe10, 0x4567));
        assert!(stands_at("-1 0x10 0x20\n", 0x10, 0x20));
        assert!(!stands_at("running\n", 0x10, 0x20));
        assert!(!stands_at("", 0, 0));
    }
}
