//! What a recording would find of a module's names. In: a module, or a perf map. Out: where names come from, and how many.

use std::path::Path;
use std::sync::Arc;

use super::Unresolved;
use super::elf::ElfCopy;
use super::foreign::{gather, read};
use super::perf_map::{Budget, PerfMap};
use super::separate::CHECKSUM_LIMIT;
use super::user::{DEBUG_ROOT, Origin, copy_options};
use crate::process::{Module, PerfMapFile};

/// What names a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Where names come from.
    pub origin: Origin,
    /// Functions that have one.
    pub functions: u64,
    /// Whether there are lines as well.
    pub lines: bool,
    /// Whether there is a table to unwind by (`.eh_frame`).
    pub unwind_table: bool,
    /// Whether Go compiled it.
    pub go: bool,
    /// The build id in hexadecimal, by which packages with symbols are found; empty if there is none.
    pub build_id: String,
}

/// Looks at a module as a recording would.
pub fn examine(module: &Arc<Module>) -> Result<Examined, Unresolved> {
    let gathered = gather(module, copy_options(true), Path::new(DEBUG_ROOT), CHECKSUM_LIMIT)?;
    let (copies, origin, own) = (&gathered.copies, gathered.origin, gathered.own());
    let all: u64 = copies.iter().map(ElfCopy::functions).sum();
    Ok(Examined {
        origin,
        functions: if all == 0 { own.exported_functions() } else { all },
        lines: copies.iter().any(ElfCopy::has_lines),
        unwind_table: own.unwind_table().is_some_and(|table| table.size > 4),
        go: own.go_table().is_some(),
        build_id: hexadecimal(own.build_id()),
    })
}

/// Names in a perf map; none if it cannot be read.
pub fn names_in(file: &PerfMapFile) -> usize {
    let count = |file: &std::fs::File| {
        let mut map = PerfMap::default();
        map.refresh(file, Budget { memory: usize::MAX, read: u64::MAX });
        map.len()
    };
    read(file.file(), count).unwrap_or(0)
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
