//! Every process that was seen, dead ones included. In: events, and `/proc` where events are missing. Out: addresses
//! as [`Location`]s, and command names.

use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::foreign::{ForeignFiles, Unheard};
use super::life::{Image, Life};
use super::mappings::{Mapping, MappingKind, Mappings, parse_line};
use super::module::{FileIdentity, ModuleCounters, Modules};
use super::perf_map::{PerfMapFile, PerfMapRefusal, find_perf_maps};
use super::sideband::{Event, What};
use super::walk::{Ask, Unwinder, UnwinderCounters};
use super::{
    FileOffset, FramePointers, Leaf, Location, ModuleId, Pid, Registers, Tid, UserStack, lookup_addresses,
    monotonic_ns, walk_thread,
};

/// A process's start time is compared at most this often.
const CHECK_INTERVAL_NS: u64 = 1_000_000_000;

/// The same while the kernel tells of every fork and exit: then only to find what nobody thought of.
const FOLLOWED_CHECK_INTERVAL_NS: u64 = 60_000_000_000;

/// A process's mappings are read again at most this often when an address is not covered.
const REREAD_INTERVAL_NS: u64 = 100_000_000;

/// `/proc` gives start times in hundredths of a second; a fork event this close to one means the same process.
const START_TOLERANCE_NS: u64 = 30_000_000;

/// Processes that had one pid of which the mappings are kept.
const HISTORY: usize = 8;

/// CPU ticks in a million milliseconds from which on a program will be sampled as soon as sampling begins: 2 % of one CPU, where
/// a second has a hundred ticks.
const BUSY_RATE: u64 = 2000;

/// Ancestors whose view of the file system is tried for a process that is gone.
const ANCESTORS: usize = 4;

/// What the table did, and what it could not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Times that `/proc/PID/maps` was read.
    pub maps_read: u64,
    /// Times that it could not be read: the process was gone.
    pub maps_unreadable: u64,
    /// Addresses that no mapping covers.
    pub uncovered: u64,
    /// Pids that were found to belong to another process than before.
    pub pids_reused: u64,
    /// Events that the kernel could not deliver.
    pub events_lost: u64,
    /// Mappings and programs of the past that were forgotten early: there were too many of them.
    pub history_forgotten: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    command: Arc<str>,
    parent: Pid,
    start_ticks: u64,
    /// CPU time used, in ticks.
    cpu_ticks: u64,
    /// Whether it waits only to be reaped.
    is_over: bool,
}

/// What becomes of known mappings where `/proc/PID/maps` shows others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They stay: events told of them, and the process may by now be another program yet.
    Kept,
    /// They give way.
    Replaced,
}

/// Every process that was seen.
#[derive(Debug)]
pub struct ProcessTable {
    /// Oldest first; never empty.
    lives: FxHashMap<Pid, Vec<Life>>,
    modules: Modules,
    counters: ProcessCounters,
    next_perf_map: u32,
    events_lost_told: u64,
    /// Events were lost at this time: mappings read before may be out of date.
    distrusted_ns: u64,
    /// Whether events tell of every process.
    followed: bool,
    /// What user stacks are walked by, where the kernel can.
    unwinder: Option<Unwinder>,
    /// Processes whose mappings are to be told to the unwinder, and whether they are about to run.
    changed: FxHashMap<Pid, Ask>,
    /// Processes that ended.
    ended: FxHashSet<Pid>,
    /// Processes of whose mappings or files nobody told in time, and how many requests had returned when they were last asked for.
    unanswered: FxHashSet<Pid>,
    returned: u64,
    /// When addresses of a process came to mean something else; `None` while nobody asks.
    remapped: Option<Vec<(Pid, u64)>>,
    forgotten_told: u64,
}

impl ProcessTable {
    /// Keeps at most `open_file_limit` files open.
    pub fn new(open_file_limit: usize) -> Self {
        Self {
            lives: FxHashMap::default(),
            modules: Modules::new(open_file_limit),
            counters: ProcessCounters::default(),
            next_perf_map: 0,
            events_lost_told: 0,
            distrusted_ns: 0,
            followed: false,
            unwinder: None,
            changed: FxHashMap::default(),
            ended: FxHashSet::default(),
            unanswered: FxHashSet::default(),
            returned: 0,
            remapped: None,
            forgotten_told: 0,
        }
    }

    /// By whom what belongs to processes is read.
    pub fn foreign(&self) -> &ForeignFiles {
        self.modules.foreign()
    }

    /// What was not answered since this was last asked.
    pub fn take_unheard(&mut self) -> Unheard {
        self.foreign().take_unheard()
    }

    /// Asks again for what nobody told in time, once something that did not answer does. To be called about once a second.
    pub fn ask_again(&mut self) {
        let returned = self.foreign().returned();
        if std::mem::replace(&mut self.returned, returned) == returned {
            return;
        }
        let now = monotonic_ns();
        for pid in std::mem::take(&mut self.unanswered) {
            if self.living(pid).is_some() {
                self.read_maps(pid, now, Known::Replaced);
            }
        }
    }

    /// From now on events tell of every process.
    pub fn follow(&mut self) {
        self.followed = true;
    }

    /// What the table did so far.
    pub fn counters(&self) -> ProcessCounters {
        self.counters
    }

    /// Events that the kernel could not deliver since this was last asked.
    pub fn take_events_lost(&mut self) -> u64 {
        self.counters.events_lost - std::mem::replace(&mut self.events_lost_told, self.counters.events_lost)
    }

    /// Mappings and programs of the past that were forgotten early since this was last asked.
    pub fn take_history_forgotten(&mut self) -> u64 {
        let forgotten = self.counters.history_forgotten;
        forgotten - std::mem::replace(&mut self.forgotten_told, forgotten)
    }

    /// Processes in which addresses came to mean something else since this was last asked, and when (CLOCK_MONOTONIC, ns). The
    /// first call says nothing.
    pub fn take_remapped(&mut self) -> Vec<(Pid, u64)> {
        self.remapped.replace(Vec::new()).unwrap_or_default()
    }

    /// What became of the files of mappings.
    pub fn module_counters(&self) -> ModuleCounters {
        self.modules.counters()
    }

    /// Number of processes known, dead ones included.
    pub fn len(&self) -> usize {
        self.lives.values().map(Vec::len).sum()
    }

    /// Whether no process is known.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// Learns about every process there is.
    pub fn observe_all(&mut self) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        for entry in entries.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.observe(Pid(pid));
            }
        }
    }

    /// Learns about a process, unless it is known. Returns whether anything is known of it.
    pub fn observe(&mut self, pid: Pid) -> bool {
        let now = monotonic_ns();
        let (followed, distrusted_ns) = (self.followed, self.distrusted_ns);
        if let Some(life) = self.living(pid) {
            let told = followed && life.checked_ns >= distrusted_ns;
            let interval_ns = if told { FOLLOWED_CHECK_INTERVAL_NS } else { CHECK_INTERVAL_NS };
            if now.saturating_sub(life.checked_ns) < interval_ns {
                return true;
            }
            life.checked_ns = now;
        }
        let Some(stat) = read_stat(pid) else {
            return self.lives.contains_key(&pid);
        };
        if let Some(life) = self.lives.get_mut(&pid).and_then(|lives| lives.last_mut()) {
            if is_the_same(life, &stat) {
                life.start_ticks = Some(stat.start_ticks);
                if !stat.is_over && life.end_ns.take().is_some() {
                    // The main thread has ended and others go on.
                    life.outlives_main_thread = true;
                }
                return true;
            }
            if life.end_ns.is_none() {
                life.end_ns = Some(now);
                self.counters.pids_reused += 1;
            }
        }
        let mut life = Life::new(start_ns(stat.start_ticks), Image::new(0, stat.command));
        (life.start_ticks, life.parent, life.checked_ns) = (Some(stat.start_ticks), Some(stat.parent), now);
        self.begin_life(pid, life);
        self.read_maps(pid, now, Known::Replaced);
        self.inherit_if_empty(pid, stat.parent);
        true
    }

    /// A process that ended before its mappings were read had those of its parent, if it had not become another program: then
    /// it would have another name.
    fn inherit_if_empty(&mut self, pid: Pid, parent: Pid) {
        let current =
            |table: &Self, pid| table.lives.get(&pid).and_then(|lives| lives.last()).and_then(Life::current).cloned();
        let Some(image) = current(self, pid).filter(|image| image.mappings().is_empty()) else { return };
        let Some(parent) = current(self, parent).filter(|parent| parent.command == image.command) else { return };
        let life = self.lives.get_mut(&pid).and_then(|lives| lives.last_mut());
        if let Some(image) = life.and_then(Life::current_mut) {
            image.adopt(&parent);
        }
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: &Event) {
        let Event { at_ns, pid, tid, what } = event;
        match what {
            What::Fork { parent } if parent != pid => self.fork(*parent, *pid, *at_ns),
            What::Fork { .. } => {}
            What::Exec { command } => self.exec(*pid, command, *at_ns),
            What::Comm { command } => self.comm(*pid, *tid, command),
            What::Mmap { start, length, offset, file, path } => {
                let end = start.saturating_add(*length);
                self.mmap(*pid, *at_ns, (*start, end), *offset, *file, path);
            }
            What::Exit => {
                if pid.0 == tid.0 {
                    self.exit(*pid, *at_ns);
                } else if self.unwinder.is_some() && self.living(*pid).is_some_and(|life| life.outlives_main_thread) {
                    // It may have been the last.
                    self.ended.insert(*pid);
                }
            }
            What::Lost { count } => {
                self.counters.events_lost += count;
                self.distrusted_ns = monotonic_ns();
            }
        }
    }

    /// A process was born: it has its parent's mappings until it does something of its own.
    pub fn fork(&mut self, parent: Pid, child: Pid, at_ns: u64) {
        self.observe(parent);
        let inherited = self.lives.get(&parent).and_then(|lives| lives.last()).and_then(Life::current);
        let image = inherited.map(|image| image.inherited(at_ns));
        let known = self.lives.contains_key(&child);
        if let Some(life) = self.living(child) {
            if life.start_ns.abs_diff(at_ns) < START_TOLERANCE_NS {
                // What it was seen to have is what it had later, perhaps in another program, or nothing if it had ended.
                life.start_ns = at_ns;
                if let Some(image) = image {
                    life.begin_with(image);
                    self.change(child, Ask::Now);
                }
                return;
            }
            life.end_ns = Some(at_ns);
            self.counters.pids_reused += 1;
        }
        if known {
            self.remap(child, at_ns);
        }
        let Some(image) = image else {
            self.observe(child);
            return;
        };
        let mut life = Life::new(at_ns, image);
        (life.parent, life.read_ns) = (Some(parent), at_ns);
        self.begin_life(child, life);
        self.change(child, Ask::Now);
    }

    /// A process became another program: its mappings are gone.
    pub fn exec(&mut self, pid: Pid, command: &str, at_ns: u64) {
        self.observe(pid);
        if self.living(pid).is_none() {
            // A thread that is not the main one takes its place when it becomes another program, and the main one ends for that.
            let followed_ns = if self.followed { self.distrusted_ns } else { u64::MAX };
            let last = self.lives.get_mut(&pid).and_then(|lives| lives.last_mut());
            match last.filter(|life| life.end_ns.is_some_and(|end_ns| end_ns > followed_ns)) {
                Some(life) => life.end_ns = None,
                // Whoever had this pid before has ended, and the news of this one's birth was lost.
                None => self.begin_life(pid, Life::new(at_ns, Image::new(at_ns, command.into()))),
            }
        }
        let mut forgets = false;
        if let Some(life) = self.living(pid) {
            forgets = life.begin_image(Image::new(at_ns, command.into()));
            life.outlives_main_thread = false;
            life.perf_map_tried_ns = 0;
            life.read_ns = 0;
        }
        self.counters.history_forgotten += u64::from(forgets);
        self.change(pid, Ask::Now);
    }

    /// A thread took a name; the main thread's is the process's.
    pub fn comm(&mut self, pid: Pid, tid: Tid, command: &str) {
        if pid.0 == tid.0
            && let Some(image) = self.living(pid).and_then(Life::current_mut)
        {
            image.command = command.into();
        }
    }

    /// A process mapped memory for execution, from the first of two addresses up to the second.
    pub fn mmap(
        &mut self,
        pid: Pid,
        at_ns: u64,
        (start, end): (u64, u64),
        offset: u64,
        file: FileIdentity,
        path: &OsStr,
    ) {
        if !self.observe(pid) {
            return;
        }
        let kind = self.kind(pid, (start, end), file, path);
        let anonymous = matches!(kind, MappingKind::Anonymous);
        self.map(pid, Mapping { start, end, offset, since_ns: at_ns, kind });
        if anonymous {
            self.look_for_perf_map(pid, monotonic_ns());
        }
        self.change(pid, Ask::Now);
    }

    fn map(&mut self, pid: Pid, mapping: Mapping) {
        // The main thread may end before the others, which go on mapping.
        let life = self.lives.get_mut(&pid).and_then(|lives| lives.last_mut());
        let Some(image) = life.and_then(Life::current_mut) else { return };
        let at_ns = mapping.since_ns;
        let mapped = image.map(mapping);
        self.counters.history_forgotten += mapped.forgets;
        if mapped.replaces {
            self.remap(pid, at_ns);
        }
    }

    /// From now on addresses of a process mean something else.
    fn remap(&mut self, pid: Pid, at_ns: u64) {
        if let Some(remapped) = &mut self.remapped {
            remapped.push((pid, at_ns));
        }
    }

    /// A process ended. What was learnt of it stays until [`Self::forget_dead`].
    pub fn exit(&mut self, pid: Pid, at_ns: u64) {
        if let Some(life) = self.living(pid) {
            life.end_ns = Some(at_ns);
        }
        if self.unwinder.is_some() {
            self.changed.remove(&pid);
            self.ended.insert(pid);
        }
    }

    /// Forgets processes that ended before this time.
    pub fn forget_dead(&mut self, older_than_ns: u64) {
        self.lives.retain(|pid, lives| {
            lives.retain(|life| match life.end_ns {
                Some(end) if end < older_than_ns => {
                    // The main thread may end before the others: then the process still has its place in /proc.
                    life.start_ticks.is_some() && read_stat(*pid).map(|stat| stat.start_ticks) == life.start_ticks
                }
                Some(_) => true,
                None => life.checked_ns >= older_than_ns || read_stat(*pid).is_some(),
            });
            !lives.is_empty()
        });
        self.modules.forget_idle();
    }

    /// Reads the mappings of processes that ran exec since they were last read, as long as `budget` lasts: events do not
    /// tell of the vDSO.
    pub fn complete_images(&mut self, pids: impl IntoIterator<Item = Pid>, budget: usize) {
        let now = monotonic_ns();
        let unread = |table: &mut Self, pid: &Pid| table.living(*pid).is_some_and(|life| life.read_ns == 0);
        let pids: Vec<Pid> = pids.into_iter().filter(|pid| unread(self, pid)).take(budget).collect();
        for pid in pids {
            self.read_maps(pid, now, Known::Kept);
        }
    }

    /// Opens the perf maps that have appeared or were replaced since: their directory goes with the process.
    pub fn look_for_perf_maps(&mut self) {
        let now = monotonic_ns();
        let runs_anonymous = |life: &Life| {
            life.current().is_some_and(|image| {
                image.mappings().iter().any(|mapping| matches!(mapping.kind, MappingKind::Anonymous))
            })
        };
        let wanting =
            |lives: &&Vec<Life>| lives.last().is_some_and(|life| life.end_ns.is_none() && runs_anonymous(life));
        let wanting: Vec<Pid> = self.lives.iter().filter(|(_, lives)| wanting(lives)).map(|(pid, _)| *pid).collect();
        self.look_for_perf_maps_of(&wanting, now);
    }

    /// What a living process has mapped for execution; nothing if it is gone.
    pub fn mappings(&mut self, pid: Pid) -> Option<Arc<Mappings>> {
        self.observe(pid);
        let now = monotonic_ns();
        self.read_maps(pid, now, Known::Replaced);
        self.living(pid)?.current().map(|image| image.mappings().clone())
    }

    /// The perf map of a living process, or why there is none.
    pub fn perf_map(&mut self, pid: Pid) -> Result<Arc<PerfMapFile>, PerfMapRefusal> {
        let life = self.lives.get(&pid).and_then(|lives| lives.last()).ok_or(PerfMapRefusal::ProcessGone)?;
        let image = life.current().ok_or(PerfMapRefusal::ProcessGone)?;
        let found = find_perf_maps(self.modules.foreign(), &[(pid, life.start_ns)]).pop();
        let (_, found) = found.ok_or(PerfMapRefusal::ProcessGone)?;
        image.perf_maps.take_in(found?, &mut self.next_perf_map);
        image.perf_maps.files().into_iter().next().ok_or(PerfMapRefusal::Missing)
    }

    /// Command name of a process: its main thread's, at that time (now, if `None`).
    pub fn command(&mut self, pid: Pid, at_ns: Option<u64>) -> Option<Arc<str>> {
        self.observe(pid);
        let at_ns = at_ns.unwrap_or(u64::MAX);
        self.life_at(pid, at_ns).and_then(|life| life.image_at(at_ns)).map(|image| image.command.clone())
    }

    /// From now on mappings are told to an unwinder. Tables of what runs already are built in the order of need: those of `first`,
    /// then of those that use most CPU for their age.
    pub(super) fn set_unwinder(&mut self, unwinder: Unwinder, first: &[Pid]) {
        self.unwinder = Some(unwinder);
        let known: Vec<Pid> = self.lives.keys().copied().collect();
        for pid in known {
            self.change(pid, Ask::Later);
        }
        self.tell_unwinder();
        let mut programs: Vec<(bool, u64, Arc<Mappings>)> = Vec::new();
        for (pid, lives) in &self.lives {
            let Some(life) = lives.last().filter(|life| life.end_ns.is_none()) else { continue };
            let Some(image) = life.current().filter(|image| !image.mappings().is_empty()) else { continue };
            let Some(stat) = read_stat(*pid) else { continue };
            let age_ms = monotonic_ns().saturating_sub(life.start_ns) / 1_000_000 + 1;
            let rate = stat.cpu_ticks.saturating_mul(1_000_000) / age_ms;
            programs.push((first.contains(pid), rate, image.mappings().clone()));
        }
        programs.sort_by_key(|(first, rate, _)| std::cmp::Reverse((*first, *rate)));
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.build_ahead(programs.into_iter().map(|(first, rate, mappings)| {
                (mappings, if first || rate >= BUSY_RATE { Ask::Now } else { Ask::Later })
            }));
        }
    }

    /// Notes that a process's mappings changed.
    fn change(&mut self, pid: Pid, ask: Ask) {
        if self.unwinder.is_some() {
            let known = self.changed.entry(pid).or_insert(ask);
            if ask == Ask::Now {
                *known = Ask::Now;
            }
        }
    }

    /// Tells the unwinder what changed, and lets it take in what was built.
    pub(super) fn tell_unwinder(&mut self) {
        let Some(unwinder) = &mut self.unwinder else { return };
        for (pid, ask) in self.changed.drain() {
            let life = self.lives.get(&pid).and_then(|lives| lives.last()).filter(|life| life.end_ns.is_none());
            if let Some(image) = life.and_then(Life::current) {
                self.ended.remove(&pid);
                unwinder.publish(pid, image.mappings(), ask);
            }
        }
        unwinder.work();
    }

    /// Forgets, of what the unwinder was told, what is no longer true. To be called about once a second.
    pub(super) fn tidy_unwinder(&mut self) {
        let Some(unwinder) = &mut self.unwinder else { return };
        // The main thread may end before the others: then the process still has its place in /proc.
        self.ended.retain(|pid| {
            let over = read_stat(*pid).is_none_or(|stat| stat.is_over);
            if over {
                unwinder.forget(*pid);
            }
            !over
        });
        let alive: FxHashSet<ModuleId> = self.modules.ids().collect();
        unwinder.tidy(|module| alive.contains(&module));
    }

    /// Processes were seen to run whose mappings, or their files' tables, were not there.
    pub fn want_unwinding(&mut self, pids: impl IntoIterator<Item = Pid>) {
        for pid in pids {
            self.observe(pid);
            self.reread_if_distrusted(pid);
            self.change(pid, Ask::Now);
            self.tell_unwinder();
            let life = self.lives.get(&pid).and_then(|lives| lives.last());
            if let (Some(image), Some(unwinder)) = (life.and_then(Life::current), &mut self.unwinder) {
                unwinder.want(image.mappings());
            }
        }
    }

    /// Whether tables are being built.
    pub fn is_building_tables(&self) -> bool {
        self.unwinder.as_ref().is_some_and(Unwinder::is_building)
    }

    /// What the unwinder did since the last call, if there is one.
    pub fn take_unwinder_counters(&mut self) -> Option<UnwinderCounters> {
        self.unwinder.as_mut().map(Unwinder::take_counters)
    }

    /// Memory that the unwinder took as it was needed, in bytes.
    pub fn unwinder_bytes(&self) -> u64 {
        self.unwinder.as_ref().map_or(0, Unwinder::bytes)
    }

    /// Walks the stack of a thread that sleeps: by tables, or by frame pointers where there is no unwinder.
    pub fn walk_thread(&mut self, pid: Pid, registers: Registers) -> UserStack {
        match &self.unwinder {
            Some(unwinder) => unwinder.walk(self.modules.foreign(), pid, registers),
            None => walk_thread(self.modules.foreign(), pid, registers, &mut FramePointers),
        }
    }

    /// Where the frames of a user stack lead; `addresses` are leaf first, and so is the answer.
    pub fn normalize_stack(&mut self, pid: Pid, addresses: &[u64], leaf: Leaf, at_ns: Option<u64>) -> Vec<Location> {
        self.learn(pid);
        lookup_addresses(addresses, leaf).map(|address| self.normalize_known(pid, address, at_ns)).collect()
    }

    /// Where an address of a process led at a time by the monotonic clock (lately, if `None`).
    pub fn normalize(&mut self, pid: Pid, address: u64, at_ns: Option<u64>) -> Location {
        self.learn(pid);
        self.normalize_known(pid, address, at_ns)
    }

    /// What can be learnt about a process before its addresses are looked up.
    fn learn(&mut self, pid: Pid) {
        self.observe(pid);
        self.reread_if_distrusted(pid);
    }

    fn normalize_known(&mut self, pid: Pid, address: u64, at_ns: Option<u64>) -> Location {
        let at_ns = at_ns.unwrap_or(u64::MAX);
        if let Some(location) = self.find(pid, address, at_ns) {
            return location;
        }
        let now = monotonic_ns();
        let due = |life: &mut Life| now.saturating_sub(life.read_ns) >= REREAD_INTERVAL_NS;
        if self.living(pid).is_some_and(due)
            && self.read_maps(pid, now, Known::Replaced)
            && let Some(location) = self.find(pid, address, at_ns)
        {
            return location;
        }
        self.counters.uncovered += 1;
        Location::Unknown { address }
    }

    fn find(&mut self, pid: Pid, address: u64, at_ns: u64) -> Option<Location> {
        let life = self.life_at(pid, at_ns)?;
        let (image, mapping) = life.find(address, at_ns)?;
        let offset = (address - mapping.start).wrapping_add(mapping.offset);
        let (perf_maps, tried) = (image.perf_maps.clone(), life.perf_map_tried_ns);
        Some(match &mapping.kind {
            MappingKind::Module(module) => {
                let module = module.clone();
                if let Some(unwinder) = &mut self.unwinder {
                    unwinder.touch(module.id());
                }
                Location::Module { module, offset: FileOffset(offset) }
            }
            MappingKind::Vdso => Location::Vdso { offset: address - mapping.start },
            MappingKind::Anonymous => {
                let now = monotonic_ns();
                if now.saturating_sub(tried) >= CHECK_INTERVAL_NS {
                    self.look_for_perf_map(pid, now);
                }
                Location::Anonymous { pid, address, perf_maps }
            }
        })
    }

    /// The last life that had begun by then.
    fn life_at(&self, pid: Pid, at_ns: u64) -> Option<&Life> {
        let lives = self.lives.get(&pid)?;
        lives.iter().rfind(|life| life.start_ns <= at_ns).or(lives.first())
    }

    fn living(&mut self, pid: Pid) -> Option<&mut Life> {
        self.lives.get_mut(&pid)?.last_mut().filter(|life| life.end_ns.is_none())
    }

    fn begin_life(&mut self, pid: Pid, life: Life) {
        let lives = self.lives.entry(pid).or_default();
        if lives.len() == HISTORY {
            lives.remove(0);
        }
        lives.push(life);
    }

    /// After lost events a process may have become another program unnoticed.
    fn reread_if_distrusted(&mut self, pid: Pid) {
        let (distrusted, now) = (self.distrusted_ns, monotonic_ns());
        let Some(life) = self.living(pid) else { return };
        if life.read_ns >= distrusted {
            return;
        }
        let Some(image) = life.current().cloned() else { return };
        let command = read_stat(pid).map_or_else(|| image.command.clone(), |stat| stat.command);
        let fresh = image.again(distrusted, command);
        let forgets = life.begin_image(fresh);
        self.counters.history_forgotten += u64::from(forgets);
        if self.read_maps(pid, now, Known::Replaced) {
            self.remap(pid, distrusted);
        } else if let Some(life) = self.living(pid) {
            life.end_image();
            life.read_ns = now;
        }
    }

    /// Adds what `/proc/PID/maps` says to the current image. What was unmapped meanwhile stays: samples may precede it.
    fn read_maps(&mut self, pid: Pid, now: u64, known: Known) -> bool {
        let maps = self.foreign().read_proc(pid, "maps").unwrap_or_default();
        let mut before_ns = 0;
        if let Some(life) = self.living(pid) {
            before_ns = std::mem::replace(&mut life.read_ns, now);
        }
        // That of a process that has ended is empty, until its parent has waited for it; so are those of kernel threads.
        if maps.is_empty() {
            if !self.foreign().may_ask(&self.foreign().memory_of(pid)) {
                self.unanswered.insert(pid);
            }
            self.counters.maps_unreadable += 1;
            return false;
        }
        self.counters.maps_read += 1;
        // Without events nobody knows when they changed since they were last read.
        let changed_ns = if self.followed { now } else { before_ns };
        let mut anonymous = false;
        for line in maps.split(|byte| *byte == b'\n').filter_map(parse_line).filter(|line| line.executable) {
            let (start, end) = (line.start, line.end);
            let Some(image) = self.living(pid).and_then(|life| life.current()) else { break };
            let overlaps = image.mappings().overlap(start, end);
            // [vsyscall] lies outside of every process and holds no code of its own.
            if line.name == "[vsyscall]" || known == Known::Kept && overlaps {
                continue;
            }
            let kind = self.kind(pid, (start, end), line.file, line.name);
            anonymous |= matches!(kind, MappingKind::Anonymous);
            let since_ns = if overlaps { changed_ns } else { 0 };
            self.map(pid, Mapping { start, end, offset: line.offset, since_ns, kind });
        }
        // Of those about to run events tell; the others are asked for when they are seen to.
        self.change(pid, Ask::Later);
        if anonymous {
            self.look_for_perf_map(pid, now);
        }
        true
    }

    fn kind(&mut self, pid: Pid, range: (u64, u64), file: FileIdentity, path: &OsStr) -> MappingKind {
        if path == "[vdso]" {
            return MappingKind::Vdso;
        }
        if file.inode == 0 {
            return MappingKind::Anonymous;
        }
        let mut roots = Vec::with_capacity(ANCESTORS + 2);
        let mut next = Some(pid);
        while let Some(root) = next.filter(|root| root.0 != 0 && roots.len() <= ANCESTORS) {
            roots.push(root);
            next = self.lives.get(&root).and_then(|lives| lives.last()).and_then(|life| life.parent);
        }
        roots.push(Pid(std::process::id()));
        let module = self.modules.module(file, path, range, &roots);
        if module.is_unanswered() {
            self.unanswered.insert(pid);
        }
        // Runtimes map the code they make through a memfd, too; one that holds a program is a program.
        if !module.is_program() {
            return MappingKind::Anonymous;
        }
        MappingKind::Module(module)
    }

    fn look_for_perf_map(&mut self, pid: Pid, now: u64) {
        self.look_for_perf_maps_of(&[pid], now);
    }

    fn look_for_perf_maps_of(&mut self, pids: &[Pid], now: u64) {
        let mut wanting = Vec::with_capacity(pids.len());
        for pid in pids {
            let life = self.lives.get_mut(pid).and_then(|lives| lives.last_mut());
            if let Some(life) = life.filter(|life| life.end_ns.is_none()) {
                life.perf_map_tried_ns = now;
                wanting.push((*pid, life.start_ns));
            }
        }
        for (pid, found) in find_perf_maps(self.modules.foreign(), &wanting) {
            // Most processes have none; whoever wants to know why asks `doctor`.
            let Ok(found) = found else { continue };
            if let Some(image) = self.lives.get(&pid).and_then(|lives| lives.last()).and_then(Life::current) {
                image.perf_maps.take_in(found, &mut self.next_perf_map);
            }
        }
    }
}

/// Whether the process that `/proc` shows is the one known: no other has its id before it has ended.
fn is_the_same(life: &Life, stat: &Stat) -> bool {
    match (life.start_ticks, life.end_ns) {
        (Some(known), _) => known == stat.start_ticks,
        (None, Some(end_ns)) => start_ns(stat.start_ticks) <= end_ns,
        (None, None) => true,
    }
}

fn read_stat(Pid(pid): Pid) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The command stands in parentheses and may hold any byte, parentheses too: the last one counts.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let command = String::from_utf8_lossy(stat.get(open + 1..close)?).into();
    let mut fields = str::from_utf8(stat.get(close + 1..)?).ok()?.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = Pid(fields.next()?.parse().ok()?);
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let threads: u64 = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    let cpu_ticks = user.saturating_add(system);
    Some(Stat { command, parent, start_ticks, cpu_ticks, is_over: dead && threads <= 1 })
}

/// Start time by the monotonic clock; `/proc` counts ticks of the clock that runs through suspend.
fn start_ns(ticks: u64) -> u64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let boot_ns = boot.tv_sec as u64 * 1_000_000_000 + boot.tv_nsec as u64;
    let suspended = boot_ns.saturating_sub(monotonic_ns());
    (ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())).saturating_sub(suspended)
}

#[cfg(test)]
mod tests;
