//! How tables and mappings lie in the maps.
//!
//! Everything of variable size lies in *segments*: arrays of one value of [`SEGMENT_BYTES`], made when they are needed,
//! reached through one array of maps, filled by userspace through mmap. Inside a segment the kernel programs load
//! directly. What lies there is named by its *place*: the number of the segment and, in the low [`PLACE_BITS`] bits, that of
//! the 32-bit word. Nothing crosses from one segment into the next.
//!
//! Userspace writes what lies at a place before anything points there, and writes nothing else there until a grace period after
//! nothing does any more.

/// Bytes of a segment.
pub const SEGMENT_BYTES: usize = 1 << 20;

/// Bits of a place that number the 32-bit word in its segment.
pub const PLACE_BITS: u32 = 18;

/// Segments that may exist: what the budget may be set to, in MiB.
pub const SEGMENTS: u32 = 256;

/// Bits of a file offset within a page. Of 8 KiB of code some 75 rows speak: a search that begins anywhere soon stays in one or two
/// cache lines.
pub const PAGE_BITS: u32 = 13;

/// Tables that may exist at once.
pub const TABLES: u32 = 8192;

/// Processes whose mappings are known at once.
pub const PROCESSES: u32 = 16_384;

/// Mappings of one process, at most.
pub const MAPPINGS: u32 = 1 << 14;

/// Pages of one table, at most: 1 GiB of code.
pub const PAGES: u32 = 1 << 17;

/// Rows of one page, at most: one for each byte.
pub const ROWS: u32 = 1 << PAGE_BITS;

/// From `pc_low` on, this rule holds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Low bits of the file offset.
    pub pc_low: u16,
    /// Index of the rule.
    pub rule: u16,
}

impl Row {
    /// The row as a word, as it lies in a segment.
    pub const fn to_word(self) -> u32 {
        self.pc_low as u32 | (self.rule as u32) << 16
    }

    /// A row out of a segment.
    pub const fn from_word(word: u32) -> Self {
        Self { pc_low: word as u16, rule: (word >> 16) as u16 }
    }
}

/// One page of a table: an element of its directory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// Place of its first row.
    pub place: u32,
    /// Number of its rows; 0 for a page of which nothing is said.
    pub rows: u32,
}

/// What a table's entry says of it.
pub mod table_state {
    /// Not built yet.
    pub const ABSENT: u32 = 0;
    /// There.
    pub const READY: u32 = 1;
    /// Put out of memory, or never found room in it.
    pub const NO_ROOM: u32 = 2;
    /// The file could not be read or understood.
    pub const BAD: u32 = 3;
}

/// One file's table.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableEntry {
    /// One of [`table_state`].
    pub state: u32,
    /// Place of its directory: `pages` of [`Page`].
    pub directory: u32,
    /// Number of the first page (file offset >> [`PAGE_BITS`]).
    pub first_page: u32,
    /// Number of pages; 0 for a file of which nothing is said.
    pub pages: u32,
}

/// Table of a mapping without a file: code made at run time, followed by frame pointers.
pub const NO_FILE: u32 = u32::MAX;

/// One executable mapping of a process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// File offset of the first address.
    pub offset: u64,
    /// Number of the file's table, or [`NO_FILE`].
    pub table: u32,
    /// Unused.
    pub reserved: u32,
}

/// Where a process's mappings lie.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessEntry {
    /// The process again: elements of the map are used anew.
    pub pid: u32,
    /// Place of the list: `mappings` of [`Mapping`], sorted, without overlap.
    pub place: u32,
    /// How many there are.
    pub mappings: u32,
    /// Grows with every change.
    pub generation: u32,
}

const _: () = assert!(size_of::<Row>() == 4);
const _: () = assert!(size_of::<Page>() == 8);
const _: () = assert!(size_of::<TableEntry>() == 16);
const _: () = assert!(size_of::<Mapping>() == 32);
const _: () = assert!(size_of::<ProcessEntry>() == 16);
const _: () = assert!(SEGMENT_BYTES == 4 << PLACE_BITS);
const _: () = assert!(ROWS as usize * size_of::<Row>() <= SEGMENT_BYTES);
const _: () = assert!(MAPPINGS as usize * size_of::<Mapping>() <= SEGMENT_BYTES);
const _: () = assert!(PAGES as usize * size_of::<Page>() <= SEGMENT_BYTES);
