//! Names of Go functions where the symbols were stripped (`-ldflags=-s`, as in most images). In: the table that Go's
//! runtime itself needs for tracebacks and therefore never strips, untrusted. Out: functions.
//!
//! The table begins with a header whose first word tells its version, lists functions in the order of their addresses with
//! where each is described, and ends with one past the last. Its layout has been stable since Go 1.16 but for how
//! addresses are written: whole ones until 1.17, from then on 32-bit distances from the start of Go's code. Older tables
//! are left alone.

use std::fs::File;

use super::Unresolved;
use super::elf::{ElfCopy, Extent, read, u32_at, u64_at};
use super::function_file::Function;

/// Most bytes of the table; that of a Kubernetes API server has some 30 MB.
const TABLE_LIMIT: u64 = 128 << 20;
const FUNCTIONS_MAX: usize = 1 << 20;
const NAME_MAX: usize = 1024;
const RELOCATIONS_LIMIT: u64 = 64 << 20;

/// First words of the tables of Go 1.16, 1.18 and 1.20.
const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// Where the header of the newer versions tells the start of Go's code.
const TEXT_START: u64 = 24;

/// Reads the functions of a binary's table.
pub(crate) fn functions(file: &File, copy: &ElfCopy, table: Extent) -> Result<Vec<Function>, Unresolved> {
    if table.size > TABLE_LIMIT {
        return Err(Unresolved::TooLarge);
    }
    let bytes = read(file, table.offset, table.size as usize)?;
    let parsed = Table::parse(&bytes)?;
    let base = match parsed.width {
        Width::Whole => 0,
        Width::Distance => match parsed.text_start {
            // A program that may lie anywhere has its start filled in by the loader.
            0 => relocated(file, copy, table.address.wrapping_add(TEXT_START))
                .or_else(|| start_by_entry(copy, &parsed))
                .ok_or(Unresolved::Unsupported)?,
            start => start,
        },
    };
    Ok(parsed.functions(base))
}

/// What the loader puts at an address: the value that a relocation relative to the load address carries.
fn relocated(file: &File, copy: &ElfCopy, at: u64) -> Option<u64> {
    const RELATIVE: u32 = 8;
    let extent = copy.relocations().filter(|extent| extent.size <= RELOCATIONS_LIMIT)?;
    let bytes = read(file, extent.offset, extent.size as usize).ok()?;
    let entry = bytes.chunks_exact(24).find(|entry| u64_at(entry, 0) == at && u32_at(entry, 8) == RELATIVE)?;
    Some(u64_at(entry, 16))
}

/// A program that Go linked by itself begins in a function of known name.
fn start_by_entry(copy: &ElfCopy, table: &Table<'_>) -> Option<u64> {
    let entry = table
        .functions(0)
        .into_iter()
        .find(|function| function.name.starts_with("_rt0_") && function.name.ends_with("_linux"))?;
    copy.entry().checked_sub(entry.address).filter(|start| *start != 0)
}

/// How addresses are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Whole,
    Distance,
}

struct Table<'bytes> {
    width: Width,
    text_start: u64,
    names: &'bytes [u8],
    /// The list of functions and behind it their descriptions, which the list points into from its own start.
    list: &'bytes [u8],
    count: usize,
}

impl<'bytes> Table<'bytes> {
    fn parse(bytes: &'bytes [u8]) -> Result<Self, Unresolved> {
        let header = bytes.get(..72).ok_or(Unresolved::Truncated)?;
        // Two zeros, the smallest step between instructions, the size of a pointer.
        if header[4..8] != [0, 0, 1, 8] {
            return Err(Unresolved::Unsupported);
        }
        let (width, text_start, names_at, list_at) = match u32_at(header, 0) {
            GO_1_16 => (Width::Whole, 0, u64_at(header, 24), u64_at(header, 56)),
            GO_1_18 | GO_1_20 => (Width::Distance, u64_at(header, 24), u64_at(header, 32), u64_at(header, 64)),
            _ => return Err(Unresolved::Unsupported),
        };
        let part = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at..)).ok_or(Unresolved::Malformed);
        let (names, list) = (part(names_at)?, part(list_at)?);
        let count = usize::try_from(u64_at(header, 8)).unwrap_or(usize::MAX);
        if count > FUNCTIONS_MAX {
            return Err(Unresolved::TooLarge);
        }
        let whole = Self { width, text_start, names, list, count };
        let needed = count * 2 * whole.word() + whole.word();
        if list.len() < needed { Err(Unresolved::Truncated) } else { Ok(whole) }
    }

    /// Bytes of an address in the list.
    fn word(&self) -> usize {
        if self.width == Width::Whole { 8 } else { 4 }
    }

    fn number(&self, at: usize) -> Option<u64> {
        let bytes = self.list.get(at..at.checked_add(self.word())?)?;
        Some(if self.width == Width::Whole { u64_at(bytes, 0) } else { u32_at(bytes, 0).into() })
    }

    /// Functions whose description makes sense; `base` is where addresses count from. Their names are no longer in all
    /// than the part of the table that holds them: a table in which one long name is that of every function ends there.
    fn functions(&self, base: u64) -> Vec<Function> {
        let mut left = self.names.len();
        let all = (0..self.count).filter_map(|index| self.function(index, base));
        all.map_while(|function| {
            left = left.checked_sub(function.name.len())?;
            Some(function)
        })
        .collect()
    }

    fn function(&self, index: usize, base: u64) -> Option<Function> {
        let word = self.word();
        let (start, end) = (self.number(index * 2 * word)?, self.number((index + 1) * 2 * word)?);
        let described_at = usize::try_from(self.number((index * 2 + 1) * word)?).ok()?;
        // The address again, then where the name is.
        let name_at = described_at.checked_add(word)?;
        let name_at = u32_at(self.list.get(name_at..name_at.checked_add(4)?)?, 0);
        let name = self.names.get(name_at as usize..)?;
        let length = name.iter().take(NAME_MAX).position(|byte| *byte == 0)?;
        let name = str::from_utf8(&name[..length]).ok().filter(|name| !name.is_empty())?;
        let size = end.checked_sub(start).filter(|size| *size != 0)?;
        Some(Function { address: base.checked_add(start)?, size, name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn a_table_of_two_functions_is_read_and_a_cut_one_is_not() {
        let mut bytes = Vec::new();
        bytes.extend(GO_1_20.to_le_bytes());
        bytes.extend([0, 0, 1, 8]);
        for word in [2_u64, 0, 0x40_1000, 72, 0, 0, 0, 96] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"\0main.main\0main.work\0");
        bytes.resize(96, 0);
        for word in [0_u32, 20, 0x40, 28, 0x90, 0, 1, 0x40, 11] {
            bytes.extend(word.to_le_bytes());
        }
        let Ok(table) = Table::parse(&bytes) else { panic!("not read") };
        let function = |address, size, name: &str| Function { address, size, name: name.into() };
        let expected = [function(0x40_1000, 0x40, "main.main"), function(0x40_1040, 0x50, "main.work")];
        assert_eq!(table.functions(table.text_start), expected);
        assert!(Table::parse(&bytes[..100]).is_err());
        bytes[7] = 4;
        assert_eq!(Table::parse(&bytes).err(), Some(Unresolved::Unsupported), "of a 32-bit program");
    }

    #[test]
    fn names_of_functions_take_no_more_than_the_table_holds() {
        let count = 10_000_u64;
        let mut bytes = GO_1_20.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        for word in [count, 0, 0x40_1000, 72, 0, 0, 0, 1096] {
            bytes.extend(word.to_le_bytes());
        }
        // One name of a thousand bytes, which every function has.
        bytes.resize(72 + 1000, b'n');
        bytes.resize(1096, 0);
        let described_at = (count as u32) * 8 + 4;
        for index in 0..count as u32 {
            bytes.extend([index * 16, described_at].iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.extend((count as u32 * 16).to_le_bytes());
        bytes.extend([0; 8]);
        let Ok(table) = Table::parse(&bytes) else { panic!("not read") };
        let functions = table.functions(table.text_start);
        let length: usize = functions.iter().map(|function| function.name.len()).sum();
        assert!(!functions.is_empty() && length <= bytes.len(), "{length} of {}", bytes.len());
    }

    proptest! {
        #[test]
        fn a_hostile_table_never_panics(
            version in prop::sample::select(vec![GO_1_16, GO_1_18, GO_1_20]),
            words in prop::collection::vec(0_u64..400, 8),
            rest in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut bytes = version.to_le_bytes().to_vec();
            bytes.extend([0, 0, 1, 8]);
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(rest);
            if let Ok(table) = Table::parse(&bytes) {
                table.functions(u64::MAX - 100);
            }
        }
    }
}
