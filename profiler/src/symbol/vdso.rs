//! The vDSO: one image for all processes of this architecture. In: our own. Out: a file with it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::elf::memory_file;
use crate::process::parse_line;

/// Copies our own vDSO into a file in memory; `None` where the kernel gives none.
pub(crate) fn dump() -> Option<File> {
    const LARGEST: u64 = 1 << 20;
    let maps = std::fs::read("/proc/self/maps").ok()?;
    let range = maps.split(|byte| *byte == b'\n').filter_map(parse_line).find(|line| line.name == "[vdso]")?;
    let length = range.end - range.start;
    if length > LARGEST {
        return None;
    }
    let mut image = vec![0; length as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut image, range.start).ok()?;
    memory_file("vdso", &image).ok()
}
