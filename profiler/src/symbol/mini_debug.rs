//! Symbols that were stripped and packed into the binary again, as Fedora and its kin do. In: a binary with a
//! `.gnu_debugdata` section, untrusted. Out: the ELF file that was in it, in memory.

use std::fs::File;
use std::io::{self, BufReader, Read};

use lzma_rust2::XzReader;

use super::Unresolved;
use super::elf::{Extent, SectionReader, memory_file};

/// Most bytes of such a section; those of the largest binaries have some hundred kilobytes.
const PACKED_LIMIT: u64 = 16 << 20;

/// Most bytes once unpacked; the largest libraries have some 10 MB.
const UNPACKED_LIMIT: u64 = 32 << 20;

/// Memory that the unpacking may take, in KiB: the window that the section's own header asks for, above all. `xz` takes 8 MiB
/// unless it is told otherwise.
const WINDOW_LIMIT_KB: u32 = 32 << 10;

/// Unpacks it, straight into the file.
pub(crate) fn unpack(file: &File, packed: Extent) -> Result<File, Unresolved> {
    if packed.size > PACKED_LIMIT {
        return Err(Unresolved::TooLarge);
    }
    let reader = BufReader::new(SectionReader::new(file, packed));
    let mut reader = XzReader::new_mem_limit(reader, false, WINDOW_LIMIT_KB).take(UNPACKED_LIMIT + 1);
    let mut unpacked = memory_file("mini_debug", &[]).map_err(|_| Unresolved::Unreadable)?;
    let length = io::copy(&mut reader, &mut unpacked).map_err(|_| Unresolved::Malformed)?;
    if length > UNPACKED_LIMIT { Err(Unresolved::TooLarge) } else { Ok(unpacked) }
}
