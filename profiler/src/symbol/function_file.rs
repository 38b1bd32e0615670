//! An ELF file that holds nothing but names of functions. In: functions, however they were learnt. Out: the file, in
//! memory, for the parser that knows files only.

use std::fs::File;
use std::io;

use super::elf::memory_file;

/// A function of a binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    /// The address that it is linked at.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its name.
    pub name: String,
}

const HEADER: usize = 64;
const SECTION: usize = 64;

/// Writes the file.
pub(crate) fn write(functions: &[Function]) -> io::Result<File> {
    // Name 0 and symbol 0 are nobody's.
    let (mut names, mut symbols) = (vec![0_u8], vec![0_u8; 24]);
    for function in functions {
        // A global function in some section.
        symbols.extend((names.len() as u32).to_le_bytes());
        symbols.extend([0x12, 0]);
        symbols.extend(1_u16.to_le_bytes());
        symbols.extend(function.address.to_le_bytes());
        symbols.extend(function.size.to_le_bytes());
        names.extend(function.name.bytes().filter(|byte| *byte != 0));
        names.push(0);
    }
    let section_names = b"\0.symtab\0.strtab\0.shstrtab\0";
    let symbols_at = HEADER;
    let names_at = symbols_at + symbols.len();
    let section_names_at = names_at + names.len();
    let sections_at = (section_names_at + section_names.len()).next_multiple_of(8);

    let mut file = Vec::with_capacity(sections_at + 4 * SECTION);
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    // A shared object for x86-64, of version 1.
    file.extend(3_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend((sections_at as u64).to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER as u16, 56, 0, SECTION as u16, 4, 3] {
        file.extend(half.to_le_bytes());
    }
    file.extend(symbols.iter().chain(&names).chain(section_names));
    file.resize(sections_at + SECTION, 0);
    // Name, type, offset, size, link, info, size of an entry.
    let sections = [
        (1_u32, 2_u32, symbols_at, symbols.len(), 2_u32, 1_u32, 24_u64),
        (9, 3, names_at, names.len(), 0, 0, 0),
        (17, 3, section_names_at, section_names.len(), 0, 0, 0),
    ];
    for (name, kind, offset, size, link, info, entry) in sections {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend([0; 16]);
        file.extend((offset as u64).to_le_bytes());
        file.extend((size as u64).to_le_bytes());
        file.extend(link.to_le_bytes());
        file.extend(info.to_le_bytes());
        file.extend(8_u64.to_le_bytes());
        file.extend(entry.to_le_bytes());
    }
    memory_file("functions", &file)
}
