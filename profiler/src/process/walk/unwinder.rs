//! Everything that the walk of user stacks reads, and its owner. In: mappings of processes as they change, files as they are
//! mapped. Out: the kernel's memory filled within its budget, and stacks of threads that sleep.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_ebpf::unwind::{
    Mapping, Row, Rule, Stop,
    lookup::Lookup,
    rule::RULES,
    storage::{MAPPINGS, NO_FILE, PLACE_BITS, PROCESSES, SEGMENT_BYTES, SEGMENTS, TABLES},
};

use super::{
    builder::{Builder, Built, Subject},
    lists::{Lists, Unused},
    patience::Patience,
    places::{Extent, Places},
    rules::Rules,
    tables::{self, Laid, Progress, Tables},
};
use crate::{
    kernel::UnwindMaps,
    process::{ForeignFiles, MappingKind, Mappings, ModuleId, Pid, Registers, UserStack, monotonic_ns, walk_thread},
};

/// 32-bit words of a mapping in a list.
const MAPPING_WORDS: u32 = size_of::<Mapping>() as u32 / 4;

/// Memory of one process in the kernel's table of processes, with what the kernel keeps beside it, in bytes.
const PROCESS_BYTES: u64 = 96;

/// A table stays at least this long: with less room than what is in use, building would never end.
const RESIDENCE_NS: u64 = 10_000_000_000;

/// What is no longer pointed to is given away this much later at the earliest: a child may have inherited it a moment ago.
const RETIRED_NS: u64 = 50_000_000;

/// Longest wait for a grace period when the budget is used up.
const GRACE_PATIENCE: Duration = Duration::from_millis(200);

/// So many words out of use are worth a grace period before anybody is in need of room.
const WORTH_RECLAIMING: u64 = (1 << PLACE_BITS) / 4;

/// How much may be taken, and what is built before it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnwinderOptions {
    /// Most memory for everything that stacks are walked by, in bytes.
    pub budget_bytes: u64,
    /// Tables of programs that run already are built ahead until they take this much.
    pub ahead_bytes: u64,
}

impl Default for UnwinderOptions {
    fn default() -> Self {
        Self { budget_bytes: 32_000_000, ahead_bytes: 5_000_000 }
    }
}

/// What the unwinder did, and what it could not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnwinderCounters {
    /// Tables built.
    pub built: u64,
    /// Their rows.
    pub rows: u64,
    /// Files that no table could be built of.
    pub bad: u64,
    /// Tables that found no room.
    pub no_room: u64,
    /// Lists of mappings that found no room.
    pub lists_without_room: u64,
    /// Processes that found no room.
    pub processes_without_room: u64,
    /// Mappings beyond the most that a process may have.
    pub mappings_cut: u64,
    /// Rules for which there was no index left.
    pub rules_refused: u64,
}

/// When the tables of a process's files are to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// At once: it is about to run.
    Now,
    /// When it is seen to run, or there is time.
    Later,
}

/// A file that says nothing.
struct Nothing;

impl tables::Rows for Nothing {
    fn first_page(&self) -> u32 {
        0
    }

    fn pages(&self) -> impl ExactSizeIterator<Item = &[Row]> {
        std::iter::empty::<&[Row]>()
    }

    fn rules(&self) -> &[Rule] {
        &[]
    }
}

/// The owner of all that stacks are walked by.
#[derive(Debug)]
pub struct Unwinder {
    maps: UnwindMaps,
    options: UnwinderOptions,
    places: Places,
    rules: Rules,
    tables: Tables,
    lists: Lists,
    builder: Builder,
    patience: Patience,
    retired: VecDeque<(u64, Unused)>,
    retired_words: u64,
    /// Programs that run already, those first that run most.
    ahead: VecDeque<(Arc<Mappings>, Ask)>,
    counters: UnwinderCounters,
    rows_told: u64,
    refused_told: u64,
}

impl Unwinder {
    /// Takes the maps over. `bell` is rung when [`Self::work`] has something to do.
    pub fn new(maps: UnwindMaps, options: UnwinderOptions, bell: &Arc<OwnedFd>) -> io::Result<Self> {
        let (rules, tables) = (Rules::new(&maps), Tables::new(&maps));
        let mut this = Self {
            places: Places::default(),
            rules,
            tables,
            lists: Lists::default(),
            builder: Builder::spawn(bell)?,
            patience: Patience::spawn(bell)?,
            retired: VecDeque::new(),
            retired_words: 0,
            ahead: VecDeque::new(),
            counters: UnwinderCounters::default(),
            rows_told: 0,
            refused_told: 0,
            options,
            maps,
        };
        this.ask(tables::VDSO, Subject::Vdso);
        Ok(this)
    }

    /// What was done since the last call.
    pub fn take_counters(&mut self) -> UnwinderCounters {
        let rows = self.tables.rows();
        let refused = self.rules.refused();
        let taken = UnwinderCounters {
            rows: rows - std::mem::replace(&mut self.rows_told, rows),
            rules_refused: refused - std::mem::replace(&mut self.refused_told, refused),
            ..self.counters
        };
        self.counters = UnwinderCounters::default();
        taken
    }

    /// Memory of segments and processes, in bytes: what comes to the maps' fixed sizes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.maps.segments()) * SEGMENT_BYTES as u64 + self.lists.processes() as u64 * PROCESS_BYTES
    }

    /// Makes a process's mappings known, where they are not already.
    pub fn publish(&mut self, pid: Pid, mappings: &Arc<Mappings>, ask: Ask) {
        if self.lists.is_current(pid, mappings) {
            return;
        }
        if mappings.is_empty() {
            self.forget(pid);
            return;
        }
        self.tables.tick(monotonic_ns());
        if !self.lists.has(mappings) && !self.lay_out_list(mappings) {
            self.counters.lists_without_room += 1;
            return;
        }
        if let Some((entry, before)) = self.lists.assign(pid, mappings) {
            if let Err(error) = self.maps.set_process(entry) {
                tracing::debug!("process {} is walked without its mappings: {error}", pid.0);
                self.counters.processes_without_room += 1;
                let unused = self.lists.forget(pid);
                self.retire(unused);
            }
            self.retire(before);
        }
        if ask == Ask::Now {
            self.want(mappings);
        }
    }

    /// A process is gone.
    pub fn forget(&mut self, pid: Pid) {
        if let Some(unused) = self.lists.forget(pid) {
            self.retire(Some(unused));
        }
        self.maps.forget_process(pid.0);
    }

    /// Has the tables built that these mappings name, unless they are there, or cannot be.
    pub fn want(&mut self, mappings: &Mappings) {
        let now_ns = monotonic_ns();
        self.tables.tick(now_ns);
        for mapping in mappings.iter() {
            let MappingKind::Module(module) = &mapping.kind else { continue };
            let number = if module.file().is_some() { self.tables.of(module.id()) } else { None };
            let Some(number) = number else { continue };
            let due = match self.tables.progress(number) {
                Progress::Unasked => true,
                Progress::NoRoom(at_ns) => now_ns.saturating_sub(at_ns) >= RESIDENCE_NS,
                Progress::Asked | Progress::Ready | Progress::Bad => false,
            };
            if due {
                self.ask(number, Subject::Module(module.clone()));
            }
        }
    }

    /// Has the tables of programs that run already built: those that are needed at once in any case, the others as long as they
    /// fit in what is set aside for that.
    pub fn build_ahead(&mut self, programs: impl IntoIterator<Item = (Arc<Mappings>, Ask)>) {
        self.ahead.extend(programs);
        self.work();
    }

    /// Whether something is still being built.
    pub fn is_building(&self) -> bool {
        self.builder.under_way() > 0 || self.tables.has_unannounced()
    }

    /// A file was seen in a stack.
    pub fn touch(&mut self, module: ModuleId) {
        self.tables.touch(module);
    }

    /// Takes in what has been built, and what no program reads any more.
    pub fn work(&mut self) {
        self.take_back();
        self.tables.announce(&self.maps);
        if self.retired_words >= WORTH_RECLAIMING {
            self.reclaim();
        }
        while let Some((number, built)) = self.builder.take() {
            let laid = match built {
                Built::Table(table) => self.lay_out_table(number, &*table),
                Built::Nothing => self.lay_out_table(number, &Nothing),
                // Asked for again when it is seen to be needed.
                Built::Unanswered => {
                    self.tables.set_progress(number, Progress::Unasked, &self.maps);
                    continue;
                }
                Built::Bad => {
                    self.counters.bad += 1;
                    self.tables.set_progress(number, Progress::Bad, &self.maps);
                    continue;
                }
            };
            if laid {
                self.counters.built += 1;
            } else {
                self.counters.no_room += 1;
                self.tables.set_progress(number, Progress::NoRoom(monotonic_ns()), &self.maps);
            }
        }
        while self.builder.under_way() <= 1 {
            let there_is_room = self.used_bytes() < self.options.ahead_bytes;
            let Some((mappings, _)) = self.ahead.pop_front_if(|(_, ask)| *ask == Ask::Now || there_is_room) else {
                break;
            };
            self.want(&mappings);
        }
    }

    /// To be called about once a second: forgets what nobody has any more.
    pub fn tidy(&mut self, is_alive: impl Fn(ModuleId) -> bool) {
        self.reclaim();
        let unused = self.tables.forget_unnamed(is_alive, &self.maps);
        if !unused.is_empty() {
            let unused = unused.into_iter().map(|extent| Unused { extent, tables: Vec::new() }).collect();
            self.patience.retire(self.maps.grace_period(), unused);
        }
    }

    /// Walks the stack of a thread that sleeps.
    pub fn walk(&self, files: &ForeignFiles, pid: Pid, registers: Registers) -> UserStack {
        match self.lists.of(pid) {
            Some((place, count)) => walk_thread(files, pid, registers, &mut Lookup::new(&self.maps, place, count)),
            None => UserStack { addresses: vec![registers.ip], stop: Stop::NoProcess },
        }
    }

    fn used_bytes(&self) -> u64 {
        u64::from(self.maps.segments()) * SEGMENT_BYTES as u64 - self.places.free_words() * 4
    }

    fn ask(&mut self, number: u32, subject: Subject) {
        if self.builder.ask(number, subject) {
            self.tables.set_progress(number, Progress::Asked, &self.maps);
        }
    }

    fn lay_out_list(&mut self, mappings: &Arc<Mappings>) -> bool {
        let mut list: Vec<Mapping> = Vec::with_capacity(mappings.len());
        let mut numbers = Vec::new();
        for mapping in mappings.iter() {
            if list.len() == MAPPINGS as usize {
                self.counters.mappings_cut += (mappings.len() - list.len()) as u64;
                break;
            }
            let (table, offset) = match &mapping.kind {
                MappingKind::Module(module) if module.file().is_some() => {
                    (self.tables.number(module.id(), &self.maps), mapping.offset)
                }
                MappingKind::Module(_) => (tables::BAD_FILE, mapping.offset),
                MappingKind::Vdso => (tables::VDSO, 0),
                MappingKind::Anonymous => (NO_FILE, 0),
            };
            if table != NO_FILE && !numbers.contains(&table) {
                numbers.push(table);
            }
            list.push(Mapping { start: mapping.start, end: mapping.end, offset, table, reserved: 0 });
        }
        let words = list.len() as u32 * MAPPING_WORDS;
        let Some(extent) = self.take(words) else { return false };
        let split = |long: u64| [long as u32, (long >> 32) as u32];
        self.maps.write(
            extent.place,
            list.iter().flat_map(|mapping| {
                [mapping.start, mapping.end, mapping.offset, u64::from(mapping.table)].into_iter().flat_map(split)
            }),
        );
        self.tables.named(&numbers);
        self.lists.add(mappings.clone(), extent, list.len() as u32, numbers);
        true
    }

    fn take(&mut self, words: u32) -> Option<Extent> {
        for _ in 0..4 {
            if let Some(extent) = self.places.take(words) {
                return Some(extent);
            }
            if !self.make_room(u64::from(words)) {
                break;
            }
        }
        None
    }

    fn lay_out_table(&mut self, number: u32, rows: &impl tables::Rows) -> bool {
        self.tables.tick(monotonic_ns());
        for _ in 0..6 {
            let laid = self.tables.lay_out(number, rows, &mut self.places, &mut self.rules, &self.maps);
            if laid == Laid::Yes {
                return true;
            }
            if !self.make_room(tables::words_of(rows)) {
                break;
            }
        }
        false
    }

    /// Segments that the budget leaves room for, beside what has a fixed size.
    fn most_segments(&self) -> u32 {
        let fixed = RULES as u64 * 8 + u64::from(TABLES) * 16 + u64::from(PROCESSES) * PROCESS_BYTES;
        let left = self.options.budget_bytes.saturating_sub(fixed) / SEGMENT_BYTES as u64;
        u32::try_from(left).unwrap_or(SEGMENTS).clamp(1, SEGMENTS)
    }

    /// Finds room: what was given up, then new segments, then what was used longest ago. False if there is none.
    fn make_room(&mut self, words: u64) -> bool {
        let before = self.places.free_words();
        self.take_back();
        if self.places.free_words() >= before + words {
            return true;
        }
        let wanted = u32::try_from((words >> PLACE_BITS) + 1).unwrap_or(SEGMENTS);
        let mut grown = false;
        for _ in 0..wanted {
            if self.maps.segments() >= self.most_segments() {
                break;
            }
            match self.maps.add_segment() {
                Ok((number, announcement)) => {
                    self.places.add_segment(number);
                    self.patience.announce(announcement);
                }
                Err(error) => {
                    tracing::warn!("no more memory for unwind tables: {error}");
                    break;
                }
            }
            grown = true;
        }
        if grown {
            return true;
        }
        // The budget is used up: now waiting is worth its time.
        self.reclaim();
        let began = Instant::now();
        while self.patience.is_waiting() && began.elapsed() < GRACE_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
            self.take_back();
        }
        if self.places.free_words() >= before + words {
            return true;
        }
        let spared_ns = monotonic_ns().saturating_sub(RESIDENCE_NS);
        let gone = self.tables.put_out(words, spared_ns, &self.maps);
        if gone.is_empty() {
            return self.places.free_words() > before;
        }
        self.maps.wait_for_programs();
        for extent in gone {
            self.places.give_back(extent);
        }
        true
    }

    fn retire(&mut self, unused: Option<Unused>) {
        if let Some(unused) = unused {
            self.retired_words += u64::from(unused.extent.words);
            self.retired.push_back((monotonic_ns(), unused));
        }
    }

    /// Has a grace period waited for, for what lists had that nobody has had for a while; one at a time.
    fn reclaim(&mut self) {
        if self.patience.is_waiting() {
            return;
        }
        let until_ns = monotonic_ns().saturating_sub(RETIRED_NS);
        let mut old = Vec::new();
        while let Some((_, unused)) = self.retired.pop_front_if(|(at_ns, _)| *at_ns <= until_ns) {
            self.retired_words -= u64::from(unused.extent.words);
            old.push(unused);
        }
        if !old.is_empty() {
            self.patience.retire(self.maps.grace_period(), old);
        }
    }

    /// Gives away what no program reads any more.
    fn take_back(&mut self) {
        while let Some(unused) = self.patience.take() {
            for unused in unused {
                self.places.give_back(unused.extent);
                self.tables.unnamed(&unused.tables);
            }
        }
    }
}
