//! The maps that the walk of user stacks reads: where tables and mappings are laid out for the kernel programs.
//!
//! How they lie there is told in [`profiler_ebpf::unwind::storage`]; who lays them out is the process room.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::maps::{HashMap, MapData, MapError};
use aya_obj::generated::{
    BPF_F_MMAPABLE,
    bpf_cmd::{BPF_MAP_CREATE, BPF_MAP_UPDATE_BATCH, BPF_MAP_UPDATE_ELEM},
    bpf_map_type::BPF_MAP_TYPE_ARRAY,
};
use profiler_ebpf::{
    Control,
    unwind::{
        ProcessEntry, Rule, TableEntry,
        lookup::Segments,
        storage::{PLACE_BITS, SEGMENT_BYTES, SEGMENTS},
    },
};

use super::{KernelError, mapped::MappedArray, sys};

/// 32-bit words of a segment.
const SEGMENT_WORDS: usize = SEGMENT_BYTES / 4;

/// One segment, seen as memory.
type Segment = MappedArray<u64>;

/// Where new segments and processes are made known.
enum Programs {
    Loaded {
        segments: OwnedFd,
        processes: HashMap<MapData, u32, [u32; 4]>,
        control: MappedArray<Control>,
    },
    /// There are none: memory that only we see.
    #[cfg(test)]
    None(std::collections::BTreeMap<u32, ProcessEntry>),
}

/// The maps, writable. One owner.
pub struct UnwindMaps {
    programs: Programs,
    segments: Vec<Segment>,
    /// So many of them, from the first on, are found by the programs.
    announced: Arc<AtomicU32>,
    tables: MappedArray<TableEntry>,
    rules: MappedArray<u64>,
}

impl std::fmt::Debug for UnwindMaps {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UnwindMaps").field("segments", &self.segments.len()).finish_non_exhaustive()
    }
}

impl UnwindMaps {
    pub(super) fn new(
        segments: OwnedFd,
        processes: HashMap<MapData, u32, [u32; 4]>,
        control: MappedArray<Control>,
        tables: MappedArray<TableEntry>,
        rules: MappedArray<u64>,
    ) -> Self {
        let programs = Programs::Loaded { segments, processes, control };
        Self { programs, segments: Vec::new(), announced: Arc::default(), tables, rules }
    }

    /// Makes one more segment, empty: its number, and what is left to do before the programs find it. It can be written at once.
    pub fn add_segment(&mut self) -> Result<(u32, Announcement), KernelError> {
        let failed = |source| KernelError::Map { map: "UNWIND_SEGMENTS", source };
        let number = self.segments.len() as u32;
        if number >= SEGMENTS {
            return Err(failed(io::Error::other("all segments are in use")));
        }
        let (segment, maps) = match &self.programs {
            Programs::Loaded { segments, .. } => {
                let fd = create_segment().map_err(failed)?;
                let segment = MappedArray::map("UNWIND_SEGMENTS", fd.as_fd(), SEGMENT_BYTES / 8)?;
                (segment, Some((segments.try_clone().map_err(failed)?, fd)))
            }
            #[cfg(test)]
            Programs::None(_) => {
                let (_, segment) = super::mapped::testing::in_memory(SEGMENT_BYTES / 8)
                    .map_err(|error| failed(io::Error::other(error.to_string())))?;
                (segment, None)
            }
        };
        self.segments.push(segment);
        Ok((number, Announcement { number, maps, announced: self.announced.clone() }))
    }

    /// Number of segments.
    pub fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Whether the programs find what lies at a place.
    pub fn is_announced(&self, place: u32) -> bool {
        place >> PLACE_BITS < self.announced.load(Ordering::Acquire)
    }

    /// Stores words from a place on. What runs over the end of the segment is left out.
    pub fn write(&self, place: u32, words: impl IntoIterator<Item = u32>) {
        let Some(base) = self.segments.get((place >> PLACE_BITS) as usize).and_then(|segment| segment.at(0)) else {
            return;
        };
        let first = (place & ((1 << PLACE_BITS) - 1)) as usize;
        for (at, word) in (first..SEGMENT_WORDS).zip(words) {
            // SAFETY: `at` is below the segment's number of words, and the segment is mapped as long as `self` lives.
            unsafe { base.cast::<u32>().add(at).write_volatile(word) };
        }
    }

    /// Stores a table's entry, its state last: what the entry names must be there already.
    pub fn set_table(&self, number: u32, entry: TableEntry) {
        let Some(place) = self.tables.at(number as usize) else { return };
        // SAFETY: inside the mapping and aligned.
        unsafe {
            (&raw mut (*place).directory).write_volatile(entry.directory);
            (&raw mut (*place).first_page).write_volatile(entry.first_page);
            (&raw mut (*place).pages).write_volatile(entry.pages);
        }
        // Rows, directory and the rest of the entry become visible before the state does.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        // SAFETY: as above.
        unsafe { (&raw mut (*place).state).write_volatile(entry.state) };
    }

    /// Changes a table's state alone.
    pub fn set_table_state(&self, number: u32, state: u32) {
        if let Some(place) = self.tables.at(number as usize) {
            // SAFETY: inside the mapping and aligned.
            unsafe { (&raw mut (*place).state).write_volatile(state) };
        }
    }

    /// Stores a rule.
    pub fn set_rule(&self, index: u16, rule: Rule) {
        self.rules.write(usize::from(index), rule.to_word());
    }

    /// Makes a process's mappings known.
    pub fn set_process(&mut self, entry: ProcessEntry) -> Result<(), KernelError> {
        match &mut self.programs {
            Programs::Loaded { processes, control, .. } => {
                let inserted =
                    processes.insert(entry.pid, [entry.pid, entry.place, entry.mappings, entry.generation], 0);
                begin_generation(control);
                inserted.map_err(|error| wrong(&error))
            }
            #[cfg(test)]
            Programs::None(processes) => {
                processes.insert(entry.pid, entry);
                Ok(())
            }
        }
    }

    /// Forgets a process. Whether it was known.
    pub fn forget_process(&mut self, pid: u32) -> bool {
        match &mut self.programs {
            Programs::Loaded { processes, control, .. } => {
                let known = processes.remove(&pid).is_ok();
                begin_generation(control);
                known
            }
            #[cfg(test)]
            Programs::None(processes) => processes.remove(&pid).is_some(),
        }
    }

    /// What waits until no program reads what was taken out of use before.
    pub fn grace_period(&self) -> GracePeriod {
        match &self.programs {
            Programs::Loaded { .. } => GracePeriod { there_are_programs: true },
            #[cfg(test)]
            Programs::None(_) => GracePeriod { there_are_programs: false },
        }
    }

    /// Waits until no program reads what was taken out of use before.
    pub fn wait_for_programs(&self) {
        self.grace_period().wait();
    }

    /// Maps of our own, which no program sees.
    #[cfg(test)]
    pub fn in_memory() -> Result<Self, Box<dyn std::error::Error>> {
        use profiler_ebpf::unwind::{rule::RULES, storage::TABLES};
        let (_, tables) = super::mapped::testing::in_memory(TABLES as usize)?;
        let (_, rules) = super::mapped::testing::in_memory(RULES)?;
        let programs = Programs::None(std::collections::BTreeMap::new());
        Ok(Self { programs, segments: Vec::new(), announced: Arc::default(), tables, rules })
    }

    /// What was made known of a process.
    #[cfg(test)]
    pub fn process(&self, pid: u32) -> Option<ProcessEntry> {
        match &self.programs {
            Programs::Loaded { .. } => None,
            Programs::None(processes) => processes.get(&pid).copied(),
        }
    }
}

/// A segment that the programs do not find yet.
#[derive(Debug)]
pub struct Announcement {
    number: u32,
    /// The map of maps and the segment; nothing without programs.
    maps: Option<(OwnedFd, OwnedFd)>,
    announced: Arc<AtomicU32>,
}

impl Announcement {
    /// Lets the programs find these segments, in ascending order. It takes some ten milliseconds: the kernel waits for all programs
    /// whenever a map of maps changes, in one call or, on kernels before 5.19, in one for each segment.
    pub fn make(all: &[Self]) -> Result<(), KernelError> {
        let failed = |source| KernelError::Map { map: "UNWIND_SEGMENTS", source };
        let in_maps =
            all.iter().filter_map(|one| one.maps.as_ref().map(|(outer, segment)| (outer, one.number, segment)));
        let (numbers, segments): (Vec<u32>, Vec<RawFd>) =
            in_maps.clone().map(|(_, number, segment)| (number, segment.as_raw_fd())).unzip();
        if let Some((outer, ..)) = in_maps.clone().next()
            && put_all_into(outer, &numbers, &segments).is_err()
        {
            for (outer, number, segment) in in_maps {
                put_into(outer, number, segment).map_err(failed)?;
            }
        }
        for one in all {
            one.announced.fetch_max(one.number + 1, Ordering::Release);
        }
        Ok(())
    }
}

/// Waits for the programs, on whatever thread.
#[derive(Debug, Clone, Copy)]
pub struct GracePeriod {
    there_are_programs: bool,
}

impl GracePeriod {
    /// Waits, for some ten milliseconds, until every program that was running has ended.
    pub fn wait(self) {
        if self.there_are_programs {
            sys::wait_for_programs();
        }
    }
}

/// The walk in userspace reads what the programs read.
impl<'maps> Segments for &'maps UnwindMaps {
    type Segment = &'maps MappedArray<u64>;

    fn segment(&self, number: u32) -> Option<Self::Segment> {
        self.segments.get(number as usize)
    }

    fn word(&self, segment: Self::Segment, place: u32) -> u32 {
        let long = self.long(segment, place & !1);
        if place & 1 == 0 { long as u32 } else { (long >> 32) as u32 }
    }

    fn long(&self, segment: Self::Segment, place: u32) -> u64 {
        let at = (place & ((1 << PLACE_BITS) - 1)) as usize / 2;
        segment.read(at).unwrap_or(0)
    }

    fn table(&self, number: u32) -> Option<TableEntry> {
        self.tables.read(number as usize)
    }

    fn rule(&self, index: u16) -> Option<u64> {
        self.rules.read(usize::from(index))
    }
}

/// What threads remember of their mappings is looked up anew from here on.
fn begin_generation(control: &MappedArray<Control>) {
    let Some(place) = control.at(0) else { return };
    // SAFETY: inside the mapping and aligned; only the one owner of the maps writes it.
    let generation = unsafe { AtomicU32::from_ptr(&raw mut (*place).mappings_generation) };
    let next = generation.load(Ordering::Relaxed).checked_add(1).unwrap_or(1);
    // What was changed in the maps becomes visible before it.
    generation.store(next, Ordering::Release);
}

fn wrong(error: &MapError) -> KernelError {
    KernelError::Map { map: "UNWIND_PROCESSES", source: io::Error::other(error.to_string()) }
}

/// An array of one value that can be mapped, as the programs' array of maps expects them.
fn create_segment() -> io::Result<OwnedFd> {
    let mut attr = sys::empty_attr();
    // SAFETY: map creation reads this member of the union; plain integers, zero before.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = BPF_MAP_TYPE_ARRAY as u32;
    create.key_size = 4;
    create.value_size = SEGMENT_BYTES as u32;
    create.max_entries = 1;
    create.map_flags = BPF_F_MMAPABLE;
    for (to, from) in create.map_name.iter_mut().zip(b"unwind_segment") {
        *to = *from as libc::c_char;
    }
    let fd = sys::bpf(BPF_MAP_CREATE as u32, &mut attr)?;
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn put_into(outer: &OwnedFd, number: u32, inner: &OwnedFd) -> io::Result<()> {
    let (key, value) = (number, inner.as_raw_fd());
    let mut attr = sys::empty_attr();
    // SAFETY: an update reads this member of the union; plain integers, zero before.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = outer.as_raw_fd() as u32;
    update.key = (&raw const key) as u64;
    update.__bindgen_anon_1.value = (&raw const value) as u64;
    sys::bpf(BPF_MAP_UPDATE_ELEM as u32, &mut attr).map(drop)
}

fn put_all_into(outer: &OwnedFd, numbers: &[u32], inner: &[RawFd]) -> io::Result<()> {
    let mut attr = sys::empty_attr();
    // SAFETY: a batch update reads this member of the union; plain integers, zero before.
    let update = unsafe { &mut attr.batch };
    update.map_fd = outer.as_raw_fd() as u32;
    update.keys = numbers.as_ptr() as u64;
    update.values = inner.as_ptr() as u64;
    update.count = numbers.len().min(inner.len()) as u32;
    sys::bpf(BPF_MAP_UPDATE_BATCH as u32, &mut attr).map(drop)
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::unwind::{
        Stop, Tables,
        lookup::Lookup,
        rule,
        storage::{PAGE_BITS, table_state},
    };

    use super::*;

    #[test]
    fn what_is_laid_out_is_what_the_search_finds() -> Result<(), Box<dyn std::error::Error>> {
        let mut maps = UnwindMaps::in_memory()?;
        assert_eq!(maps.add_segment()?.0, 0);
        assert_eq!(maps.add_segment()?.0, 1);
        let second = 1 << PLACE_BITS;
        // One page of two rows, its directory, and a list of one mapping.
        maps.write(second + 20, [0, 0x20 | 5 << 16]);
        maps.write(second, [second + 20, 2]);
        maps.write(second + 4, [0x1000, 0, 0x2000, 0, 0x3_0000, 0, 7, 0]);
        maps.set_rule(5, Rule::rsp(24));
        maps.set_rule(rule::NO_INFO, Rule::no_info());
        maps.set_table(
            7,
            TableEntry { state: table_state::READY, directory: second, first_page: 0x3_0000 >> PAGE_BITS, pages: 1 },
        );
        let mut lookup = Lookup::new(&maps, second + 4, 1);
        assert_eq!(lookup.rule(0x101f), Ok(Rule::no_info()));
        assert_eq!(lookup.rule(0x1020), Ok(Rule::rsp(24)));
        maps.set_table_state(7, table_state::NO_ROOM);
        assert_eq!(Lookup::new(&maps, second + 4, 1).rule(0x1020), Err(Stop::NoRoom));
        Ok(())
    }
}
