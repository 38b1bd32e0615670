//! What one process was over time. In: programs it began and mappings it made, each with its time. Out: what an address
//! meant at a time.
//!
//! Events do not tell of `munmap`, so a mapping lasts until another takes its addresses. What was there before is kept for
//! a while, since stacks are looked up later than they were taken: a library that was closed must not lend its names to the
//! one that was opened in its place, nor the other way round.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Pid;
use super::mappings::{Mapping, Mappings};
use super::perf_map::PerfMaps;

/// Programs that one process became of which the mappings are kept.
const IMAGES: usize = 64;

/// Mappings of one program that gave way to others and are kept. Opening and closing a library takes a tenth of a
/// millisecond at least, and stacks are looked up several times a second.
const REPLACED: usize = 1024;

/// How long they are kept: stacks are looked up within a second of being taken. One that waits longer for its interval's end is
/// of a thread that sleeps in it, and so the code it returns to is still mapped.
const REPLACED_NS: u64 = 10_000_000_000;

/// The program that a process runs from one exec to the next.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// When it began (CLOCK_MONOTONIC, ns); 0 if that is not known.
    pub since_ns: u64,
    /// The main thread's name.
    pub command: Arc<str>,
    /// Names of code that it makes at run time.
    pub perf_maps: Arc<PerfMaps>,
    /// Whether it was begun because events were lost: what it holds may have been mapped before.
    pub is_guess: bool,
    mappings: Arc<Mappings>,
    /// What gave way, with the time when it did, oldest first.
    replaced: VecDeque<(Mapping, u64)>,
    /// What gave way before this time was forgotten before its time; 0 if nothing was.
    forgotten_ns: u64,
}

impl Image {
    /// A program of which nothing is mapped yet.
    pub fn new(since_ns: u64, command: Arc<str>) -> Self {
        Self {
            since_ns,
            command,
            perf_maps: Arc::default(),
            is_guess: false,
            mappings: Arc::default(),
            replaced: VecDeque::new(),
            forgotten_ns: 0,
        }
    }

    /// The same program in a process forked from this one: it has what is mapped now.
    pub fn inherited(&self, at_ns: u64) -> Self {
        Self {
            perf_maps: Arc::new(self.perf_maps.inherited()),
            mappings: self.mappings.clone(),
            ..Self::new(at_ns, self.command.clone())
        }
    }

    /// Perhaps the same program, perhaps another: events were lost.
    pub fn again(self, since_ns: u64, command: Arc<str>) -> Self {
        Self { is_guess: true, perf_maps: self.perf_maps, ..Self::new(since_ns, command) }
    }

    /// What is mapped now.
    pub fn mappings(&self) -> &Arc<Mappings> {
        &self.mappings
    }

    /// Takes over what another process has mapped.
    pub fn adopt(&mut self, other: &Self) {
        self.mappings = other.mappings.clone();
        self.perf_maps = Arc::new(other.perf_maps.inherited());
    }

    /// Adds a mapping.
    pub fn map(&mut self, mapping: Mapping) -> Mapped {
        let mut mapped = Mapped { replaces: false, forgets: 0 };
        if self.mappings.hold(&mapping) {
            // Runtimes change the protection of their code all the time.
            return mapped;
        }
        let (at_ns, added) = (mapping.since_ns, mapping.clone());
        let gone = Arc::make_mut(&mut self.mappings).insert(mapping);
        mapped.replaces = gone.iter().any(|gone| !gone.means_the_same(&added));
        self.replaced.extend(gone.into_iter().map(|gone| (gone, at_ns)));
        while self.replaced.front().is_some_and(|(_, until_ns)| until_ns.saturating_add(REPLACED_NS) < at_ns) {
            self.replaced.pop_front();
        }
        while self.replaced.len() > REPLACED {
            if let Some((_, until_ns)) = self.replaced.pop_front() {
                self.forgotten_ns = self.forgotten_ns.max(until_ns);
                mapped.forgets += 1;
            }
        }
        mapped
    }

    /// What covered an address at a time.
    pub fn find(&self, address: u64, at_ns: u64) -> Option<&Mapping> {
        match self.mappings.find(address) {
            Some(mapping) if mapping.since_ns <= at_ns => Some(mapping),
            _ if at_ns < self.forgotten_ns => None,
            _ => {
                let covers = |mapping: &Mapping| mapping.start <= address && address < mapping.end;
                let mut before = self.replaced.iter().rev().map(|(mapping, _)| mapping);
                before.find(|mapping| covers(mapping) && mapping.since_ns <= at_ns)
            }
        }
    }
}

/// What a new mapping did to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    /// Whether some address means something else from now on.
    pub replaces: bool,
    /// Mappings that were forgotten although somebody may still ask for them.
    pub forgets: u64,
}

/// One process, from fork to exit.
#[derive(Debug)]
pub(super) struct Life {
    /// When it began (CLOCK_MONOTONIC, ns).
    pub start_ns: u64,
    /// The same as `/proc/PID/stat` says it, if that was read.
    pub start_ticks: Option<u64>,
    /// When its main thread ended, unless the process is seen to live on.
    pub end_ns: Option<u64>,
    /// Whether its main thread has ended before others.
    pub outlives_main_thread: bool,
    /// Who forked it.
    pub parent: Option<Pid>,
    /// When its start time was last compared.
    pub checked_ns: u64,
    /// When its mappings were last read.
    pub read_ns: u64,
    /// When names of its code were last looked for.
    pub perf_map_tried_ns: u64,
    /// Oldest first.
    images: VecDeque<Image>,
    /// Whether images were dropped before the first of these.
    dropped: bool,
}

impl Life {
    /// A process that begins with this program.
    pub fn new(start_ns: u64, image: Image) -> Self {
        Self {
            start_ns,
            start_ticks: None,
            end_ns: None,
            outlives_main_thread: false,
            parent: None,
            checked_ns: start_ns,
            read_ns: 0,
            perf_map_tried_ns: 0,
            images: VecDeque::from([image]),
            dropped: false,
        }
    }

    /// The program it runs now.
    pub fn current(&self) -> Option<&Image> {
        self.images.back()
    }

    /// As above.
    pub fn current_mut(&mut self) -> Option<&mut Image> {
        self.images.back_mut()
    }

    /// What it began with, told after it was seen; what became of it is told next.
    pub fn begin_with(&mut self, image: Image) {
        self.images = VecDeque::from([image]);
    }

    /// It became another program. Whether an older one was forgotten for that.
    pub fn begin_image(&mut self, image: Image) -> bool {
        let full = self.images.len() == IMAGES;
        if full {
            self.images.pop_front();
            self.dropped = true;
        }
        self.images.push_back(image);
        full
    }

    /// Takes the program back that was begun last.
    pub fn end_image(&mut self) {
        if self.images.len() > 1 {
            self.images.pop_back();
        }
    }

    /// The program it ran at a time. Before its first one is known that is taken to be the first.
    pub fn image_at(&self, at_ns: u64) -> Option<&Image> {
        self.images.iter().rfind(|image| image.since_ns <= at_ns).or_else(|| self.images.front())
    }

    /// What covered an address at a time, and in which program.
    pub fn find(&self, address: u64, at_ns: u64) -> Option<(&Image, &Mapping)> {
        let at = match self.images.iter().rposition(|image| image.since_ns <= at_ns) {
            Some(at) => at,
            None if self.dropped => return None,
            None => 0,
        };
        let image = self.images.get(at)?;
        if let Some(mapping) = image.find(address, at_ns) {
            return Some((image, mapping));
        }
        // Whose beginning nobody knows may have begun before.
        let mut guesses = self.images.iter().skip(at + 1).take_while(|image| image.is_guess);
        guesses.find_map(|image| Some((image, image.find(address, at_ns)?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::*;
    use crate::process::{FileIdentity, MappingKind, ModuleId, Modules};

    /// Mappings of a few files, told apart by their module's number.
    struct Files(Vec<MappingKind>);

    impl Files {
        fn new(count: u64) -> Self {
            let mut modules = Modules::new(0);
            let module = |inode| {
                let file = FileIdentity { inode, ..FileIdentity::default() };
                MappingKind::Module(modules.module(file, "gone".as_ref(), (0, 1), &[]))
            };
            Self((1..=count).map(module).collect())
        }

        fn mapping(&self, file: usize, start: u64, end: u64, since_ns: u64) -> Mapping {
            Mapping { start, end, offset: start, since_ns, kind: self.0[file].clone() }
        }
    }

    fn module(found: Option<&Mapping>) -> Option<ModuleId> {
        match &found?.kind {
            MappingKind::Module(module) => Some(module.id()),
            MappingKind::Vdso | MappingKind::Anonymous => None,
        }
    }

    #[test]
    fn a_library_in_the_place_of_another_has_its_names_only_from_then_on() {
        let (files, mut image) = (Files::new(2), Image::new(0, "it".into()));
        let id = |file: usize| module(Some(&files.mapping(file, 0, 1, 0)));
        assert!(!image.map(files.mapping(0, 0x1000, 0x3000, 10)).replaces);
        assert!(image.map(files.mapping(1, 0x1000, 0x2000, 20)).replaces);
        assert!(image.map(files.mapping(0, 0x1000, 0x2000, 30)).replaces);
        assert!(!image.map(files.mapping(0, 0x1000, 0x2000, 40)).replaces, "the same again");
        let at = |address, at_ns| module(image.find(address, at_ns));
        assert_eq!([at(0x1800, 15), at(0x1800, 20), at(0x1800, 29), at(0x1800, 35)], [id(0), id(1), id(1), id(0)]);
        assert_eq!(at(0x2800, 25), id(0), "what was not taken stays");
        assert_eq!((at(0x1800, 9), at(0x2800, 9)), (None, None), "nothing was there before");
        assert_eq!(at(0x1800, u64::MAX), id(0));
    }

    #[test]
    fn what_was_forgotten_is_unknown_and_not_named_by_what_came_later() {
        let (files, mut image) = (Files::new(2), Image::new(0, "it".into()));
        let forgets: u64 =
            (0..3000).map(|n| image.map(files.mapping(n as usize % 2, 0x1000, 0x2000, n + 1)).forgets).sum();
        assert_eq!(forgets, 2999 - REPLACED as u64);
        assert!(image.find(0x1800, 100).is_none());
        for at_ns in [2500, 2501, 2999, 3000] {
            let wanted = module(Some(&files.mapping((at_ns as usize - 1) % 2, 0, 1, 0)));
            assert_eq!(module(image.find(0x1800, at_ns)), wanted, "{at_ns}");
        }
        let later = 3000 + REPLACED_NS + 1;
        assert_eq!(image.map(files.mapping(0, 0x1000, 0x2000, later)), Mapped { replaces: true, forgets: 0 });
        assert_eq!(image.replaced.len(), 1, "what is old goes uncounted");
    }

    #[test]
    fn a_process_that_execs_without_end_does_not_lend_old_work_new_names() {
        let mut life = Life::new(1, Image::new(1, "first".into()));
        let files = Files::new(1);
        let dropped = (2..200).filter(|n| {
            let mut image = Image::new(n * 10, format!("program {n}").into());
            image.map(files.mapping(0, 0x1000, 0x2000, n * 10));
            life.begin_image(image)
        });
        assert_eq!(dropped.count(), 199 - IMAGES);
        assert!(life.find(0x1800, 25).is_none());
        assert_eq!(life.find(0x1800, 1985).map(|(image, _)| image.command.clone()).as_deref(), Some("program 198"));
        assert!(life.find(0x1800, 1995).is_some());
    }

    #[test]
    fn only_what_was_begun_for_want_of_events_stands_in_for_the_time_before() {
        for is_guess in [false, true] {
            let files = Files::new(1);
            let mut life = Life::new(1, Image::new(1, "it".into()));
            let mut image = Image { is_guess, ..Image::new(100, "it".into()) };
            image.map(files.mapping(0, 0x1000, 0x2000, 0));
            life.begin_image(image);
            assert_eq!(life.find(0x1800, 50).is_some(), is_guess);
        }
    }

    proptest! {
        #[test]
        fn every_address_means_at_every_time_what_was_mapped_last_before_it(
            ranges in prop::collection::vec((0_usize..4, 0_u64..24, 1_u64..12), 1..60),
        ) {
            let (files, mut image) = (Files::new(4), Image::new(0, "it".into()));
            // Row by time: which file each address was last mapped to.
            let mut model = vec![[None; 36]];
            for (time, (file, start, length)) in ranges.iter().enumerate() {
                image.map(files.mapping(*file, *start, start + length, time as u64 + 1));
                let mut row = model[time];
                for address in *start..start + length {
                    row[address as usize] = module(Some(&files.mapping(*file, 0, 1, 0)));
                }
                model.push(row);
            }
            for (time, row) in model.iter().enumerate() {
                for (address, expected) in row.iter().enumerate() {
                    let found = module(image.find(address as u64, time as u64));
                    prop_assert_eq!(found, *expected, "address {} at {}", address, time);
                }
            }
        }
    }
}
