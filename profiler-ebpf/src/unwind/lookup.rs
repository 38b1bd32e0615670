//! From an address to its rule: the process's mappings, the file's pages, the page's rows.
//!
//! Written over [`Segments`], so that the kernel programs (typed loads from maps) and userspace (the same memory, mapped) run
//! the same search.

use super::{
    Stop,
    rule::{NO_INFO, Rule},
    storage::{MAPPINGS, Mapping, NO_FILE, PAGE_BITS, PLACE_BITS, Page, ROWS, TableEntry, table_state},
    walk::Tables,
};

/// The memory that tables and mappings lie in.
pub trait Segments {
    /// One segment, found.
    type Segment: Copy;

    /// The segment that a place is in.
    fn segment(&self, number: u32) -> Option<Self::Segment>;

    /// The 32-bit word at a place in that segment; the number of the segment is ignored, and so is what runs over.
    fn word(&self, segment: Self::Segment, place: u32) -> u32;

    /// The 64-bit word that begins at a place, which is even.
    fn long(&self, segment: Self::Segment, place: u32) -> u64;

    /// A table's entry.
    fn table(&self, number: u32) -> Option<TableEntry>;

    /// A rule's word.
    fn rule(&self, index: u16) -> Option<u64>;

    /// [`last_mapping`]; the kernel programs put a call in between, which the verifier follows once.
    #[inline(always)]
    fn last_mapping(&self, place: u32, mappings: u32, address: u64) -> u32 {
        last_mapping(self, place, mappings, address)
    }

    /// [`last_row`]; as above.
    #[inline(always)]
    fn last_row(&self, place: u32, rows: u32, low: u64) -> u16 {
        last_row(self, place, rows, low)
    }
}

/// A mapping that was found, and the table of its file.
#[derive(Debug, Clone, Copy)]
struct Found {
    start: u64,
    end: u64,
    offset: u64,
    number: u32,
    table: TableEntry,
}

impl Found {
    const NONE: Self = Self {
        start: 0,
        end: 0,
        offset: 0,
        number: NO_FILE,
        table: TableEntry { state: table_state::ABSENT, directory: 0, first_page: 0, pages: 0 },
    };

    #[inline(always)]
    fn holds(&self, address: u64) -> bool {
        address >= self.start && address < self.end
    }
}

/// The list of a process's mappings, the mapping that the last address was in, and the one before: most frames of a stack share
/// theirs with their neighbour, and where a library calls back, a few frames lie between two of the same program.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<S> {
    segments: S,
    /// Place of the first mapping.
    place: u32,
    /// Number of mappings.
    mappings: u32,
    now: Found,
    before: Found,
}

impl<S: Segments> Lookup<S> {
    /// Searches a list of mappings.
    #[inline(always)]
    pub fn new(segments: S, place: u32, mappings: u32) -> Self {
        Self { segments, place, mappings, now: Found::NONE, before: Found::NONE }
    }

    /// Number of the table that the last address needed, or [`NO_FILE`].
    #[inline(always)]
    pub fn table_number(&self) -> u32 {
        self.now.number
    }

    #[inline(always)]
    fn find_mapping(&mut self, address: u64) -> Result<(), Stop> {
        let last = self.now;
        if self.before.holds(address) {
            only_here();
            self.now = self.before;
            self.before = last;
            return Ok(());
        }
        let Some(segment) = self.segments.segment(self.place >> PLACE_BITS) else { return Err(Stop::NoMapping) };
        if self.mappings == 0 {
            return Err(Stop::NoMapping);
        }
        let place = self.segments.last_mapping(self.place, self.mappings, address);
        let start = self.segments.long(segment, place);
        let end = self.segments.long(segment, place.wrapping_add(2));
        if address < start || address >= end {
            return Err(Stop::NoMapping);
        }
        let offset = self.segments.long(segment, place.wrapping_add(4));
        let number = self.segments.word(segment, place.wrapping_add(6));
        let table = match self.segments.table(number) {
            Some(entry) if number != NO_FILE => entry,
            _ => TableEntry { state: table_state::READY, directory: 0, first_page: 0, pages: 0 },
        };
        self.before = last;
        self.now = Found { start, end, offset, number, table };
        Ok(())
    }
}

impl<S: Segments> Tables for Lookup<S> {
    #[inline(always)]
    fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
        if !self.now.holds(address) {
            self.find_mapping(address)?;
        }
        let Found { start, offset, table, .. } = self.now;
        if table.state != table_state::READY {
            return Err(match table.state {
                table_state::NO_ROOM => Stop::NoRoom,
                table_state::BAD => Stop::BadFile,
                _ => Stop::NoTable,
            });
        }
        let index = search(&self.segments, table, (address - start).wrapping_add(offset));
        match self.segments.rule(index) {
            Some(word) => Ok(Rule::from_word(word)),
            None => Err(Stop::UnsupportedRule),
        }
    }
}

/// 32-bit words of a [`Mapping`].
const MAPPING_WORDS: u32 = size_of::<Mapping>() as u32 / 4;
/// 32-bit words of a [`Page`].
const PAGE_WORDS: u32 = size_of::<Page>() as u32 / 4;

/// Index of the rule of a file offset in a table that is ready.
#[inline(always)]
pub fn search<S: Segments>(segments: &S, table: TableEntry, offset: u64) -> u16 {
    let page = (offset >> PAGE_BITS).wrapping_sub(u64::from(table.first_page));
    if page >= u64::from(table.pages) {
        return NO_INFO;
    }
    let Some(segment) = segments.segment(table.directory >> PLACE_BITS) else { return NO_INFO };
    let entry = segments.long(segment, table.directory.wrapping_add((page as u32).wrapping_mul(PAGE_WORDS)));
    let (place, rows) = (entry as u32, (entry >> 32) as u32);
    if rows == 0 {
        return NO_INFO;
    }
    segments.last_row(place, rows, offset & u64::from(ROWS - 1))
}

/// Place of the last of a list's mappings that begins at or before an address, or of the first of all.
#[inline(always)]
pub fn last_mapping<S: Segments + ?Sized>(segments: &S, place: u32, mappings: u32, address: u64) -> u32 {
    let Some(segment) = segments.segment(place >> PLACE_BITS) else { return place };
    let mut place = place;
    let mut left = if mappings > MAPPINGS { MAPPINGS } else { mappings };
    let mut steps = 0;
    while left > 1 && steps <= MAPPINGS.ilog2() {
        let half = left >> 1;
        let middle = place.wrapping_add(half * MAPPING_WORDS);
        place = place.wrapping_add((half * MAPPING_WORDS) & all_if_at_most(segments.long(segment, middle), address));
        left -= half;
        steps += 1;
    }
    place
}

/// Rule of the last of a page's rows at or below the low bits of an offset; the first row of a page is at 0.
#[inline(always)]
pub fn last_row<S: Segments + ?Sized>(segments: &S, place: u32, rows: u32, low: u64) -> u16 {
    let Some(segment) = segments.segment(place >> PLACE_BITS) else { return NO_INFO };
    let mut place = place;
    let mut left = if rows > ROWS { ROWS } else { rows };
    let mut steps = 0;
    while left > 1 && steps <= PAGE_BITS {
        let half = left >> 1;
        let middle = place.wrapping_add(half);
        place = place.wrapping_add(half & all_if_at_most(u64::from(segments.word(segment, middle) & 0xffff), low));
        left -= half;
        steps += 1;
    }
    (segments.word(segment, place) >> 16) as u16
}

/// What follows is done where it stands, behind its condition: a compiler that copies on every frame, by selection, what one frame in
/// ten needs, makes each of them a third dearer.
#[inline(always)]
fn only_here() {
    #[cfg(target_arch = "bpf")]
    // SAFETY: no instruction.
    unsafe {
        core::arch::asm!("", options(nostack));
    }
}

/// All bits if `a <= b`, else none, without a branch: half of them would be mispredicted, ten times a frame.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn all_if_at_most(a: u64, b: u64) -> u32 {
    u32::from(a <= b).wrapping_neg()
}

/// As above. Addresses and offsets are far below 2^63, so the sign of the difference tells; the compiler must not see it, or it
/// would make a branch of it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn all_if_at_most(a: u64, b: u64) -> u32 {
    let mut difference = b;
    // SAFETY: arithmetic on one register.
    unsafe {
        core::arch::asm!(
            "{d} -= {a}",
            "{d} s>>= 63",
            "{d} ^= -1",
            d = inout(reg) difference, a = in(reg) a, options(pure, nomem, nostack));
    }
    difference as u32
}
