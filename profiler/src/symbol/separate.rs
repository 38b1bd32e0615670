//! Separate files with the symbols and debug sections that were stripped. In: a binary's build id and debug link, its
//! path, and the root it was mapped in. Out: the file that belongs to it, open.
//!
//! A container's own files come first. What lies under a wanted name must also say that it belongs: by the same build id,
//! or, where the debug link gives it, by its checksum.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::elf::{CopyOptions, ElfCopy};
use crate::process::open_regular;

/// Most bytes whose checksum is computed for one binary, over all files that may belong to it.
pub(crate) const CHECKSUM_LIMIT: u64 = 512 << 20;

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'place> {
    /// The root directory in which the binary was mapped, if it is not ours.
    pub root: Option<BorrowedFd<'place>>,
    /// The binary's path in there.
    pub path: &'place Path,
    /// Where distributions put separate symbols, in every root.
    pub debug: &'place Path,
}

/// Finds the file and copies what is wanted of it. `left` is how many bytes may be read for checksums.
pub(crate) fn find(copy: &ElfCopy, places: Places<'_>, options: CopyOptions, left: &mut u64) -> Option<ElfCopy> {
    let roots = [places.root, None];
    let roots = if places.root.is_some() { &roots[..] } else { &roots[1..] };
    roots
        .iter()
        .find_map(|root| by_build_id(copy, *root, places, options))
        .or_else(|| roots.iter().find_map(|root| by_link(copy, *root, places, options, left)))
}

/// The same below one root alone.
pub(crate) fn find_below(
    copy: &ElfCopy,
    root: Option<BorrowedFd<'_>>,
    places: Places<'_>,
    options: CopyOptions,
    left: &mut u64,
) -> Option<ElfCopy> {
    by_build_id(copy, root, places, options).or_else(|| by_link(copy, root, places, options, left))
}

fn by_build_id(
    copy: &ElfCopy,
    root: Option<BorrowedFd<'_>>,
    places: Places<'_>,
    options: CopyOptions,
) -> Option<ElfCopy> {
    let [first, rest @ ..] = copy.build_id() else { return None };
    if rest.is_empty() {
        return None;
    }
    let name = format!(".build-id/{first:02x}/{}.debug", hexadecimal(rest));
    let file = open_regular(root, &places.debug.join(name))?;
    ElfCopy::new(&file, options).ok().filter(|separate| separate.build_id() == copy.build_id())
}

/// As gdb looks: beside the binary, below it, and under the debug directory by the binary's own path.
fn by_link(
    copy: &ElfCopy,
    root: Option<BorrowedFd<'_>>,
    places: Places<'_>,
    options: CopyOptions,
    left: &mut u64,
) -> Option<ElfCopy> {
    let link = copy.debug_link()?;
    let directory = places.path.parent().unwrap_or(Path::new("/"));
    let below: PathBuf = places.debug.join(directory.strip_prefix("/").unwrap_or(directory));
    let tried = [
        directory.join(&link.name),
        directory.join(".debug").join(&link.name),
        below.join(&link.name),
        places.debug.join(&link.name),
    ];
    tried.iter().filter(|path| *path != places.path).find_map(|path| {
        let file = open_regular(root, path)?;
        (checksum(&file, left)? == link.crc).then(|| ElfCopy::new(&file, options).ok())?
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The checksum of a file that has no more bytes than are left.
fn checksum(file: &File, left: &mut u64) -> Option<u32> {
    *left = left.checked_sub(file.metadata().ok()?.len())?;
    let (mut crc, mut bytes) = (flate2::Crc::new(), vec![0; 64 * 1024]);
    // It may have grown since.
    let mut limited = file.take(CHECKSUM_LIMIT);
    loop {
        match limited.read(&mut bytes).ok()? {
            0 => return Some(crc.sum()),
            read => crc.update(&bytes[..read]),
        }
    }
}
